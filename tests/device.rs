//! Finding the driver, choosing code, launching: with fake libraries on any machine, with NVRTC where it is, with a
//! device where there is one.
//!
//! A process opens a library once, so each case runs in a child process, as one of the ignored tests of `child`.
#![cfg(all(feature = "cuda", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "fake-cuda/mod.rs"]
mod fake;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fake::{Child, Scratch};
use rayon::prelude::*;
use twofour::device::{self, Compiled, Symbol};
use twofour::{Error, Result};

/// Whether this build has images; the cases differ in what they try first.
fn has_images() -> bool {
    !device::embedded().is_empty()
}

fn count(log: &[String], start: &str) -> usize {
    log.iter().filter(|line| line.starts_with(start)).count()
}

#[test]
fn a_driver_that_cannot_be_opened_is_unavailable() {
    let garbage = Scratch::new("garbage");
    for name in ["libcuda.so", "libcuda.so.1"] {
        fs::write(garbage.join(name), "not a library").unwrap();
    }
    Child::new("driver_unavailable").driver(&garbage).run();
}

#[test]
fn a_library_that_is_no_driver_is_unavailable() {
    let folder = Scratch::new("no-driver");
    for name in ["libcuda.so", "libcuda.so.1"] {
        fake::build("nvrtc.c", &folder.join(name));
    }
    Child::new("driver_unavailable").driver(&folder).run();
}

#[test]
fn the_stub_for_linking_is_unavailable() {
    Child::new("driver_unavailable").env("FAKE_CUDA_INIT", "34").run();
}

#[test]
fn a_driver_without_device_says_so() {
    Child::new("no_device").env("FAKE_CUDA_INIT", "100").run();
    Child::new("no_device").env("FAKE_CUDA_COUNT", "0").run();
}

#[test]
fn another_failure_of_the_driver_keeps_its_number() {
    Child::new("unknown_error").env("FAKE_CUDA_INIT", "999").run();
}

#[test]
fn a_device_that_is_not_there_is_told_from_one_that_is() {
    Child::new("second_of_one").run();
}

#[test]
fn limits_are_those_of_the_device() {
    let log = Child::new("limits").run();
    assert_eq!(count(&log, "attribute 16"), 1, "asked once: {log:?}");
}

#[test]
fn an_old_device_is_unsupported() {
    let log = Child::new("unsupported").env("FAKE_CUDA_CC", "75").run();
    assert_eq!(count(&log, "load"), 0, "{log:?}");
}

#[test]
fn without_code_and_without_nvrtc_there_is_no_image() {
    let log = Child::new("no_image").env("FAKE_CUDA_REFUSED", "fatbin elf ptx").run();
    assert_eq!(count(&log, "load fatbin 209"), 2 * usize::from(has_images()), "at a launch and in prepare: {log:?}");
}

#[test]
fn what_nvrtc_makes_may_be_refused_too() {
    let log = Child::new("nvrtc_refused").env("FAKE_CUDA_REFUSED", "fatbin elf ptx").nvrtc().run();
    assert_eq!(count(&log, "load elf 209"), 1, "{log:?}");
}

#[test]
fn an_error_that_is_no_refusal_is_not_hidden() {
    let child = Child::new("out_of_memory").env("FAKE_CUDA_REFUSED", "fatbin elf ptx").env("FAKE_CUDA_REFUSE", "2");
    let log = child.nvrtc().run();
    assert_eq!(count(&log, "load"), 1, "{log:?}");
}

#[test]
fn a_launch_reaches_the_driver_as_it_is() {
    let log = Child::new("launches").env("FAKE_CUDA_ARGS", "16").nvrtc().run();
    let args = "10 32 54 76 98 ba dc fe 07 00 00 00 00 00 c0 3f";
    let launches: Vec<&String> = log.iter().filter(|line| line.starts_with("launch")).collect();
    let expected = format!("launch 3 2 1 | 128 1 1 | 4096 | (nil) | {args}");
    assert_eq!(launches[0], &expected);
    assert!(launches[1].starts_with("launch 5 2 1 | 128 1 1 | 4096 |"), "{launches:?}");
    assert_eq!(launches.len(), 4, "a grid without blocks is no launch: {launches:?}");
    assert_eq!(count(&log, "load"), 1, "a module is loaded once: {log:?}");
    assert_eq!(count(&log, "function"), 1, "a function is looked up once: {log:?}");
    assert_eq!(count(&log, "unload"), 0, "what is loaded stays: {log:?}");
    assert_eq!(count(&log, "release"), 1, "and its context, but for the test's second handle to it: {log:?}");
}

