//! What the benches' cases ask of a GPU, without one: the input of `cargo xtask predict`.
//!
//! Needs nvcc; without one it says so and passes, and fails with `TWOFOUR_REQUIRE_PTX=1`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "profile/cases.rs"]
mod cases;
#[path = "../benches/common/mod.rs"]
mod common;
#[path = "profile/profiler.rs"]
mod profiler;

use twofour_emulator::ptx::Compiler;

/// nvcc, or `None` after saying that there is none.
fn compiler() -> Option<Compiler> {
    let found = Compiler::find();
    if found.is_none() {
        assert!(std::env::var_os("TWOFOUR_REQUIRE_PTX").is_none_or(|value| value != "1"), "there is no nvcc");
        println!("skipped: there is no nvcc");
    }
    found
}

/// A small one of each op.
#[test]
fn cases_are_profiled() {
    let Some(compiler) = compiler() else { return };
    cases::small(&compiler);
}

/// All that is predicted, a line each; `TWOFOUR_PROFILE` is the beginning of the names of those that are wanted.
#[test]
#[ignore = "takes minutes: `cargo xtask predict` asks for it"]
fn every_case() {
    cases::all(&compiler().expect("profiles need nvcc"));
}
