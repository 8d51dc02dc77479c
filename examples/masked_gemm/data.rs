//! Operands: a weight from a safetensors file or made up, and the rest made up.

use crate::{Failure, Job};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;
use twofour::{DType, Float, Logit, Shape};

/// A weight, widened, with the type it came in.
pub(crate) struct Weight {
    pub(crate) values: Vec<f32>,
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
    /// Where it is from, in words.
    pub(crate) origin: String,
}

/// Reads a weight from a safetensors file.
pub(crate) fn load(file: &Path, tensor: &str) -> Result<Weight, Failure> {
    let path = file.display();
    let bytes = std::fs::read(file).map_err(|e| format!("cannot read {path}: {e}"))?;
    let content = SafeTensors::deserialize(&bytes)
        .map_err(|e| format!("{path} is not a whole safetensors file ({e}): is it cut short, or of another format?"))?;
    let found = content.tensor(tensor).map_err(|_| no_such_tensor(&content, file, tensor))?;
    let wrong = |what: String| format!("{path}: {tensor} {what}");
    let &[rows, cols] = found.shape() else {
        return Err(wrong(format!("has shape {:?}: a weight has two dimensions", found.shape())).into());
    };
    let shape = Shape::new(rows, cols);
    shape.check().map_err(|e| wrong(format!("has shape [{rows}, {cols}]: {e}")))?;
    let (dtype, values) = match found.dtype() {
        Dtype::F32 => (DType::F32, widen::<f32>(found.data())),
        Dtype::F16 => (DType::F16, widen::<twofour::f16>(found.data())),
        Dtype::BF16 => (DType::Bf16, widen::<twofour::bf16>(found.data())),
        other => return Err(wrong(format!("is of type {other:?}: a weight is F32, F16 or BF16")).into()),
    };
    Ok(Weight { values, shape, dtype, origin: format!("{tensor} of {path}") })
}

fn no_such_tensor(content: &SafeTensors<'_>, file: &Path, tensor: &str) -> String {
    const MOST: usize = 20;
    let mut names = content.names();
    names.sort_unstable();
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{} has no tensor named {tensor}; it has {}{more}", file.display(), names.join(", "))
}

/// The bytes need not be aligned for `T`.
fn widen<T: Float>(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(size_of::<T>()).map(|bytes| bytemuck::pod_read_unaligned::<T>(bytes).to_f32()).collect()
}

/// A normally distributed weight.
pub(crate) fn generate(shape: Shape, seed: u64) -> Weight {
    let values = normal(&mut StdRng::seed_from_u64(seed), shape.weights(), 0.02);
    Weight { values, shape, dtype: DType::F32, origin: "generated".into() }
}

/// All that goes into the layer.
pub(crate) struct Operands<L, W> {
    pub(crate) logits: Vec<L>,
    pub(crate) weight: Vec<W>,
    pub(crate) x: Vec<W>,
    pub(crate) dy: Vec<W>,
}

impl<L: Logit, W: Float> Operands<L, W> {
    pub(crate) fn new(job: &Job) -> Self {
        let mut rng = StdRng::seed_from_u64(job.seed.wrapping_add(1));
        Self {
            // As MaskLLM starts: 0.01 wide, which κ of a hundred makes one.
            logits: normal(&mut rng, job.problem.shape.logits(), 0.01),
            weight: job.weight.values.iter().map(|&value| W::from_f32(value)).collect(),
            x: normal(&mut rng, job.problem.inputs(), 1.0),
            dy: normal(&mut rng, job.problem.outputs(), 1.0),
        }
    }
}

fn normal<T: Float>(rng: &mut StdRng, count: usize, spread: f32) -> Vec<T> {
    let Ok(distribution) = Normal::new(0.0, spread) else { return vec![T::zeroed(); count] };
    distribution.sample_iter(rng).take(count).map(T::from_f32).collect()
}