#[test]
fn threads_that_launch_at_once_load_once() {
    let log = Child::new("threads").nvrtc().run();
    assert_eq!((count(&log, "load"), count(&log, "launch")), (1, 8), "{log:?}");
    let log = Child::new("threads").env("FAKE_CUDA_REFUSED", "fatbin").nvrtc().run();
    assert_eq!((count(&log, "source"), count(&log, "load elf"), count(&log, "launch")), (1, 1, 8), "{log:?}");
}

#[test]
fn much_shared_memory_is_asked_for_once() {
    let log = Child::new("much_shared").nvrtc().run();
    // The attribute MAX_DYNAMIC_SHARED_SIZE_BYTES; 227 KiB less the kernel's own 1 KiB.
    assert_eq!(count(&log, "set 8 to 231424"), 1, "{log:?}");
    // The attribute PREFERRED_SHARED_MEMORY_CARVEOUT, in per cent.
    assert_eq!(count(&log, "set 9 to 100"), 1, "{log:?}");
    assert_eq!((count(&log, "set"), count(&log, "launch"), count(&log, "function")), (2, 3, 1), "{log:?}");
}

#[test]
fn preparing_loads_everything() {
    let log = Child::new("prepared").nvrtc().run();
    let modules = device::modules().count();
    assert_eq!((count(&log, "load"), count(&log, "ready")), (modules, 2 * modules), "{log:?}");
    let launch = log.iter().position(|line| line.starts_with("launch")).unwrap();
    assert!(log[launch..].iter().all(|line| !line.starts_with("load")), "{log:?}");
}

#[test]
fn a_launch_compiles_its_kernel_alone() {
    let log = Child::new("two_kernels").env("FAKE_CUDA_REFUSED", "fatbin").nvrtc().run();
    for kernel in ["twofour_test_kernel", "twofour_test_other"] {
        let option = format!("option --define-macro=TWOFOUR_WANTED_{kernel}=1");
        assert_eq!(count(&log, &option), 1, "{log:?}");
        assert_eq!(count(&log, &format!("function {kernel}")), 1, "{log:?}");
    }
    assert_eq!(count(&log, "option --define-macro=TWOFOUR_ONLY=1"), 2, "{log:?}");
    assert_eq!((count(&log, "source"), count(&log, "load elf"), count(&log, "launch")), (2, 2, 4), "{log:?}");
}

#[test]
fn an_image_is_loaded_for_all_of_its_kernels() {
    let log = Child::new("two_kernels").nvrtc().run();
    let expected = if has_images() { (0, 1) } else { (2, 2) };
    assert_eq!((count(&log, "source"), count(&log, "load")), expected, "{log:?}");
}

#[test]
fn preparing_compiles_every_file_once() {
    let modules = device::modules().count();
    let log = Child::new("prepared").env("FAKE_CUDA_REFUSED", "fatbin").nvrtc().run();
    assert_eq!((count(&log, "source"), count(&log, "load elf")), (modules, modules), "{log:?}");
    assert_eq!(count(&log, "option --define-macro"), 0, "{log:?}");

    let log = Child::new("prepared_after_a_launch").env("FAKE_CUDA_REFUSED", "fatbin").nvrtc().run();
    assert_eq!((count(&log, "source"), count(&log, "option --define-macro=TWOFOUR_ONLY")), (modules + 1, 1), "{log:?}");
    assert_eq!(
        (count(&log, "load elf"), count(&log, "function"), count(&log, "launch")),
        (modules + 1, 2, 3),
        "{log:?}"
    );
}

#[test]
fn a_kernel_that_is_not_in_the_module_is_named() {
    Child::new("unknown_kernel").env("FAKE_CUDA_MISSING", "twofour_test_kernel").nvrtc().run();
}

