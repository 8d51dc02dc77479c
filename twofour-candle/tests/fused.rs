//! The layer that learns by itself: the same steps as a gradient and `learn::Update`, in panels or whole; its errors; its
//! state; clipping.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use common::{distance, randn};
use proptest::prelude::*;
use twofour::learn::{self, AdamW, Clip, NORM_SLOTS, Recipe, Rounding, Step, StepSettings, Update};
use twofour::{Cpu, Executor, Shape, Shard, bf16, noise};
use twofour_candle::{FusedLinear, Learner, MaskedLinear, Mode, Moments, Sampler};

fn settings(step: u64) -> StepSettings {
    let adamw = AdamW { rate: 0.05, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, step: step + 1 };
    StepSettings { kappa: 3.0, tau: 0.8, regulariser: 0.02, adamw }
}

fn layer(shape: Shape, [weights, logits]: [DType; 2], sampler: &Sampler) -> MaskedLinear {
    let weight = randn(1, 0.5, &[shape.rows, shape.cols]).to_dtype(weights).unwrap();
    let bias = randn(2, 1.0, &[shape.rows]).to_dtype(weights).unwrap();
    let scores = randn(3, 0.3, &[shape.rows, shape.cols / 4, 6]).to_dtype(logits).unwrap();
    MaskedLinear::new(&weight, Some(&bias), Var::from_tensor(&scores).unwrap(), 7, sampler).unwrap()
}

/// Another layer over the same weight, with a copy of its logits.
fn twin(layer: &MaskedLinear) -> MaskedLinear {
    let logits = Var::from_tensor(&layer.logits().copy().unwrap()).unwrap();
    MaskedLinear::new(layer.weight(), layer.bias(), logits, layer.layer(), layer.sampler()).unwrap()
}

fn loss(y: &Tensor) -> Result<Tensor> {
    (y.sqr()? * 0.5)?.sum_all()
}

/// Logits and moments on the host, stepped by a gradient of the plain layer.
struct Reference {
    shape: Shape,
    dtype: DType,
    wide: Vec<f32>,
    narrow: Vec<bf16>,
    full: [Vec<f32>; 2],
    eight: ([Vec<u8>; 2], Vec<f32>),
    squares: Vec<f64>,
    factor: Vec<f32>,
}

impl Reference {
    fn new(layer: &MaskedLinear) -> Self {
        let (shape, dtype) = (layer.shape(), layer.logits().dtype());
        let logits = layer.logits().flatten_all().unwrap();
        let wide = logits.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        let narrow = logits.to_dtype(DType::BF16).unwrap().to_vec1().unwrap();
        let n = shape.logits();
        let full = [vec![0.0; n], vec![0.0; n]];
        let eight = ([vec![0; n], vec![0; n]], vec![0.0; learn::Moments::scales(shape)]);
        Self { shape, dtype, wide, narrow, full, eight, squares: vec![0.0; NORM_SLOTS], factor: vec![1.0] }
    }

    fn step(&mut self, moments: Moments, gradient: &[f32], adamw: AdamW, rounding: Rounding) {
        let ([m8, v8], scales) = &mut self.eight;
        let [m, v] = &mut self.full;
        let moments = match moments {
            Moments::F32 => learn::Moments::f32(m, v),
            Moments::Eight => learn::Moments::eight(m8, v8, scales),
        };
        let step = Step::new(adamw, moments).factor(&self.factor);
        if self.dtype == DType::F32 {
            let pass = Update::new(self.shape, gradient, &mut self.wide, step).rounding(rounding);
            Cpu.run(pass.norm_squares(&mut self.squares)).unwrap();
        } else {
            let pass = Update::new(self.shape, gradient, &mut self.narrow, step).rounding(rounding);
            Cpu.run(pass.norm_squares(&mut self.squares)).unwrap();
        }
    }

