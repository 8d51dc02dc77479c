//! Every error that the arguments of `select` can give.

use crate::common::emulator::launches;
use twofour::device::Limits;
use twofour::select::{ByScore, Hessian, Squares, Statistics, Swaps, Sweep};
use twofour::space::RawSlice;
use twofour::{Cpu, Error, Executor, Result, Shape, bf16};

fn what(result: Result<()>) -> &'static str {
    match result.unwrap_err() {
        Error::Length { what, .. } | Error::Missing { what, .. } | Error::NotGrouped { what, .. } => what,
        Error::Overflow { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn choices_are_checked() {
    let (shape, weight) = (Shape::new(2, 8), [0.0f32; 16]);
    macro_rules! args {
        () => {
            ByScore::<_, f32>::magnitude(shape, &weight)
        };
    }
    assert_eq!(what(Cpu.run(args!())), "a mask");
    assert_eq!(what(Cpu.run(args!().masked(&mut [0.0; 15]))), "masked");
    assert_eq!(what(Cpu.run(args!().patterns(&mut [0; 3]))), "patterns");
    assert_eq!(what(Cpu.run(args!().codes(&mut [0; 3]))), "codes");
    assert_eq!(what(Cpu.run(args!().statistics(&mut [Statistics::default()]))), "statistics");
    let scaled = Cpu.run(ByScore::scaled(shape, &weight, &[0.0; 9]).codes(&mut [0; 2]));
    assert_eq!(what(scaled), "column_scale");
    assert_eq!(what(Cpu.run(ByScore::<_, f32>::given(shape, &weight[1..]))), "scores");
    let unmasked = Cpu.run(ByScore::<_, f32>::given(shape, &weight).masked(&mut [0.0; 16]));
    assert_eq!(what(unmasked), "masked");
    assert_eq!(what(Cpu.run(ByScore::magnitude(shape, &weight[1..]))), "weight");
    assert_eq!(what(Cpu.run(ByScore::magnitude(Shape::new(2, 6), &weight[..12]))), "the weight");
    assert_eq!(what(Cpu.run(ByScore::<_, f32>::magnitude(Shape::new(usize::MAX / 4, 8), &[]))), "logits");
}

#[test]
fn activations_are_checked() {
    let x = [0.0f32; 12];
    assert_eq!(what(Cpu.run(Squares::new(3, 4, &x[1..], &mut [0.0; 4]))), "x");
    assert_eq!(what(Cpu.run(Squares::new(3, 4, &x, &mut [0.0; 3]))), "sums");
    assert_eq!(what(Cpu.run(Squares::new(3, 4, &x, &mut [0.0; 4]).norms(&mut [0.0; 5]))), "norms");
    assert_eq!(what(Cpu.run(Squares::new(2, 6, &x, &mut [0.0; 6]))), "the batch of activations");
    assert_eq!(what(Cpu.run(Squares::new(usize::MAX, 4, &x, &mut [0.0; 4]))), "x");
    assert_eq!(what(Cpu.run(Hessian::new(3, 4, &x[1..], 0, &mut [0.0; 16]))), "x");
    assert_eq!(what(Cpu.run(Hessian::new(3, 4, &x, 0, &mut [0.0; 12]))), "hessian");
    assert_eq!(what(Cpu.run(Hessian::<_, f32>::new(0, 1 << 31, &[], 0, &mut []))), "the Hessian");
}

#[test]
fn sweeps_are_checked() {
    let (shape, weight, square, scale) = (Shape::new(2, 8), [0.0f32; 16], [0.0; 64], [0.0; 8]);
    macro_rules! args {
        () => {
            Sweep::<_, f32>::new(shape, &weight, &square, &scale)
        };
    }
    assert_eq!(what(Cpu.run(args!())), "a mask");
    assert_eq!(what(Cpu.run(args!().updated(&mut [0.0; 15]))), "updated");
    assert_eq!(what(Cpu.run(args!().patterns(&mut [0; 5]))), "patterns");
    assert_eq!(what(Cpu.run(args!().codes(&mut [0; 3]))), "codes");
    assert_eq!(what(Cpu.run(args!().losses(&mut [0.0; 3]))), "losses");
    assert_eq!(what(Cpu.run(args!().faults(&mut [0; 2]))), "faults");
    assert_eq!(what(Cpu.run(Sweep::new(shape, &weight[1..], &square, &scale))), "weight");
    assert_eq!(what(Cpu.run(Sweep::new(shape, &weight, &square[1..], &scale))), "upper");
    assert_eq!(what(Cpu.run(Sweep::new(shape, &weight, &square, &scale[1..]))), "scale");
}

#[test]
fn swaps_are_checked() {
    let (shape, weight, codes) = (Shape::new(2, 8), [0.0f32; 16], [0x44; 2]);
    let mut hessian = [0.0; 64];
    (0..8).for_each(|j| hessian[9 * j] = 1.0);
    macro_rules! args {
        () => {
            Swaps::<_, f32>::new(shape, &weight, &hessian, &codes)
        };
    }
    assert_eq!(what(Cpu.run(args!())), "a mask");
    assert_eq!(what(Cpu.run(args!().masked(&mut [0.0; 15]))), "masked");
    assert_eq!(what(Cpu.run(args!().patterns(&mut [0; 5]))), "patterns");
    assert_eq!(what(Cpu.run(args!().codes(&mut [0; 3]))), "codes");
    assert_eq!(what(Cpu.run(args!().losses_before(&mut [0.0; 3]))), "losses before");
    assert_eq!(what(Cpu.run(args!().losses(&mut [0.0; 3]))), "losses");
    assert_eq!(what(Cpu.run(args!().swaps(&mut [0; 3]))), "swaps");
    assert_eq!(what(Cpu.run(Swaps::new(shape, &weight[1..], &hessian, &codes))), "weight");
    assert_eq!(what(Cpu.run(Swaps::new(shape, &weight, &hessian[1..], &codes))), "hessian");
    assert_eq!(what(Cpu.run(Swaps::new(shape, &weight, &hessian, &codes[1..]))), "codes before");
    assert!(Cpu.run(args!().swaps(&mut [9; 2])).is_ok());
    hessian[1] = 0.5;
    let one_triangle = Cpu.run(args!().swaps(&mut [0; 2]));
    assert!(matches!(one_triangle, Err(Error::NotSymmetric { .. })), "{one_triangle:?}");
    hessian = [0.0; 64];
    let no_input = Cpu.run(args!().swaps(&mut [0; 2]));
    assert_eq!(no_input, Err(Error::NoInput { what: "the Hessian", cols: 8 }));
}

#[test]
fn devices_have_further_needs() {
    fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
        RawSlice::new(address, elements)
    }
    let shape = Shape::new(2, 8);
    for offset in [1, 2, 4, 8] {
        let args = ByScore::scaled(shape, at::<bf16>(64, 16), at(128 + offset, 8)).codes(at(256, 2));
        let expected = Error::Misaligned { what: "column_scale", address: 128 + offset, align: 16 };
        assert_eq!(launches(Limits::A100, args), Err(expected));
    }
    let squares = || Squares::new(200, 8, at::<bf16>(64, 1600), at(128, 8));
    assert_eq!(launches(Limits::A100, squares()), Err(Error::Workspace { needed: 2 * 8 * 8, got: 0 }));
    let misaligned = squares().workspace(at(256, 128)).norms(at(516, 8));
    assert!(matches!(launches(Limits::A100, misaligned), Err(Error::Misaligned { what: "norms", .. })));
    let wide = Shape::new(1, 1 << 33);
    let row = ByScore::scaled(wide, at::<bf16>(64, 1 << 33), at(64, 1 << 33)).codes(at(64, 1 << 30));
    assert_eq!(launches(Limits::A100, row), Err(Error::Overflow { what: "a row", rows: 1, cols: 1 << 33 }));
}

#[cfg(feature = "sparsegpt")]
#[test]
fn hessians_are_checked() {
    use twofour::select::Cholesky;
    let identity = [1.0, 0.0, 0.0, 1.0];
    assert_eq!(what(Cholesky::new(3, &identity, 0.01).map(drop)), "hessian");
    assert_eq!(what(Cholesky::new(usize::MAX, &identity, 0.01).map(drop)), "the Hessian");
    for damping in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(
            matches!(Cholesky::new(2, &identity, damping), Err(Error::Scalar { what: "damping", .. })),
            "{damping}"
        );
    }
    for wild in [f32::NAN, f32::INFINITY] {
        let hessian = [1.0, 0.0, wild, 1.0];
        assert!(
            matches!(Cholesky::new(2, &hessian, 0.01), Err(Error::Scalar { what, .. }) if what.contains("Hessian"))
        );
    }
    // Two columns that are the same cannot be told apart, unless damped.
    let same = [2.0; 4];
    let error = Cholesky::new(2, &same, 0.0).unwrap_err();
    assert_eq!(error, Error::NotPositiveDefinite { column: 0 });
    assert!(error.to_string().contains("column 0: raise the damping"));
    assert!(Cholesky::new(2, &same, 0.01).is_ok());
    let negative = Cholesky::new(2, &[1.0, 0.0, 0.0, -1.0], 0.01);
    assert!(
        matches!(negative, Err(Error::Column { what: "the Hessian's diagonal", column: 1, value: -1.0, .. })),
        "{negative:?}"
    );
    let tiny = [1e-45, 0.0, 0.0, 1e-45];
    assert!(Cholesky::new(2, &tiny, 0.0).is_ok());
}
