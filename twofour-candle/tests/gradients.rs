//! The masked layer's outputs and gradients: against the same layer of candle's own operations in `f64`, and against
//! central differences.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use common::{distance, f64s, far, gumbels, mask, randn, terms, tolerance};
use proptest::prelude::*;
use twofour::mask::{Kind, Sampling};
use twofour::{Shape, Shard, noise};
use twofour_candle::{Engine, MaskedLinear, Mode, Sampler, ops};

/// A layer and what goes through it.
struct Case {
    shape: Shape,
    leading: Vec<usize>,
    kind: Kind,
    sampling: Sampling,
    weight: Tensor,
    logits: Tensor,
    x: Tensor,
    /// What the output is weighed with in the loss.
    loss: Tensor,
}

impl Case {
    fn new(seed: u64, shape: Shape, leading: &[usize], kind: Kind, dtype: DType) -> Self {
        let sampling = Sampling { seed, draw: noise::draw(3, 7, 1), kappa: 3.0, tau: 0.8 };
        let dims = |last: usize| [leading, &[last]].concat();
        let weight = randn(seed ^ 1, 0.5, &[shape.rows, shape.cols]).to_dtype(dtype).unwrap();
        let logits = randn(seed ^ 2, 0.3, &[shape.rows, shape.cols / 4, 6]);
        let x = randn(seed ^ 3, 1.0, &dims(shape.cols)).to_dtype(dtype).unwrap();
        let loss = randn(seed ^ 4, 1.0, &dims(shape.rows)).to_dtype(dtype).unwrap();
        Self { shape, leading: leading.to_vec(), kind, sampling, weight, logits, x, loss }
    }

    /// Output, and gradients of `x` and logits, by this crate.
    fn ours(&self, lambda: f32) -> Result<[Tensor; 3]> {
        let (x, logits) = (Var::from_tensor(&self.x)?, Var::from_tensor(&self.logits)?);
        let masks = ops::Masks::new(self.kind, self.sampling).regulariser(lambda);
        let y = ops::masked_linear(&x, &self.weight, &logits, masks, &Engine::default())?;
        let grads = (&y * &self.loss)?.sum_all()?.backward()?;
        Ok([y.clone(), grads.get(&x).unwrap().clone(), grads.get(&logits).unwrap().clone()])
    }

    /// The same by candle, in `f64`.
    fn theirs(&self, lambda: f64) -> Result<[Tensor; 3]> {
        let (x, logits) = (Var::from_tensor(&f64s(&self.x))?, Var::from_tensor(&f64s(&self.logits))?);
        let noise = gumbels(self.shape, Shard::whole(self.shape.cols as u64), self.sampling);
        let masked = (mask(&logits, &noise, self.kind, self.sampling)? * f64s(&self.weight))?;
        let tokens = self.leading.iter().product::<usize>();
        let y = x.reshape((tokens, self.shape.cols))?.matmul(&masked.t()?)?;
        let y = y.reshape([&self.leading[..], &[self.shape.rows]].concat())?;
        let regulariser = (masked.sqr()?.sum_all()? * -lambda)?;
        let grads = ((&y * f64s(&self.loss))?.sum_all()? + regulariser)?.backward()?;
        Ok([y.clone(), grads.get(&x).unwrap().clone(), grads.get(&logits).unwrap().clone()])
    }

    /// The terms of which an output's sums are made: what their rounding goes by.
    fn scales(&self, lambda: f64) -> [f64; 3] {
        // Masks are at most 1.
        let weight = f64s(&self.weight).abs().unwrap();
        let tokens = self.leading.iter().product::<usize>();
        let [x, dy] = [(&self.x, self.shape.cols), (&self.loss, self.shape.rows)]
            .map(|(tensor, cols)| f64s(tensor).reshape((tokens, cols)).unwrap().abs().unwrap());
        let of_weight = (dy.t().unwrap().matmul(&x).unwrap() * &weight).unwrap();
        let of_weight = (of_weight + (weight.sqr().unwrap() * (2.0 * lambda)).unwrap()).unwrap();
        let groups = of_weight.reshape((self.shape.groups(), 4)).unwrap().sum(1).unwrap();
        let slope = f64::from(self.sampling.kappa / self.sampling.tau);
        [terms(&x, &weight.t().unwrap()), terms(&dy, &weight), slope * common::largest(&groups)]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn as_candle_computes(
        seed: u64,
        (rows, groups) in (1..24_usize, 1..12_usize),
        leading in prop_oneof![Just(vec![]), (1..40_usize).prop_map(|t| vec![t]), Just(vec![3, 5]), Just(vec![2, 1, 7])],
        kind in prop_oneof![Just(Kind::Soft), Just(Kind::Hard)],
        dtype in prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)],
        lambda in prop_oneof![Just(0.0_f32), Just(0.03)],
    ) {
        let case = Case::new(seed, Shape::new(rows, 4 * groups), &leading, kind, dtype);
        let (ours, theirs) = (case.ours(lambda).unwrap(), case.theirs(f64::from(lambda)).unwrap());
        let scales = case.scales(f64::from(lambda));
        let all = ours.iter().zip(&theirs).zip(scales);
        for (what, ((ours, theirs), scale)) in ["y", "dx", "dlogits"].iter().zip(all) {
            prop_assert_eq!(ours.dims(), theirs.dims());
            let far = far(ours, theirs, scale);
            prop_assert!(far <= tolerance(dtype), "{what}: {far:e} of {:e}", tolerance(dtype));
        }
    }
}

