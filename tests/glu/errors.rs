//! Every error that the arguments of `glu` can give.

use crate::common::emulator::launches;
use twofour::device::Limits;
use twofour::glu::{Activation, Backward, Forward, Joined};
use twofour::space::{Host, RawSlice};
use twofour::{Cpu, Error, Executor, Result, bf16};

fn what(result: Result<()>) -> &'static str {
    match result.unwrap_err() {
        Error::Length { what, .. } | Error::Scalar { what, .. } | Error::Overflow { what, .. } => what,
        other => panic!("{other}"),
    }
}

const BY: Activation = Activation::DRelu;

#[test]
fn lengths_of_the_forward_pass_are_checked() {
    let six = [0.0f32; 6];
    fn run(pass: Forward<'_, Host, f32>) -> &'static str {
        what(Cpu.run(pass))
    }
    assert_eq!(run(Forward::new([2, 3], BY, &six[1..], &six, &mut [0.0; 6])), "gate");
    assert_eq!(run(Forward::new([2, 3], BY, &six, &six[1..], &mut [0.0; 6])), "up");
    assert_eq!(run(Forward::new([2, 3], BY, &six, &six, &mut [0.0; 7])), "h");
    assert_eq!(run(Forward::over_up([2, 3], BY, &six[1..], &mut [0.0; 6])), "gate");
    assert_eq!(run(Forward::over_up([2, 3], BY, &six, &mut [0.0; 5])), "up");
    for by in [Joined::Halves, Joined::Pairs] {
        assert_eq!(run(Forward::joined([2, 3], BY, by, &six, &mut [0.0; 6])), "gate and up");
        assert_eq!(run(Forward::joined([2, 3], BY, by, &[0.0; 12], &mut [0.0; 12])), "h");
    }
    assert_eq!(run(Forward::over_up([2, 3], BY, &six, &mut [0.0; 6]).mask(&mut [0; 1])), "mask");
    // A mask longer than f.
    assert_eq!(run(Forward::over_up([2, 3], BY, &six, &mut [0.0; 6]).mask(&mut [0; 4])), "mask");
    assert_eq!(run(Forward::over_up([2, 3], BY, &six, &mut [0.0; 6]).active(&mut [0; 3])), "active");
    assert_eq!(run(Forward::over_up([2, 3], BY, &six, &mut [0.0; 6]).lost(&mut [0; 1])), "lost");
    for [tokens, neurons] in [[usize::MAX, 2], [0, (1 << 30) + 1], [1 << 60, 4]] {
        assert_eq!(run(Forward::new([tokens, neurons], BY, &six, &six, &mut [0.0; 6])), "neurons");
    }
}

#[test]
fn lengths_of_the_backward_pass_are_checked() {
    let six = [0.0f32; 6];
    fn run(pass: Backward<'_, Host, f32>) -> &'static str {
        what(Cpu.run(pass))
    }
    assert_eq!(run(Backward::new([2, 3], BY, &six[1..], &six, &six, &mut [0.0; 6], &mut [0.0; 6])), "dh");
    assert_eq!(run(Backward::new([2, 3], BY, &six, &six[1..], &six, &mut [0.0; 6], &mut [0.0; 6])), "gate");
    assert_eq!(run(Backward::new([2, 3], BY, &six, &six, &six[1..], &mut [0.0; 6], &mut [0.0; 6])), "up");
    assert_eq!(run(Backward::new([2, 3], BY, &six, &six, &six, &mut [0.0; 5], &mut [0.0; 6])), "dgate");
    assert_eq!(run(Backward::new([2, 3], BY, &six, &six, &six, &mut [0.0; 6], &mut [0.0; 5])), "dup");
    assert_eq!(run(Backward::over([2, 3], BY, &six, &mut [0.0; 5], &mut [0.0; 6])), "gate");
    assert_eq!(run(Backward::over([2, 3], BY, &six, &mut [0.0; 6], &mut [0.0; 5])), "up");
    let halves = Joined::Halves;
    assert_eq!(run(Backward::joined([2, 3], BY, halves, &six, &six, &mut [0.0; 12])), "gate and up");
    assert_eq!(run(Backward::joined([2, 3], BY, halves, &six, &[0.0; 12], &mut [0.0; 6])), "gradient");
    assert_eq!(run(Backward::over_joined([2, 3], BY, halves, &six, &mut [0.0; 6])), "gate and up");
    assert_eq!(run(Backward::over_joined([2, 3], BY, halves, &six, &mut [0.0; 12]).mask(&[0; 3])), "mask");
    for lambda in [-1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(run(Backward::over_joined([2, 3], BY, halves, &six, &mut [0.0; 12]).l1(lambda)), "lambda");
    }
}

#[test]
fn thresholds_are_checked() {
    let run = |by| what(Cpu.run(Forward::new([1, 1], by, &[1.0f32], &[1.0], &mut [0.0])));
    for threshold in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(run(Activation::FatRelu(threshold)), "threshold");
        assert_eq!(run(Activation::Cats(threshold)), "threshold");
    }
    assert_eq!(run(Activation::Cats(-0.1)), "threshold");
    let mut h = [0.0f32];
    assert_eq!(Cpu.run(Forward::new([1, 1], Activation::FatRelu(-2.0), &[-1.0f32], &[3.0], &mut h)), Ok(()));
    assert_eq!(h, [-3.0]);
}

#[test]
fn devices_have_further_needs() {
    fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
        RawSlice::new(address, elements)
    }
    let pass = Forward::new([1, 8], BY, at::<bf16>(64, 8), at(130, 8), at(256, 8));
    assert_eq!(launches(Limits::A100, pass), Err(Error::Misaligned { what: "up", address: 130, align: 16 }));
    let pass = Forward::new([1, 8], BY, at::<bf16>(64, 8), at(128, 8), at(256, 8));
    assert!(launches(Limits::A100, pass.mask(at(4, 1))).is_err());
}
