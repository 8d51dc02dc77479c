//! How near to its roof each kernel can come, without a device: `cargo xtask predict`.
//!
//! A prediction, and no measurement. Three things are put together, none of which needs a GPU:
//!
//! - the PTX that nvcc makes is executed for two blocks of a launch, and every address that a warp touches is seen
//!   (`tests/profile.rs`, on the cases of the benches): how often each instruction is issued, lines of L1, wavefronts of
//!   shared memory, bytes, and how long a warp waits for its own values;
//! - ptxas makes machine code of that PTX and says of each machine instruction which line it comes from, so that it is
//!   known how often each of these is issued, by pipe ([`machine`]);
//! - what a multiprocessor gives a clock ([`model`]).
//!
//! The table is `cuda/PREDICT.md`, under version control. `--check` compares it, and fails where a kernel is below the
//! share of its roof that it must have ([`reasons::LEAST`]) without a line of [`reasons::REASONS`] that says why.

mod launches;
mod machine;
mod model;
mod reasons;
mod table;

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::toolkit;
use launches::Case;
use machine::Machine;
use model::DEVICES;
use table::Row;

/// Arguments of `cargo xtask predict`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Compare with cuda/PREDICT.md instead of writing it.
    #[arg(long)]
    check: bool,
    /// Only cases whose names begin so, as mask/soft; prints their rows and writes nothing.
    #[arg(long, value_name = "BEGINNING", conflicts_with = "check")]
    case: Option<String>,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let nvcc = toolkit::nvcc(root)?;
    let folder = root.join("target/predict");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let cases = profile(root, &nvcc, &folder, options.case.as_deref())?;
    let machines = machines(&nvcc, &folder, &cases)?;
    let rows = cases.iter().map(|case| Row::new(case, &machines)).collect::<Result<Vec<_>>>()?;
    let text = table::text(&rows);
    if options.case.is_some() {
        print!("{text}");
        return Ok(());
    }
    let path = root.join("cuda/PREDICT.md");
    let mut complaints = reasons::missing(&rows);
    if options.check {
        let recorded = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        complaints.extend(table::differences(&recorded, &text));
    } else {
        print!("{text}");
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if !complaints.is_empty() {
        bail!("{} complaint(s) about the predictions:\n{}", complaints.len(), complaints.join("\n"));
    }
    println!("{} cases, each near its roof or with a reason", rows.len());
    Ok(())
}

/// What the cases ask of a GPU; leaves the PTX in `folder`.
fn profile(root: &Path, nvcc: &Path, folder: &Path, wanted: Option<&str>) -> Result<Vec<Case>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["test", "--locked", "--package", "twofour", "--test", "profile", "every_case"]);
    cargo.args(["--", "--ignored", "--nocapture"]);
    cargo.env("TWOFOUR_PTX_NVCC", nvcc).env("TWOFOUR_PROFILE_PTX", folder).stderr(Stdio::inherit());
    if let Some(wanted) = wanted {
        cargo.env("TWOFOUR_PROFILE", wanted);
    }
    let output = cargo.output().context("run cargo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{cargo:?} failed ({}):\n{said}", output.status);
    }
    let lines = said.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("read {line:?}"))).collect()
}

/// The machine code of each kernel file that the cases launch, by device and file.
type Machines = BTreeMap<(&'static str, String), BTreeMap<String, Machine>>;

fn machines(nvcc: &Path, folder: &Path, cases: &[Case]) -> Result<Machines> {
    let mut files: Vec<&String> = cases.iter().flat_map(|case| &case.launches).map(|launch| &launch.file).collect();
    files.sort_unstable();
    files.dedup();
    let mut machines = Machines::new();
    for file in files {
        let ptx: PathBuf = folder.join(file).with_extension("ptx");
        for device in &DEVICES {
            machines.insert((device.name, file.clone()), machine::assemble(nvcc, &ptx, device.arch)?);
        }
    }
    Ok(machines)
}
