//! Masks for a GGUF file's model, whose weights are dequantised; and the pruned model as a folder of Hugging Face's form.

use super::{Args, Source, read_beside, report, write};
use crate::choose::Layers;
use crate::layer::Layer;
use crate::model::{Model, Saved};
use crate::names::{any, plain};
use crate::{Failure, number, output, table};
use candle_core::{Device, Tensor};
use twofour_formats::TensorType;
use twofour_formats::masks::Manifest;

/// Makes the masks, writes them, and reads them back. Whether all is well.
pub(super) fn run(args: &Args, model: &Model, source: &mut dyn Source) -> Result<bool, Failure> {
    let layers = layers(args, model)?;
    let (form, out) = crate::convert::masks(args.form, args.out.as_deref(), model.path(), "masks")?;
    let read: Vec<_> = std::iter::once(model.path().to_owned()).chain(read_beside(args)).collect();
    let written = std::iter::once(out.clone()).chain(args.weights.iter().map(|to| to.join("model.safetensors")));
    output::check(&read, &written.collect::<Vec<_>>(), args.weights.as_deref())?;
    let mut manifest = Manifest::new(form);
    layers.values().try_for_each(|layer| manifest.layer(&layer.name, layer.shape))?;
    source.check(&layers)?;
    let progress = table::progress_bar(layers.values().map(Layer::bytes).sum());
    let mut done = Vec::new();
    let masks = manifest.stage::<Failure>(&out, |masks| {
        for layer in layers.values() {
            table::at(&progress, &layer.name);
            let dense = bytes(&model.tensor(&layer.name)?)?;
            let made = source.layer(layer, &dense)?;
            masks.mask(&layer.name, &made.mask)?;
            done.push(write::done(layer, &dense, &made)?.0);
            progress.inc(layer.bytes());
        }
        Ok(())
    })?;
    if let Some(folder) = &args.weights {
        model.save(folder, Saved::F32, &mut |name, weight| {
            let Some(layer) = layers.get(name) else { return Ok(weight) };
            let dense = bytes(&weight)?;
            let pruned = source.layer(layer, &dense)?.weight(layer, &dense)?;
            let pruned = number::values::<f32>(&pruned).into_owned();
            Ok(Tensor::from_vec(pruned, weight.shape(), &Device::Cpu)?)
        })?;
    }
    masks.commit()?;
    source.forget(&layers);
    progress.finish_and_clear();
    let well = report::finish(&done, form, &out)?;
    println!("left dense: all but the linear layers of blocks, and what --include and --exclude leave out of them");
    if let Some(folder) = &args.weights {
        println!("the model under these masks, f32, is in {}", plain(&folder.display().to_string()));
    }
    Ok(well)
}

/// The linear layers of blocks that are wanted.
fn layers(args: &Args, model: &Model) -> Result<Layers, Failure> {
    let which = &args.which;
    let all = model.linears();
    let wanted = |name: &str| (which.include.is_empty() || any(&which.include, name)) && !any(&which.exclude, name);
    let layer = |(name, shape): (String, twofour::Shape)| {
        let sizes = vec![shape.rows, shape.cols];
        (name.clone(), Layer { name, dtype: TensorType::F32, sizes, shape, transposed: false })
    };
    let layers: Layers = all.into_iter().filter(|(name, _)| wanted(name)).map(layer).collect();
    if let Some(layer) = layers.values().find(|layer| !layer.shape.cols.is_multiple_of(4)) {
        let (name, cols) = (&layer.name, layer.shape.cols);
        return Err(format!("`{name}` has rows of {cols}, which is no multiple of 4: --exclude leaves it out").into());
    }
    if layers.is_empty() {
        let names = "names are as `model.layers.0.mlp.up_proj.weight`";
        return Err(format!("--include and --exclude leave no linear layer of a block: {names}").into());
    }
    Ok(layers)
}

fn bytes(weight: &Tensor) -> Result<Vec<u8>, Failure> {
    Ok(number::bytes(&weight.flatten_all()?.to_vec1::<f32>()?))
}
