//! The layers on a CUDA device against the same on the CPU: the device's masks are the CPU's to the bit, and products and
//! gradients differ by rounding. Needs a device, and the feature `cuda`, for which candle is built with nvcc.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use common::{distance, randn};
use twofour::Shape;
use twofour::learn::{AdamW, StepSettings};
use twofour_candle::{Engine, FrozenMaskLinear, Learner, MaskedLinear, Mode, Moments, Sampler};

/// The device; `None` where there is none, unless one is required.
fn device() -> Option<Device> {
    if cfg!(not(feature = "cuda")) {
        println!("skipped: built without the feature `cuda`");
        return None;
    }
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|value| value == "1");
            assert!(!required, "TWOFOUR_REQUIRE_GPU=1, but: {error}");
            println!("skipped: no CUDA device ({error})");
            None
        }
    }
}

const MODES: [Mode; 4] = [Mode::Soft, Mode::Hard, Mode::Argmax, Mode::Dense];
const SHAPES: [[usize; 3]; 4] = [[1, 8, 16], [5, 24, 36], [200, 136, 256], [70, 3, 4]];

fn layer(shape: Shape, [weights, logits]: [DType; 2], sampler: &Sampler, on: &Device) -> Result<MaskedLinear> {
    let weight = randn(1, 0.5, &[shape.rows, shape.cols]).to_dtype(weights)?.to_device(on)?;
    let bias = randn(2, 1.0, &[shape.rows]).to_dtype(weights)?.to_device(on)?;
    let scores = randn(3, 0.3, &[shape.rows, shape.cols / 4, 6]).to_dtype(logits)?.to_device(on)?;
    MaskedLinear::new(&weight, Some(&bias), Var::from_tensor(&scores)?, 7, sampler)
}

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-5,
        DType::F16 => 4e-3,
        _ => 3e-2,
    }
}

#[test]
fn the_device_computes_as_the_cpu() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for types in [[DType::F32, DType::F32], [DType::F16, DType::F32], [DType::BF16, DType::BF16]] {
        for ([tokens, rows, cols], mode) in SHAPES.iter().flat_map(|shape| MODES.map(|mode| (*shape, mode))) {
            let run = |on: &Device| -> Result<Vec<Tensor>> {
                let sampler = Sampler::new(5);
                sampler.update(|now| (now.mode, now.kappa, now.tau, now.regulariser) = (mode, 3.0, 0.8, 0.01))?;
                let layer = layer(Shape::new(rows, cols), types, &sampler, on)?;
                let x = randn(4, 1.0, &[tokens + 1, cols]).to_dtype(types[0])?.to_device(on)?;
                let x = Var::from_tensor(&x)?;
                // From the second row on: a start that kernels may not take as it is.
                let y = layer.forward(&x.narrow(0, 1, tokens)?)?;
                let grads = (y.sqr()? * 0.5)?.sum_all()?.backward()?;
                let mut all = vec![y.clone(), grads.get(&x).unwrap().clone()];
                all.extend(grads.get(layer.logits()).cloned());
                all.push(Tensor::new(layer.codes()?, &Device::Cpu)?.to_dtype(DType::F32)?);
                if types[0] != DType::F32 {
                    all.push(layer.to_compressed()?.forward(&x.as_detached_tensor())?);
                }
                all.iter().map(|tensor| tensor.to_device(&Device::Cpu)).collect()
            };
            let (there, here) = (run(&device)?, run(&Device::Cpu)?);
            assert_eq!(there.len(), here.len());
            for (i, (there, here)) in there.iter().zip(&here).enumerate() {
                let far = distance(there, here);
                assert!(far <= tolerance(types[0]), "{types:?} {mode:?} [{tokens}, {rows}, {cols}], {i}: {far:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_device_steps_as_the_cpu() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for (types, moments) in [([DType::F32; 2], Moments::F32), ([DType::BF16; 2], Moments::Eight)] {
        let run = |on: &Device| -> Result<(Tensor, f32)> {
            let sampler = Sampler::new(5);
            let learner = Learner::new(&sampler, moments).clip(0.5)?.panel_bytes(1 << 14);
            let fused = layer(Shape::new(136, 256), types, &sampler, on)?.fused(&learner)?;
            for step in 0..3_u32 {
                let adamw =
                    AdamW { rate: 0.05, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: u64::from(step) + 1 };
                learner.begin(step, &StepSettings { kappa: 3.0, tau: 0.8, regulariser: 0.02, adamw })?;
                let x = randn(step.into(), 1.0, &[40, 256]).to_dtype(types[0])?.to_device(on)?;
                (fused.forward(&x)?.sqr()? * 0.5)?.sum_all()?.backward()?;
                learner.end()?;
            }
            Ok((fused.masked().logits().to_device(&Device::Cpu)?, learner.norm(on)?.unwrap()))
        };
        let ((there, norm_there), (here, norm_here)) = (run(&device)?, run(&Device::Cpu)?);
        let far = distance(&there, &here);
        assert!(far <= 10.0 * tolerance(types[0]), "{moments:?}: {far:e}");
        assert!((norm_there / norm_here - 1.0).abs() < 1e-2, "{moments:?}: {norm_there} {norm_here}");
    }
    Ok(())
}

/// Output and gradients of the layer whose mask does not move; dropped weights get exactly nothing there, too.
#[test]
fn the_device_trains_under_a_frozen_mask_as_the_cpu() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for (dtype, [tokens, rows, cols]) in
        [DType::F32, DType::F16, DType::BF16].iter().flat_map(|dtype| SHAPES.map(|shape| (*dtype, shape)))
    {
        let run = |on: &Device| -> Result<Vec<Tensor>> {
            let var =
                |seed: u64, dims: &[usize]| Var::from_tensor(&randn(seed, 0.5, dims).to_dtype(dtype)?.to_device(on)?);
            let (weight, bias, x) = (var(1, &[rows, cols])?, var(2, &[rows])?, var(3, &[tokens + 1, cols])?);
            let linear = Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
            let layer = FrozenMaskLinear::by_magnitude(&linear, &Engine::default())?;
            let y = layer.forward(&x.narrow(0, 1, tokens)?)?;
            let grads = (y.sqr()? * 0.5)?.sum_all()?.backward()?;
            let mut all = vec![y.clone(), layer.to_linear()?.weight().clone()];
            all.extend([&weight, &bias, &x].map(|var| grads.get(var).unwrap().clone()));
            all.iter().map(|tensor| tensor.to_device(&Device::Cpu)).collect()
        };
        let (there, here) = (run(&device)?, run(&Device::Cpu)?);
        let dropped = here[1].eq(0.0)?.to_dtype(DType::F32)?;
        assert_eq!((there[2].to_dtype(DType::F32)? * dropped)?.abs()?.sum_all()?.to_scalar::<f32>()?, 0.0);
        for (i, (there, here)) in there.iter().zip(&here).enumerate() {
            let far = distance(there, here);
            assert!(far <= tolerance(dtype), "{dtype:?} [{tokens}, {rows}, {cols}], {i}: {far:e}");
        }
    }
    Ok(())
}
