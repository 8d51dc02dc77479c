//! One folder with tests, benches and examples, ready to run on a GPU machine without Rust: `cargo xtask bundle`.
//!
//! What is in it and how it is run there: `xtask/bundle/README.md`. This program goes along, for what a shell script
//! does badly: asking the driver for its device, and writing the report ([`OnDevice`]).

mod build;
mod contents;
mod device;
mod report;

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use build::Cargo;
use contents::Program;

/// All files together.
const MOST_BYTES: u64 = 60_000_000;

/// What `run-all.sh` exits with where there is no GPU.
const NO_GPU: u8 = 3;

/// Says that a folder is a bundle, and of what.
const VERSION: &str = "VERSION";

/// What is copied as it is, from where to where.
const FILES: [(&str, &str); 3] = [
    ("xtask/bundle/run-all.sh", "run-all.sh"),
    ("xtask/bundle/steps.sh", "steps.sh"),
    ("xtask/bundle/README.md", "README.md"),
];

/// What is copied whole, under the same path, if it is there.
const FOLDERS: [(&str, &[&str]); 2] = [("benches/peers", &["py"]), ("tests/data", &[])];

/// Arguments of `cargo xtask bundle`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folder to make instead of `bundle` in the workspace's root; an older bundle there is replaced.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// See that it runs: without a GPU, which is hidden from it, it must say so and exit with 3.
    #[arg(long)]
    check: bool,
}

/// What the bundle's `run-all.sh` has this program do.
#[derive(clap::Subcommand)]
pub(crate) enum OnDevice {
    /// Print what the driver says of the first GPU, as JSON; exit with 3 if there is none of use.
    Probe,
    /// Write OUT/report.md and OUT/results.json from what lies in WORK.
    Report {
        /// The folder of the run's records.
        work: PathBuf,
        /// The folder for the report.
        out: PathBuf,
    },
}

pub(crate) fn on_device(task: &OnDevice) -> Result<ExitCode> {
    match task {
        OnDevice::Probe => {
            let probed = device::probe();
            println!("{}", serde_json::to_string(&probed)?);
            Ok(if probed.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::from(NO_GPU) })
        }
        OnDevice::Report { work, out } => report::write(work, out).map(|()| ExitCode::SUCCESS),
    }
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let out = &options.out.clone().unwrap_or_else(|| root.join("bundle"));
    may_clear(out)?;
    let nvcc = crate::toolkit::nvcc(root)?;
    let cargo = Cargo::new(root, &nvcc)?;
    let (programs, xtask) = (cargo.programs()?, cargo.xtask()?);

    clear(out)?;
    let built = programs.iter().map(|(_, file)| file).chain([&xtask]);
    fs::write(out.join(VERSION), version(root, &nvcc, built)?)?;
    fs::write(out.join("manifest.tsv"), copy_programs(&programs, out)?)?;
    copy(&xtask, &out.join("xtask"))?;
    for (from, to) in FILES {
        copy(&root.join(from), &out.join(to))?;
    }
    for (folder, extensions) in FOLDERS {
        copy_folder(&root.join(folder), &out.join(folder), extensions)?;
    }
    let bytes = size(out)?;
    println!("{}: {:.1} MB", out.display(), bytes as f64 / 1e6);
    ensure!(
        bytes <= MOST_BYTES,
        "the bundle may have {MOST_BYTES} bytes, but has {bytes}: build it for fewer architectures, with TWOFOUR_CUDA_ARCHS"
    );
    if options.check { check(out) } else { Ok(()) }
}

/// Only a folder that is a bundle, or is empty, is cleared.
fn may_clear(out: &Path) -> Result<()> {
    if out.exists() {
        let version = fs::read_to_string(out.join(VERSION)).unwrap_or_default();
        let empty = fs::read_dir(out).with_context(|| format!("list {}", out.display()))?.next().is_none();
        let free = empty || version.starts_with("twofour\t");
        ensure!(free, "{} is there and is no bundle: name another folder with --out", out.display());
    }
    Ok(())
}

fn clear(out: &Path) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("remove {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))
}

/// Copies what is not to be left out; the manifest.
fn copy_programs(programs: &[(String, PathBuf)], out: &Path) -> Result<String> {
    let mut manifest = String::new();
    for (path, file) in programs {
        match Program::new(path, file)? {
            Some(program) => {
                copy(file, &out.join(path))?;
                manifest += &program.line();
            }
            None => println!("left out: {path}"),
        }
    }
    Ok(manifest)
}

/// Copies a file with its permissions, and makes its folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Copies a folder's files, only those with one of these extensions if any are given; nothing if there is no folder.
fn copy_folder(from: &Path, to: &Path, extensions: &[&str]) -> Result<()> {
    let wanted = |path: &Path| {
        let extension = path.extension().unwrap_or_default();
        extensions.is_empty() || extensions.iter().any(|wanted| extension == *wanted)
    };
    for path in files(from)?.iter().filter(|path| wanted(path)) {
        copy(path, &to.join(path.strip_prefix(from)?))?;
    }
    Ok(())
}

/// Every file below a folder; none if it is not there.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn size(folder: &Path) -> Result<u64> {
    files(folder)?.iter().map(|file| Ok(file.metadata()?.len())).sum()
}

/// What was built, from what, with what.
fn version<'a>(root: &Path, nvcc: &Path, programs: impl Iterator<Item = &'a PathBuf>) -> Result<String> {
    let commit = said(Command::new("git").current_dir(root).args(["rev-parse", "HEAD"]));
    let changes = said(Command::new("git").current_dir(root).args(["status", "--porcelain"]));
    let commit = commit.map_or_else(|_| "unknown".into(), |commit| commit.trim().to_owned());
    let changed = if changes.is_ok_and(|changes| changes.is_empty()) { "" } else { ", with changes" };
    let rustc = said(Command::new("rustc").arg("--version"))?;
    let nvcc = said(Command::new(nvcc).arg("--version"))?;
    let release = nvcc.lines().find(|line| line.contains("release")).unwrap_or("unknown");
    let mut glibc = Vec::new();
    for program in programs {
        glibc.push(contents::glibc(&fs::read(program)?));
    }
    let (major, minor) = glibc.into_iter().max().unwrap_or_default();
    let crate_version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "twofour\t{crate_version}\ncommit\t{commit}{changed}\nrustc\t{}\nnvcc\t{release}\nneeds\tglibc {major}.{minor}\n",
        rustc.trim()
    ))
}

/// What a program prints.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the bundle with the GPU hidden, if there is one.
fn check(bundle: &Path) -> Result<()> {
    let out = std::env::temp_dir().join(format!("twofour-bundle-check-{}", std::process::id()));
    let script = bundle.canonicalize()?.join("run-all.sh");
    let output = Command::new(&script).arg(&out).env("CUDA_VISIBLE_DEVICES", "").output();
    let output = output.with_context(|| format!("run {}", script.display()))?;
    let report = fs::read_to_string(out.join("report.md")).unwrap_or_default();
    let packed = out.join("results.tar.gz").is_file();
    // It may not have been made.
    let _ = fs::remove_dir_all(&out);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(i32::from(NO_GPU)) || !report.starts_with("# No GPU") || !packed {
        bail!("without a GPU, run-all.sh must say so and exit with {NO_GPU}; {}:\n{text}{report}", output.status);
    }
    println!("run-all.sh says that there is no GPU, and exits with {NO_GPU}");
    Ok(())
}
