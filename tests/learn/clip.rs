//! Clipping end to end, and gradients of several micro-batches.

use crate::case::{Bits, FusedCase, Moments, USUAL, UpdateCase, clip, normal, rng, sum_of};
use twofour::learn::{self, Clip, Norm, Step, Update};
use twofour::mask::Backward;
use twofour::{Cpu, Executor, Shape};

/// Two layers, clipped exactly by the norm of both: each steps as by a gradient that was made shorter before.
#[test]
fn clipping_is_by_the_norm_of_all_layers() {
    let shapes = [Shape::new(3, 40), Shape::new(2, 8)];
    let gradients = shapes.map(|shape| normal::<f32>(&mut rng(shape.cols as u64), shape.logits(), 2.0, &[]));
    let norm = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let mut sum = sum_of(0.0);
    for (shape, gradient) in shapes.iter().zip(&gradients) {
        Cpu.run(Norm::new(*shape, gradient, &mut sum)).unwrap();
    }
    let (mut factor, mut measured) = ([0.0], [0.0]);
    Cpu.run(Clip::new(1.0, &mut sum, &mut factor).norm(&mut measured)).unwrap();
    assert!((f64::from(measured[0]) - norm).abs() < 1e-6 * norm);
    assert!((f64::from(factor[0]) * norm - 1.0).abs() < 1e-5, "{factor:?}");
    for (shape, gradient) in shapes.into_iter().zip(gradients) {
        let shorter = gradient.iter().map(|g| g * factor[0]).collect();
        let expected = UpdateCase::<f32>::plain(shape, Bits::Full, shorter, vec![0.0; shape.logits()]).run(&mut Cpu);
        let (mut logits, mut m, mut v) =
            (vec![0.0f32; shape.logits()], vec![0.0; shape.logits()], vec![0.0; shape.logits()]);
        let step = Step::new(USUAL, learn::Moments::f32(&mut m, &mut v)).factor(&factor);
        Cpu.run(Update::new(shape, &gradient, &mut logits, step)).unwrap();
        assert_eq!(logits, expected.logits);
        assert_eq!(Moments::Full { m, v }, expected.moments);
    }
}

/// By the last step's norm: a step adds its own squares, and the next is shortened by their sum.
#[test]
fn clipping_by_the_last_norm_lags_a_step() {
    let mut case = FusedCase::<f32, f32, f32>::random(3, Bits::Full);
    (case.norm_squares, case.factor, case.statistics) = (Some(0.0), Some(1.0), true);
    let first = case.run(&mut Cpu);
    let squares = first.norm_squares.unwrap();
    assert_eq!(squares, first.statistics.unwrap().gradient_squares);
    assert!(squares > 0.0);
    let [factor, norm] = clip(&mut Cpu, 0.5 * squares.sqrt(), squares);
    assert!((factor - 0.5).abs() < 1e-3 && f64::from(norm) == f64::from(squares.sqrt() as f32));
    case.factor = Some(factor);
    let second = case.run(&mut Cpu);
    // The norm is that of the gradient, whatever the factor.
    assert_eq!(second.norm_squares.unwrap(), squares);
}

/// Micro-batches with draws of their own: gradients are added up, and the update by a third of the sum is one by the mean.
#[test]
fn micro_batches_are_added_up() {
    let base = FusedCase::<f32, f32, f32>::random(8, Bits::Full);
    let shape = base.shape;
    let mut sum = vec![0.0f32; shape.logits()];
    let mut mean = vec![0.0f64; shape.logits()];
    for micro_batch in 0..3 {
        let gradient = normal(&mut rng(micro_batch), shape.weights(), 0.1, &[]);
        let mut case = FusedCase { gradient, ..base.clone() };
        case.sampling.draw = micro_batch;
        let args = Backward::new(shape, case.kind, case.sampling, &case.logits, &case.weight, &case.gradient);
        let args = args.shard(case.shard).regulariser(case.regulariser);
        Cpu.run(args.accumulate_logit_gradient(&mut sum)).unwrap();
        for (mean, g) in mean.iter_mut().zip(case.backward(&mut Cpu)) {
            *mean += f64::from(g) / 3.0;
        }
    }
    let mut update = UpdateCase::plain(shape, Bits::Full, sum, base.logits.clone());
    (update.scale, update.zero) = (1.0 / 3.0, true);
    let got = update.run(&mut Cpu);
    assert!(got.gradient.iter().all(|g| g.to_bits() == 0));
    let (m, _) = got.moments.full().unwrap();
    let size = mean.iter().map(|g| g.abs()).fold(0.0, f64::max);
    for (m, mean) in m.iter().zip(mean).filter(|(m, _)| m.is_finite()) {
        assert!((f64::from(*m) - 0.1 * mean).abs() <= 1e-6 * size, "{m} for a tenth of {mean}");
    }
}

/// Micro-batches of one mask: the gradient of a sum of `dL/d(W∘M)` is the sum of the gradients, the regulariser counted
/// once.
#[test]
fn gradients_of_a_common_draw_add_up_in_the_weights_shape() {
    assert!((0..12).map(common_draw).sum::<usize>() > 2000);
}

/// How many gradients were finite.
fn common_draw(seed: u64) -> usize {
    let mut base = FusedCase::<f32, f32, f32>::random(seed, Bits::Full);
    base.regulariser = 0.01;
    base.weight = normal(&mut rng(seed), base.shape.weights(), 0.5, &[]);
    let batches: Vec<Vec<f32>> = (0..4).map(|seed| normal(&mut rng(seed), base.shape.weights(), 0.1, &[])).collect();
    let mut expected = vec![0.0f64; base.shape.logits()];
    for (i, gradient) in batches.iter().enumerate() {
        let regulariser = if i == 0 { base.regulariser } else { 0.0 };
        let case = FusedCase { gradient: gradient.clone(), regulariser, ..base.clone() };
        for (sum, g) in expected.iter_mut().zip(case.backward(&mut Cpu)) {
            *sum += f64::from(g);
        }
    }
    base.gradient = (0..base.shape.weights()).map(|at| batches.iter().map(|batch| batch[at]).sum()).collect();
    // A sharp mask takes the difference of nearly equal numbers times κ/τ.
    let size = f64::from(base.sampling.kappa / base.sampling.tau);
    let mut finite = 0;
    for (got, expected) in base.backward(&mut Cpu).into_iter().zip(expected) {
        assert!(!expected.is_finite() || (f64::from(got) - expected).abs() <= 1e-5 * size, "{got} for {expected}");
        finite += usize::from(got.is_finite());
    }
    finite
}
