//! Masks in files, in every form that there is, and as compressed models.

use crate::Failure;
use crate::model::Model;
use crate::prune::{Masks, host};
use candle_nn::Linear;
use std::path::{Path, PathBuf};
use twofour::compress::Compressed;
use twofour::{DType, bf16};
use twofour_formats::masks::{self, Form, Mask};
use twofour_formats::{Manifest, TensorType, Weight};

/// Writes the masks of a model's layers beside each other: `<path>.<form>.npz` or `.safetensors` in each of
/// [`Form::ALL`]; `<path>.codes.safetensors`, packed codes, which `twofour compress` takes; and
/// `<path>.compressed.safetensors`, the layers' kept values in bf16 with their codes.
pub(crate) fn write_masks(path: &Path, model: &Model<Linear>, masks: &Masks) -> Result<(), Failure> {
    let mut layers = Vec::new();
    for (name, linear) in model.linears() {
        let (weight, shape) = host(linear.weight())?;
        let codes = masks.get(&name).ok_or_else(|| format!("there is no mask for {name}"))?;
        layers.push((format!("{name}.weight"), Mask::new(shape, codes.clone())?, weight));
    }
    for form in Form::ALL {
        let mut manifest = masks::Manifest::new(form);
        for (name, mask, _) in &layers {
            manifest.layer(name, mask.shape())?;
        }
        manifest.save(with_suffix(path, &format!("{form}.{}", form.extension())), |file| {
            layers.iter().try_for_each(|(name, mask, _)| file.mask(name, mask))
        })?;
    }
    let (mut codes, mut compressed) = (Manifest::new(), Manifest::new());
    for (name, mask, _) in &layers {
        codes.tensor(&format!("{name}.codes"), TensorType::U8, &[mask.codes().len()])?;
        compressed.weight(name, DType::Bf16, mask.shape())?;
    }
    codes.save(with_suffix(path, "codes.safetensors"), |file| {
        layers.iter().try_for_each(|(name, mask, _)| file.tensor(&format!("{name}.codes"), mask.codes()))
    })?;
    compressed.save(with_suffix(path, "compressed.safetensors"), |file| {
        layers.iter().try_for_each(|(name, mask, weight)| {
            let weight: Vec<bf16> = weight.iter().copied().map(bf16::from_f32).collect();
            let weight = Compressed::with_codes(mask.shape(), &weight, mask.codes())?;
            file.any_weight(name, &Weight::Bf16(weight))
        })
    })?;
    Ok(())
}

/// Reads the masks of a model's layers back, from the smallest of the files.
pub(crate) fn read_masks(path: &Path, model: &Model<Linear>) -> Result<Masks, Failure> {
    let file = twofour_formats::masks::Masks::open(with_suffix(path, "base6.safetensors"))?;
    let read = model.linears().map(|(name, _)| {
        let mask = file.read(&format!("{name}.weight"))?;
        Ok((name, mask.into_codes()))
    });
    read.collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}