    fn logits(&self) -> Vec<f32> {
        if self.dtype == DType::F32 { self.wide.clone() } else { self.narrow.iter().map(|x| x.to_f32()).collect() }
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..Default::default() })]

    /// Some steps, with the clip factor of the step before: the same bits as the plain layer's gradient and `Update`, with
    /// panels of any size; and the same output and input gradient.
    #[test]
    fn steps_are_those_of_a_gradient_in_memory(
        seed: u64,
        (rows, groups) in (1..150_usize, 1..40_usize),
        tokens in 1..9_usize,
        types in prop_oneof![
            Just([DType::F32, DType::F32]), Just([DType::BF16, DType::BF16]), Just([DType::BF16, DType::F32]),
        ],
        moments in prop_oneof![Just(Moments::F32), Just(Moments::Eight)],
        mode in prop_oneof![Just(Mode::Soft), Just(Mode::Hard)],
        panel in prop_oneof![Just(0_usize), Just(1 << 12), Just(1 << 15), Just(16 << 20)],
        clipped: bool,
    ) {
        let shape = Shape::new(rows, 4 * groups);
        let sampler = Sampler::new(seed);
        sampler.update(|now| now.mode = mode).unwrap();
        let plain = layer(shape, types, &sampler);
        let mut reference = Reference::new(&plain);
        let learner = Learner::new(&sampler, moments).panel_bytes(panel);
        let max_norm = 0.5;
        let learner = if clipped { learner.clip(max_norm).unwrap() } else { learner };
        let fused = twin(&plain).fused(&learner).unwrap();
        for step in 0..3 {
            learner.begin(step, &settings(step.into())).unwrap();
            let x = Var::from_tensor(&randn(seed ^ u64::from(step), 1.0, &[tokens, shape.cols]).to_dtype(types[0]).unwrap()).unwrap();

            // A gradient in f32, whatever the logits are: of f32 logits with the same values.
            let wide = Var::from_tensor(&plain.logits().to_dtype(DType::F32).unwrap()).unwrap();
            let exact = MaskedLinear::new(plain.weight(), plain.bias(), wide, 7, &sampler).unwrap();
            let y = exact.forward(&x).unwrap();
            let grads = loss(&y).unwrap().backward().unwrap();
            let rounding = Rounding { seed, draw: noise::draw(7, step, 0) };
            let gradient = flat(grads.get(exact.logits()).unwrap());
            reference.step(moments, &gradient, settings(step.into()).adamw, rounding);
            if clipped {
                Cpu.run(Clip::new(max_norm, &mut reference.squares, &mut reference.factor)).unwrap();
            }

            let own = fused.forward(&x).unwrap();
            prop_assert_eq!(distance(&own, &y), 0.0);
            let own_grads = loss(&own).unwrap().backward().unwrap();
            prop_assert_eq!(distance(own_grads.get(&x).unwrap(), grads.get(&x).unwrap()), 0.0);
            prop_assert!(own_grads.get(fused.masked().logits()).is_none());
            learner.end().unwrap();

            let own = flat(fused.masked().logits());
            let expected = reference.logits();
            // The norm is summed by panels: the factor may differ in its last bit, and with it a rounding.
            let exact = !clipped || step == 0;
            let far = own.iter().zip(&expected).filter(|(a, b)| if exact { a != b } else { (**a - **b).abs() > 3e-2 }).count();
            prop_assert_eq!(far, 0, "step {}", step);
            if exact {
                let state = fused.state().unwrap();
                match moments {
                    Moments::F32 => prop_assert_eq!(flat(&state[1].1), reference.full[1].clone()),
                    Moments::Eight => {
                        let (name, v) = &state[1];
                        prop_assert_eq!((*name, v.dtype()), ("v", DType::U8));
                        prop_assert_eq!(v.flatten_all().unwrap().to_vec1::<u8>().unwrap(), reference.eight.0[1].clone());
                        prop_assert_eq!(flat(&state[2].1), reference.eight.1.clone());
                    }
                }
            }
            plain.logits().set(fused.masked().logits()).unwrap();
            // So that the comparison of a step does not begin with the last one's difference.
            reference.narrow = plain.logits().flatten_all().unwrap().to_dtype(DType::BF16).unwrap().to_vec1().unwrap();
            reference.wide = flat(plain.logits());
            if !exact {
                break;
            }
        }
    }
}