#[test]
fn a_kernel_that_the_source_lacks_is_named_and_not_kept() {
    let cache = Scratch::new("cache-of-nothing");
    let child = Child::new("unknown_kernel").env("FAKE_CUDA_REFUSED", "fatbin").env("TWOFOUR_CACHE", "");
    let child = child.env("TWOFOUR_CACHE_DIR", cache.text()).env("FAKE_NVRTC_MISSING", "twofour_test_kernel");
    let log = child.nvrtc().run();
    assert_eq!((count(&log, "source"), count(&log, "load elf")), (1, 0), "{log:?}");
    assert_eq!(fs::read_dir(&*cache).unwrap().count(), 0);
}

#[test]
fn a_name_that_no_kernel_can_have_is_no_option() {
    let log = Child::new("names_that_no_kernel_has").env("FAKE_CUDA_REFUSED", "fatbin").nvrtc().run();
    assert_eq!(count(&log, "option --define-macro=TWOFOUR_WANTED_x"), 0, "{log:?}");
    assert_eq!((count(&log, "load elf"), count(&log, "launch")), (1, 1), "{log:?}");
}

#[test]
fn refused_images_are_compiled_instead() {
    let log = Child::new("launches_once").env("FAKE_CUDA_REFUSED", "fatbin").nvrtc().run();
    assert_eq!(count(&log, "option --gpu-architecture=sm_90a"), 1, "{log:?}");
    assert_eq!((count(&log, "option --fmad=false"), count(&log, "destroy")), (1, 1), "{log:?}");
    assert_eq!(count(&log, "load elf 0"), 1, "{log:?}");
}

#[test]
fn an_older_nvrtc_gets_the_plain_architecture() {
    let child = Child::new("launches_once").env("FAKE_CUDA_REFUSED", "fatbin").env("FAKE_NVRTC_OLD", "1");
    let log = child.nvrtc().run();
    assert_eq!(count(&log, "option --gpu-architecture=sm_90"), 2, "sm_90a, then sm_90: {log:?}");
    assert_eq!((count(&log, "load elf 0"), count(&log, "destroy")), (1, 2), "{log:?}");
}

#[test]
fn a_device_newer_than_nvrtc_gets_ptx() {
    let log = Child::new("launches_once").env("FAKE_CUDA_CC", "130").nvrtc().run();
    assert_eq!(count(&log, "option --gpu-architecture=compute_120"), 1, "{log:?}");
    assert_eq!(count(&log, "load ptx 0"), 1, "{log:?}");
}

#[test]
fn a_device_newer_than_the_build_gets_embedded_ptx_without_nvrtc() {
    let child = if has_images() { "launches_once" } else { "no_image" };
    let log = Child::new(child).env("FAKE_CUDA_CC", "130").run();
    assert_eq!(count(&log, "load fatbin 0"), usize::from(has_images()), "{log:?}");
}

#[test]
fn the_compilers_log_is_readable() {
    let child = Child::new("compile_error").env("FAKE_CUDA_REFUSED", "fatbin");
    child.env("FAKE_NVRTC_FAIL", "mask.cu(1): error: \"x\"\nsecond line").nvrtc().run();
}

#[test]
fn a_second_process_takes_the_first_ones_code() {
    let cache = Scratch::new("cache");
    let run = || {
        let child = Child::new("launches_once").env("FAKE_CUDA_REFUSED", "fatbin").env("TWOFOUR_CACHE", "");
        let log = child.env("TWOFOUR_CACHE_DIR", cache.text()).nvrtc().run();
        assert_eq!(count(&log, "load elf 0"), 1, "{log:?}");
        count(&log, "source")
    };
    assert_eq!(run(), 1, "compiled");
    assert_eq!(run(), 0, "from the cache");
    let file = only_file(&cache);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(run(), 1, "a damaged file is compiled anew");
    assert_eq!(fs::read(&file).unwrap(), whole, "and written anew");
}

#[test]
fn kernels_are_kept_one_by_one() {
    let cache = Scratch::new("cache-of-kernels");
    let compilations = |child| {
        let child = Child::new(child).env("FAKE_CUDA_REFUSED", "fatbin").env("TWOFOUR_CACHE", "");
        count(&child.env("TWOFOUR_CACHE_DIR", cache.text()).nvrtc().run(), "source")
    };
    let modules = device::modules().count();
    assert_eq!(compilations("launches_once"), 1);
    assert_eq!(compilations("two_kernels"), 1, "the other one");
    assert_eq!(compilations("two_kernels"), 0);
    assert_eq!(compilations("prepared"), modules, "a kernel is not its file");
    assert_eq!(compilations("prepared"), 0);
}

