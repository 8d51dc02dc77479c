//! A scale of 8-bit moments that is NaN, as a damaged file may have it, stays NaN and is seen, on every executor: a CPU
//! that took the largest of the others for it would go on with moments that are none.

use crate::case::{Bits, Moments, UpdateCase, normal, rng};
use crate::common::{TestExecutor, everywhere_tests};
use twofour::Shape;

everywhere_tests!(a_nan_scale_is_kept);

fn a_nan_scale_is_kept(on: &mut impl TestExecutor) {
    // Two blocks, of which the second is short.
    let shape = Shape::new(1, 4 * 90);
    let [first, second]: [Vec<f32>; 2] = [1, 2].map(|seed| normal(&mut rng(seed), shape.logits(), 1.0, &[]));
    for nan in 0..4 {
        let mut case = UpdateCase::plain(shape, Bits::Eight, first.clone(), vec![0.0f32; shape.logits()]);
        // A step before, so that moments are not zero; of the next, one group alone has a gradient that is taken.
        case.moments = case.run(on).moments;
        let Moments::Eight { scales, .. } = &mut case.moments else { panic!("8-bit moments") };
        scales[nan] = f32::NAN;
        let before = case.moments.clone();
        let (block, of_v) = (nan / 2, nan % 2 == 1);
        case.gradient.clone_from(&second);
        case.gradient[384 * block + 6..(384 * (block + 1)).min(shape.logits())].fill(f32::NAN);
        let got = case.run(on);
        let (Moments::Eight { m, v, scales }, Moments::Eight { m: old_m, v: old_v, .. }) = (&got.moments, &before)
        else {
            panic!("8-bit moments")
        };
        let seen: Vec<bool> = scales.iter().map(|scale| scale.is_nan()).collect();
        assert_eq!(seen, (0..4).map(|i| i == nan).collect::<Vec<_>>(), "{nan}: {scales:?}");
        // The codes of such a block are the top one, without a sign.
        let range = 384 * block..(384 * (block + 1)).min(shape.logits());
        let (new, top) = if of_v { (&v[range], 255) } else { (&m[range], 127) };
        assert!(new.iter().all(|&code| code == top), "{nan}: {new:?}");
        // The other block knows nothing of it.
        let other = if block == 0 { 384..shape.logits() } else { 0..384 };
        assert!(m[other.clone()] != old_m[other.clone()] && v[other.clone()] != old_v[other.clone()]);
        let logits = &got.logits[384 * block..];
        assert!(logits[..6].iter().all(|x| x.is_nan()) && !logits[6].is_nan(), "{nan}: {:?}", &logits[..7]);
    }
}
