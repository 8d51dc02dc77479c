//! The library by itself: how it is found, called and answered, and what its products are.

use crate::fake::{Child, Scratch};
use crate::product::{Number, cases, check};
use crate::{fake_child as child, folder, old_child, run};
use std::fs;
use twofour::cusparselt::{self, Handle};
use twofour::{E4m3, Error, bf16, device, f16};

/// What the library was called for, without attributes of devices and such.
fn calls(log: &[String]) -> Vec<&str> {
    let calls = log.iter().filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    calls.map(String::as_str).collect()
}

/// The real library, by TWOFOUR_CUSPARSELT or on the loader's path: it opens without a driver, and answers.
#[test]
fn the_real_library_answers() {
    let version = match cusparselt::available() {
        Err(Error::LibraryUnavailable { reason, .. }) if std::env::var_os("TWOFOUR_REQUIRE_CUSPARSELT").is_none() => {
            println!("skipped: no cuSPARSELt ({reason})");
            return;
        }
        other => other.unwrap_or_else(|e| panic!("{e}")),
    };
    println!("cuSPARSELt {version}");
    assert_eq!(version.major, 0);
    assert!((7..=10).contains(&version.minor), "{version}");
    let named =
        [(0, "SUCCESS"), (1, "NOT_INITIALIZED"), (3, "INVALID_VALUE"), (4, "ARCH_MISMATCH"), (10, "NOT_SUPPORTED")];
    for (status, name) in named {
        assert_eq!(cusparselt::status_name(status).unwrap(), format!("CUSPARSE_STATUS_{name}"));
    }
    assert_eq!(cusparselt::status_name(4711).unwrap(), "status 4711");
}

/// With a driver that can do nothing, the real library refuses, and the error has its name of the status.
#[test]
fn the_real_library_refuses_a_fake_driver() {
    match std::env::var_os("TWOFOUR_CUSPARSELT").filter(|path| path != "off") {
        Some(path) => drop(run(child("the_real_library").env("TWOFOUR_CUSPARSELT", path.to_str().unwrap()))),
        None => println!("skipped: TWOFOUR_CUSPARSELT names no library"),
    }
}

#[test]
fn without_the_library_there_is_an_error() {
    run(child("switched_off").env("TWOFOUR_CUSPARSELT", "off"));
    let empty = Scratch::new("no-cusparselt");
    let log = run(child("not_found").env("TWOFOUR_CUSPARSELT", &format!("{}/none", empty.text())));
    assert_eq!(calls(&log), [""; 0]);
    let none = empty.join("none");
    fs::create_dir_all(&none).unwrap();
    run(child("not_found").env("TWOFOUR_CUSPARSELT", none.to_str().unwrap()));
    let another = folder().join("libcuda.so");
    run(child("another_library").env("TWOFOUR_CUSPARSELT", another.to_str().unwrap()));
}

#[test]
fn the_library_is_found_by_path_folder_and_root() {
    let library = folder().join("libcusparseLt.so.0");
    run(child("found"));
    run(child("found").env("TWOFOUR_CUSPARSELT", library.to_str().unwrap()));
    run(child("found").env("TWOFOUR_CUSPARSELT", folder().to_str().unwrap()));
    let root = Scratch::new("cusparselt-root");
    let lib = root.join("lib");
    fs::create_dir_all(&lib).unwrap();
    fs::copy(&library, lib.join("libcusparseLt.so.0")).unwrap();
    // Not on the loader's path: the driver of tests/fake-cuda has its own folder.
    for variable in ["CUSPARSELT_ROOT", "CUSPARSELT_PATH", "CUDA_HOME"] {
        run(Child::new("found").env(variable, root.text()));
    }
    run(Child::new("found").env("CUSPARSELT_PATH", lib.to_str().unwrap()));
}

#[test]
fn the_version_is_asked_for_first_and_unknown_ones_are_refused() {
    for version in ["0.6.3", "0.11.0", "1.0.0"] {
        let log = run(child("refused_version").env("FAKE_CUSPARSELT_VERSION", version));
        assert_eq!(calls(&log), ["GetProperty 0", "GetProperty 1", "GetProperty 2"], "and nothing else");
    }
    run(child("no_version").env("FAKE_CUSPARSELT_FAIL", "cusparseLtGetProperty=7"));
    let log = run(child("one_product").env("FAKE_CUSPARSELT_VERSION", "0.8.0"));
    assert_eq!(calls(&log)[..4], ["GetProperty 0", "GetProperty 1", "GetProperty 2", "Init"]);
}

#[test]
fn statuses_have_the_librarys_names_where_it_has_any() {
    run(child("names_of_statuses").env("EXPECTED", "A_NAME_FROM_THE_LIBRARY"));
    run(old_child("names_of_statuses").env("EXPECTED", "CUSPARSE_STATUS_EXECUTION_FAILED"));
}

