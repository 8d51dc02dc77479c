//! Builds the programs of the bundle, and names them by what they are: `tests/mask`, `benches/mask`, `examples/...`.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The members whose programs go along; this crate's own are about the sources, and those of files are on the CPU
/// alone.
const PACKAGES: [&str; 2] = ["twofour", "twofour-emulator"];

/// A profile of its own, so that a user's release build is left as it is.
const PROFILE: [&str; 8] = [
    "--profile",
    "bundle",
    "--config",
    "profile.bundle.inherits=\"release\"",
    "--config",
    "profile.bundle.strip=\"symbols\"",
    "--config",
    "profile.bundle.debug=false",
];

/// Packs the machine code to a sixth of nvcc's default, in every program. Drivers that take this nvcc's code unpack it.
const SMALL: &str = "--compress-mode=size";

/// What kernels are compiled for unless `TWOFOUR_CUDA_ARCHS` says: the devices that such machines rent out. With all
/// that the crate is built for, every program would carry three times as much. Other devices' drivers translate the PTX
/// beside it.
const ARCHS: &str = "80,90a";

/// A line that cargo prints for what it built.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// Cargo, as the bundle's programs are built.
pub(super) struct Cargo<'a> {
    root: &'a Path,
    nvcc: &'a Path,
    /// What nvcc adds to its command line.
    nvcc_flags: String,
}

impl<'a> Cargo<'a> {
    pub(super) fn new(root: &'a Path, nvcc: &'a Path) -> Result<Self> {
        const FLAGS: &str = "NVCC_APPEND_FLAGS";
        let mut nvcc_flags = env::var(FLAGS).unwrap_or_default();
        if super::said(Command::new(nvcc).arg("--help"))?.contains("--compress-mode") {
            nvcc_flags = format!("{nvcc_flags} {SMALL}");
        }
        Ok(Self { root, nvcc, nvcc_flags })
    }

    /// Tests, benches and examples: the path in the bundle, and the file that was built, in order.
    pub(super) fn programs(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut built = Vec::new();
        for package in PACKAGES {
            let tests = ["test", "--no-run", "--package", package, "--lib", "--tests", "--benches"];
            let examples = ["build", "--package", package, "--examples"];
            for arguments in [&tests[..], &examples[..]] {
                for message in self.run(arguments)? {
                    built.extend(named(self.root, message)?);
                }
            }
        }
        built.sort();
        ensure!(built.iter().any(|(path, _)| path.starts_with("tests/")), "cargo built no tests");
        if let Some(pair) = built.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            bail!("two programs would be {}: {} and {}", pair[0].0, pair[0].1.display(), pair[1].1.display());
        }
        Ok(built)
    }

    /// This program, stripped.
    pub(super) fn xtask(&self) -> Result<PathBuf> {
        let messages = self.run(&["build", "--package", "xtask"])?;
        messages.into_iter().find_map(|message| message.executable).context("cargo built no xtask")
    }

    /// Runs cargo; its messages about what it built.
    fn run(&self, arguments: &[&str]) -> Result<Vec<Message>> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(self.root).args(arguments).args(PROFILE).arg("--message-format=json-render-diagnostics");
        cargo.env("TWOFOUR_NVCC", self.nvcc).env("TWOFOUR_REQUIRE_AOT", "1").env("NVCC_APPEND_FLAGS", &self.nvcc_flags);
        if ["TWOFOUR_CUDA_ARCHS", "CUDA_COMPUTE_CAP"].iter().all(|name| env::var_os(name).is_none()) {
            cargo.env("TWOFOUR_CUDA_ARCHS", ARCHS);
        }
        println!("cargo {}", arguments.join(" "));
        let output = cargo.stderr(Stdio::inherit()).output().context("run cargo")?;
        ensure!(output.status.success(), "cargo {}: {}", arguments.join(" "), output.status);
        let lines = String::from_utf8_lossy(&output.stdout);
        let messages = lines.lines().map(|line| serde_json::from_str(line).with_context(|| format!("read {line}")));
        let messages = messages.collect::<Result<Vec<Message>>>()?;
        Ok(messages.into_iter().filter(|message| message.reason == "compiler-artifact").collect())
    }
}

/// The path in the bundle: programs of other members than the root have the member's folder before their names.
fn named(root: &Path, message: Message) -> Result<Option<(String, PathBuf)>> {
    let (Some(target), Some(executable)) = (message.target, message.executable) else { return Ok(None) };
    let manifest = message.manifest_path.context("cargo names no manifest")?;
    let member = manifest.parent().and_then(|folder| folder.strip_prefix(root).ok()).unwrap_or(Path::new(""));
    let prefix = member.to_str().filter(|name| !name.is_empty()).map(|name| format!("{name}-")).unwrap_or_default();
    let (folder, name) = match target.kind.first().map(String::as_str) {
        Some("test") => ("tests", target.name.as_str()),
        Some("lib") => ("tests", "lib"),
        Some("bench") => ("benches", target.name.as_str()),
        Some("example") => ("examples", target.name.as_str()),
        _ => return Ok(None),
    };
    Ok(Some((format!("{folder}/{prefix}{name}"), executable)))
}
