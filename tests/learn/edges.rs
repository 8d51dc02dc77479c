//! Named edge cases, each against the definition.

use crate::case::{Bits, InitialCase, Moments, PriorCase, USUAL, UpdateCase, all_same, normal, rng};
use crate::common::{TestExecutor, everywhere_tests};
use crate::oracle;
use crate::random::random_codes;
use crate::suite::compare;
use twofour::learn::AdamW;
use twofour::{Shape, Shard, bf16};

everywhere_tests!(
    shapes,
    nothing_moves_without_a_gradient,
    bad_groups_stay_as_they_are,
    a_block_of_bad_groups_stays_as_it_is,
    infinite_logits_stay,
    bad_factors_skip_everything,
    tiny_and_huge_gradients,
);

/// One group a row, rows that are no whole number of lanes, short last blocks, and nothing.
fn shapes(on: &mut impl TestExecutor) {
    for (rows, cols) in
        [(1, 4), (7, 4), (65, 4), (1, 252), (1, 256), (1, 260), (3, 172), (2, 516), (1, 16388), (5, 3280)]
    {
        let (rng, shape) = (&mut rng(rows as u64), Shape::new(rows, cols));
        let gradient: Vec<f32> = normal(rng, shape.logits(), 1.0, &[]);
        for bits in [Bits::Full, Bits::Eight] {
            let mut case =
                UpdateCase::plain(shape, bits, gradient.clone(), normal::<bf16>(rng, shape.logits(), 0.01, &[]));
            case.statistics = true;
            case.norm_squares = Some(0.0);
            compare(&case.run(on), &oracle::update(&case), &format!("{shape:?}"));
        }
        let shard = Shard::whole(cols as u64);
        let prior = Some((random_codes(rng, shape.groups()), 3.0));
        let case = InitialCase { shape, shard, seed: 1, sigma: 0.01, prior };
        all_same(&case.run::<f32, _>(on).unwrap(), &oracle::initial(&case), &format!("{shape:?}"));
    }
    for shape in [Shape::new(0, 8), Shape::new(3, 0)] {
        for bits in [Bits::Full, Bits::Eight] {
            let mut case = UpdateCase::<f32>::plain(shape, bits, vec![], vec![]);
            (case.statistics, case.norm_squares) = (true, Some(1.5));
            let got = case.run(on);
            assert_eq!((got.norm_squares, got.statistics), (Some(1.5), Some(Default::default())), "{shape:?}");
        }
        let prior = PriorCase::<f32> { shape, codes: vec![], strength: 1.0, logits: vec![] };
        assert!(prior.run(on).unwrap().is_empty());
    }
}

/// A zero gradient, with zero moments and without decay, changes nothing; of 8-bit moments scales stay 0.
fn nothing_moves_without_a_gradient(on: &mut impl TestExecutor) {
    let shape = Shape::new(3, 68);
    for bits in [Bits::Full, Bits::Eight] {
        let logits: Vec<bf16> = normal(&mut rng(1), shape.logits(), 0.01, &[]);
        let mut case = UpdateCase::plain(shape, bits, vec![0.0; shape.logits()], logits);
        case.by.decay = 0.0;
        case.statistics = true;
        let got = case.run(on);
        all_same(&got.logits, &case.logits, "logits");
        assert_eq!(got.moments, Moments::zero(bits, shape));
        let statistics = got.statistics.unwrap();
        assert_eq!([statistics.moved, statistics.skipped, statistics.groups], [0, 0, 51]);
    }
}

/// Groups with a NaN, an infinity or a square without bound stay, to the bit; their neighbours step as if those groups
/// were not there. With 8-bit moments the block's scale is the neighbours' too.
fn bad_groups_stay_as_they_are(on: &mut impl TestExecutor) {
    let shape = Shape::new(2, 4 * 70);
    let clean: Vec<f32> = normal(&mut rng(4), shape.logits(), 1.0, &[]);
    let bad = [(3, f32::NAN), (17, f32::INFINITY), (64, f32::NEG_INFINITY), (65, 1.2e18), (139, -3e38)];
    let mut gradient = clean.clone();
    for (group, value) in bad {
        gradient[6 * group + group % 6] = value;
    }
    let logits: Vec<f32> = normal(&mut rng(5), shape.logits(), 0.01, &[]);
    let mut case = UpdateCase::plain(shape, Bits::Full, gradient, logits);
    // A step before, so that moments are not zero.
    case.moments = UpdateCase::plain(shape, Bits::Full, clean.clone(), case.logits.clone()).run(on).moments;
    (case.statistics, case.norm_squares) = (true, Some(0.0));
    let got = case.run(on);
    compare(&got, &oracle::update(&case), "bad groups");
    assert_eq!(got.statistics.unwrap().skipped, bad.len() as u64);
    let good = UpdateCase { gradient: clean.clone(), ..case.clone() }.run(on);
    let ((m, v), (old_m, old_v), (good_m, good_v)) =
        (got.moments.full().unwrap(), case.moments.full().unwrap(), good.moments.full().unwrap());
    let mut squares = 0.0;
    for group in 0..shape.groups() {
        let range = 6 * group..6 * group + 6;
        let is_bad = bad.iter().any(|(bad, _)| *bad == group);
        let expected = if is_bad { [&case.logits, old_m, old_v] } else { [&good.logits, good_m, good_v] };
        for (got, expected) in [&got.logits, m, v].into_iter().zip(expected) {
            all_same(&got[range.clone()], &expected[range.clone()], &format!("group {group}"));
        }
        squares += if is_bad { 0.0 } else { clean[range].iter().map(|g| f64::from(*g).powi(2)).sum() };
    }
    assert!((got.norm_squares.unwrap() - squares).abs() < 1e-6 * squares);
    let eight = UpdateCase { moments: Moments::zero(Bits::Eight, shape), ..case };
    compare(&eight.run(on), &oracle::update(&eight), "bad groups of 8-bit moments");
}

