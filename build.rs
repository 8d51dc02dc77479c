//! Compiles the kernels ahead of time where that is possible, and never fails where it is not.
//!
//! Every `cuda/*.cu` becomes one fat binary: machine code for each architecture wanted, and PTX for the rest. Without
//! `nvcc` there are no images, and the crate compiles the sources, which are always embedded, at first use with NVRTC.
//! The outcome is `$OUT_DIR/images.rs`, which `src/device/images.rs` includes. No GPU, no network, nothing linked.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `TWOFOUR_NVCC` | the compiler to use, or `off` |
//! | `TWOFOUR_CUDA_ARCHS`, `CUDA_COMPUTE_CAP` | architectures instead of [`ARCHS`], see [`parse_archs`] |
//! | `TWOFOUR_REQUIRE_AOT` | `1`: a build without images is an error |
//! | `NVCC_CCBIN` | the host compiler for `nvcc` |

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

#[path = "build/targets.rs"]
mod targets;

use targets::{ARCHS, NVCC_OPTIONS, OPTIONS};

/// 2:4 tensor cores begin with compute capability 8.0. PTX for the oldest architecture from there on goes with the
/// machine code, for devices that have none here.
const OLDEST: u32 = 80;

/// Devices whose matrix instructions exist only in the architecture-specific set, so that their plain number means it.
const SPECIFIC: [u32; 4] = [90, 100, 103, 110];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(bodies)");
    // For the checkout's own tests: whoever has the crate from a registry compiles what he uses, once.
    if Path::new("emulator").exists() && matches!(env::var("OPT_LEVEL").as_deref(), Ok("0" | "1")) {
        println!("cargo::rustc-cfg=bodies");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            message.lines().for_each(|line| println!("cargo::error={line}"));
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=cuda");
    let out = PathBuf::from(variable("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let sources = sources(Path::new("cuda"))?;
    let required = variable("TWOFOUR_REQUIRE_AOT").is_some_and(|value| value != "0");
    let images = match images(&sources, &out, required) {
        Ok(images) => images,
        Err(Missing::Wanted) if required => {
            return Err("TWOFOUR_REQUIRE_AOT is set, but TWOFOUR_NVCC=off or DOCS_RS turns nvcc off".into());
        }
        Err(Missing::Absent) if required => {
            return Err(
                "TWOFOUR_REQUIRE_AOT is set, but there is no nvcc: put it on PATH, or name it in TWOFOUR_NVCC \
                        or CUDA_HOME"
                    .into(),
            );
        }
        Err(Missing::Failed(why)) if required => {
            return Err(format!("TWOFOUR_REQUIRE_AOT is set, but {why}"));
        }
        Err(Missing::Failed(why)) => {
            warn(&format!("kernels will be compiled at first use with NVRTC: {why}"));
            Vec::new()
        }
        Err(Missing::Wanted | Missing::Absent) => Vec::new(),
    };
    let text = table(&sources, &images)?;
    fs::write(out.join("images.rs"), text).map_err(|e| format!("cannot write images.rs: {e}"))
}

/// Why there are no images.
enum Missing {
    /// Switched off.
    Wanted,
    /// No compiler, and nobody asked for one.
    Absent,
    /// It was tried and did not work, in words.
    Failed(String),
}

/// One compiled kernel file.
struct Image {
    module: String,
    archs: Vec<String>,
    ptx: Option<u32>,
    file: PathBuf,
}

fn images(sources: &[String], out: &Path, required: bool) -> Result<Vec<Image>, Missing> {
    if variable("DOCS_RS").is_some() || matches!(variable("TWOFOUR_NVCC").as_deref(), Some("off" | "0")) {
        return Err(Missing::Wanted);
    }
    let nvcc = find_nvcc().ok_or(Missing::Absent)?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let known = known_archs(&nvcc).map_err(Missing::Failed)?;
    let (archs, complaints) = wanted_archs(&known);
    if required && !complaints.is_empty() {
        return Err(Missing::Failed(complaints.join("; ")));
    }
    complaints.iter().for_each(|complaint| warn(complaint));

    let ptx = known.range(OLDEST..).next().copied();
    let target = Target { nvcc, archs, ptx, out };
    let kernels: Vec<&str> = sources.iter().filter_map(|name| name.strip_suffix(".cu")).collect();
    let mut images = Vec::new();
    for outcome in compile_all(&target, &kernels) {
        match outcome {
            Ok(image) => images.push(image),
            Err(why) if required => return Err(Missing::Failed(why)),
            Err(why) => warn(&format!("this kernel will be compiled at first use with NVRTC: {why}")),
        }
    }
    images.sort_by(|a, b| a.module.cmp(&b.module));
    Ok(images)
}

// ---------------------------------------------------------------- finding nvcc

/// The first nvcc of: `TWOFOUR_NVCC`, `NVCC`, the toolkit folders people set, PATH, the usual places.
fn find_nvcc() -> Option<PathBuf> {
    for name in ["TWOFOUR_NVCC", "NVCC"] {
        let Some(value) = variable(name) else {
            continue;
        };
        match program(Path::new(&value)) {
            Some(path) => return Some(path),
            None => warn(&format!("{name}={value} is not a program; looking elsewhere for nvcc")),
        }
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
    for folder in toolkits.iter().filter_map(|name| variable(name)) {
        if let Some(path) = program(&Path::new(&folder).join("bin/nvcc")) {
            return Some(path);
        }
    }
    program(Path::new("nvcc"))
        .or_else(|| program(Path::new("/usr/local/cuda/bin/nvcc")))
        .or_else(|| program(Path::new("/opt/cuda/bin/nvcc")))
}

/// A file, or a bare name looked up on PATH; symbolic links are followed, because nvcc finds its own parts beside the
/// name it was called by. A link to something else (a compiler cache posing as nvcc) is left as it is.
fn program(path: &Path) -> Option<PathBuf> {
    let found = if path.components().count() > 1 {
        executable(path)
    } else {
        println!("cargo::rerun-if-env-changed=PATH");
        let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
        folders.iter().find_map(|folder| executable(&folder.join(path)))
    }?;
    let real = fs::canonicalize(&found).ok()?;
    Some(if real.file_stem().is_some_and(|stem| stem == "nvcc") { real } else { found })
}

fn executable(path: &Path) -> Option<PathBuf> {
    let with_suffix = path.with_extension(env::consts::EXE_EXTENSION);
    [path.to_path_buf(), with_suffix].into_iter().find(|candidate| candidate.is_file())
}

// ---------------------------------------------------------------- architectures

/// The numbers nvcc can make machine code for.
fn known_archs(nvcc: &Path) -> Result<BTreeSet<u32>, String> {
    let output = run(Command::new(nvcc).arg("--list-gpu-code"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let known: BTreeSet<u32> = text.split_whitespace().filter_map(parse_arch).map(|(number, _)| number).collect();
    if known.is_empty() {
        return Err(format!("{} --list-gpu-code names no architecture of ours, but:\n{text}", nvcc.display()));
    }
    Ok(known)
}

/// The architectures to compile for, and what could not be done of what was asked.
fn wanted_archs(known: &BTreeSet<u32>) -> (Vec<String>, Vec<String>) {
    let asked = variable("TWOFOUR_CUDA_ARCHS").or_else(|| variable("CUDA_COMPUTE_CAP"));
    let (list, mut complaints) = parse_archs(asked.as_deref().unwrap_or(&ARCHS.join(",")), known);
    let mut archs = Vec::new();
    for (number, suffix) in list {
        if known.contains(&number) {
            archs.push(format!("{number}{suffix}"));
        } else if asked.is_some() {
            complaints.push(format!("this nvcc cannot compile for sm_{number}{suffix}; it knows {known:?}"));
        }
    }
    (archs, complaints)
}

/// Reads a list such as `80, 8.6, sm_90a`, or `all`, or `native`. A bare 90 means that device, hence `sm_90a`; `sm_90`
/// is taken at its word.
fn parse_archs(text: &str, known: &BTreeSet<u32>) -> (BTreeSet<(u32, &'static str)>, Vec<String>) {
    let (mut archs, mut complaints) = (BTreeSet::new(), Vec::new());
    for item in text.split([',', ';', ' ']).map(str::trim).filter(|item| !item.is_empty()) {
        match item {
            "all" => archs.extend(known.range(OLDEST..).map(|&number| (number, specific(number)))),
            "native" => match devices() {
                Ok(list) => {
                    archs.extend(list.split_whitespace().filter_map(parse_arch).filter(|arch| arch.0 >= OLDEST))
                }
                Err(why) => complaints.push(format!("the architecture `native` is unknown, as {why}")),
            },
            _ => match parse_arch(item) {
                Some((number, _)) if number < OLDEST => {
                    complaints.push(format!("architecture {item} has no 2:4 tensor cores and was left out"));
                }
                Some(arch) => drop(archs.insert(arch)),
                None => complaints.push(format!("`{item}` is not an architecture: write 80, 8.0, sm_90a, all, native")),
            },
        }
    }
    (archs, complaints)
}

/// `80`, `8.0`, `sm_80`, `90a`, `sm_90a`.
fn parse_arch(text: &str) -> Option<(u32, &'static str)> {
    let bare = text.strip_prefix("sm_").unwrap_or(text);
    let digits = bare.trim_end_matches(['a', 'f']);
    let number = match digits.split_once('.') {
        Some((major, minor)) => major.parse::<u32>().ok()?.checked_mul(10)?.checked_add(minor.parse().ok()?)?,
        None => digits.parse().ok()?,
    };
    let suffix = match &bare[digits.len()..] {
        "" if bare.len() == text.len() => specific(number),
        "" => "",
        "a" => "a",
        "f" => "f",
        _ => return None,
    };
    Some((number, suffix))
}

fn specific(number: u32) -> &'static str {
    if SPECIFIC.contains(&number) { "a" } else { "" }
}

/// The compute capabilities of this machine's devices, one a line.
fn devices() -> Result<String, String> {
    if env::var_os("HOST") != env::var_os("TARGET") {
        return Err("this is a cross build".into());
    }
    let output = run(Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

// ---------------------------------------------------------------- compiling

struct Target<'a> {
    nvcc: PathBuf,
    archs: Vec<String>,
    ptx: Option<u32>,
    out: &'a Path,
}

/// Compiles the kernel files side by side, with no more threads in all than cargo gave us.
fn compile_all(target: &Target, kernels: &[&str]) -> Vec<Result<Image, String>> {
    let jobs = variable("NUM_JOBS").and_then(|value| value.parse().ok()).unwrap_or(1_usize).max(1);
    let workers = jobs.min(kernels.len());
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = compile(target, kernel, jobs / workers);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn compile(target: &Target, module: &str, threads: usize) -> Result<Image, String> {
    let file = target.out.join(format!("{module}.fatbin"));
    let mut nvcc = Command::new(&target.nvcc);
    nvcc.arg("-fatbin").args(OPTIONS).args(NVCC_OPTIONS).arg(format!("--threads={threads}"));
    if let Some(compiler) = variable("NVCC_CCBIN") {
        nvcc.arg("-ccbin").arg(compiler);
    }
    for arch in &target.archs {
        nvcc.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    if let Some(ptx) = target.ptx {
        nvcc.arg(format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"));
    }
    run(nvcc.arg("-o").arg(&file).arg(format!("cuda/{module}.cu")))?;
    Ok(Image { module: module.into(), archs: target.archs.clone(), ptx: target.ptx, file })
}

/// Runs a command; a failure tells the first lines of what it said.
fn run(command: &mut Command) -> Result<Output, String> {
    let name = command.get_program().to_os_string();
    let output = command.output().map_err(|e| format!("{} does not run: {e}", name.display()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let said: Vec<String> = String::from_utf8_lossy(&said).lines().take(20).map(String::from).collect();
    Err(format!("{} failed ({}):\n{}", name.display(), output.status, said.join("\n")))
}

// ---------------------------------------------------------------- the table

/// The kernels and headers, as paths relative to `cuda`, in order.
fn sources(folder: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(current) = pending.pop() {
        let entries = fs::read_dir(&current).map_err(|e| format!("cannot list {}: {e}", current.display()))?;
        for entry in entries {
            let path = entry.map_err(|e| format!("cannot list {}: {e}", current.display()))?.path();
            let is_kernel = path.extension().is_some_and(|ext| ext == "cu") && current == folder;
            if path.is_dir() {
                pending.push(path);
            } else if is_kernel || path.extension().is_some_and(|ext| ext == "cuh") {
                let name = path.strip_prefix(folder).ok().and_then(Path::to_str);
                names.push(name.ok_or(format!("{} is not UTF-8", path.display()))?.replace('\\', "/"));
            }
        }
    }
    names.sort();
    Ok(names)
}

/// The text of `images.rs`.
fn table(sources: &[String], images: &[Image]) -> Result<String, String> {
    let mut text = String::from("static IMAGES: &[Image] = &[\n");
    for Image { module, archs, ptx, file } in images {
        let file = file.to_str().ok_or(format!("{} is not UTF-8", file.display()))?;
        let bytes = format!("&Aligned(*include_bytes!({file:?})).0");
        let _ = writeln!(text, "    Image {{ module: {module:?}, archs: &{archs:?}, ptx: {ptx:?}, bytes: {bytes} }},");
    }
    text.push_str("];\nstatic SOURCES: &[Source] = &[\n");
    for name in sources {
        let path = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), {:?})", format!("/cuda/{name}"));
        let _ = writeln!(text, "    Source {{ name: {name:?}, text: include_str!({path}) }},");
    }
    let _ = writeln!(text, "];\nstatic OPTIONS: &[&str] = &{OPTIONS:?};");
    Ok(text)
}

// ---------------------------------------------------------------- small things

/// An environment variable that, when it changes, makes cargo run this again. Empty counts as unset.
fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name).map(OsString::into_string)?.ok().filter(|value| !value.is_empty())
}

fn warn(message: &str) {
    message.lines().for_each(|line| println!("cargo::warning={line}"));
}
