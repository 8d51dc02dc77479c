//! `sparse` through cuSPARSELt on a fake library, which lays out codes as it is told: that probes find out how, that this
//! crate's packer is used exactly where they agree, and that what comes out is right either way.

use crate::fake::Child;
use crate::{count, run};

/// A child that finds them, on a device of this compute capability, with a library that lays out codes so.
fn child(test: &str, capability: &str, layout: &str) -> Child {
    let child = crate::fake_child(&format!("sparse::{test}")).env("FAKE_CUDA_CC", capability);
    if layout.is_empty() { child } else { child.env("FAKE_CUSPARSELT_LAYOUT", layout) }
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

/// Its handle goes where the user's goes, but the library is for the thread that opened it.
#[test]
fn another_thread_does_not_reach_the_library() {
    let log = crate::fake_log(child("another_thread", "90", "hopper"));
    assert_eq!((count(&log, "Init"), count(&log, "Destroy")), (2, 1), "one was dropped elsewhere: {log:?}");
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
