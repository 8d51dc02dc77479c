//! From one form of masks to another.

use crate::report::{self, Layer};
use crate::{Args, Failure, output, progress_bar};
use std::path::Path;
use twofour_formats::Model;
use twofour_formats::masks::{Fewer, Form, Manifest, Masks, Shapes};

/// Converts, and reads back. Whether all is well.
pub(crate) fn run(args: &Args, path: &Path, model: Option<&Path>) -> Result<bool, Failure> {
    let mut read = vec![path.to_owned()];
    let mut shapes = Shapes::new();
    if let Some(model) = model {
        let model = Model::find(model)?;
        shapes = Shapes::of_model(&model)?;
        read.extend(output::read(&model));
    }
    let mut masks = Masks::open(path)?.with_shapes(shapes);
    if args.fill {
        masks = masks.fewer(Fewer::Fill);
    }
    if masks.names().len() == 0 {
        return Err(format!("{} has no masks", path.display()).into());
    }
    if masks.form() == Form::MaskLlm && model.is_none() && masks.names().any(|name| masks.shape(name).is_err()) {
        let usage = "name the model too: one_shot MODEL --convert FILE";
        return Err(format!("{} is MaskLLM's, which holds no shapes: {usage}", path.display()).into());
    }
    let (form, out) = output::masks(args, path)?;
    output::check(&read, std::slice::from_ref(&out))?;
    let mut manifest = Manifest::new(form);
    let mut weights = 0;
    for name in masks.names() {
        let shape = masks.shape(name)?;
        manifest.layer(name, shape)?;
        weights += shape.weights() as u64;
    }
    if let Some(text) = masks.text()? {
        manifest.text(&text);
    }
    // As `masks::convert`, with something to look at.
    let progress = progress_bar(weights / 8);
    let mut layers = Vec::new();
    manifest.save::<Failure>(&out, |file| {
        for name in masks.names() {
            progress.set_message(name.to_owned());
            let mask = masks.read(name)?;
            file.mask(name, &mask)?;
            layers.push(Layer::new(name, &mask, masks.form().to_string(), None, None));
            progress.inc(mask.shape().weights() as u64 / 8);
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    report::finish(&layers, form, &out)
}