/// What one device or one NVRTC made is of no use to another: code for the wrong device would be refused, or run.
#[test]
fn code_is_kept_for_its_device_and_nvrtc_alone() {
    let cache = Scratch::new("cache-of-devices");
    let compilations = |device: &str, version: &str| {
        let child = Child::new("launches_once").env("FAKE_CUDA_REFUSED", "fatbin").env("TWOFOUR_CACHE", "");
        let child = child.env("FAKE_CUDA_CC", device).env("FAKE_NVRTC_VERSION", version);
        let log = child.env("TWOFOUR_CACHE_DIR", cache.text()).nvrtc().run();
        assert_eq!(count(&log, "load elf 0"), 1, "{log:?}");
        count(&log, "source")
    };
    assert_eq!(["90", "80", "90", "80"].map(|device| compilations(device, "130")), [1, 1, 0, 0]);
    assert_eq!(["86", "89", "120", "100", "86"].map(|device| compilations(device, "130")), [1, 1, 1, 1, 0]);
    assert_eq!(["128", "129", "130", "128"].map(|version| compilations("90", version)), [1, 1, 0, 0]);
}

#[test]
fn the_cache_is_where_the_user_keeps_caches() {
    let home = Scratch::new("home");
    let base = Child::new("launches_once").env("FAKE_CUDA_REFUSED", "fatbin").env("TWOFOUR_CACHE", "").nvrtc();
    base.env("XDG_CACHE_HOME", "relative/is/ignored").env("HOME", home.text()).run();
    assert!(only_file(&home.join(".cache/twofour")).exists());
}

#[test]
fn nothing_is_loaded_for_a_stream_that_is_captured() {
    let log = Child::new("unprepared").env("FAKE_CUDA_CAPTURING", "0").nvrtc().run();
    assert_eq!((count(&log, "load"), count(&log, "source"), count(&log, "launch")), (0, 0, 0), "{log:?}");
    let log = Child::new("half_prepared").env("FAKE_CUDA_CAPTURING", "1").nvrtc().run();
    assert_eq!((count(&log, "load"), count(&log, "launch")), (1, 2), "{log:?}");
    let modules = device::modules().count().to_string();
    Child::new("prepared").env("FAKE_CUDA_CAPTURING", &modules).nvrtc().run();
}

#[test]
fn a_pass_is_queued_whole_or_not_at_all() {
    let log = Child::new("pass").nvrtc().run();
    assert_eq!((count(&log, "function"), count(&log, "launch")), (2, 2), "{log:?}");
    let log = Child::new("pass_without_its_end").env("FAKE_CUDA_MISSING", "twofour_mask_statistics").nvrtc().run();
    assert_eq!((count(&log, "function"), count(&log, "launch")), (1, 0), "{log:?}");
    let log = Child::new("pass_unprepared").env("FAKE_CUDA_CAPTURING", "0").nvrtc().run();
    assert_eq!((count(&log, "load"), count(&log, "launch")), (0, 0), "{log:?}");
    let log = Child::new("pass_without_its_library").nvrtc().run();
    assert_eq!(count(&log, "launch"), 0, "{log:?}");
}

/// cudarc makes a launch wait by the handle of an operand's own stream, so all must be of the launch's.
#[test]
fn operands_are_of_the_streams_handle() {
    let log = Child::new("operands_of_another_handle").nvrtc().run();
    assert_eq!((count(&log, "launch"), count(&log, "wait of the default stream")), (0, 0), "{log:?}");
    let log = Child::new("operands_of_another_stream").nvrtc().run();
    assert_eq!(count(&log, "launch"), 3, "{log:?}");
    let before = log.iter().take_while(|line| !line.starts_with("launch"));
    assert_ne!(before.filter(|line| *line == "wait of the default stream").count(), 0, "{log:?}");
    let log = Child::new("operands_of_another_device").env("FAKE_CUDA_COUNT", "2").nvrtc().run();
    assert_eq!(count(&log, "launch"), 0, "{log:?}");
}

/// The one file two folders down.
fn only_file(root: &Path) -> std::path::PathBuf {
    let only = |folder: &Path| {
        let entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].clone()
    };
    only(&only(root))
}

/// Whether every compilation is wanted, which takes minutes.
fn is_full() -> bool {
    std::env::var_os("TWOFOUR_REQUIRE_NVRTC").is_some_and(|value| value == "full")
}

