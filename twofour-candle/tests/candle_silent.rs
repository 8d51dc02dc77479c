//! What users found that went wrong without a word: a step that was not ended, steps of NaN, numbers and variables that
//! two layers share, states and settings that cannot be.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW};
use common::{distance, randn};
use twofour::learn::{self, Recipe, StepSettings};
use twofour::{Shape, Shard, noise};
use twofour_candle::{CompressedLinear, Engine, FusedLinear, Learner, MaskedLinear, Mode, Moments, Sampler, ops};

const DEVICE: &Device = &Device::Cpu;

fn linear(seed: u64, [rows, cols]: [usize; 2]) -> Linear {
    Linear::new(randn(seed, 0.3, &[rows, cols]), None)
}

fn layer(number: u32, sampler: &Sampler) -> MaskedLinear {
    let layer = MaskedLinear::from_linear(&linear(number.into(), [8, 32]), number, sampler).unwrap();
    layer.initialise(0.01, None).unwrap();
    layer
}

fn at(step: u32) -> StepSettings {
    Recipe::maskllm(10).at(step.into())
}

/// That there is an error which says all of this.
#[track_caller]
fn refused<T>(result: Result<T>, says: &[&str]) {
    let message = result.err().unwrap().to_string();
    assert!(says.iter().all(|what| message.contains(what)), "`{message}` should say {says:?}");
}

fn step(layer: &FusedLinear, x: &Tensor) -> Result<()> {
    layer.forward(x)?.sum_all()?.backward().map(drop)
}

/// Without `end` no step would ever be clipped.
#[test]
fn a_forgotten_end_is_refused() -> Result<()> {
    let (sampler, x) = (Sampler::new(1), (randn(1, 1.0, &[4, 32]) * 1e3)?);
    let learner = Learner::new(&sampler, Moments::F32).clip(1.0)?;
    let fused = layer(0, &sampler).fused(&learner)?;
    learner.begin(0, &at(0))?;
    step(&fused, &x)?;
    refused(learner.begin(1, &at(1)), &["Learner::end", "not ended"]);
    assert_eq!(sampler.settings().step, 0, "nothing is changed");
    // It does not help to begin by another handle.
    refused(Learner::clone(&learner).begin(1, &at(1)), &["Learner::end"]);
    learner.end()?;
    let (norm, factor) = (learner.norm(DEVICE)?, learner.factor(DEVICE)?.unwrap());
    assert!(factor < 0.1, "{factor}");
    // Ended is ended: neither another `end`, nor a step after it, changes what was made of it.
    learner.end()?;
    refused(step(&fused, &x), &["Learner::begin"]);
    assert_eq!((learner.norm(DEVICE)?, learner.factor(DEVICE)?), (norm, Some(factor)));
    // A step in which nothing moved needs no end, and leaves the factor. To end it is a mistake: the masks of
    // evaluation were not set back, for one, and then nothing would ever move.
    learner.begin(1, &at(1))?;
    learner.begin(2, &at(2))?;
    sampler.update(|now| now.mode = Mode::Argmax)?;
    step(&fused, &x)?;
    refused(learner.end(), &["no layer has moved", "Mode::Soft"]);
    sampler.update(|now| now.mode = Mode::Soft)?;
    assert_eq!((learner.norm(DEVICE)?, learner.factor(DEVICE)?), (norm, Some(factor)));
    learner.begin(2, &at(2))?;
    step(&fused, &x)?;
    refused(learner.begin(3, &at(3)), &["Learner::end"]);

    // Nothing is lost without clipping.
    let sampler = Sampler::new(1);
    let learner = Learner::new(&sampler, Moments::F32);
    let fused = layer(0, &sampler).fused(&learner)?;
    for number in 0..3 {
        learner.begin(number, &at(number))?;
        step(&fused, &x)?;
    }
    assert_eq!((learner.norm(DEVICE)?, learner.factor(DEVICE)?), (None, None));
    Ok(())
}