/// All 64 groups of a block skipped: its codes and scales stay.
fn a_block_of_bad_groups_stays_as_it_is(on: &mut impl TestExecutor) {
    let shape = Shape::new(1, 4 * 150);
    let mut case = UpdateCase::<f32>::random(11, Bits::Eight);
    case = UpdateCase { shape, shard: Shard::whole(600), factor: None, scale: 1.0, by: USUAL, ..case };
    case.logits = normal(&mut rng(6), shape.logits(), 0.01, &[]);
    case.gradient = normal(&mut rng(7), shape.logits(), 0.01, &[]);
    case.moments = Moments::any(&mut rng(8), Bits::Eight, shape);
    case.gradient[6 * 64..6 * 128].fill(f32::NAN);
    let got = case.run(on);
    let (Moments::Eight { m, v, scales }, Moments::Eight { m: old_m, v: old_v, scales: old }) =
        (&got.moments, &case.moments)
    else {
        panic!("8-bit moments")
    };
    let range = 6 * 64..6 * 128;
    assert_eq!(
        (&m[range.clone()], &v[range.clone()], &scales[2..4]),
        (&old_m[range.clone()], &old_v[range], &old[2..4])
    );
    assert_ne!(&scales[..2], &old[..2]);
    compare(&got, &oracle::update(&case), "a block of bad groups");
}

/// A pattern that is ruled out stays so, and a NaN stays in sight, whatever the gradient in memory says.
fn infinite_logits_stay(on: &mut impl TestExecutor) {
    let shape = Shape::new(1, 8);
    let [nan, inf] = [f32::NAN, f32::INFINITY];
    let logits = [0.1, -inf, 0.2, nan, 0.3, inf, -0.0, 0.0, 0.4, 0.5, 0.6, -inf].map(bf16::from_f32).to_vec();
    for bits in [Bits::Full, Bits::Eight] {
        let mut case = UpdateCase::plain(shape, bits, vec![1.0; 12], logits.clone());
        (case.statistics, case.by.rate) = (true, 0.1);
        let got = case.run(on);
        for (i, (new, old)) in got.logits.iter().zip(&logits).enumerate() {
            let (new, old) = (new.to_f32(), old.to_f32());
            assert!(if old.is_finite() { new < old } else { new == old || old.is_nan() && new.is_nan() }, "{i}: {new}");
        }
        compare(&got, &oracle::update(&case), "infinite logits");
    }
}

fn bad_factors_skip_everything(on: &mut impl TestExecutor) {
    let shape = Shape::new(2, 20);
    for bits in [Bits::Full, Bits::Eight] {
        for factor in [f32::NAN, f32::INFINITY, -0.1, 1.000_000_1] {
            let gradient = normal(&mut rng(9), shape.logits(), 1.0, &[]);
            let mut case =
                UpdateCase::<f32>::plain(shape, bits, gradient, normal(&mut rng(2), shape.logits(), 0.01, &[]));
            case.moments = Moments::any(&mut rng(3), bits, shape);
            (case.factor, case.statistics, case.zero, case.norm_squares) = (Some(factor), true, true, Some(0.0));
            let got = case.run(on);
            assert_eq!(got.moments, case.moments);
            assert_eq!(got.logits, case.logits);
            assert_eq!(got.statistics.unwrap().skipped, 10);
            compare(&got, &oracle::update(&case), "bad factors");
        }
    }
}

/// From gradients whose squares vanish to those just below what is skipped: no NaN, no infinity, and a step that is no
/// longer than the rate allows.
fn tiny_and_huge_gradients(on: &mut impl TestExecutor) {
    let shape = Shape::new(1, 256);
    for exponent in [-149, -126, -100, -75, -60, 0, 30, 58] {
        for bits in [Bits::Full, Bits::Eight] {
            let size = 2f32.powi(exponent);
            let gradient =
                normal::<f32>(&mut rng(3), shape.logits(), 1.0, &[]).iter().map(|g| g.signum() * size).collect();
            let mut case = UpdateCase::plain(shape, bits, gradient, vec![0.0f32; shape.logits()]);
            case.by = AdamW { epsilon: 1e-20, ..USUAL };
            let got = case.run(on);
            compare(&got, &oracle::update(&case), &format!("2^{exponent}"));
            let steps = got.logits.iter().map(|l| l.abs() / 5e-4);
            assert!(steps.fold(0.0, f32::max) < 1.001, "2^{exponent}");
        }
    }
}
