//! Every error that the arguments of `mask` can give.

use crate::common::emulator::works;
use twofour::device::Limits;
use twofour::mask::{Backward, Forward, Kind, Sampling, Statistics};
use twofour::space::{Raw, RawSlice};
use twofour::{Cpu, Error, Executor, Shape, Shard, bf16};

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 100.0, tau: 1.0 };

fn forward_error(shape: Shape, sampling: Sampling, logits: usize, weight: usize) -> Error {
    let (logits, weight) = (vec![0.0f32; logits], vec![0.0f32; weight]);
    let mut masked = vec![0.0f32; weight.len()];
    let args = Forward::new(shape, Kind::Soft, sampling, &logits).weight(&weight).masked(&mut masked);
    Cpu.run(args).unwrap_err()
}

#[test]
fn shapes_and_lengths_are_checked() {
    let shape = Shape::new(2, 8);
    assert!(matches!(forward_error(Shape::new(2, 6), SAMPLING, 12, 12), Error::NotGrouped { cols: 6, .. }));
    assert!(matches!(forward_error(Shape::new(usize::MAX / 2, 8), SAMPLING, 0, 0), Error::Overflow { .. }));
    let short = forward_error(shape, SAMPLING, 23, 16);
    assert_eq!(short, Error::Length { what: "logits", expected: 24, got: 23 });
    assert_eq!(short.to_string(), "`logits` holds 23 elements, but the shape needs 24");
    assert!(matches!(forward_error(shape, SAMPLING, 24, 15), Error::Length { what: "weight", .. }));
}

