//! A small model, made up, for commands that are given none.

use crate::{Failure, number};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, LogNormal, Normal};
use std::path::{Path, PathBuf};
use twofour::{Float, bf16};
use twofour_formats::{Manifest, TensorType};

/// Tensors of a transformer of one layer, and shapes.
const TENSORS: [(&str, &[usize]); 9] = [
    ("model.embed_tokens.weight", &[512, 256]),
    ("model.layers.0.self_attn.q_proj.weight", &[256, 256]),
    ("model.layers.0.self_attn.q_proj.bias", &[256]),
    ("model.layers.0.self_attn.o_proj.weight", &[256, 256]),
    ("model.layers.0.mlp.up_proj.weight", &[704, 256]),
    ("model.layers.0.mlp.down_proj.weight", &[256, 704]),
    ("model.layers.0.input_layernorm.weight", &[256]),
    ("model.norm.weight", &[256]),
    ("lm_head.weight", &[512, 256]),
];

/// Its files.
pub(crate) struct Files {
    pub(crate) model: PathBuf,
    /// Sums of squares of each layer's inputs.
    pub(crate) activations: PathBuf,
}

/// Makes the model in a folder.
pub(crate) fn make(folder: &Path) -> Result<Files, Failure> {
    let [model, activations] = ["model.safetensors", "activations.safetensors"].map(|name| folder.join(name));
    let (mut manifest, mut squares) = (Manifest::new(), Manifest::new());
    manifest.metadata("format", "pt")?;
    let matrices = || TENSORS.into_iter().filter(|(_, shape)| shape.len() == 2);
    for (name, shape) in TENSORS {
        manifest.tensor(name, TensorType::Bf16, shape)?;
    }
    for (name, shape) in matrices() {
        squares.tensor(&format!("{name}.squares"), TensorType::F32, &shape[1..])?;
    }
    let mut rng = StdRng::seed_from_u64(0);
    // Some columns are much larger than others, as in trained models.
    let (normal, uneven) = (Normal::new(0.0f32, 0.02)?, LogNormal::new(0.0f32, 1.5)?);
    manifest.save::<Failure>(&model, |file| {
        for (name, shape) in TENSORS {
            let values = normal.sample_iter(&mut rng).take(shape.iter().product());
            let values: Vec<bf16> = values.map(<bf16 as Float>::from_f32).collect();
            file.tensor(name, &number::bytes(&values))?;
        }
        Ok(())
    })?;
    squares.save::<Failure>(&activations, |file| {
        for (name, shape) in matrices() {
            let values: Vec<f32> = uneven.sample_iter(&mut rng).take(shape[1]).collect();
            file.tensor(&format!("{name}.squares"), &number::bytes(&values))?;
        }
        Ok(())
    })?;
    Ok(Files { model, activations })
}
