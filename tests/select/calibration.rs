//! Calibration that cannot be meant, and results that their type cannot hold.

use crate::case::{SweepCase, normal, rng};
#[cfg(feature = "sparsegpt")]
use crate::oracle;
use rand::Rng;
use twofour::select::{ByScore, ColumnScale, Hessian, Squares, Sweep, check_hessian};
use twofour::{Cpu, Error, Executor, Pattern, Shape, bf16, f16};

/// A Hessian of tokens that mix a few sources.
fn hessian(seed: u64, tokens: usize, cols: usize, empty: &[usize]) -> Vec<f32> {
    let mut rng = rng(seed);
    let sources: Vec<f32> = (0..2 * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut x = Vec::new();
    for _ in 0..tokens {
        let both: [f32; 2] = [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)];
        let own: Vec<f32> = (0..cols).map(|_| rng.random_range(-0.5..0.5)).collect();
        let of = |j: usize| both[0] * sources[2 * j] + both[1] * sources[2 * j + 1] + own[j];
        x.extend((0..cols).map(|j| if empty.contains(&j) { 0.0 } else { of(j) }));
    }
    let mut hessian = Hessian::zeros(cols).unwrap();
    Cpu.run(Hessian::new(tokens, cols, &x, 0, &mut hessian)).unwrap();
    hessian
}

/// A layer that met no token: nothing is chosen for it.
#[test]
fn zeroed_expert() {
    let (shape, cols) = (Shape::new(4, 64), 64);
    let weight: Vec<f32> = normal(&mut rng(1), shape.weights(), &[]);
    let (mut sums, mut norms, mut zeros) = (vec![0.0; cols], vec![1.0; cols], vec![1.0; cols * cols]);
    Cpu.run(Squares::<_, f32>::new(0, cols, &[], &mut sums).norms(&mut norms)).unwrap();
    Cpu.run(Hessian::<_, f32>::new(0, cols, &[], 0, &mut zeros)).unwrap();
    let no_input = |what| Error::NoInput { what, cols: 64 };
    assert_eq!(ColumnScale::new(&norms), Err(no_input("the norm")));
    assert_eq!(check_hessian(cols, &zeros), Err(no_input("the Hessian")));
    #[cfg(feature = "sparsegpt")]
    assert_eq!(twofour::select::Cholesky::new(cols, &zeros, 0.01), Err(no_input("the Hessian")));
    let (mut codes, mut updated) = (vec![0; shape.packed_codes()], vec![0.0; shape.weights()]);
    assert_eq!(Cpu.run(ByScore::scaled(shape, &weight, &norms).codes(&mut codes)), Err(no_input("the scale")));
    let pass = Sweep::new(shape, &weight, &zeros, &norms).updated(&mut updated);
    assert_eq!(Cpu.run(pass), Err(no_input("the scale")));
    let message = no_input("the norm").to_string();
    assert!(message.contains("saw no input in calibration") && message.contains("magnitude"), "{message}");
}

/// Negative and wild norms; the right ones are as good as before, whatever their unit.
#[test]
fn norms_are_looked_at() {
    for wild in [f32::NAN, f32::INFINITY, -1.0, -0.0001] {
        let found = ColumnScale::new(&[1.0, 0.0, wild, f32::NAN]).unwrap_err();
        assert!(matches!(found, Error::Column { what: "the norm", column: 2, .. }), "{found}");
        assert!(found.to_string().contains("at column 2: it must be finite and not negative"), "{found}");
    }
    for unit in [1.0, 1e-30, 1e-42, 1e30] {
        let norms = [3.0, 0.0, 5.0, 0.25, 0.0, 0.0, 0.0, 0.0].map(|norm| norm * unit);
        let scale = ColumnScale::new(&norms).unwrap();
        assert_eq!(scale.empty(), 5);
        // Products with norms as they are would be 0 or infinite, and so ties.
        let weight = [1e-9_f32, 9e3, 3e-9, 2e-9, 1.0, -3.0, 4.0, 2.0];
        let mut patterns = [9; 2];
        let pass = ByScore::scaled(Shape::new(1, 8), &weight, scale.scale());
        Cpu.run(pass.patterns(&mut patterns)).unwrap();
        let kept = patterns.map(|index| Pattern::from_index(index).unwrap().kept());
        assert_eq!(kept[1], [1, 2], "magnitude among empty columns, unit {unit}");
        assert_eq!(kept[0], [0, 2], "unit {unit}");
    }
    // An empty column loses to any that saw an input, and wins against a weight of zero.
    let scale = ColumnScale::new(&[0.0, 1.0, 1e-3, 1.0]).unwrap();
    for (weight, kept) in [([9e4, 0.1, 0.1, 0.01], [1, 3]), ([9.0, 0.1, 0.0, 0.0], [0, 1])] {
        let mut patterns = [9];
        Cpu.run(ByScore::scaled(Shape::new(1, 4), &weight, scale.scale()).patterns(&mut patterns)).unwrap();
        assert_eq!(Pattern::from_index(patterns[0]).unwrap().kept(), kept, "{weight:?}");
    }
}

