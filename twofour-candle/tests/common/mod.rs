//! What the tests share: data, and the masked layer written with candle's own operations, in `f64`.
#![allow(dead_code, clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use twofour::mask::{Kind, Sampling};
use twofour::{Shape, Shard, noise};

/// Positions that each pattern keeps.
pub(crate) const KEPT: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];

/// Unit normal numbers.
pub(crate) fn normal(seed: u64, elements: usize) -> Vec<f32> {
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    (0..elements).map(|_| rng.sample::<f32, _>(StandardNormal)).collect()
}

/// A tensor of normal numbers with this deviation.
pub(crate) fn randn(seed: u64, scale: f32, dims: &[usize]) -> Tensor {
    let values = normal(seed, dims.iter().product()).into_iter().map(|x| x * scale).collect();
    Tensor::from_vec::<_, f32>(values, dims, &Device::Cpu).unwrap()
}

/// The noise of a weight's groups, `[N, K/4, 6]`, `f64`.
pub(crate) fn gumbels(shape: Shape, shard: Shard, sampling: Sampling) -> Tensor {
    let groups = shape.cols / 4;
    let of = |row: usize, group: usize| {
        let global = shard.group(row as u64, group as u64);
        noise::gumbels(sampling.seed, sampling.draw, global).map(f64::from)
    };
    let values: Vec<f64> = (0..shape.rows).flat_map(|row| (0..groups).flat_map(move |group| of(row, group))).collect();
    Tensor::from_vec(values, (shape.rows, groups, 6), &Device::Cpu).unwrap()
}

/// The mask `[N, K]` of logits by candle's own operations, in `f64`; a hard one is straight-through.
pub(crate) fn mask(logits: &Tensor, noise: &Tensor, kind: Kind, sampling: Sampling) -> Result<Tensor> {
    let (rows, groups, _) = logits.dims3()?;
    let z = ((logits * f64::from(sampling.kappa))? + noise)?;
    let soft = candle_nn::ops::softmax(&(z.clone() / f64::from(sampling.tau))?, 2)?;
    let y = match kind {
        Kind::Soft => soft,
        // The value of the choice, the gradient of the softmax.
        Kind::Hard => ((one_hot(&z)? - &soft)?.detach() + soft)?,
        Kind::Argmax => one_hot(logits)?,
    };
    y.reshape((rows * groups, 6))?.matmul(&patterns()?)?.reshape((rows, groups * 4))
}

fn one_hot(scores: &Tensor) -> Result<Tensor> {
    let best = scores.detach().argmax_keepdim(2)?;
    let index = Tensor::arange(0u32, 6, &Device::Cpu)?.reshape((1, 1, 6))?;
    index.broadcast_eq(&best)?.to_dtype(DType::F64)
}

/// `P [6, 4]`.
fn patterns() -> Result<Tensor> {
    let mut p = [[0.0_f64; 4]; 6];
    for (row, kept) in p.iter_mut().zip(KEPT) {
        kept.into_iter().for_each(|j| row[j] = 1.0);
    }
    Tensor::new(&p, &Device::Cpu)
}

/// The largest difference, over the largest value of the second.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    far(a, b, largest(b))
}

/// The largest difference, over a scale: for a sum that of its terms, as rounding goes by them.
pub(crate) fn far(a: &Tensor, b: &Tensor, scale: f64) -> f64 {
    let as_f64 = |t: &Tensor| f64s(t).flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (a, b) = (as_f64(a), as_f64(b));
    assert_eq!(a.len(), b.len());
    // NaN is not small.
    let difference = |(x, y): (&f64, &f64)| if (x - y).is_nan() { f64::INFINITY } else { (x - y).abs() };
    a.iter().zip(&b).map(difference).fold(0.0, f64::max) / scale.max(1e-30)
}

pub(crate) fn largest(tensor: &Tensor) -> f64 {
    f64s(tensor).flatten_all().unwrap().to_vec1::<f64>().unwrap().into_iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// The largest sum of magnitudes in `a [.., K] · b [K, N]`.
pub(crate) fn terms(a: &Tensor, b: &Tensor) -> f64 {
    let a = f64s(a).abs().unwrap();
    let cols = a.dims().last().copied().unwrap();
    let rows = a.elem_count() / cols;
    largest(&a.reshape((rows, cols)).unwrap().matmul(&f64s(b).abs().unwrap()).unwrap())
}

pub(crate) fn f64s(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F64).unwrap()
}

/// Of an output, and of gradients that went through 16 bits.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        _ => 1.2e-2,
    }
}
