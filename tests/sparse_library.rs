//! Products through cuSPARSELt on a fake library, which lays out codes as it is told: that probes find out how, that our
//! packer is used exactly where they agree, and that what comes out is right either way.
//!
//! A process opens a library once, so each case runs in a child process, as one of the ignored tests of `child`.
#![cfg(all(feature = "cuda", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "fake-cuda/mod.rs"]
#[allow(dead_code, reason = "tests/device.rs uses the rest")]
mod fake;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fake::Child;

/// A folder with the fake libraries.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake-cusparselt-of-sparse");
        fs::create_dir_all(&folder).unwrap();
        for (source, library) in
            [("driver.c", "libcuda.so"), ("driver.c", "libcuda.so.1"), ("cusparselt.c", "libcusparseLt.so.0")]
        {
            fake::build(&format!("../fake-cusparselt/{source}"), &folder.join(library));
        }
        folder
    })
}

/// A child that finds them, on a device of this compute capability, with a library that lays out codes so.
fn child(test: &str, capability: &str, layout: &str) -> Child {
    let child = Child::new(test).driver(folder()).env("FAKE_CUDA_CC", capability);
    if layout.is_empty() { child } else { child.env("FAKE_CUSPARSELT_LAYOUT", layout) }
}

/// Runs it, and sees that the library had nothing to complain about and that all it made was destroyed.
fn run(child: Child) -> Vec<String> {
    let log = child.run();
    assert!(log.iter().all(|line| !line.starts_with("BAD")), "{log:?}");
    assert_eq!(count(&log, "Init"), count(&log, "Destroy"), "{log:?}");
    assert_eq!(count(&log, "MatmulPlanInit"), count(&log, "MatmulPlanDestroy"), "{log:?}");
    log
}

fn count(log: &[String], call: &str) -> usize {
    log.iter().filter(|line| line.split(' ').next() == Some(call)).count()
}

/// Digits of groups' numbers to the base six: 16·24 and 512·128 of them, and three for values to the base 126.
const PROBES: usize = 4 + 7;

#[test]
fn our_packer_is_used_where_a_probe_agrees() {
    // Expected on the device, and not; with and without room that codes do not need.
    for (capability, layout, expected) in [
        ("80", "mma", "cusparselt-mma"),
        ("90", "hopper", "cusparselt-sm90"),
        ("90", "mma", "cusparselt-mma"),
        ("80", "hopper+", "cusparselt-sm90"),
        ("80", "mma+", "cusparselt-mma"),
        ("100", "mma", "cusparselt-mma"),
    ] {
        let log = run(child("packed_by_us", capability, layout).env("EXPECTED", expected));
        assert_eq!(count(&log, "SpMMACompress2"), PROBES, "only probes, each once: {log:?}");
    }
}

#[test]
fn the_library_packs_where_no_probe_agrees() {
    for (capability, layout) in [("80", "scrambled"), ("90", "scrambled"), ("90", "")] {
        let log = run(child("packed_by_the_library", capability, layout));
        // The first probe of each class is enough, unless a layout agrees with it by chance; then both weights.
        assert!((4..=6).contains(&count(&log, "SpMMACompress2")), "{log:?}");
    }
}

#[test]
fn products_are_those_of_the_cpu() {
    for layout in ["mma", "hopper", "scrambled", ""] {
        let log = run(child("products", "90", layout));
        assert!(count(&log, "Matmul") > 20);
    }
}

#[test]
fn what_the_library_alone_knows_completes_a_plan() {
    run(child("completing", "90", "hopper"));
}

#[test]
fn a_search_runs_once_for_a_product() {
    let log = run(child("searching", "80", "mma"));
    assert_eq!(count(&log, "MatmulSearch"), 2, "with a bias and without: {log:?}");
}

#[test]
fn what_does_not_fit_never_reaches_the_library() {
    let log = run(child("refused", "90", "hopper"));
    assert_eq!(count(&log, "Matmul"), 0, "{log:?}");
}

#[test]
fn plans_follow_the_librarys_rules() {
    run(child("rules", "90", ""));
}

#[test]
fn a_library_that_fails_is_an_error() {
    for call in ["Init", "SpMMACompressedSize2", "SpMMACompress2", "MatmulPlanInit", "Matmul"] {
        run(child("failing", "90", "hopper").env("FAKE_CUSPARSELT_FAIL", &format!("cusparseLt{call}=6")));
    }
}

#[test]
fn without_the_library_there_is_an_error() {
    run(child("unavailable", "90", "").env("TWOFOUR_CUSPARSELT", "off"));
}

#[path = "fake-cusparselt/sparse.rs"]
mod child;