/// The norm that clipping sees is that of the gradient over all layers, and what it makes of it holds for the next step.
#[test]
fn clipping_is_by_the_last_steps_norm() -> Result<()> {
    let sampler = Sampler::new(3);
    let shape = Shape::new(24, 32);
    let learner = Learner::new(&sampler, Moments::F32).clip(0.25)?.panel_bytes(0);
    let plain = layer(shape, [DType::F32; 2], &sampler);
    let plain = [twin(&plain), plain];
    let fused = [0, 1].map(|i| twin(&plain[i]).fused(&learner).unwrap());
    let x = randn(5, 1.0, &[6, 32]);
    learner.begin(0, &settings(0))?;
    let sum = |ys: [Tensor; 2]| -> Result<Tensor> { loss(&ys[0])? + (loss(&ys[1])? * 2.0)? };
    let grads = sum([plain[0].forward(&x)?, plain[1].forward(&x)?])?.backward()?;
    let squares: f64 =
        plain.iter().flat_map(|layer| flat(grads.get(layer.logits()).unwrap())).map(|g| f64::from(g).powi(2)).sum();
    assert!(learner.norm(&Device::Cpu)?.is_none());
    sum([fused[0].forward(&x)?, fused[1].forward(&x)?])?.backward()?;
    assert!(learner.norm(&Device::Cpu)?.is_none(), "the step has not ended");
    learner.end()?;
    let norm = learner.norm(&Device::Cpu)?.unwrap();
    assert!((f64::from(norm) / squares.sqrt() - 1.0).abs() < 1e-6, "{norm} {}", squares.sqrt());
    assert!(norm > 1.0, "or nothing is clipped");
    // AdamW's first step has no scale; the second moment of a second one shows the factor.
    let before = flat(&fused[0].state()?[1].1);
    plain[0].logits().set(fused[0].masked().logits())?;
    learner.begin(1, &settings(1))?;
    let gradient = flat(loss(&plain[0].forward(&x)?)?.backward()?.get(plain[0].logits()).unwrap());
    loss(&fused[0].forward(&x)?)?.backward()?;
    let factor = 0.25 / (squares.sqrt() + 1e-6);
    for ((new, old), g) in flat(&fused[0].state()?[1].1).into_iter().zip(before).zip(gradient) {
        let expected = 0.95 * f64::from(old) + 0.05 * (factor * f64::from(g)).powi(2);
        assert!((f64::from(new) - expected).abs() <= 1e-5 * expected + 1e-12, "{new} {expected}");
    }
    Ok(())
}