/// Groups whose gradient is NaN are counted, of a layer and of all; a step of nothing else has no norm.
#[test]
fn a_step_of_nan_is_reported() -> Result<()> {
    let good = randn(1, 1.0, &[4, 32]);
    let with_nan = |at: usize| -> Result<Tensor> {
        let mut values = good.flatten_all()?.to_vec1::<f32>()?;
        values[at] = f32::NAN;
        Tensor::from_vec(values, (4, 32), DEVICE)
    };
    let groups = Shape::new(8, 32).groups() as u64;
    for (moments, panel) in [(Moments::F32, 16 << 20), (Moments::F32, 0), (Moments::Eight, 0)] {
        let sampler = Sampler::new(1);
        let learner = Learner::new(&sampler, moments).clip(1.0)?.panel_bytes(panel);
        let layers = [0, 1].map(|number| layer(number, &sampler).fused(&learner).unwrap());
        let counts = |of: Option<learn::Statistics>| of.map(|of| (of.skipped, of.groups));
        assert!(learner.statistics(DEVICE)?.is_none() && layers[0].statistics()?.is_none());
        let make = |number: u32, xs: [&Tensor; 2]| -> Result<Vec<Option<(u64, u64)>>> {
            learner.begin(number, &at(number))?;
            let before = learner.norm(DEVICE)?.map(f32::to_bits);
            layers.iter().zip(xs).try_for_each(|(layer, x)| step(layer, x))?;
            assert_eq!(learner.norm(DEVICE)?.map(f32::to_bits), before, "that of the step before, until the end");
            let all = [layers[0].statistics()?, layers[1].statistics()?, learner.statistics(DEVICE)?];
            learner.end()?;
            let squares = all[2].unwrap().gradient_squares;
            let norm = f64::from(learner.norm(DEVICE)?.unwrap());
            assert!(norm.is_nan() || (norm / squares.sqrt() - 1.0).abs() < 1e-6, "{norm} {squares}");
            Ok(all.map(counts).to_vec())
        };
        let skipped =
            |[one, two]: [u64; 2]| vec![Some((one, groups)), Some((two, groups)), Some((one + two, 2 * groups))];
        assert_eq!(make(0, [&good, &good])?, skipped([0, 0]));
        // The loss is a sum, so that a NaN in a column of x is one in that column of the gradient: a group of each row.
        assert_eq!(make(1, [&good, &with_nan(37)?])?, skipped([0, 8]));
        assert!(learner.norm(DEVICE)?.unwrap() > 0.0);
        let nan = Tensor::full(f32::NAN, (4, 32), DEVICE)?;
        assert_eq!(make(2, [&nan, &good])?, skipped([groups, 0]));
        assert!(learner.norm(DEVICE)?.unwrap() > 0.0);
        let logits = layers[0].masked().logits().copy()?;
        assert_eq!(make(3, [&nan, &nan])?, skipped([groups, groups]));
        assert!(learner.norm(DEVICE)?.unwrap().is_nan(), "it is no norm of 0: nothing has converged");
        assert_eq!(learner.factor(DEVICE)?, Some(1.0));
        assert_eq!(distance(layers[0].masked().logits(), &logits), 0.0);
        // The run goes on, and what was reported stays until a layer moves.
        learner.begin(4, &at(4))?;
        assert!(learner.norm(DEVICE)?.unwrap().is_nan());
        assert_eq!(counts(learner.statistics(DEVICE)?), Some((2 * groups, 2 * groups)));
        assert_eq!(make(4, [&good, &good])?, skipped([0, 0]));
        assert!(learner.norm(DEVICE)?.unwrap() > 0.0);
        // A gradient of zeros is a norm of 0, and nothing skipped.
        let zeros = good.zeros_like()?;
        assert_eq!(make(5, [&zeros, &zeros])?, skipped([0, 0]));
        assert!(learner.norm(DEVICE)?.unwrap() < 1e-2, "λ alone");
        // One layer alone moves: the other's statistics are of the step before, and then of none.
        for number in 6..8 {
            learner.begin(number, &at(number))?;
            step(&layers[0], &good)?;
            learner.end()?;
            assert_eq!(counts(learner.statistics(DEVICE)?), Some((0, groups)));
            assert_eq!(counts(layers[1].statistics()?), (number == 6).then_some((0, groups)));
        }
    }
    Ok(())
}