/// Every kernel compiles for every architecture, or without `TWOFOUR_REQUIRE_NVRTC=full` for two of them: needs NVRTC, and
/// no device.
#[test]
fn nvrtc_compiles_every_kernel_for_every_architecture() {
    const ARCHITECTURES: [(u32, u32); 6] = [(9, 0), (12, 0), (8, 0), (8, 6), (8, 9), (10, 0)];
    let some = if is_full() { &ARCHITECTURES[..] } else { &ARCHITECTURES[..2] };
    let all: Vec<_> = device::modules().flat_map(|module| some.iter().map(move |&arch| (module, arch))).collect();
    // Minutes on one core.
    all.into_par_iter().for_each(|(module, (major, minor))| {
        let Some(compiled) = made(device::compile(module, (major, minor))) else { return };
        assert!(compiled.arch.starts_with(&format!("sm_{major}{minor}")), "{}", compiled.arch);
        // An ELF file for the machine 190, EM_CUDA.
        assert_eq!((&compiled.bytes[..4], compiled.bytes[18]), (&b"\x7fELF"[..], 190), "{module}");
    });
}

/// A kernel compiles alone, to a module with nothing else in it: every fourth of a file's, and with
/// `TWOFOUR_REQUIRE_NVRTC=full` each, which takes minutes. Needs NVRTC, and no device.
#[test]
fn nvrtc_compiles_every_kernel_alone() {
    let step = if is_full() { 1 } else { 4 };
    for module in device::modules() {
        let start = Instant::now();
        let Some(whole) = made(device::compile(module, (8, 0))) else { return };
        let whole_took = start.elapsed();
        let kernels = kernels_in(&whole.bytes);
        assert!(!kernels.is_empty(), "{module}");
        let some: Vec<_> = kernels.iter().step_by(step).collect();
        let times = some.into_par_iter().map(|kernel| {
            let symbol = Symbol::named(module, kernel);
            let start = Instant::now();
            let alone = made(device::compile_kernel(symbol, (8, 0))).unwrap();
            assert_eq!(kernels_in(&alone.bytes), BTreeSet::from([kernel.clone()]), "{module}");
            start.elapsed()
        });
        let times: Vec<_> = times.collect();
        let (count, sum, most) = (times.len(), times.iter().sum::<Duration>(), times.iter().max().unwrap());
        println!("{module}: the file {whole_took:.2?}; alone {most:.2?} at most, {count} kernels {sum:.2?}");

        let unknown = Symbol::named(module, "twofour_test_kernel");
        assert!(matches!(device::compile_kernel(unknown, (8, 0)), Err(Error::UnknownKernel { .. })), "{module}");
    }
}

/// What NVRTC made, or `None` where there is none and none is required.
fn made(outcome: Result<Compiled>) -> Option<Compiled> {
    match outcome {
        Err(Error::LibraryUnavailable { reason, .. }) if std::env::var_os("TWOFOUR_REQUIRE_NVRTC").is_none() => {
            println!("skipped: no NVRTC ({reason})");
            None
        }
        other => Some(other.unwrap_or_else(|e| panic!("{e}"))),
    }
}

/// The kernels of a cubin: each has a section `.text.<symbol>`.
fn kernels_in(cubin: &[u8]) -> BTreeSet<String> {
    let words = cubin.split(|&byte| byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
    words.filter_map(|word| word.strip_prefix(".text.")).map(String::from).collect()
}

/// The real driver takes what this build has for the device.
#[test]
fn a_real_device_loads_every_kernel() {
    let stream = match device::context(0) {
        Ok(context) => context.default_stream(),
        Err(error) => {
            assert!(std::env::var_os("TWOFOUR_REQUIRE_GPU").is_none(), "{error}");
            println!("skipped: no CUDA device ({error})");
            return;
        }
    };
    let limits = device::limits(stream.context()).unwrap();
    if !limits.is_supported() {
        println!("skipped: the device is older than Ampere: {limits:?}");
        return;
    }
    device::prepare(&stream).unwrap_or_else(|e| panic!("{e}"));
    device::prepare(&stream).unwrap();
    assert!(matches!(child::launch_on(&stream), Err(Error::UnknownKernel { .. })));
    stream.synchronize().unwrap();
}

#[path = "fake-cuda/child.rs"]
mod child;
