//! cuSPARSELt, by itself and under `sparse`: the real library where it is, without a device; a fake one, which writes down
//! its calls and multiplies, on any machine; products on a device where there is one.
//!
//! A process opens a library once, so each case with a fake runs in a child process, as one of the ignored tests of
//! `child`.
#![cfg(all(feature = "cuda", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "fake-cuda/mod.rs"]
#[allow(dead_code, reason = "tests/device.rs uses the rest")]
mod fake;
#[path = "cusparselt/library.rs"]
mod library;
#[path = "cusparselt/product.rs"]
mod product;
#[path = "cusparselt/sparse.rs"]
mod sparse;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fake::Child;

/// A folder with the fake libraries; the one before 0.8 in a folder of its own.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake-cusparselt");
        fs::create_dir_all(folder.join("old")).unwrap();
        for (source, library) in [
            ("driver.c", "libcuda.so"),
            ("driver.c", "libcuda.so.1"),
            ("cusparselt.c", "libcusparseLt.so.0"),
            ("before_0_8.c", "old/libcusparseLt.so.0"),
        ] {
            fake::build(&format!("../fake-cusparselt/{source}"), &folder.join(library));
        }
        folder
    })
}

/// A child that finds the fake driver and the fake library.
fn fake_child(test: &str) -> Child {
    Child::new(test).driver(folder())
}

/// One with the library as it was before 0.8.
fn old_child(test: &str) -> Child {
    let old = folder().join("old");
    fake_child(test).env("TWOFOUR_CUSPARSELT", old.to_str().unwrap()).env("FAKE_CUSPARSELT_VERSION", "0.7.1")
}

/// Runs it, and sees that the library had nothing to complain about.
fn fake_log(child: Child) -> Vec<String> {
    let log = child.run();
    assert!(log.iter().all(|line| !line.starts_with("BAD")), "{log:?}");
    log
}

/// The same, and that all it made was destroyed.
fn run(child: Child) -> Vec<String> {
    let log = fake_log(child);
    let count = |call: &str| count(&log, call);
    assert_eq!(count("Init"), count("Destroy"), "{log:?}");
    assert_eq!(count("MatmulPlanInit"), count("MatmulPlanDestroy"), "{log:?}");
    let matrices = count("DenseDescriptorInit") + count("StructuredDescriptorInit");
    assert_eq!(matrices, count("MatDescriptorDestroy"), "{log:?}");
    log
}

/// How often the library was called so.
fn count(log: &[String], call: &str) -> usize {
    log.iter().filter(|line| line.split(' ').next() == Some(call)).count()
}

#[path = "fake-cusparselt/child.rs"]
mod child;
