//! Every error that the arguments of `learn` can give.

use crate::case::USUAL;
use twofour::learn::{AdamW, Clip, Fused, Initial, Measure, Moments, NORM_SLOTS, Norm, Prior, Rounding, Statistics};
use twofour::learn::{Step, Update};
use twofour::mask::{Kind, Sampling};
use twofour::{Cpu, Error, Executor, Result, Shape, Shard, bf16};

fn what(result: Result<()>) -> &'static str {
    match result.unwrap_err() {
        Error::Length { what, .. } | Error::Missing { what, .. } | Error::NotGrouped { what, .. } => what,
        Error::Overflow { what, .. } | Error::Scalar { what, .. } => what,
        Error::Shard { .. } => "shard",
        other => panic!("{other}"),
    }
}

const SHAPE: Shape = Shape::new(2, 8);
const SAMPLING: Sampling = Sampling { seed: 1, draw: 2, kappa: 100.0, tau: 1.0 };
const OUTSIDE: Shard = Shard { row_offset: 0, col_offset: 4, global_cols: 8 };

/// A step with moments of these lengths.
macro_rules! step {
    ($m:expr, $v:expr) => {
        Step::new(USUAL, Moments::f32(&mut [0.0; $m], &mut [0.0; $v]))
    };
    ($m:expr, $v:expr, $scales:expr) => {
        Step::new(USUAL, Moments::eight(&mut [0; $m], &mut [0; $v], &mut [0.0; $scales]))
    };
    () => {
        step!(24, 24)
    };
}

/// An update whose parts have these lengths.
macro_rules! update {
    ($shape:expr, $gradient:expr, $logits:expr, $step:expr) => {
        Update::<_, f32>::new($shape, &[0.0; $gradient], &mut [0.0; $logits], $step)
    };
    ($step:expr) => {
        update!(SHAPE, 24, 24, $step)
    };
}

#[test]
fn updates_are_checked() {
    assert_eq!(Cpu.run(update!(step!())), Ok(()));
    assert_eq!(what(Cpu.run(update!(Shape::new(2, 6), 24, 24, step!()))), "the weight");
    assert_eq!(what(Cpu.run(update!(Shape::new(usize::MAX / 2, 8), 24, 24, step!()))), "logits");
    assert_eq!(what(Cpu.run(update!(SHAPE, 23, 24, step!()))), "gradient");
    assert_eq!(what(Cpu.run(update!(SHAPE, 24, 25, step!()))), "logits");
    let zeroed = Cpu.run(Update::<_, f32>::zeroing(SHAPE, &mut [0.0; 25], &mut [0.0; 24], step!()));
    assert_eq!(what(zeroed), "gradient");
    assert_eq!(what(Cpu.run(update!(step!()).shard(OUTSIDE))), "shard");
    for scale in [f32::NAN, f32::INFINITY] {
        assert_eq!(what(Cpu.run(update!(step!()).scale(scale))), "scale");
    }
    assert_eq!(what(Cpu.run(update!(step!()).norm_squares(&mut [0.0; 1]))), "norm_squares");
    assert_eq!(what(Cpu.run(update!(step!()).statistics(&mut [Statistics::default()]))), "statistics");
}