/// Two weights of one number would be masked alike.
#[test]
fn one_number_is_one_weights() -> Result<()> {
    let sampler = Sampler::new(7);
    let first = layer(3, &sampler);
    let other = linear(9, [8, 32]);
    refused(MaskedLinear::from_linear(&other, 3, &sampler), &["number 3 ", "with_shard"]);
    refused(MaskedLinear::from_linear(&linear(3, [8, 32]), 3, &sampler), &["number 3 "]);
    refused(MaskedLinear::from_linear(&linear(9, [4, 32]), 3, &sampler), &["number 3 "]);
    // Another number, or another sampler, is another draw.
    drop(MaskedLinear::from_linear(&other, 2, &sampler)?);
    drop(MaskedLinear::from_linear(&other, 3, &Sampler::new(7))?);
    // Over one weight there may be several: copies, and layers made of it.
    let copy = first.clone();
    let again = MaskedLinear::new(first.weight(), None, Var::from_tensor(&first.logits().copy()?)?, 3, &sampler)?;
    let fused = first.fused(&Learner::new(&sampler, Moments::F32))?;
    drop(copy);
    drop(again);
    refused(MaskedLinear::from_linear(&other, 3, &sampler), &["number 3 "]);
    // When all are gone the number is free, though what came out of them is still there.
    let y = fused.forward(&randn(1, 1.0, &[2, 32]))?;
    drop(fused);
    let rebuilt = MaskedLinear::from_linear(&other, 3, &sampler)?;
    drop((rebuilt, y));
    // Experts that lie in one tensor are weights of their own.
    let experts = randn(1, 0.1, &[2, 8, 32]);
    let of =
        |expert: usize, number| MaskedLinear::from_linear(&Linear::new(experts.get(expert)?, None), number, &sampler);
    let expert = of(0, 5)?;
    refused(of(1, 5), &["number 5 "]);
    drop((of(0, 5)?, of(1, 6)?, expert));
    Ok(())
}

/// Shards of a weight share its number, as long as they do not meet.
#[test]
fn shards_share_a_number() -> Result<()> {
    let (sampler, x) = (Sampler::new(7), randn(1, 1.0, &[2, 32]));
    let shard = |seed: u64, row_offset, col_offset, global_cols| {
        let layer = MaskedLinear::from_linear(&linear(seed, [8, 32]), 1, &sampler)?;
        layer.with_shard(Shard { row_offset, col_offset, global_cols })
    };
    let first = shard(1, 0, 0, 64)?;
    let (right, below) = (shard(2, 0, 32, 64)?, shard(3, 8, 0, 64)?);
    for (row, col, cols) in [(0, 0, 64), (7, 0, 64), (0, 28, 64), (8, 32, 96)] {
        refused(shard(4, row, col, cols), &["number 1 "]);
    }
    [&first, &right, &below].iter().try_for_each(|layer| layer.forward(&x).map(drop))?;
    // One that does not say that it is a shard draws nothing. Without drawing there is nothing to refuse.
    let forgotten = MaskedLinear::from_linear(&linear(5, [8, 32]), 1, &sampler)?;
    for mode in [Mode::Soft, Mode::Hard] {
        sampler.update(|now| now.mode = mode)?;
        refused(forgotten.forward(&x), &["number 1 ", "with_shard"]);
    }
    sampler.update(|now| now.mode = Mode::Argmax)?;
    forgotten.forward(&x)?;
    sampler.update(|now| now.mode = Mode::Soft)?;
    drop((first, right, below));
    forgotten.forward(&x)?;
    Ok(())
}

/// Every expert of the largest mixtures has a number, and steps of its own.
#[test]
fn layers_beyond_sixteen_bits() -> Result<()> {
    let (sampler, eye) = (Sampler::new(3), Tensor::eye(32, DType::F32, DEVICE)?);
    sampler.update(|now| now.mode = Mode::Hard)?;
    let last = 61 * 384 * 3 - 1;
    let weight = linear(1, [8, 32]);
    let masked = |number| MaskedLinear::from_linear(&weight, number, &sampler)?.forward(&eye);
    // As it was before there were more.
    let before = masked(last & 0xffff)?;
    assert!(distance(&masked(last)?, &before) > 0.1);
    assert_eq!(distance(&masked(last & 0xffff)?, &before), 0.0);
    // Steps end earlier where there are more layers, and not without a word.
    let steps = noise::steps(last);
    assert_eq!(steps, 1 << 31);
    sampler.update(|now| now.step = (steps - 1) as u32)?;
    masked(last)?;
    sampler.update(|now| now.step = steps as u32)?;
    refused(masked(last), &["step 2147483648", "2147483648 steps"]);
    refused(masked(0), &["step 2147483648"]);
    sampler.update(|now| now.mode = Mode::Argmax)?;
    masked(last)?;
    // Of few layers all steps are there.
    let sampler = Sampler::new(3);
    sampler.update(|now| (now.step, now.micro_batch) = (u32::MAX, u16::MAX))?;
    MaskedLinear::from_linear(&weight, 65_535, &sampler)?.forward(&eye)?;
    Ok(())
}

