//! What the kernels cost, as the compiler tells it without a GPU: `cargo xtask cost`.
//!
//! Every `cuda/*.cu` is compiled for every architecture. A kernel's cost card has what ptxas says (registers, spills,
//! stack, shared memory) and what its machine code says (instructions in all and in the main loop, widths of loads and
//! stores, special functions, tensor instructions). The cards are in `cuda/COST.md`, under version control, so that a
//! change of the kernels shows what it costs. A spill, local memory beyond the totals of long sums, or a complaint of ptxas
//! is a failure, and so is an instruction count over one of [`LIMITS`].

pub(crate) mod card;
mod nvrtc;
mod sass;
mod table;
/// What the crate is built for, and how: build.rs reads the same file.
#[path = "../../build/targets.rs"]
mod targets;
mod toolchain;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use card::Card;
use targets::ARCHS;
use toolchain::Toolchain;

/// The most instructions a group may cost in the main loop of a kernel, on sm_90a.
const LIMITS: [(&str, f64); 2] =
    [("twofour_mask_soft_f32_bf16", 200.0), ("twofour_mask_backward_soft_f32_bf16_bf16", 250.0)];
const LIMITS_ARCH: &str = "90a";

/// Arguments of `cargo xtask cost`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Compare with cuda/COST.md instead of writing it.
    #[arg(long)]
    check: bool,
    /// Only these architectures, as 80 or 90a; prints (or compares) their rows and writes nothing.
    #[arg(long, value_delimiter = ',', value_name = "ARCH")]
    arch: Vec<String>,
    /// Compile every kernel with NVRTC instead, as the crate does at first use where there was no nvcc: headers in
    /// memory, no include path. No cost cards.
    #[arg(long, conflicts_with = "check")]
    nvrtc: bool,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let bare = |arch: &String| arch.trim_start_matches("sm_").to_owned();
    let archs: Vec<String> = match options.arch.as_slice() {
        [] => ARCHS.map(String::from).to_vec(),
        some => some.iter().map(bare).collect(),
    };
    if options.nvrtc {
        return nvrtc::run(root, &archs);
    }
    let toolchain = Toolchain::find(root)?;
    let outcome = measure(root, &toolchain, &archs)?;
    let path = root.join("cuda/COST.md");
    let mut complaints = outcome.complaints;
    if options.check {
        complaints.extend(table::check(&path, &toolchain.version, &archs, &outcome.cards)?);
    } else {
        let text = table::text(&toolchain.version, &outcome.cards);
        print!("{text}");
        if options.arch.is_empty() {
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("wrote {}", path.display());
        }
    }
    if !complaints.is_empty() {
        bail!("{} complaint(s) about the kernels:\n{}", complaints.len(), complaints.join("\n"));
    }
    println!(
        "{} kernels x architectures: no spills, no local memory but for totals, no advisories",
        outcome.cards.len()
    );
    Ok(())
}

/// All cards, in order, and what is wrong with them.
struct Outcome {
    cards: Vec<Card>,
    complaints: Vec<String>,
}

fn measure(root: &Path, toolchain: &Toolchain, archs: &[String]) -> Result<Outcome> {
    let kernels = kernel_files(root)?;
    let jobs: Vec<(&PathBuf, &String)> =
        kernels.iter().flat_map(|file| archs.iter().map(move |arch| (file, arch))).collect();
    let compiled = in_parallel(&jobs, |(file, arch)| {
        let compiled = toolchain.compile(file, arch)?;
        let cards = card::read(&module(file), arch, &compiled)?;
        Ok((cards, card::advisories(&compiled.log, &format!("{} for sm_{arch}", file.display()))))
    })?;
    let mut outcome = Outcome { cards: Vec::new(), complaints: Vec::new() };
    for (cards, advisories) in compiled {
        outcome.complaints.extend(advisories);
        outcome.complaints.extend(cards.iter().flat_map(Card::faults));
        outcome.complaints.extend(cards.iter().filter_map(over_limit));
        outcome.cards.extend(cards);
    }
    Ok(outcome)
}

fn over_limit(card: &Card) -> Option<String> {
    let (_, limit) = LIMITS.iter().find(|(kernel, _)| card.arch == LIMITS_ARCH && card.kernel == *kernel)?;
    match card.per_group() {
        Some(count) if count.exact && count.instructions <= *limit => None,
        Some(count) if count.exact => {
            Some(format!("{}: {} instructions per group, the limit is {limit}", card.name(), count.instructions))
        }
        _ => Some(format!("{}: instructions per group are not known, its loop has inner loops or calls", card.name())),
    }
}

/// `cuda/*.cu`, sorted, relative to the root.
fn kernel_files(root: &Path) -> Result<Vec<PathBuf>> {
    let folder = root.join("cuda");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            files.push(path.strip_prefix(root)?.to_path_buf());
        }
    }
    files.sort();
    Ok(files)
}

/// A kernel file's stem.
fn module(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// `work` on every job, on as many threads as there are processors; results in the order of the jobs.
fn in_parallel<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let result = work(job);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