#[test]
fn steps_are_checked() {
    assert_eq!(what(Cpu.run(update!(step!(23, 24)))), "m");
    assert_eq!(what(Cpu.run(update!(step!(24, 0)))), "v");
    assert_eq!(what(Cpu.run(update!(step!(1, 24, 2)))), "m");
    assert_eq!(what(Cpu.run(update!(step!(24, 25, 2)))), "v");
    assert_eq!(what(Cpu.run(update!(step!(24, 24, 1)))), "scales");
    assert_eq!(what(Cpu.run(update!(step!().factor(&[])))), "factor");
    let by = AdamW { step: 0, ..USUAL };
    assert_eq!(what(Cpu.run(update!(Step::new(by, Moments::f32(&mut [0.0; 24], &mut [0.0; 24]))))), "step");
    // Without random bits nothing is rounded.
    assert_eq!(what(Cpu.run(update!(step!(24, 24, 2)))), "a step");
    let rounding = Rounding { seed: 1, draw: 2 };
    assert_eq!(Cpu.run(update!(step!(24, 24, 2)).rounding(rounding)), Ok(()));
    let mut logits = [bf16::ZERO; 24];
    let of_bf16 = |logits: &mut [bf16]| Cpu.run(Update::new(SHAPE, &[0.0; 24], logits, step!()));
    assert_eq!(what(of_bf16(&mut logits)), "a step");
    assert_eq!(Moments::scales(Shape::new(1, 256)), 2);
    assert_eq!(Moments::scales(Shape::new(1, 260)), 4);
    assert_eq!(Moments::scales(Shape::new(0, 260)), 0);
}

/// A fused step, or its measure, whose parts have these lengths.
macro_rules! fused {
    ($kind:expr, $sampling:expr, $logits:expr, $weight:expr, $gradient:expr, $step:expr) => {
        Fused::<_, f32, f32, f32>::new(
            SHAPE,
            $kind,
            $sampling,
            &mut [0.0; $logits],
            &[0.0; $weight],
            &[0.0; $gradient],
            $step,
        )
    };
    ($step:expr) => {
        fused!(Kind::Soft, SAMPLING, 24, 16, 16, $step)
    };
}
macro_rules! measure {
    ($shape:expr, $kind:expr, $sampling:expr, $logits:expr, $weight:expr, $gradient:expr, $norm:expr) => {
        Measure::<_, f32, f32, f32>::new(
            $shape,
            $kind,
            $sampling,
            &[0.0; $logits],
            &[0.0; $weight],
            &[0.0; $gradient],
            &mut [0.0; $norm],
        )
    };
}

#[test]
fn fused_steps_are_checked() {
    assert_eq!(Cpu.run(fused!(step!())), Ok(()));
    let tau = Sampling { tau: 0.0, ..SAMPLING };
    assert_eq!(what(Cpu.run(fused!(Kind::Soft, tau, 24, 16, 16, step!()))), "tau");
    assert_eq!(what(Cpu.run(fused!(Kind::Argmax, SAMPLING, 24, 16, 16, step!()))), "a gradient");
    assert_eq!(what(Cpu.run(fused!(Kind::Hard, SAMPLING, 23, 16, 16, step!()))), "logits");
    assert_eq!(what(Cpu.run(fused!(Kind::Hard, SAMPLING, 24, 15, 16, step!()))), "weight");
    assert_eq!(what(Cpu.run(fused!(Kind::Hard, SAMPLING, 24, 16, 17, step!()))), "gradient");
    assert_eq!(what(Cpu.run(fused!(step!(24, 23)))), "v");
    assert_eq!(what(Cpu.run(fused!(step!()).shard(OUTSIDE))), "shard");
    assert_eq!(what(Cpu.run(fused!(step!()).regulariser(f32::NAN))), "regulariser");
    assert_eq!(what(Cpu.run(fused!(step!()).norm_squares(&mut []))), "norm_squares");
    assert_eq!(what(Cpu.run(fused!(step!()).statistics(&mut []))), "statistics");
}

