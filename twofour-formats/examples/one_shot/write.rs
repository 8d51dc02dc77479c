//! Masks for a model: tensor by tensor, into the file of masks and, if asked, into the new model.

use crate::choose::{self, Layers};
use crate::method::{Chooser, Made};
use crate::number::{Number, for_type};
use crate::report::{self, Layer};
use crate::shards::{Folder, print_left_out};
use crate::{Args, Failure, output, progress_bar};
use indicatif::ProgressBar;
use std::path::Path;
use twofour::Shape;
use twofour_formats::{Index, Model, Reader, Staged, masks};

/// Makes the masks, writes them, and reads them back. Whether all is well.
pub(crate) fn run(args: &Args, path: &Path) -> Result<bool, Failure> {
    let model = Model::find(path)?;
    let readers = model.open_all()?;
    if let Some(weight) = readers.iter().find_map(|(_, reader)| reader.weights().next()) {
        return Err(format!("`{}` is compressed already: it has its mask", weight.name()).into());
    }
    let layers = choose::layers(args, &readers)?;
    let mut chooser = Chooser::new(args)?;
    let (form, out) = output::masks(args, path)?;
    let mut read = output::read(&model);
    read.extend(args.activations.clone());
    let to = |file: &str| args.weights.as_deref().map(|to| output::weights(&model, to, file));
    let written: Vec<_> = std::iter::once(out.clone()).chain(model.files().filter_map(to)).collect();
    output::check(&read, &written)?;
    chooser.check(&layers)?;
    let folder = args.weights.as_deref().filter(|_| model.index().is_some());
    let made = folder.map(Folder::make).transpose()?;
    let mut manifest = masks::Manifest::new(form);
    for (name, (shape, _)) in &layers {
        manifest.layer(name, *shape)?;
    }
    let mut task = Task { layers: &layers, chooser, report: Vec::new(), progress: progress_bar(bytes(&layers)) };
    let mut index = Index::new();
    // All files are written before the first takes its place.
    let mut staged = Vec::new();
    let masks = manifest.stage::<Failure>(&out, |masks| {
        for (file, reader) in &readers {
            match to(file) {
                Some(path) => {
                    let manifest = copy_of(reader)?;
                    staged.push(manifest.stage::<Failure>(path, |copy| task.file(reader, masks, Some(copy)))?);
                    index.add(file, manifest.tensor_names(), manifest.data_bytes())?;
                }
                None => task.file(reader, masks, None)?,
            }
        }
        Ok(())
    })?;
    staged.push(masks);
    if let (Some(folder), Some((name, _))) = (folder, model.index()) {
        staged.push(index.stage(folder.join(name))?);
    }
    staged.into_iter().try_for_each(Staged::commit)?;
    drop(made);
    print_left_out(&readers);
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
            let Made { mask, weight, score, energy, empty } =
                for_type!(dtype, made(&self.chooser, reader, name, shape))?;
            masks.mask(name, &mask)?;
            if let Some(copy) = &mut copy {
                copy.tensor(name, &weight)?;
            }
            let mut layer = Layer::new(name, &mask, dtype.name().to_lowercase(), score, Some(energy));
            layer.empty = empty;
            self.report.push(layer);
            self.progress.inc(tensor.bytes());
        }
        Ok(())
    }
}

fn made<T: Number>(chooser: &Chooser<'_>, reader: &Reader<'_>, name: &str, shape: Shape) -> Result<Made, Failure> {
    chooser.choose(name, shape, &reader.elements::<T>(name)?)
}
