//! What kernels of the crate ask of memory, from the PTX that nvcc makes of them: against what is known of it by other
//! ways.
//!
//! Without an nvcc these tests say so and pass; `TWOFOUR_REQUIRE_PTX=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twofour_emulator::ptx::{Kind, Launch, Module, Profile, Site};
use twofour_emulator::{Args, Buffer, Options};

#[path = "support/nvcc.rs"]
mod nvcc;

use nvcc::{compiler, ptx, root};

/// A block's turns over so many groups; logits are f32, two groups a turn of a thread.
const GROUPS: u64 = 4096;
const THREADS: u32 = 256;

/// One row of all groups, by one block.
fn with_walk(args: Args) -> Args {
    let step = 2 * THREADS;
    args.value(GROUPS).value(0u64).value(0u64).value(u64::from(step)).value(GROUPS as u32).value(step)
}

/// Round keys and draw, the bits of 1 + 2^-22, kappa, log2(e) / tau.
fn with_sampling(args: Args) -> Args {
    let args = (0..22u32).fold(args, |args, key| args.value(key.wrapping_mul(0x9E37_79B9)));
    args.value(0x3F80_0002u32).value(0u32).value(1.0f32).value(1.0f32)
}

fn profile(module: &Module, kernel: &str, args: &[u8]) -> Profile {
    let launch = Launch { kernel, grid: [1; 3], block: [THREADS, 1, 1], shared_bytes: 0, args };
    module.profile(&launch, &Options::default()).unwrap_or_else(|fault| panic!("{fault}"))
}

fn global_stores(profile: &Profile) -> impl Iterator<Item = &Site> {
    profile.sites.iter().filter(|site| site.kind == Kind::Store && site.counts.global.requests > 0)
}

#[test]
fn a_soft_mask_moves_its_operands_and_looks_its_noise_up() {
    let Some(compiler) = compiler() else { return };
    let module = Module::new(&ptx(&compiler, &root().join("cuda/mask.cu"))).unwrap();
    let logits = Buffer::input("logits", &vec![0f32; 6 * GROUPS as usize]).unwrap();
    let weight = Buffer::input("weight", &vec![0x3F80u16; 4 * GROUPS as usize]).unwrap();
    let masked = Buffer::output::<u16>("masked", 4 * GROUPS as usize).unwrap();
    let args = Args::new().pointer(&logits).pointer(&weight).pointer(&masked);
    let args = with_sampling(with_walk((0..5).fold(args, |args, _| args.value(0u64))));
    let profile = profile(&module, "twofour_mask_soft_f32_bf16", &args.value(0u32).value(0u32).finish());
    // 24 bytes of logits and 8 of weight a group, 8 of the result; the table's 2,688 entries, which need not begin
    // with a sector.
    let table = 2688 * 8;
    let read = 32 * GROUPS + table;
    assert!((read..=read + 32).contains(&profile.read_bytes), "{} and not {read}", profile.read_bytes);
    assert_eq!(profile.written_bytes, 8 * GROUPS);
    assert!(global_stores(&profile).all(|site| site.counts.global.sectors == site.counts.global.ideal));
    // Six look-ups a group, of 4.5 to 5.9 wavefronts each (one decimal is given) by a simulation of the real distribution.
    let lookups = profile.shared(Kind::Load);
    assert_eq!(lookups.requests, 6 * GROUPS / 32);
    let each = lookups.wavefronts as f64 / lookups.requests as f64;
    println!("{each:.2} wavefronts a look-up");
    assert!((4.45..5.95).contains(&each), "{each} wavefronts a look-up");
}

#[test]
fn gradients_to_logits_are_stored_by_half_sectors() {
    let Some(compiler) = compiler() else { return };
    let module = Module::new(&ptx(&compiler, &root().join("cuda/mask.cu"))).unwrap();
    let logits = Buffer::input("logits", &vec![0f32; 6 * GROUPS as usize]).unwrap();
    let [weight, gradient] =
        ["weight", "gradient"].map(|name| Buffer::input(name, &vec![0x3F80u16; 4 * GROUPS as usize]).unwrap());
    let to_logits = Buffer::output::<f32>("to logits", 6 * GROUPS as usize).unwrap();
    let args = Args::new().pointer(&logits).pointer(&weight).pointer(&gradient).pointer(&to_logits).value(0u64);
    let args = with_sampling(with_walk(args)).value(1.0f32).value(0.0f32).value(0u32).value(0u32).finish();
    let profile = profile(&module, "twofour_mask_backward_soft_f32_bf16_bf16", &args);
    assert_eq!(profile.written_bytes, 24 * GROUPS);
    // A thread's 48 bytes by 16 bytes a store: three instructions, each over half of 32 sectors.
    let stores: Vec<_> = global_stores(&profile).map(|site| site.counts.global).collect();
    assert_eq!(stores.len(), 3);
    for store in stores {
        assert_eq!((store.requests, store.sectors, store.ideal), (GROUPS / 64, GROUPS / 2, GROUPS / 4));
    }
}