/// Central differences of the loss in `f32`, whose sum is taken in `f64`.
#[test]
fn as_central_differences_say() {
    let case = Case::new(11, Shape::new(3, 8), &[5], Kind::Soft, DType::F32);
    let loss = |x: &Tensor, logits: &Tensor| -> f64 {
        let masks = ops::Masks::new(Kind::Soft, case.sampling);
        let y = ops::masked_linear(x, &case.weight, logits, masks, &Engine::default()).unwrap();
        (f64s(&y) * f64s(&case.loss)).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    let nudged = |tensor: &Tensor, at: usize, by: f32| -> Tensor {
        let mut values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[at] += by;
        Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap()
    };
    let [_, dx, dlogits] = case.ours(0.0).unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let step = 1.0 / 128.0;
    let slope = |up: f64, down: f64| (up - down) / (2.0 * f64::from(step));
    for (at, expected) in flat(&dx).into_iter().enumerate() {
        let [up, down] = [step, -step].map(|by| loss(&nudged(&case.x, at, by), &case.logits));
        let got = slope(up, down);
        // Linear in x: only rounding is left.
        assert!((got - f64::from(expected)).abs() < 2e-4, "dx[{at}]: {got} {expected}");
    }
    for (at, expected) in flat(&dlogits).into_iter().enumerate() {
        let [up, down] = [step, -step].map(|by| loss(&case.x, &nudged(&case.logits, at, by)));
        let got = slope(up, down);
        assert!((got - f64::from(expected)).abs() < 2e-3, "dlogits[{at}]: {got} {expected}");
    }
}

/// The masked weight alone: both of its gradients, for every kind of mask.
#[test]
fn masked_weight_has_both_gradients() {
    for kind in [Kind::Soft, Kind::Hard, Kind::Argmax] {
        let case = Case::new(5, Shape::new(6, 12), &[4], kind, DType::F32);
        let (weight, logits) = (Var::from_tensor(&case.weight).unwrap(), Var::from_tensor(&case.logits).unwrap());
        let masked = ops::masked_weight(&weight, &logits, ops::Masks::new(kind, case.sampling)).unwrap();
        let weigh = randn(9, 1.0, &[6, 12]);
        let grads = (&masked * &weigh).unwrap().sum_all().unwrap().backward().unwrap();

        let (w64, l64) = (Var::from_tensor(&f64s(&weight)).unwrap(), Var::from_tensor(&f64s(&logits)).unwrap());
        let noise = gumbels(case.shape, Shard::whole(12), case.sampling);
        let masked64 = (mask(&l64, &noise, kind, case.sampling).unwrap() * w64.as_tensor()).unwrap();
        let grads64 = (&masked64 * f64s(&weigh)).unwrap().sum_all().unwrap().backward().unwrap();

        assert!(distance(&masked, &masked64) < 2e-6);
        assert!(distance(grads.get(&weight).unwrap(), grads64.get(&w64).unwrap()) < 2e-6);
        match kind {
            Kind::Argmax => assert!(grads.get(&logits).is_none(), "an argmax mask has no gradient"),
            _ => assert!(distance(grads.get(&logits).unwrap(), grads64.get(&l64).unwrap()) < 2e-5),
        }
    }
}

/// The linear layer, and a product by the masked weight, are the same, with the regulariser that both add.
#[test]
fn two_ways_to_the_same() -> Result<()> {
    for kind in [Kind::Soft, Kind::Hard] {
        let case = Case::new(21, Shape::new(16, 32), &[10], kind, DType::F32);
        let [.., without] = case.ours(0.0)?;
        for lambda in [0.0, 0.1] {
            let [y, dx, dlogits] = case.ours(lambda)?;
            let (x, logits) = (Var::from_tensor(&case.x)?, Var::from_tensor(&case.logits)?);
            let masks = ops::Masks::new(case.kind, case.sampling).regulariser(lambda);
            let masked = ops::masked_weight(&case.weight, &logits, masks)?;
            let other = x.matmul(&masked.t()?)?;
            let grads = (&other * &case.loss)?.sum_all()?.backward()?;
            assert!(distance(&y, &other) < 1e-6);
            assert!(distance(&dx, grads.get(&x).unwrap()) < 1e-6);
            assert!(distance(&dlogits, grads.get(&logits).unwrap()) < 1e-5, "{kind:?} {lambda}");
            assert_eq!(distance(&dlogits, &without) > 1e-2, lambda > 0.0, "or λ is not seen");
        }
    }
    Ok(())
}

/// The gradient of the masked weight to its logits is the linear layer's with `x` the identity: λ, and the slice of a
/// larger weight, are in both.
#[test]
fn a_masked_weight_is_a_layer_of_the_identity() -> Result<()> {
    let shape = Shape::new(8, 24);
    let shard = Shard { row_offset: 5, col_offset: 8, global_cols: 64 };
    for (kind, lambda) in [(Kind::Soft, 0.1), (Kind::Hard, 0.1), (Kind::Soft, 0.0)] {
        let case = Case::new(33, shape, &[24], kind, DType::F32);
        let masks = ops::Masks::new(kind, case.sampling).regulariser(lambda).shard(shard);
        let logits = Var::from_tensor(&case.logits)?;
        let identity = Tensor::eye(24, DType::F32, &Device::Cpu)?;
        let y = ops::masked_linear(&identity, &case.weight, &logits, masks, &Engine::default())?;
        let by_layer = (&y * &case.loss)?.sum_all()?.backward()?;
        let masked = ops::masked_weight(&case.weight, &logits, masks)?;
        let by_weight = (&masked * case.loss.t()?)?.sum_all()?.backward()?;
        assert_eq!(distance(&masked, &y.t()?), 0.0);
        let far = distance(by_weight.get(&logits).unwrap(), by_layer.get(&logits).unwrap());
        assert!(far < 1e-5, "{kind:?} {lambda}: {far:e}");
        let whole = ops::masked_weight(&case.weight, &logits, ops::Masks::new(kind, case.sampling))?;
        assert!(distance(&masked, &whole) > 0.01, "or the slice is not seen");
    }
    Ok(())
}

/// Through a model: a gradient reaches layers before and after, and only what is asked for is in the store.
#[test]
fn only_what_is_asked_for() -> Result<()> {
    let sampler = Sampler::new(1);
    let linear = |seed| Linear::new(randn(seed, 0.3, &[8, 8]), None);
    let (first, second) =
        (MaskedLinear::from_linear(&linear(1), 0, &sampler)?, MaskedLinear::from_linear(&linear(2), 1, &sampler)?);
    let x = randn(3, 1.0, &[4, 8]);
    let grads = second.forward(&first.forward(&x)?.relu()?)?.sqr()?.sum_all()?.backward()?;
    assert!(grads.get(first.logits()).is_some() && grads.get(second.logits()).is_some());
    assert!(grads.get(first.weight()).is_none() && grads.get(&x).is_none());

    // Evaluation has gradients to what is before, and none to the logits; nothing panics.
    sampler.update(|now| now.mode = Mode::Argmax)?;
    let x = Var::from_tensor(&x)?;
    let grads = second.forward(&first.forward(&(x.as_tensor() * 2.0)?)?)?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_some() && grads.get(first.logits()).is_none());

    // Logits that come out of something else get their gradient through it.
    let scale = Var::new(0.5_f32, &Device::Cpu)?;
    let logits = randn(5, 1.0, &[8, 2, 6]).broadcast_mul(&scale)?;
    for (kind, reached) in [(Kind::Soft, true), (Kind::Argmax, false)] {
        let masks = ops::Masks::new(kind, Sampling { seed: 1, draw: 1, kappa: 1.0, tau: 1.0 });
        let y = ops::masked_linear(&x, second.weight(), &logits, masks, &Engine::default())?;
        assert_eq!(y.sum_all()?.backward()?.get(&scale).is_some(), reached);
    }
    Ok(())
}

/// What holds when the forward pass is called holds for its backward pass, though it has changed since.
#[test]
fn the_backward_pass_sees_the_forward_pass_masks() -> Result<()> {
    let sampler = Sampler::new(77);
    let layer = MaskedLinear::from_linear(&Linear::new(randn(1, 1.0, &[8, 16]), None), 4, &sampler)?;
    layer.logits().set(&randn(2, 0.1, &[8, 4, 6]))?;
    let x = randn(3, 1.0, &[6, 16]);
    let backward = |between: &dyn Fn() -> Result<()>| -> Result<Tensor> {
        sampler.update(|now| (now.step, now.micro_batch, now.mode, now.tau) = (0, 0, Mode::Soft, 1.0))?;
        let loss = layer.forward(&x)?.sqr()?.sum_all()?;
        between()?;
        Ok(loss.backward()?.get(layer.logits()).unwrap().clone())
    };
    let steady = backward(&|| Ok(()))?;
    let moved = backward(&|| sampler.update(|now| (now.step, now.mode, now.tau) = (9, Mode::Argmax, 0.1)))?;
    assert_eq!(distance(&steady, &moved), 0.0);
    assert!(distance(&steady, &steady.zeros_like()?) > 0.0);
    Ok(())
}
