//! Every error that the arguments of `mask` can give.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twofour::device::Limits;
use twofour::mask::{self, Kind, Sampling, Statistics, cpu};
use twofour::space::{Raw, RawSlice};
use twofour::{Error, Shape, Shard, bf16};

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 100.0, tau: 1.0 };

fn forward_error(shape: Shape, sampling: Sampling, logits: usize, weight: usize) -> Error {
    let (logits, weight) = (vec![0.0f32; logits], vec![0.0f32; weight]);
    let mut masked = vec![0.0f32; weight.len()];
    let args = cpu::Forward::new(shape, Kind::Soft, sampling, &logits).weight(&weight).masked(&mut masked);
    cpu::forward_into(args).unwrap_err()
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
            cpu::Forward::<f32, f32>::new(shape, Kind::Hard, SAMPLING, &logits).weight(&weight)
        };
    }
    let what = |result: twofour::Result<()>| match result.unwrap_err() {
        Error::Length { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(cpu::forward_into(args!().masked(&mut [0.0; 15]))), "masked");
    assert_eq!(what(cpu::forward_into(args!().mask(&mut [0.0; 17]))), "mask");
    assert_eq!(what(cpu::forward_into(args!().patterns(&mut [0; 3]))), "patterns");
    assert_eq!(what(cpu::forward_into(args!().codes(&mut [0; 4]))), "codes");
    assert_eq!(what(cpu::forward_into(args!().statistics(&mut [Statistics::default(); 1]))), "statistics");
    let mut statistics = vec![Statistics::default(); Statistics::SLOTS];
    assert_eq!(what(cpu::forward_into(args!().statistics(&mut statistics).previous_codes(&[0; 3]))), "previous_codes");
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
    let nothing = cpu::Forward::<f32, f32>::new(shape, Kind::Soft, SAMPLING, &logits);
    assert!(matches!(cpu::forward_into(nothing), Err(Error::Missing { what: "a mask", .. })));
    let mut masked = [0.0f32; 4];
    let unmasked = cpu::Forward::new(shape, Kind::Soft, SAMPLING, &logits).masked(&mut masked);
    assert!(matches!(cpu::forward_into(unmasked), Err(Error::Missing { what: "masked", .. })));
    let mut codes = [0];
    let uncounted = cpu::Forward::<f32, f32>::new(shape, Kind::Soft, SAMPLING, &logits).codes(&mut codes);
    assert!(matches!(
        cpu::forward_into(uncounted.previous_codes(&[0])),
        Err(Error::Missing { what: "previous_codes", .. })
    ));
    let (weight, gradient, mut of_logits) = ([0.0f32; 4], [0.0f32; 4], [0.0f32; 6]);
    macro_rules! args {
        ($kind:expr) => {
            cpu::Backward::new(shape, $kind, SAMPLING, &logits, &weight, &gradient)
        };
    }
    assert!(matches!(cpu::backward_into(args!(Kind::Soft)), Err(Error::Missing { what: "a gradient", .. })));
    let of_argmax = args!(Kind::Argmax).logit_gradient(&mut of_logits);
    assert!(matches!(cpu::backward_into(of_argmax), Err(Error::Missing { what: "a gradient", .. })));
    let wild = args!(Kind::Soft).regulariser(f32::NAN).logit_gradient(&mut of_logits);
    assert!(matches!(cpu::backward_into(wild), Err(Error::Scalar { what: "regulariser", .. })));
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
        let args = cpu::Forward::<f32, f32>::new(Shape::new(2, 8), Kind::Hard, SAMPLING, &logits).codes(&mut codes);
        assert!(matches!(cpu::forward_into(args.shard(shard)), Err(Error::Shard { .. })), "{shard:?}");
    }
}

#[test]
fn misaligned_addresses_are_refused() {
    let at = |address, elements| RawSlice { address, elements };
    for offset in [1, 2, 4, 8] {
        let args = mask::Forward::<Raw, f32, bf16>::new(Shape::new(1, 8), Kind::Soft, SAMPLING, at(64, 12));
        let args = args.weight(at(128 + offset, 8)).masked(at(256, 8));
        let expected = Error::Misaligned { what: "weight", address: 128 + offset, align: 16 };
        assert_eq!(args.launch(&Limits::A100), Err(expected));
    }
}