#[test]
fn calls_come_in_the_librarys_order_with_what_is_meant() {
    let log = run(child("one_product"));
    let expected = [
        "GetProperty 0",
        "GetProperty 1",
        "GetProperty 2",
        "Init",
        // W [64, 96] row-major, X [32, 96] row-major, and C and D as Yᵀ [64, 32] column-major, all of them f32.
        "StructuredDescriptorInit 64 96 96 0 2",
        "DenseDescriptorInit 32 96 96 0 2",
        "DenseDescriptorInit 64 32 64 0 1",
        "DenseDescriptorInit 64 32 64 0 1",
        // A as it is, B transposed, sums in f32.
        "MatmulDescriptorInit 0 1 2",
        "MatmulDescSetAttribute 8",
        "MatmulAlgSelectionInit",
        "MatmulPlanInit 0 1 1 0",
        "SpMMAPruneCheck (nil)",
        "SpMMACompress (nil)",
        "Matmul (nil) 0 beta 0",
        "MatmulPlanDestroy",
        "MatmulAlgSelectionDestroy",
        "MatDescriptorDestroy",
        "MatDescriptorDestroy",
        "MatDescriptorDestroy",
        "MatDescriptorDestroy",
        "Destroy",
    ];
    assert_eq!(calls(&log), expected);
}

#[test]
fn products_are_those_of_plain_loops() {
    run(child("every_product"));
}

#[test]
fn a_library_before_0_8_works_without_what_it_lacks() {
    let log = run(old_child("one_product"));
    assert!(!calls(&log).contains(&"MatmulAlgSelectionDestroy"), "{log:?}");
    run(old_child("every_product"));
}

#[test]
fn a_search_runs_once_for_a_problem() {
    let log = run(child("searches"));
    let searches = calls(&log).iter().filter(|call| call.starts_with("MatmulSearch (nil) iterations 2")).count();
    assert_eq!(searches, 3, "{log:?}");
    // After a search, and from memory: the algorithm, and of its settings only those that are not the default.
    assert!(calls(&log).contains(&"MatmulPlanInit 3 2 1 1"), "{log:?}");
    assert!(!calls(&log).contains(&"MatmulAlgSetAttribute 4 1"), "{log:?}");
}

#[test]
fn settings_of_an_algorithm_reach_the_library() {
    let log = run(child("settings"));
    let set: Vec<&str> = calls(&log).into_iter().filter(|call| call.starts_with("MatmulAlgSet")).take(4).collect();
    let expected = [(0, 2), (3, 4), (4, 2), (5, 3)].map(|(at, value)| format!("MatmulAlgSetAttribute {at} {value}"));
    assert_eq!(set, expected);
}

#[test]
fn a_call_that_fails_is_named_and_leaves_nothing_behind() {
    for call in [
        "Init",
        "DenseDescriptorInit",
        "StructuredDescriptorInit",
        "MatDescSetAttribute",
        "MatmulDescriptorInit",
        "MatmulDescSetAttribute",
        "MatmulAlgSelectionInit",
        "MatmulAlgGetAttribute",
        "MatmulAlgSetAttribute",
        "MatmulPlanInit",
        "MatmulGetWorkspace",
        "SpMMACompressedSize",
        "SpMMACompress",
        "SpMMAPruneCheck",
        "Matmul",
        "MatmulSearch",
        "SpMMACompressedSize2",
        "SpMMACompress2",
    ] {
        run(child("failing").env("FAKE_CUSPARSELT_FAIL", &format!("cusparseLt{call}=6")));
    }
}

#[test]
fn bad_arguments_never_reach_the_library() {
    let log = run(child("bad_operands"));
    assert!(calls(&log).iter().all(|call| !call.starts_with("Matmul (")), "{log:?}");
    let log = run(child("bad_factors"));
    assert!(calls(&log).iter().all(|call| !call.starts_with("Matmul (")), "{log:?}");
    let log = run(child("bad_problems"));
    assert!(calls(&log).iter().all(|call| !call.contains("Descriptor")), "{log:?}");
    let log = run(child("old_device").env("FAKE_CUDA_CC", "75"));
    assert!(!calls(&log).contains(&"Init"), "{log:?}");
}

#[test]
fn the_probe_is_what_the_librarys_compressor_writes() {
    let log = run(child("probe"));
    let of_interest = ["SpMMACompress2 (nil)", "SpMMAPruneCheck2 (nil)"];
    assert!(of_interest.iter().all(|call| calls(&log).contains(call)), "{log:?}");
}

/// The real library on a real device: every case, also with the algorithm that a search finds.
#[test]
fn a_real_device_multiplies() {
    let required = std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some();
    let stream = match device::context(0) {
        Ok(context) => context.default_stream(),
        Err(error) => {
            assert!(!required, "{error}");
            println!("skipped: no CUDA device ({error})");
            return;
        }
    };
    let handle = match Handle::new(stream.context()) {
        Ok(handle) => handle,
        Err(error @ Error::LibraryUnavailable { .. }) if std::env::var_os("TWOFOUR_REQUIRE_CUSPARSELT").is_none() => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    fn all<X: Number, Y: Number>(handle: &Handle, stream: &std::sync::Arc<twofour::cudarc::driver::CudaStream>) {
        for case in cases::<X, Y>() {
            check::<X, Y>(handle, stream, case, false).unwrap_or_else(|e| panic!("{case:?}: {e}"));
            check::<X, Y>(handle, stream, case, true).unwrap_or_else(|e| panic!("{case:?}, searched: {e}"));
        }
    }
    all::<f16, f16>(&handle, &stream);
    all::<bf16, bf16>(&handle, &stream);
    all::<f32, f32>(&handle, &stream);
    all::<i8, i32>(&handle, &stream);
    all::<i8, i8>(&handle, &stream);
    if handle.device().compute_capability >= (9, 0) {
        all::<E4m3, bf16>(&handle, &stream);
        all::<E4m3, f32>(&handle, &stream);
    }
}
