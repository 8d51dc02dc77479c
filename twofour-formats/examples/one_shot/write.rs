//! Masks for a model: tensor by tensor, into the file of masks and, if asked, into the new model.

use crate::choose::{self, Layers};
use crate::method::{Chooser, Made};
use crate::number::{Number, for_type};
use crate::report::{self, Layer};
use crate::{Args, Failure, output, progress_bar};
use indicatif::ProgressBar;
use std::path::Path;
use twofour::Shape;
use twofour_formats::{Index, Model, Reader, masks};

/// Makes the masks, writes them, and reads them back. Whether all is well.
pub(crate) fn run(args: &Args, path: &Path) -> Result<bool, Failure> {
    let model = Model::find(path)?;
    let readers = model.files().map(|file| Ok((file, model.open(file)?))).collect::<Result<Vec<_>, Failure>>()?;
    if let Some(weight) = readers.iter().find_map(|(_, reader)| reader.weights().next()) {
        return Err(format!("`{}` is compressed already: it has its mask", weight.name()).into());
    }
    let layers = choose::layers(args, &readers)?;
    let chooser = Chooser::new(args)?;
    let (form, out) = output::masks(args, path)?;
    let mut read = output::read(&model);
    read.extend(args.activations.clone());
    let to = |file: &str| args.weights.as_deref().map(|to| output::weights(&model, to, file));
    let written: Vec<_> = std::iter::once(out.clone()).chain(model.files().filter_map(to)).collect();
    output::check(&read, &written)?;
    if let (Some(folder), Some(_)) = (&args.weights, model.index()) {
        std::fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
    }
    let mut manifest = masks::Manifest::new(form);
    for (name, (shape, _)) in &layers {
        manifest.layer(name, *shape)?;
    }
    let mut task = Task { layers: &layers, chooser, report: Vec::new(), progress: progress_bar(bytes(&layers)) };
    let mut index = Index::new();
    manifest.save::<Failure>(&out, |masks| {
        for (file, reader) in &readers {
            match to(file) {
                Some(path) => {
                    let manifest = copy_of(reader)?;
                    manifest.save::<Failure>(path, |copy| task.file(reader, masks, Some(copy)))?;
                    index.add(file, manifest.tensor_names(), manifest.data_bytes());
                }
                None => task.file(reader, masks, None)?,
            }
        }
        Ok(())
    })?;
    if let (Some(folder), Some((name, _))) = (&args.weights, model.index()) {
        index.save(folder.join(name))?;
    }
    task.progress.finish_and_clear();
    let well = report::finish(&task.report, form, &out)?;
    if let Some(weights) = &args.weights {
        println!("the model under these masks is in {}", weights.display());
    }
    Ok(well)
}

fn bytes(layers: &Layers) -> u64 {
    layers.values().map(|(shape, dtype)| (shape.weights() * dtype.bits() / 8) as u64).sum()
}

/// The manifest of a file with the same tensors.
fn copy_of(reader: &Reader<'_>) -> Result<twofour_formats::Manifest, Failure> {
    let mut manifest = twofour_formats::Manifest::new();
    for (key, value) in reader.metadata() {
        manifest.metadata(key, value)?;
    }
    for tensor in reader.tensors() {
        manifest.tensor(tensor.name(), tensor.dtype(), tensor.shape())?;
    }
    Ok(manifest)
}

struct Task<'a> {
    layers: &'a Layers,
    chooser: Chooser<'a>,
    report: Vec<Layer>,
    progress: ProgressBar,
}

impl Task<'_> {
    /// The masks of a file's layers, and all its tensors if they are wanted.
    fn file(
        &mut self,
        reader: &Reader<'_>,
        masks: &mut masks::Writer<'_>,
        mut copy: Option<&mut twofour_formats::Writer<'_>>,
    ) -> Result<(), Failure> {
        for tensor in reader.tensors() {
            let name = tensor.name();
            let Some(&(shape, dtype)) = self.layers.get(name) else {
                if let Some(copy) = &mut copy {
                    copy.tensor(name, &reader.tensor(name)?)?;
                }
                continue;
            };
            self.progress.set_message(name.to_owned());
            let Made { mask, weight, score, energy } = for_type!(dtype, made(&self.chooser, reader, name, shape))?;
            masks.mask(name, &mask)?;
            if let Some(copy) = &mut copy {
                copy.tensor(name, &weight)?;
            }
            self.report.push(Layer::new(name, &mask, dtype.name().to_lowercase(), score, Some(energy)));
            self.progress.inc(tensor.bytes());
        }
        Ok(())
    }
}

fn made<T: Number>(chooser: &Chooser<'_>, reader: &Reader<'_>, name: &str, shape: Shape) -> Result<Made, Failure> {
    chooser.choose(name, shape, &reader.elements::<T>(name)?)
}