/// Every way of its kind in which a Hessian is none.
#[test]
fn hessians_that_are_none() {
    for cols in [8, 132] {
        let right = hessian(3, 200, cols, &[5]);
        assert_eq!(check_hessian(cols, &right), Ok(1));
        // As others would round it.
        let rounded: Vec<f32> = right.iter().map(|&h| bf16::from_f32(h).to_f32()).collect();
        assert_eq!(check_hessian(cols, &rounded), Ok(1));
        let small: Vec<f32> = right.iter().map(|&h| h * 1e-43).collect();
        assert!(check_hessian(cols, &small).is_ok());
        let with = |change: &dyn Fn(usize, usize, f32) -> f32| -> Error {
            let changed: Vec<f32> = (0..cols * cols).map(|i| change(i / cols, i % cols, right[i])).collect();
            check_hessian(cols, &changed).unwrap_err()
        };
        for lower in [true, false] {
            let triangle = with(&|r, c, h| if r == c || (r > c) == lower { h } else { 0.0 });
            assert!(matches!(triangle, Error::NotSymmetric { .. }), "{triangle}");
            assert!(triangle.to_string().contains("not one triangle"), "{triangle}");
        }
        let one = with(&|r, c, h| if (r, c) == (7, 2) { h + 0.1 } else { h });
        assert!(matches!(one, Error::NotSymmetric { row: 7, column: 2, .. }), "{one}");
        let dead = with(&|r, c, h| if r == c && r == 6 { 0.0 } else { h });
        assert!(matches!(dead, Error::NotProducts { diagonal: [d, e], .. } if d.min(e) == 0.0), "{dead}");
        let without = with(&|r, c, h| if r == c { 0.0 } else { h });
        assert!(matches!(without, Error::NotProducts { diagonal: [0.0, 0.0], .. }), "{without}");
        let large = with(&|r, c, h| if r == c { h } else { 30.0 * h });
        assert!(matches!(large, Error::NotProducts { .. }), "{large}");
        let negative = with(&|r, c, h| if (r, c) == (3, 3) { -h } else { h });
        assert!(matches!(negative, Error::Column { column: 3, .. }), "{negative}");
        for wild in [f32::NAN, f32::INFINITY] {
            let one = with(&|r, c, h| if (r, c) == (1, 4) { wild } else { h });
            assert!(matches!(one, Error::Scalar { .. }), "{one}");
        }
        let zeros = with(&|_, _, _| 0.0);
        assert!(matches!(zeros, Error::NoInput { .. }), "{zeros}");
    }
    assert_eq!(check_hessian(0, &[]), Ok(0));
}

