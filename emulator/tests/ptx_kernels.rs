//! The PTX that nvcc makes of every kernel: all of it is read, and some of it executed beside the emulator.
//!
//! Without an nvcc these tests say so and pass; `TWOFOUR_REQUIRE_PTX=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use twofour_emulator::ptx::{Difference, Module};
use twofour_emulator::{Args, Buffer, Kernel, Launch, Options, Schedule};

#[path = "support/nvcc.rs"]
mod nvcc;

use nvcc::{compiler, ptx, root};

fn sources() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("cuda")).unwrap().map(|entry| entry.unwrap().path());
    let mut sources: Vec<_> = entries.filter(|path| path.extension().is_some_and(|of| of == "cu")).collect();
    sources.sort();
    sources
}

#[test]
fn every_kernel_is_read() {
    let Some(compiler) = compiler() else { return };
    let mut count = 0;
    for source in sources() {
        let module =
            Module::new(&ptx(&compiler, &source)).unwrap_or_else(|fault| panic!("{}: {fault}", source.display()));
        for name in module.kernels() {
            Kernel::find(name).unwrap();
            count += 1;
        }
    }
    let ours = twofour_emulator::kernels().iter().filter(|kernel| {
        let name = kernel.name();
        !["test", "wrong", "right", "speed", "demo"].iter().any(|of| name.starts_with(&format!("twofour_{of}")))
    });
    assert_eq!(count, ours.count());
}

/// Both executors on the noise, under these options: where they differ.
fn compare_noise(module: &Module, options: &Options) -> Vec<Difference> {
    let output = Buffer::output::<f32>("out", 6 * 700).unwrap();
    // Where to, the first group and how many; round keys and draw; the bits of 1 + 2^-22 and padding.
    let args = Args::new().pointer(&output).value(1u64 << 33).value(700u64);
    let args = (0..22u32).fold(args, |args, key| args.value(key.wrapping_mul(0x9E37_79B9)));
    let args = args.value(0x3F80_0002u32).value(0u32).finish();
    let kernel = Kernel::find("twofour_noise_gumbels").unwrap();
    let launch = Launch { kernel, grid: [2, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
    let differences = module.compare(&launch, options).unwrap();
    assert!(output.values::<f32>().iter().all(|noise| noise.is_finite()));
    differences
}

#[test]
fn the_noise_is_the_emulators() {
    let Some(compiler) = compiler() else { return };
    let module = Module::new(&ptx(&compiler, &root().join("cuda/noise.cu"))).unwrap();
    for (i, schedule) in Schedule::several(3).enumerate() {
        let options = Options { schedule, workers: 1 + i % 2, ..Options::default() };
        assert_eq!(compare_noise(&module, &options), []);
    }
}

/// What the executor is for: two operands of one instruction the wrong way round.
#[test]
fn swapped_operands_are_found() {
    let Some(compiler) = compiler() else { return };
    let text = ptx(&compiler, &root().join("cuda/noise.cu"));
    let right = text.lines().find(|line| line.contains("shf.r.wrap.b32")).unwrap();
    let mut operands: Vec<_> = right.split(", ").collect();
    operands.swap(1, 2);
    let wrong = Module::new(&text.replacen(right, &operands.join(", "), 1)).unwrap();
    assert!(!compare_noise(&wrong, &Options::default()).is_empty());
}
