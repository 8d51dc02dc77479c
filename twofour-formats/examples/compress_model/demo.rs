//! A small model, made up, compressed and decompressed again.

use crate::{Args, Failure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use std::path::Path;
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

/// Makes the model in a folder that is gone afterwards, and runs over it.
pub(crate) fn run(args: &Args) -> Result<bool, Failure> {
    let folder = tempfile::tempdir()?;
    let model = folder.path().join("model.safetensors");
    make(&model)?;
    println!("A small model, made up. For one of yours: compress_model model.safetensors\n");
    let compressed = crate::run(args, &model)?;
    println!("\nAnd dense again:\n");
    let back = Args { decompress: true, ..Args::default() };
    Ok(crate::run(&back, &folder.path().join("model.twofour.safetensors"))? && compressed)
}

fn make(path: &Path) -> Result<(), Failure> {
    let mut manifest = Manifest::new();
    manifest.metadata("format", "pt")?;
    for (name, shape) in TENSORS {
        manifest.tensor(name, TensorType::Bf16, shape)?;
    }
    let mut rng = StdRng::seed_from_u64(0);
    let normal = Normal::new(0.0f32, 0.02)?;
    manifest.save(path, |file| {
        for (name, shape) in TENSORS {
            let values = normal.sample_iter(&mut rng).take(shape.iter().product());
            let bytes: Vec<u8> = values.flat_map(|value| <bf16 as Float>::from_f32(value).to_le_bytes()).collect();
            file.tensor(name, &bytes)?;
        }
        Ok(())
    })
}
