//! What `mask` gives a device to do.

use crate::common::emulator::{launches, works};
use crate::common::{Emulator, SMALL, TestExecutor};
use twofour::device::{Launch, Limits};
use twofour::mask::{Backward, Forward, Kind, Sampling, Statistics};
use twofour::space::{Raw, RawSlice};
use twofour::{Error, Executor, Shape, Shard, bf16, f16};
use twofour_emulator::Schedule;

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 100.0, tau: 1.0 };

fn at<T>(elements: usize) -> RawSlice<T> {
    RawSlice::new(1 << 40, elements)
}

fn name(launch: &Launch) -> &str {
    launch.symbol.name()
}

#[test]
fn a_billion_weights_fit_one_launch() {
    let shape = Shape::new(32_768, 32_768);
    let pass = Forward::<Raw, f32, bf16>::new(shape, Kind::Soft, SAMPLING, at(shape.logits()));
    let pass = pass.weight(at(shape.weights())).masked(at(shape.weights()));
    let [launch] = launches(Limits::H200, pass).unwrap()[..] else { panic!("more than one") };
    assert_eq!(launch.grid, [132 * 4, 1, 1]);
    assert_eq!(name(&launch), "twofour_mask_soft_f32_bf16");
    let pass = Forward::<Raw, f32, bf16>::frozen(shape, at(shape.packed_codes()), at(shape.weights()));
    let [launch] = launches(Limits::H200, pass.masked(at(shape.weights()))).unwrap()[..] else {
        panic!("more than one")
    };
    assert_eq!(launch.grid, [(shape.groups() / 2 / 256) as u32, 1, 1]);
    assert_eq!((launch.symbol.file(), name(&launch)), ("mask_frozen", "twofour_mask_frozen_bf16"));
}

#[test]
fn empty_weights_are_one_block() {
    for shape in [Shape::new(0, 8), Shape::new(3, 0), Shape::new(0, 0)] {
        let pass = Forward::<Raw, f32, f32>::new(shape, Kind::Soft, SAMPLING, RawSlice::nowhere(0));
        let pass = pass.weight(RawSlice::nowhere(0)).masked(RawSlice::nowhere(0));
        assert_eq!(launches(Limits::H200, pass).unwrap()[0].grid, [1, 1, 1]);
    }
}

/// What is wanted chooses the kernel; statistics bring one that adds them up.
#[test]
fn kernels_are_chosen_by_what_is_wanted() {
    let shape = Shape::new(64, 512);
    let pass = |kind| {
        let pass = Forward::<Raw, bf16, f16>::new(shape, kind, SAMPLING, at(shape.logits()));
        pass.weight(at(shape.weights())).masked(at(shape.weights()))
    };
    for (kind, lean) in [(Kind::Soft, "soft"), (Kind::Hard, "hard"), (Kind::Argmax, "full")] {
        let launches = |pass| launches(SMALL, pass).unwrap();
        assert_eq!(name(&launches(pass(kind))[0]), format!("twofour_mask_{lean}_bf16_f16"));
        assert_eq!(name(&launches(pass(kind).codes(at(shape.packed_codes())))[0]), "twofour_mask_full_bf16_f16");
        let counted = launches(pass(kind).statistics(at(Statistics::SLOTS)));
        let names: Vec<&str> = counted.iter().map(name).collect();
        assert_eq!(names, ["twofour_mask_full_bf16_f16", "twofour_mask_statistics"]);
        // As many blocks on every device, so that sums are the same.
        assert_eq!(counted[0].grid, [(shape.groups() / 4 / 256) as u32, 1, 1]);
        assert_eq!(counted[1].grid, [1, 1, 1]);
    }
    let (logits, weight, gradient) =
        (at::<f32>(shape.logits()), at::<f16>(shape.weights()), at::<f32>(shape.weights()));
    for (kind, variant) in [(Kind::Soft, "soft"), (Kind::Hard, "hard")] {
        let pass = Backward::<Raw, _, _, _>::new(shape, kind, SAMPLING, logits, weight, gradient);
        let works = works(SMALL, pass.logit_gradient(at(shape.logits()))).unwrap();
        assert_eq!(works.len(), 1);
        let pass = Backward::<Raw, _, _, _>::new(shape, kind, SAMPLING, logits, weight, gradient);
        let launches = launches(SMALL, pass.weight_gradient(at(shape.weights()))).unwrap();
        assert_eq!(name(&launches[0]), format!("twofour_mask_backward_{variant}_f32_f16_f32"));
        assert_eq!(launches[0].grid, [4, 1, 1]);
    }
}

/// A place in a row plus a step fits 32 bits, where a row's end matters.
#[test]
fn rows_that_cannot_be_counted_are_refused() {
    let run = |groups: usize| {
        let shape = Shape::new(1, 4 * groups);
        let shard = Shard { row_offset: 0, col_offset: 0, global_cols: 4 * groups as u64 + 4 };
        let pass = Forward::<Raw, bf16, f16>::new(shape, Kind::Hard, SAMPLING, at(shape.logits())).shard(shard);
        launches(Limits::H200, pass.codes(at(shape.packed_codes())))
    };
    assert_eq!(run(1 << 31), Err(Error::Overflow { what: "a row", rows: 1, cols: 1 << 33 }));
    assert!(run((1 << 31) - 1).is_ok());
}

/// What the emulator says of a pass that was given less than it was told.
#[test]
#[should_panic(expected = "`weight`")]
fn a_fault_names_the_operand() {
    let shape = Shape::new(1, 16);
    let mut on = Emulator::new(Schedule::RoundRobin);
    let (logits, weight) = (on.zeros::<f32>(shape.logits()).unwrap(), on.zeros::<f32>(8).unwrap());
    let mut masked = on.poisoned::<f32>(shape.weights());
    let beyond = RawSlice::new(Emulator::input(&weight).address, shape.weights());
    on.run(Forward::new(shape, Kind::Soft, SAMPLING, &logits).weight(beyond).masked(&mut masked)).unwrap();
}

#[test]
#[should_panic(expected = "`masked`")]
fn a_store_to_an_input_is_a_fault() {
    let shape = Shape::new(1, 16);
    let mut on = Emulator::new(Schedule::RoundRobin);
    let (codes, weight) = (on.zeros::<u8>(2).unwrap(), on.upload(&[1.0f32; 16]).unwrap());
    let input = on.upload(&[0.0f32; 16]).unwrap();
    on.run(Forward::frozen(shape, &codes, &weight).masked(Emulator::input(&input))).unwrap();
}
