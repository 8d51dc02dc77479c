//! PTX of a source, where there is an nvcc.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use twofour_emulator::ptx::Compiler;

mod targets {
    #![allow(dead_code)]
    include!("../../../build/targets.rs");
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The compiler, or nothing after saying so.
pub fn compiler() -> Option<Compiler> {
    let found = Compiler::find();
    if found.is_none() {
        let required = std::env::var_os("TWOFOUR_REQUIRE_PTX").is_some_and(|value| value == "1");
        assert!(!required, "TWOFOUR_REQUIRE_PTX=1, but there is no nvcc: put it on PATH, or set TWOFOUR_PTX_NVCC");
        println!("skipped: no nvcc");
    }
    found
}

pub fn ptx(compiler: &Compiler, source: &Path) -> String {
    let options: Vec<_> = targets::OPTIONS.into_iter().chain(targets::NVCC_OPTIONS).collect();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    compiler.ptx(source, "compute_80", &options, &root(), &root().join("cuda"), cache).unwrap()
}
