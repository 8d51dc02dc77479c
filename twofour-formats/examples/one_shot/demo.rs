//! A small model, made up, and what is known of its layers' inputs: masks by magnitude and by Wanda, in two forms.

use crate::{Args, Failure};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, LogNormal, Normal};
use std::path::Path;
use twofour::{Float, bf16};
use twofour_formats::{Manifest, TensorType};

/// Tensors of a transformer of one layer, and shapes.
const TENSORS: [(&str, [usize; 2]); 6] = [
    ("model.embed_tokens.weight", [512, 256]),
    ("model.layers.0.self_attn.q_proj.weight", [256, 256]),
    ("model.layers.0.self_attn.o_proj.weight", [256, 256]),
    ("model.layers.0.mlp.up_proj.weight", [704, 256]),
    ("model.layers.0.mlp.down_proj.weight", [256, 704]),
    ("lm_head.weight", [512, 256]),
];

/// Makes the model in a folder that is gone afterwards, and runs over it.
pub(crate) fn run() -> Result<bool, Failure> {
    let folder = tempfile::tempdir()?;
    let [model, activations, masks] =
        ["model.safetensors", "activations.safetensors", "mask.npz"].map(|name| folder.path().join(name));
    make(&model, &activations)?;
    println!("A small model, made up. For one of yours: one_shot model.safetensors\n\nBy magnitude:\n");
    let args = |arguments: &[&std::ffi::OsStr]| {
        let name = std::ffi::OsStr::new("one_shot");
        Args::try_parse_from(std::iter::once(&name).chain(arguments))
    };
    let by_magnitude = crate::write::run(&args(&[model.as_os_str()])?, &model)?;
    println!("\nBy Wanda, as PATCH has masks:\n");
    let [method, wanda, from, to] = ["--method", "wanda", "--activations", "--out"].map(std::ffi::OsStr::new);
    let arguments = [model.as_os_str(), method, wanda, from, activations.as_os_str(), to, masks.as_os_str()];
    Ok(crate::write::run(&args(&arguments)?, &model)? && by_magnitude)
}

fn make(model: &Path, activations: &Path) -> Result<(), Failure> {
    let (mut manifest, mut squares) = (Manifest::new(), Manifest::new());
    for (name, shape) in TENSORS {
        manifest.tensor(name, TensorType::Bf16, &shape)?;
        squares.tensor(&format!("{name}.squares"), TensorType::F32, &shape[1..])?;
    }
    let mut rng = StdRng::seed_from_u64(0);
    // Some columns are much larger than others, as in trained models.
    let (normal, uneven) = (Normal::new(0.0f32, 0.02)?, LogNormal::new(0.0f32, 1.5)?);
    manifest.save::<Failure>(model, |file| {
        for (name, shape) in TENSORS {
            let values = normal.sample_iter(&mut rng).take(shape.iter().product());
            let bytes: Vec<u8> = values.flat_map(|value| <bf16 as Float>::from_f32(value).to_le_bytes()).collect();
            file.tensor(name, &bytes)?;
        }
        Ok(())
    })?;
    squares.save::<Failure>(activations, |file| {
        for (name, shape) in TENSORS {
            let bytes: Vec<u8> = uneven.sample_iter(&mut rng).take(shape[1]).flat_map(f32::to_le_bytes).collect();
            file.tensor(&format!("{name}.squares"), &bytes)?;
        }
        Ok(())
    })
}