/// Empty columns in SparseGPT: what is kept among them is the largest, and stays as it was.
#[cfg(feature = "sparsegpt")]
#[test]
fn empty_columns_fall_back_to_magnitude() {
    use twofour::select::Cholesky;
    let shape = Shape::new(5, 16);
    let factor = Cholesky::new(16, &hessian(4, 100, 16, &[4, 5, 6, 7, 9]), 0.01).unwrap();
    assert_eq!(factor.empty(), 5);
    let weight: Vec<f32> = normal(&mut rng(2), shape.weights(), &[]);
    let (mut patterns, mut updated) = (vec![9; shape.groups()], vec![0.0; shape.weights()]);
    let pass = Sweep::new(shape, &weight, factor.upper(), factor.scale());
    Cpu.run(pass.patterns(&mut patterns).updated(&mut updated)).unwrap();
    for row in 0..shape.rows {
        let four = &weight[16 * row + 4..16 * row + 8];
        let expected = oracle::choose(&four.iter().map(|w| w.abs()).collect::<Vec<_>>()).unwrap();
        assert_eq!(patterns[4 * row + 1], expected.index(), "{four:?}");
        for j in 0..4 {
            let kept = if expected.keeps(j) { four[j] } else { 0.0 };
            assert_eq!(updated[16 * row + 4 + j], kept);
        }
        assert_eq!(updated[16 * row + 9], 0.0, "its three neighbours saw inputs");
    }
}

/// Columns that are nearly the same: what is dropped is made up for by others, beyond the range of the type.
#[test]
fn f16_update_overflow() {
    let (shape, cols) = (Shape::new(3, 8), 8);
    // A factor by which the second half of a group takes on what the first leaves.
    let upper = (0..cols * cols).map(|i| if i / cols == i % cols { 1.0 } else { -0.8 }).collect::<Vec<f32>>();
    let large: Vec<f32> = (0..shape.weights()).map(|i| if i / cols == 1 { 1.0 } else { 60_000.0 + i as f32 }).collect();
    fn check<W: twofour::Float>(shape: Shape, weight: &[f32], upper: &[f32], dtype: &'static str) {
        let weight = weight.iter().map(|&w| W::from_f32(w)).collect();
        let case = SweepCase::<W> { shape, weight, upper: upper.to_vec(), scale: vec![1.0; 8], wants: [true; 4] };
        let got = case.run(&mut Cpu);
        let updated = got.updated.unwrap();
        let infinite = updated.iter().filter(|w| !w.to_f32().is_finite()).count() as u64;
        assert!(got.lost == infinite && infinite > 0, "{} for {infinite}", got.lost);
        let mut again = updated.clone();
        let pass = Sweep::new(shape, &case.weight, &case.upper, &case.scale).updated(&mut again);
        let error = Cpu.run(pass).unwrap_err();
        let expected = format!("{infinite} values of `updated` left the range of {dtype}, the first in row 0");
        assert!(error.to_string().starts_with(&expected), "{error}");
        // Without the updated weight nothing has left its range.
        let mut codes = vec![0; shape.packed_codes()];
        let pass = Sweep::new(shape, &case.weight, &case.upper, &case.scale).codes(&mut codes);
        assert_eq!((Cpu.run(pass), Some(codes)), (Ok(()), got.codes));
    }
    check::<f16>(shape, &large, &upper, "f16");
    let larger: Vec<f32> = large.iter().map(|w| w / 65_504.0 * 3e38).collect();
    check::<bf16>(shape, &larger, &upper, "bf16");
    check::<f32>(shape, &larger, &upper, "f32");
    // A weight that is not finite spoils its row, and that is no news.
    let mut spoilt = vec![1.0_f32; shape.weights()];
    spoilt[0] = f32::INFINITY;
    let case = SweepCase { shape, weight: spoilt, upper, scale: vec![1.0; 8], wants: [true; 4] };
    assert_eq!(case.run(&mut Cpu).lost, 0);
}

/// What there is no memory for is an error, and names what it was for.
#[test]
fn huge_hessian() {
    let cols = 1 << 28;
    let bytes = 4 << 56;
    assert_eq!(Hessian::zeros(cols), Err(Error::Memory { what: "the Hessian", bytes }));
    assert!(Hessian::zeros(cols).unwrap_err().to_string().contains("288230376151711744 bytes"));
    assert!(matches!(Hessian::zeros(1 << 40), Err(Error::Overflow { .. })));
    assert_eq!(Hessian::zeros(3), Ok(vec![0.0; 9]));
    assert_eq!(Hessian::zeros(0), Ok(vec![]));
    assert!(matches!(Cpu.zeros::<f64>(1 << 58), Err(Error::Memory { bytes: b, .. }) if b == 1 << 61));
    assert!(matches!(Cpu.zeros::<f64>(usize::MAX), Err(Error::Memory { bytes: u64::MAX, .. })));
}