/// A run that was saved and loaded goes on to the same bits, clipping too.
#[test]
fn a_state_resumes() -> Result<()> {
    for (moments, logits) in [(Moments::F32, DType::F32), (Moments::Eight, DType::BF16)] {
        let run = |fused: &FusedLinear, steps: std::ops::Range<u32>| -> Result<()> {
            for step in steps {
                fused.learner().begin(step, &settings(step.into()))?;
                loss(&fused.forward(&randn(step.into(), 1.0, &[4, 64]).to_dtype(DType::BF16)?)?)?.backward()?;
                fused.learner().end()?;
            }
            Ok(())
        };
        let fresh = || -> Result<FusedLinear> {
            let sampler = Sampler::new(8);
            let learner = Learner::new(&sampler, moments).clip(0.25)?;
            layer(Shape::new(40, 64), [DType::BF16, logits], &sampler).fused(&learner)
        };
        let whole = fresh()?;
        run(&whole, 0..6)?;
        let first = fresh()?;
        run(&first, 0..3)?;
        let (saved, state) = (first.masked().logits().copy()?, first.state()?);
        let factor = first.learner().factor(&Device::Cpu)?.unwrap();
        assert!(factor < 1.0, "or it would not be missed");
        if let Some((_, scales)) = state.get(2) {
            assert_eq!(scales.dims(), [10, 2]);
        }
        let second = fresh()?;
        second.masked().logits().set(&saved)?;
        assert!(second.set_state(|name| (name == "m").then(|| state[0].1.clone())).is_err());
        assert!(second.set_state(|_| Some(saved.flatten_all().unwrap())).is_err());
        second.set_state(|name| state.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor.clone()))?;
        assert!(second.learner().factor(&Device::Cpu)?.is_none());
        for wrong in [-0.5, 1.5, f32::NAN] {
            assert!(second.learner().set_factor(wrong, &Device::Cpu).is_err());
        }
        second.learner().set_factor(factor, &Device::Cpu)?;
        run(&second, 3..6)?;
        assert_eq!(second.learner().factor(&Device::Cpu)?, whole.learner().factor(&Device::Cpu)?);
        for ((_, own), (_, other)) in second.state()?.iter().zip(&whole.state()?) {
            assert_eq!(flat(own), flat(other));
        }
        assert_eq!(flat(second.masked().logits()), flat(whole.masked().logits()));
        assert_ne!(flat(first.masked().logits()), flat(whole.masked().logits()));
    }
    Ok(())
}

/// Slices of a layer make the slices of the whole's steps, of which noise and rounding are a part.
#[test]
fn shards_step_as_the_whole() -> Result<()> {
    for (types, across) in [([DType::F32; 2], true), ([DType::BF16; 2], false)] {
        let x = randn(1, 1.0, &[5, 32]).to_dtype(types[0])?;
        let dy = randn(2, 1.0, &[5, 12]).to_dtype(types[0])?;
        let part = |[row, rows, col, cols]: [usize; 4]| -> Result<[Tensor; 2]> {
            let whole = layer(Shape::new(12, 32), types, &Sampler::new(5));
            let weight = whole.weight().narrow(0, row, rows)?.narrow(1, col, cols)?;
            let logits = |of: &Tensor| of.narrow(0, row, rows)?.narrow(1, col / 4, cols / 4)?.contiguous();
            let start = logits(whole.logits())?;
            let sampler = Sampler::new(5);
            let slice = MaskedLinear::new(&weight, None, Var::from_tensor(&start)?, 7, &sampler)?;
            let shard = Shard { row_offset: row as u64, col_offset: col as u64, global_cols: 32 };
            let fused = slice.with_shard(shard)?.fused(&Learner::new(&sampler, Moments::F32).panel_bytes(0))?;
            let of_whole = Learner::new(whole.sampler(), Moments::F32);
            let by_whole = whole.fused(&of_whole)?;
            for (layer, x, dy) in
                [(&by_whole, x.clone(), dy.clone()), (&fused, x.narrow(1, col, cols)?, dy.narrow(1, row, rows)?)]
            {
                for step in 0..3 {
                    layer.learner().begin(step, &settings(step.into()))?;
                    (layer.forward(&x)? * &dy)?.sum_all()?.backward()?;
                    layer.learner().end()?;
                }
            }
            Ok([fused.masked().logits().copy()?, logits(by_whole.masked().logits())?])
        };
        let mut parts = vec![[0, 5, 0, 32], [5, 7, 0, 32]];
        if across {
            parts.extend([[0, 12, 0, 12], [3, 4, 12, 20]]);
        }
        for slice in parts {
            let [own, expected] = part(slice)?;
            assert!(distance(&own, &expected) < 1e-5, "{types:?} {slice:?}");
        }
    }
    Ok(())
}