/// One optimiser moves a variable.
#[test]
fn two_steppers_of_a_variable_are_refused() -> Result<()> {
    let (sampler, x) = (Sampler::new(1), randn(1, 1.0, &[4, 32]));
    let learner = Learner::new(&sampler, Moments::F32);
    let plain = layer(0, &sampler);
    let fused = plain.clone().fused(&learner)?;
    refused(plain.clone().fused(&learner), &["another FusedLinear"]);
    refused(plain.clone().fused(&Learner::new(&sampler, Moments::Eight)), &["another FusedLinear"]);
    // Another handle of the variable is the same one, under another sampler too.
    let other = Sampler::new(2);
    let handle = Var::from_tensor(plain.logits().as_tensor())?;
    let elsewhere = MaskedLinear::new(plain.weight(), None, handle, 0, &other)?;
    refused(elsewhere.fused(&Learner::new(&other, Moments::F32)), &["another FusedLinear"]);
    // An optimiser besides gets no gradient.
    let mut optimiser = AdamW::new(vec![plain.logits().clone()], ParamsAdamW::default())?;
    refused(optimiser.backward_step(&plain.forward(&x)?.sum_all()?), &["second optimiser"]);
    refused(fused.masked().forward(&x)?.sum_all()?.backward(), &["second optimiser"]);
    let masks =
        ops::Masks::new(twofour::mask::Kind::Soft, twofour::mask::Sampling { seed: 1, draw: 1, kappa: 1.0, tau: 1.0 });
    let masked = ops::masked_weight(plain.weight(), plain.logits(), masks)?;
    refused(masked.sum_all()?.backward(), &["second optimiser"]);
    // Evaluation, a copy, and a layer of another variable are free.
    plain.forward(&x)?;
    ops::masked_weight(plain.weight(), &plain.logits().as_detached_tensor(), masks)?;
    let copy = Var::from_tensor(&plain.logits().copy()?)?;
    let twin = MaskedLinear::new(plain.weight(), None, copy, 0, &sampler)?.fused(&learner)?;
    learner.begin(0, &at(0))?;
    step(&fused, &x)?;
    step(&twin, &x)?;
    // When the layer is gone the variable is free.
    drop(fused);
    optimiser.backward_step(&plain.forward(&x)?.sum_all()?)?;
    plain.fused(&learner)?;
    Ok(())
}

/// What no run can have left is not taken for a state.
#[test]
fn a_state_that_cannot_be_is_refused() -> Result<()> {
    for moments in [Moments::F32, Moments::Eight] {
        let sampler = Sampler::new(1);
        let learner = Learner::new(&sampler, moments);
        let fused = layer(0, &sampler).fused(&learner)?;
        learner.begin(0, &at(0))?;
        step(&fused, &randn(1, 1.0, &[4, 32]))?;
        let state = fused.state()?;
        let flat = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        for (wrong, tensor) in &state {
            if tensor.dtype() == DType::U8 {
                continue;
            }
            for value in [f32::NAN, f32::INFINITY, -1e-30] {
                let mut values = flat(tensor)?;
                values[1] = value;
                let bad = Tensor::from_vec(values, tensor.dims(), DEVICE)?;
                let get = |name: &str| {
                    let (_, old) = state.iter().find(|(other, _)| *other == name)?;
                    if name == *wrong { Some(bad.clone()) } else { Some(old.zeros_like().unwrap()) }
                };
                if value < 0.0 && *wrong == "m" {
                    continue;
                }
                refused(fused.set_state(get), &["element 1 of", wrong, "must be finite"]);
                for ((_, now), (_, before)) in fused.state()?.iter().zip(&state) {
                    assert_eq!(flat(now)?, flat(before)?, "nothing is changed");
                }
            }
        }
        fused.set_state(|name| state.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor.clone()))?;
        assert!(fused.statistics()?.is_none());
    }
    Ok(())
}

