//! Finding nvcc and cuobjdump, and compiling one kernel file for one architecture.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::targets::{NVCC_OPTIONS, OPTIONS};
use crate::toolkit;

pub(super) struct Toolchain {
    root: PathBuf,
    nvcc: PathBuf,
    cuobjdump: PathBuf,
    /// nvcc's own number, as `13.0.88`.
    pub(super) version: String,
}

/// What the compiler made of a kernel file, and said about it.
pub(super) struct Compiled {
    /// What nvcc and ptxas printed.
    pub(super) log: String,
    /// The machine code, disassembled.
    pub(super) sass: String,
    /// The sections of the object file, as text.
    pub(super) elf: String,
}

impl Toolchain {
    /// The nvcc that is found first, and the cuobjdump beside it or on PATH.
    pub(super) fn find(root: &Path) -> Result<Self> {
        let nvcc = toolkit::nvcc(root)?;
        let beside = nvcc.with_file_name("cuobjdump");
        let cuobjdump =
            if beside.is_file() { beside } else { toolkit::on_path("cuobjdump").context("there is no cuobjdump")? };
        let said = run(Command::new(&nvcc).arg("--version"))?.stdout;
        let version = said.split_once(", V").and_then(|(_, rest)| rest.split_whitespace().next());
        let version = version.with_context(|| format!("no version in what nvcc says:\n{said}"))?.to_owned();
        Ok(Self { root: root.to_path_buf(), nvcc, cuobjdump, version })
    }

    pub(super) fn compile(&self, file: &Path, arch: &str) -> Result<Compiled> {
        let name = format!("twofour-cost-{}-{}-{arch}.cubin", std::process::id(), super::module(file));
        let cubin = Removed(std::env::temp_dir().join(name));
        let mut nvcc = Command::new(&self.nvcc);
        nvcc.current_dir(&self.root).args(OPTIONS).args(NVCC_OPTIONS).args(["-cubin", "-Xptxas", "-v"]);
        nvcc.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}")).arg("-o").arg(&cubin.0).arg(file);
        let log = run(&mut nvcc)?.stderr;
        let sass = run(Command::new(&self.cuobjdump).arg("-sass").arg(&cubin.0))?.stdout;
        let elf = run(Command::new(&self.cuobjdump).arg("-elf").arg(&cubin.0))?.stdout;
        Ok(Compiled { log, sass, elf })
    }
}

/// What a program printed.
struct Said {
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Result<Said> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{stdout}{stderr}", output.status);
    }
    Ok(Said { stdout, stderr })
}

/// A file that is gone when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = std::fs::remove_file(&self.0);
    }
}