/// More than one micro-batch a step is an error, not a wrong step; evaluation between is none.
#[test]
fn once_a_step() -> Result<()> {
    let sampler = Sampler::new(1);
    let learner = Learner::new(&sampler, Moments::F32);
    let fused = layer(Shape::new(8, 16), [DType::F32; 2], &sampler).fused(&learner)?;
    let x = randn(1, 1.0, &[3, 16]);
    let says = |result: Result<candle_core::backprop::GradStore>, what: &str| {
        let message = result.err().unwrap().to_string();
        assert!(message.contains(what), "`{message}` should say `{what}`");
    };
    says(loss(&fused.forward(&x)?)?.backward(), "call `Learner::begin`");
    learner.begin(0, &settings(0))?;
    let before = flat(fused.masked().logits());
    // Twice in one graph: the second backward pass finds moved logits.
    let twice = (loss(&fused.forward(&x)?)? + loss(&fused.forward(&x)?)?)?;
    says(twice.backward(), "have moved since");
    assert_ne!(flat(fused.masked().logits()), before);
    // A second micro-batch.
    says(loss(&fused.forward(&x)?)?.backward(), "has made step 1 already");
    learner.begin(1, &settings(1))?;
    let graph = loss(&fused.forward(&x)?)?;
    sampler.update(|now| now.mode = Mode::Argmax)?;
    let moved = flat(fused.masked().logits());
    fused.forward(&x)?;
    // No gradient, no step.
    assert!(loss(&fused.forward(&x)?)?.backward()?.get(fused.masked().logits()).is_none());
    assert_eq!(flat(fused.masked().logits()), moved);
    graph.backward()?;
    assert_ne!(flat(fused.masked().logits()), moved);

    let other = Learner::new(&Sampler::new(1), Moments::F32);
    assert!(twin(fused.masked()).fused(&other).is_err());
    assert!(Learner::new(&sampler, Moments::F32).clip(0.0).is_err());
    assert!(learner.set_factor(0.5, &Device::Cpu).is_err(), "it does not clip");
    let wrong = StepSettings { adamw: AdamW { rate: -1.0, ..settings(0).adamw }, ..settings(0) };
    assert!(learner.begin(2, &wrong).is_err() && sampler.settings().step == 1);
    Ok(())
}

/// Two layers learn by themselves, with eight bits.
#[test]
fn a_model_learns_by_itself() -> Result<()> {
    let [first, second] = [(1, [32, 16]), (2, [8, 32])].map(|(seed, dims)| Linear::new(randn(seed, 0.4, &dims), None));
    let x = randn(3, 1.0, &[128, 16]);
    let dense = second.forward(&first.forward(&x)?.relu()?)?;
    for moments in [Moments::F32, Moments::Eight] {
        let sampler = Sampler::new(9);
        let learner = Learner::new(&sampler, moments).clip(1.0)?;
        let first = MaskedLinear::from_linear(&first, 0, &sampler)?.fused(&learner)?;
        let second = MaskedLinear::from_linear(&second, 1, &sampler)?.fused(&learner)?;
        let loss = || (second.forward(&first.forward(&x)?.relu()?)? - &dense)?.sqr()?.mean_all();
        let evaluate = || -> Result<f32> {
            let before = sampler.settings();
            sampler.update(|now| now.mode = Mode::Argmax)?;
            let value = loss()?.to_scalar();
            sampler.set(before)?;
            value
        };
        let before = evaluate()?;
        let recipe = Recipe { steps: 150, ..Recipe::maskllm(150) };
        for step in 0..150 {
            let mut now = recipe.at(step.into());
            (now.kappa, now.adamw.rate) = (10.0, 0.02);
            learner.begin(step, &now)?;
            loss()?.backward()?;
            learner.end()?;
        }
        let after = evaluate()?;
        println!("{moments:?}: loss {before} before, {after} after");
        assert!(after < 0.6 * before, "{moments:?}: {before} {after}");
    }
    Ok(())
}