/// Leading dimensions are tokens for every layer, whose steps are the same.
#[test]
fn batches_of_sequences() -> Result<()> {
    let (flat, types) = (randn(1, 1.0, &[6, 32]), [DType::F32, DType::BF16]);
    let run = |x: &Tensor, dtype| -> Result<[Tensor; 3]> {
        let sampler = Sampler::new(1);
        let learner = Learner::new(&sampler, Moments::F32);
        let weight = linear(1, [8, 32]).weight().to_dtype(dtype)?;
        let bias = randn(2, 1.0, &[8]).to_dtype(dtype)?;
        let fused = MaskedLinear::from_linear(&Linear::new(weight, Some(bias)), 0, &sampler)?.fused(&learner)?;
        let compressed = fused.masked().compressed_as(DType::BF16)?;
        let compressed = CompressedLinear::new(&compressed, None, DEVICE, &Engine::default())?;
        let x = x.to_dtype(dtype)?;
        learner.begin(0, &at(0))?;
        let y = fused.forward(&x)?;
        y.sqr()?.sum_all()?.backward()?;
        let z = compressed.forward(&x.to_dtype(DType::BF16)?)?;
        Ok([y.detach(), z, fused.masked().logits().as_detached_tensor()])
    };
    for dtype in types {
        let [y, z, logits] = run(&flat, dtype)?;
        for leading in [vec![2, 3], vec![1, 6], vec![3, 1, 2]] {
            let with = |last: usize| [&leading[..], &[last]].concat();
            let [own_y, own_z, own_logits] = run(&flat.reshape(with(32))?, dtype)?;
            assert_eq!((own_y.dims(), own_z.dims()), (&with(8)[..], &with(8)[..]));
            for (own, expected) in [(own_y, &y), (own_z, &z), (own_logits, &logits)] {
                assert_eq!(distance(&own.flatten_all()?, &expected.flatten_all()?), 0.0, "{leading:?}");
            }
        }
    }
    Ok(())
}

/// Scalars outside their domain are refused, and nothing is changed.
#[test]
fn scalars_that_cannot_be_are_refused() -> Result<()> {
    let sampler = Sampler::new(1);
    let learner = || Learner::new(&sampler, Moments::F32);
    for norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(learner().clip(norm), &["max_norm"]);
    }
    let learner = learner();
    let before = sampler.settings();
    type Change = fn(&mut StepSettings, f64);
    let scalars: [(&str, Change, &[f64]); 8] = [
        ("rate", |now, value| now.adamw.rate = value, &[f64::NAN, -1.0, f64::INFINITY]),
        ("beta1", |now, value| now.adamw.beta1 = value, &[f64::NAN, -0.1, 1.0, 1.5]),
        ("beta2", |now, value| now.adamw.beta2 = value, &[f64::NAN, -0.1, 1.0]),
        ("epsilon", |now, value| now.adamw.epsilon = value, &[f64::NAN, 0.0, -1.0, f64::INFINITY]),
        ("decay", |now, value| now.adamw.decay = value, &[f64::NAN, -1.0, f64::INFINITY]),
        ("kappa", |now, value| now.kappa = value as f32, &[f64::NAN, -1.0, f64::INFINITY]),
        ("tau", |now, value| now.tau = value as f32, &[f64::NAN, -1.0, 0.0, f64::INFINITY]),
        ("regulariser", |now, value| now.regulariser = value as f32, &[f64::NAN, f64::INFINITY]),
    ];
    for (what, change, values) in scalars {
        for &value in values {
            let mut settings = at(0);
            change(&mut settings, value);
            refused(learner.begin(1, &settings), &[what]);
            assert_eq!(sampler.settings(), before);
        }
    }
    let fused = layer(0, &sampler).fused(&learner)?;
    refused(step(&fused, &randn(1, 1.0, &[4, 32])), &["Learner::begin"]);
    for (sigma, alpha) in [(f64::NAN, 1.0), (-1.0, 1.0), (0.1, f64::NAN), (0.1, f64::INFINITY)] {
        let codes = fused.masked().codes()?;
        refused(fused.masked().initialise(sigma, Some((&codes, alpha))), &["must be"]);
    }
    // λ of the operations below the layers, and a temperature whose inverse is infinite.
    let logits = fused.masked().logits().copy()?;
    let sampling = twofour::mask::Sampling { seed: 1, draw: 1, kappa: 1.0, tau: 1.0 };
    let tiny = twofour::mask::Sampling { tau: 1e-42, ..sampling };
    let of = |sampling, lambda| {
        let masks = ops::Masks::new(twofour::mask::Kind::Soft, sampling).regulariser(lambda);
        let logits = Var::from_tensor(&logits)?;
        let x = randn(1, 1.0, &[4, 32]);
        let weight = fused.masked().weight();
        let y = ops::masked_linear(&x, weight, &logits, masks, &Engine::default())?;
        let masked = ops::masked_weight(weight, &logits, masks)?;
        Ok([y.sum_all()?.backward().map(drop), masked.sum_all()?.backward().map(drop)])
    };
    let of = |sampling, lambda| -> Vec<Result<()>> {
        of(sampling, lambda).map_or_else(|e: candle_core::Error| vec![Err(e)], |both| both.into())
    };
    assert!(of(sampling, 0.1).into_iter().all(|result| result.is_ok()));
    for result in [of(sampling, f32::NAN), of(sampling, f32::INFINITY), of(tiny, 0.0)].into_iter().flatten() {
        refused(result, &["must be"]);
    }
    Ok(())
}
