//! What learning costs in memory, by a global allocator that counts: bytes that live and their peak.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../tests/common/counted.rs"]
mod counted;

use std::sync::Mutex;

use candle_core::{DType, Device, Module, Result, Var};
use candle_nn::Linear;
use counted::{live, peak};
use twofour::Shape;
use twofour::learn::Recipe;
use twofour_candle::{Learner, MaskedLinear, Moments, Sampler};

/// One measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

const SHAPE: Shape = Shape::new(1024, 512);
const LAYERS: u32 = 4;
const TOKENS: usize = 8;

fn linear(seed: u64) -> Linear {
    let weight = common::randn(seed, 0.1, &[SHAPE.rows, SHAPE.cols]);
    Linear::new(weight.to_dtype(DType::BF16).unwrap(), None)
}

/// Weight, logits, moments, and whatever else stays: all that a model of such layers has allocated after some steps.
#[test]
fn bytes_a_masked_weight() -> Result<()> {
    let _alone = ALONE.lock().unwrap();
    for (logits, moments, promised) in
        [(DType::F32, Moments::F32, 20.0), (DType::BF16, Moments::Eight, 8.0 + 12.0 / 384.0)]
    {
        let sampler = Sampler::new(1);
        let learner = Learner::new(&sampler, moments).clip(1.0)?.panel_bytes(1 << 20);
        let x = common::randn(5, 1.0, &[TOKENS, SHAPE.cols]).to_dtype(DType::BF16)?;
        // What threads and libraries allocate once is not the model's.
        for round in 0..2 {
            let before = live();
            let layers: Vec<_> = (0..LAYERS)
                .map(|number| {
                    let weight = linear(number.into());
                    let logits = Var::zeros((SHAPE.rows, SHAPE.cols / 4, 6), logits, &Device::Cpu)?;
                    MaskedLinear::new(weight.weight(), None, logits, number, &sampler)?.fused(&learner)
                })
                .collect::<Result<_>>()?;
            for step in 0..2 {
                learner.begin(2 * round + step, &Recipe::maskllm(10).at(u64::from(2 * round + step)))?;
                let losses = layers.iter().map(|layer| layer.forward(&x)?.sqr()?.sum_all());
                losses.reduce(|a, b| a? + b?).unwrap()?.backward()?;
                learner.end()?;
            }
            let weights = f64::from(LAYERS) * SHAPE.weights() as f64;
            let bytes = (live() - before) as f64 / weights;
            println!("{logits:?} logits, {moments:?}: {bytes:.4} bytes a masked weight");
            if round == 1 {
                assert!(bytes <= promised + 0.01 && bytes >= promised - 0.001, "{bytes} of {promised}");
            }
        }
    }
    Ok(())
}

/// A forward pass leaves its output, and nothing in the measure of the weight.
#[test]
fn nothing_is_kept_between_the_passes() -> Result<()> {
    let _alone = ALONE.lock().unwrap();
    let sampler = Sampler::new(1);
    let plain = MaskedLinear::from_linear(&linear(1), 0, &sampler)?;
    let learner = Learner::new(&sampler, Moments::F32);
    let fused = MaskedLinear::from_linear(&linear(2), 1, &sampler)?.fused(&learner)?;
    let x = Var::from_tensor(&common::randn(5, 1.0, &[TOKENS, SHAPE.cols]).to_dtype(DType::BF16)?)?;
    let keeps = |module: &dyn Module| -> Result<usize> {
        drop(module.forward(&x)?);
        let before = live();
        let y = module.forward(&x)?;
        let kept = live() - before;
        drop(y);
        Ok(kept)
    };
    let output = TOKENS * SHAPE.rows * 2;
    for (what, kept) in [("plain", keeps(&plain)?), ("fused", keeps(&fused)?)] {
        println!("{what}: {kept} bytes kept, the output is {output}");
        assert!(kept <= output + 4096, "{what}: {kept} of {output}");
    }
    Ok(())
}

/// A backward pass that makes the step needs no gradient of all logits: a panel of it, and work space of the product.
#[test]
fn the_gradient_is_never_there_as_a_whole() -> Result<()> {
    let _alone = ALONE.lock().unwrap();
    let sampler = Sampler::new(1);
    let panel = 1 << 18;
    let learner = Learner::new(&sampler, Moments::F32).panel_bytes(panel);
    let plain = MaskedLinear::from_linear(&linear(1), 0, &sampler)?;
    let fused = MaskedLinear::from_linear(&linear(1), 1, &sampler)?.fused(&learner)?;
    let x = common::randn(5, 1.0, &[TOKENS, SHAPE.cols]).to_dtype(DType::BF16)?;
    let gradient = SHAPE.logits() * 4;
    let backward = |module: &dyn Module, step: u32| -> Result<usize> {
        learner.begin(step, &Recipe::maskllm(10).at(step.into()))?;
        let loss = module.forward(&x)?.sqr()?.sum_all()?;
        let (grads, bytes) = peak(|| loss.backward());
        grads?;
        Ok(bytes)
    };
    backward(&fused, 0)?;
    let (by_fused, by_plain) = (backward(&fused, 1)?, backward(&plain, 2)?);
    println!("peak of a backward pass: {by_fused} bytes fused, {by_plain} plain; the gradient is {gradient}");
    assert!(by_plain >= gradient, "the measure does not see it");
    assert!(by_fused < gradient / 2, "{by_fused} of {gradient}");
    Ok(())
}