#[test]
fn every_output_has_its_length_checked() {
    let shape = Shape::new(2, 8);
    let (logits, weight) = ([0.0f32; 24], [0.0f32; 16]);
    // A macro, for each use borrows its output for another time.
    macro_rules! args {
        () => {
            Forward::<_, f32, f32>::new(shape, Kind::Hard, SAMPLING, &logits).weight(&weight)
        };
    }
    let what = |result: twofour::Result<()>| match result.unwrap_err() {
        Error::Length { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(Cpu.run(args!().masked(&mut [0.0; 15]))), "masked");
    assert_eq!(what(Cpu.run(args!().mask(&mut [0.0; 17]))), "mask");
    assert_eq!(what(Cpu.run(args!().patterns(&mut [0; 3]))), "patterns");
    assert_eq!(what(Cpu.run(args!().codes(&mut [0; 4]))), "codes");
    assert_eq!(what(Cpu.run(args!().statistics(&mut [Statistics::default(); 1]))), "statistics");
    let mut statistics = vec![Statistics::default(); Statistics::SLOTS];
    assert_eq!(what(Cpu.run(args!().statistics(&mut statistics).previous_codes(&[0; 3]))), "previous_codes");
}

#[test]
fn scalars_are_checked() {
    let error = |kappa, tau| forward_error(Shape::new(1, 4), Sampling { kappa, tau, ..SAMPLING }, 6, 4);
    for (kappa, tau, expected) in [
        (f32::NAN, 1.0, "kappa"),
        (f32::INFINITY, 1.0, "kappa"),
        (-1.0, 1.0, "kappa"),
        (1.0, 0.0, "tau"),
        (1.0, -1.0, "tau"),
        (1.0, f32::NAN, "tau"),
        (1.0, f32::INFINITY, "tau"),
        (1.0, 1e-40, "tau"),
        (1e30, 1e-30, "kappa / tau"),
    ] {
        match error(kappa, tau) {
            Error::Scalar { what, .. } => assert_eq!(what, expected, "{kappa}, {tau}"),
            other => panic!("{kappa}, {tau}: {other}"),
        }
    }
}

#[test]
fn outputs_that_cannot_be_given_are_refused() {
    let shape = Shape::new(1, 4);
    let logits = [0.0f32; 6];
    let nothing = Forward::<_, f32, f32>::new(shape, Kind::Soft, SAMPLING, &logits);
    assert!(matches!(Cpu.run(nothing), Err(Error::Missing { what: "a mask", .. })));
    let mut masked = [0.0f32; 4];
    let unmasked = Forward::new(shape, Kind::Soft, SAMPLING, &logits).masked(&mut masked);
    assert!(matches!(Cpu.run(unmasked), Err(Error::Missing { what: "masked", .. })));
    let mut codes = [0];
    let uncounted = Forward::<_, f32, f32>::new(shape, Kind::Soft, SAMPLING, &logits).codes(&mut codes);
    assert!(matches!(Cpu.run(uncounted.previous_codes(&[0])), Err(Error::Missing { what: "previous_codes", .. })));
    let (weight, gradient, mut of_logits) = ([0.0f32; 4], [0.0f32; 4], [0.0f32; 6]);
    macro_rules! args {
        ($kind:expr) => {
            Backward::new(shape, $kind, SAMPLING, &logits, &weight, &gradient)
        };
    }
    assert!(matches!(Cpu.run(args!(Kind::Soft)), Err(Error::Missing { what: "a gradient", .. })));
    let of_argmax = args!(Kind::Argmax).logit_gradient(&mut of_logits);
    assert!(matches!(Cpu.run(of_argmax), Err(Error::Missing { what: "a gradient", .. })));
    let wild = args!(Kind::Soft).regulariser(f32::NAN).logit_gradient(&mut of_logits);
    assert!(matches!(Cpu.run(wild), Err(Error::Scalar { what: "regulariser", .. })));
}

#[test]
fn shards_outside_the_whole_are_refused() {
    let logits = [0.0f32; 24];
    for shard in [
        Shard { row_offset: 0, col_offset: 2, global_cols: 16 },
        Shard { row_offset: 0, col_offset: 12, global_cols: 16 },
        Shard { row_offset: 0, col_offset: 0, global_cols: 10 },
        Shard { row_offset: u64::MAX, col_offset: 0, global_cols: 16 },
    ] {
        let mut codes = [0; 2];
        let args = Forward::<_, f32, f32>::new(Shape::new(2, 8), Kind::Hard, SAMPLING, &logits).codes(&mut codes);
        assert!(matches!(Cpu.run(args.shard(shard)), Err(Error::Shard { .. })), "{shard:?}");
    }
}

#[test]
fn misaligned_addresses_are_refused() {
    let at = RawSlice::new;
    let masked = at(256, 8);
    for offset in [1, 2, 4, 8] {
        let pass = Forward::<Raw, f32, bf16>::new(Shape::new(1, 8), Kind::Soft, SAMPLING, RawSlice::new(64, 12));
        let pass = pass.weight(at(128 + offset, 8)).masked(masked);
        let expected = Error::Misaligned { what: "weight", address: 128 + offset, align: 16 };
        assert_eq!(works(Limits::A100, pass), Err(expected));
        let pass = Forward::<Raw, f32, bf16>::frozen(Shape::new(1, 8), RawSlice::new(64 + offset, 1), at(128, 8));
        let expected = Error::Misaligned { what: "codes", address: 64 + offset, align: 16 };
        assert_eq!(works(Limits::A100, pass.masked(masked)), Err(expected));
    }
}

#[test]
fn frozen_masks_give_the_masked_weight_alone() {
    let shape = Shape::new(2, 8);
    let (codes, weight) = ([0x44u8; 2], [1.0f32; 16]);
    let mut masked = [0.0; 16];
    // A macro, for each use borrows its output for another time.
    macro_rules! pass {
        () => {
            Forward::frozen(shape, &codes, &weight)
        };
    }
    let nothing = Error::Missing { what: "a mask", missing: "no output was given to write it to" };
    assert_eq!(Cpu.run(pass!()), Err(nothing));
    let missing = "a frozen mask gives the masked weight alone: its codes are there";
    let alone = Err(Error::Missing { what: "a mask", missing });
    assert_eq!(Cpu.run(pass!().masked(&mut masked).mask(&mut [0.0; 16])), alone);
    assert_eq!(Cpu.run(pass!().masked(&mut masked).patterns(&mut [0; 4])), alone);
    assert_eq!(Cpu.run(pass!().masked(&mut masked).codes(&mut [0; 2])), alone);
    let mut statistics = vec![Statistics::default(); Statistics::SLOTS];
    assert_eq!(Cpu.run(pass!().masked(&mut masked).statistics(&mut statistics)), alone);
    assert!(matches!(
        Cpu.run(pass!().masked(&mut masked).previous_codes(&[0; 2])),
        Err(Error::Missing { what: "previous_codes", .. })
    ));
    assert_eq!(masked, [0.0; 16], "nothing is written");
    let short = Forward::frozen(shape, &codes[..1], &weight).masked(&mut masked);
    assert_eq!(Cpu.run(short), Err(Error::Length { what: "codes", expected: 2, got: 1 }));
    let short = Forward::frozen(shape, &codes, &weight[..15]).masked(&mut masked);
    assert_eq!(Cpu.run(short), Err(Error::Length { what: "weight", expected: 16, got: 15 }));
    let ungrouped = Forward::frozen(Shape::new(2, 6), &codes, &weight[..12]).masked(&mut masked[..12]);
    assert!(matches!(Cpu.run(ungrouped), Err(Error::NotGrouped { cols: 6, .. })));
}
