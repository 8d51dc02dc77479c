//! The feed-forward whose neurons are mostly off: its op's values and gradients against candle's own operations, training
//! under learnt masks, and decode.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{Linear, Optimizer, SGD};
use common::{distance, randn};
use twofour::compress::Compressed;
use twofour::glu::Activation;
use twofour::{Shape, bf16};
use twofour_candle::ops::{self, Neurons};
use twofour_candle::{Engine, MaskedLinear, ReluDecoder, ReluMlp, Sampler};
use twofour_formats::Weight;

const ALL: [Activation; 5] =
    [Activation::SwiGlu, Activation::DRelu, Activation::ReGlu, Activation::FatRelu(0.3), Activation::Cats(0.2)];

/// By candle's operations.
fn theirs(gate: &Tensor, up: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
    let above = |of: &Tensor, edge: f64| of.gt(edge)?.to_dtype(of.dtype());
    match activation {
        Activation::SwiGlu => gate.silu()? * up,
        Activation::DRelu => gate.relu()? * up.relu()?,
        Activation::ReGlu => gate.relu()? * up,
        Activation::FatRelu(edge) => ((gate * above(gate, f64::from(edge))?)? * up)?.contiguous(),
        Activation::Cats(edge) => {
            let silu = gate.silu()?;
            (&silu * above(&silu.abs()?, f64::from(edge))?)? * up
        }
    }
}

#[test]
fn values_and_gradients_are_candles() {
    for activation in ALL {
        for dims in [&[7, 33][..], &[2, 3, 64], &[5], &[0, 4]] {
            let [gate, up] = [1, 2].map(|seed| Var::from_tensor(&randn(seed, 1.0, dims)).unwrap());
            let dh = randn(3, 1.0, dims);
            let ours = ops::glu(&gate, &up, activation, &Engine::default()).unwrap();
            let other = theirs(&gate, &up, activation).unwrap();
            assert!(distance(&ours, &other) <= 1e-6, "{activation:?} {dims:?}");
            if ours.elem_count() == 0 {
                continue;
            }
            let [ours, other] = [ours, other].map(|h| (h * &dh).unwrap().sum_all().unwrap().backward().unwrap());
            for of in [&gate, &up] {
                let (ours, other) = (ours.get(of).unwrap(), other.get(of).unwrap());
                assert!(distance(ours, other) <= 1e-5, "{activation:?} {dims:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let (a, b) = (randn(1, 1.0, &[2, 3]), randn(2, 1.0, &[3, 2]));
    let engine = &Engine::default();
    assert!(ops::glu(&a, &b, Activation::DRelu, engine).unwrap_err().to_string().contains("alike"));
    assert!(ops::glu(&a, &a, Activation::Cats(-1.0), engine).is_err());
    let half = a.to_dtype(DType::F16).unwrap();
    assert!(ops::glu(&a, &half, Activation::DRelu, engine).is_err());
    let neurons = [&a, &a, &b].map(|weight| Neurons::dense(weight).unwrap());
    assert!(ReluDecoder::new(neurons, Activation::DRelu, engine).unwrap_err().to_string().contains("a row a neuron"));
}

/// Masks of all three weights learn on the loss of what comes out.
#[test]
fn masks_learn_through_it() {
    let sampler = Sampler::new(3);
    let linear = |seed, rows, cols| Linear::new(randn(seed, 0.3, &[rows, cols]), None);
    let layers = [linear(1, 64, 16), linear(2, 64, 16), linear(3, 16, 64)];
    let [gate, up, down] = layers.clone();
    let dense = ReluMlp::new(gate, up, down, Activation::DRelu, &Engine::default());
    let masked = |i: u32| MaskedLinear::from_linear(&layers[i as usize], i, &sampler).unwrap();
    let (gate, up, down) = (masked(0), masked(1), masked(2));
    let logits = [&gate, &up, &down].map(|layer| layer.logits().clone()).to_vec();
    let mlp = ReluMlp::new(gate, up, down, Activation::DRelu, &Engine::default());
    let x = randn(9, 1.0, &[64, 16]);
    let target = dense.forward(&x).unwrap();
    let mut optimiser = SGD::new(logits, 0.5).unwrap();
    let loss = |step: u32| {
        sampler.update(|now| now.step = step).unwrap();
        (mlp.forward(&x).unwrap() - &target).unwrap().sqr().unwrap().mean_all().unwrap()
    };
    let first = loss(0).to_scalar::<f32>().unwrap();
    for step in 0..60 {
        optimiser.backward_step(&loss(step)).unwrap();
    }
    let last = loss(0).to_scalar::<f32>().unwrap();
    assert!(last < 0.9 * first, "{first} to {last}");
}

/// Dense and compressed, of any number of tokens.
#[test]
fn decode_is_the_feed_forward() {
    let (device, engine) = (&Device::Cpu, Engine::default());
    let (width, neurons) = (32, 80);
    let dense: Vec<Tensor> =
        (1..4).map(|seed| randn(seed, 0.3, &[neurons, width]).to_dtype(DType::BF16).unwrap()).collect();
    let kept: Vec<Weight> = dense
        .iter()
        .map(|weight| {
            let values = weight.flatten_all().unwrap().to_vec1::<bf16>().unwrap();
            Weight::Bf16(Compressed::by_magnitude(Shape::new(neurons, width), &values).unwrap())
        })
        .collect();
    let unpacked = kept.iter().map(|weight| match weight {
        Weight::Bf16(weight) => Tensor::new(weight.decompress(), device).unwrap().reshape((neurons, width)).unwrap(),
        _ => unreachable!(),
    });
    let unpacked: Vec<Tensor> = unpacked.collect();
    for (weights, of_kept) in [(&dense, false), (&unpacked, true)] {
        let of = |i: usize| if of_kept { Neurons::kept(&kept[i], device) } else { Neurons::dense(&dense[i]) }.unwrap();
        let decoder = ReluDecoder::new([of(0), of(1), of(2)], Activation::DRelu, &engine).unwrap();
        let bytes = if of_kept { width + width / 8 } else { 2 * width };
        assert_eq!(decoder.bytes(), 3 * neurons * bytes);
        let whole = |weight: &Tensor| weight.to_dtype(DType::F32).unwrap();
        let down = Linear::new(whole(&weights[2]).t().unwrap().contiguous().unwrap(), None);
        let [gate, up] = [0, 1].map(|i| Linear::new(whole(&weights[i]), None));
        let mlp = ReluMlp::new(gate, up, down, Activation::DRelu, &engine);
        for dims in [&[1, width][..], &[width], &[2, 3, width], &[19, width], &[0, width]] {
            let x = randn(7, 1.0, dims).to_dtype(DType::BF16).unwrap();
            let ours = decoder.forward(&x).unwrap();
            let expected =
                mlp.forward(&if dims.len() == 1 { whole(&x).unsqueeze(0).unwrap() } else { whole(&x) }).unwrap();
            let expected = expected.reshape(dims).unwrap();
            assert_eq!(ours.dims(), dims);
            let apart = distance(&ours.to_dtype(DType::F32).unwrap(), &expected);
            assert!(apart <= 0.01, "{dims:?}: {apart}");
        }
    }
    let x = Tensor::zeros((1, 16), DType::BF16, device).unwrap();
    let decoder = ReluDecoder::new([0, 1, 2].map(|i| Neurons::dense(&dense[i]).unwrap()), Activation::DRelu, &engine);
    assert!(decoder.unwrap().forward(&x).is_err());
}