#[test]
fn measures_are_checked() {
    let soft = Kind::Soft;
    assert_eq!(Cpu.run(measure!(SHAPE, soft, SAMPLING, 24, 16, 16, NORM_SLOTS)), Ok(()));
    let kappa = Sampling { kappa: -1.0, ..SAMPLING };
    assert_eq!(what(Cpu.run(measure!(SHAPE, soft, kappa, 24, 16, 16, NORM_SLOTS))), "kappa");
    let argmax = Cpu.run(measure!(SHAPE, Kind::Argmax, SAMPLING, 24, 16, 16, NORM_SLOTS));
    assert_eq!(what(argmax), "a gradient");
    assert_eq!(what(Cpu.run(measure!(SHAPE, soft, SAMPLING, 23, 16, 16, NORM_SLOTS))), "logits");
    assert_eq!(what(Cpu.run(measure!(SHAPE, soft, SAMPLING, 24, 12, 16, NORM_SLOTS))), "weight");
    assert_eq!(what(Cpu.run(measure!(SHAPE, soft, SAMPLING, 24, 16, 12, NORM_SLOTS))), "gradient");
    assert_eq!(what(Cpu.run(measure!(SHAPE, soft, SAMPLING, 24, 16, 16, 1))), "norm_squares");
    let of_shard = Cpu.run(measure!(SHAPE, soft, SAMPLING, 24, 16, 16, NORM_SLOTS).shard(OUTSIDE));
    assert_eq!(what(of_shard), "shard");
    let regulariser = Cpu.run(measure!(SHAPE, soft, SAMPLING, 24, 16, 16, NORM_SLOTS).regulariser(f32::INFINITY));
    assert_eq!(what(regulariser), "regulariser");
}

#[test]
fn norms_and_factors_are_checked() {
    let mut sum = [0.0; NORM_SLOTS];
    assert_eq!(what(Cpu.run(Norm::new(SHAPE, &[0.0; 23], &mut sum))), "gradient");
    assert_eq!(what(Cpu.run(Norm::new(SHAPE, &[0.0; 24], &mut sum[1..]))), "norm_squares");
    assert_eq!(what(Cpu.run(Norm::new(SHAPE, &[0.0; 24], &mut sum).scale(f32::NAN))), "scale");
    assert_eq!(what(Cpu.run(Norm::new(Shape::new(1, 3), &[], &mut sum))), "the weight");
    for max_norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(what(Cpu.run(Clip::new(max_norm, &mut sum, &mut [0.0]))), "max_norm");
    }
    assert_eq!(what(Cpu.run(Clip::new(1.0, &mut sum[1..], &mut [0.0]))), "norm_squares");
    assert_eq!(what(Cpu.run(Clip::new(1.0, &mut sum, &mut []))), "factor");
    assert_eq!(what(Cpu.run(Clip::new(1.0, &mut sum, &mut [0.0]).norm(&mut [0.0; 2]))), "norm");
}

#[test]
fn starts_are_checked() {
    let initial = |sigma, alpha| Cpu.run(Initial::new(SHAPE, 1, sigma, &mut [0.0f32; 24]).prior(&[0x44; 2], alpha));
    assert_eq!(initial(0.0, 0.0), Ok(()));
    for sigma in [f64::NAN, f64::INFINITY, -1e-9, 1e300] {
        assert_eq!(what(initial(sigma, 0.0)), "sigma");
    }
    for alpha in [f64::NAN, f64::INFINITY, 1e300] {
        assert_eq!(what(initial(0.01, alpha)), "alpha");
    }
    assert_eq!(what(Cpu.run(Initial::new(SHAPE, 1, 0.1, &mut [0.0f32; 23]))), "logits");
    assert_eq!(what(Cpu.run(Initial::new(SHAPE, 1, 0.1, &mut [0.0f32; 24]).prior(&[0x44; 3], 1.0))), "codes");
    assert_eq!(what(Cpu.run(Initial::new(SHAPE, 1, 0.1, &mut [0.0f32; 24]).shard(OUTSIDE))), "shard");
    assert_eq!(what(Cpu.run(Initial::new(Shape::new(1, 5), 1, 0.1, &mut [0.0f32; 0]))), "the weight");
    let prior = |codes: &[u8], strength, logits: &mut [f32]| Cpu.run(Prior::new(SHAPE, codes, strength, logits));
    assert_eq!(what(prior(&[0x44], 1.0, &mut [0.0; 24])), "codes");
    assert_eq!(what(prior(&[0x44; 2], f32::NAN, &mut [0.0; 24])), "strength");
    assert_eq!(what(prior(&[0x44; 2], 1.0, &mut [0.0; 25])), "logits");
}
