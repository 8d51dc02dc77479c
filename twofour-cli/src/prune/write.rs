//! Masks for a model: tensor by tensor, into the file of masks and, if asked, into the new model.

use super::kept::Kept;
use super::report::{self, Layer as Done};
use super::{Args, Made, Source, read_beside};
use crate::choose::{self, Can, Layers, is_float};
use crate::layer::Layer;
use crate::output::{self, Place};
use crate::{Failure, number, table};
use indicatif::ProgressBar;
use std::path::Path;
use twofour_formats::{Index, Model, Reader, Staged, masks};

/// Makes the masks, writes them, and reads them back. Whether all is well.
pub(crate) fn run(args: &Args, path: &Path, source: &mut dyn Source) -> Result<bool, Failure> {
    let model = Model::find(path)?;
    let readers = model.open_all()?;
    if let Some(weight) = readers.iter().find_map(|(_, reader)| reader.weights().next()) {
        return Err(format!(
            "`{}` is compressed already: it has its mask; twofour compress --decompress makes it dense",
            weight.name()
        )
        .into());
    }
    let nothing = "no layer to make a mask for among";
    let can = Can { layer: &possible, given: &|_| Ok(()), all: false, nothing };
    let chosen = choose::choose(&args.which, &model, &readers, &can)?;
    let layers = &chosen.layers;
    let (form, out) = crate::convert::masks(args.form, args.out.as_deref(), path, "masks")?;
    let mut read = output::read(&model);
    read.extend(read_beside(args));
    let place = args.weights.as_deref().map(|to| Place::asked(&model, path, to));
    let written = std::iter::once(out.clone()).chain(place.iter().flat_map(|place| place.files(&model)));
    output::check(&read, &written.collect::<Vec<_>>(), place.as_ref().and_then(Place::folder))?;
    let mut manifest = masks::Manifest::new(form);
    layers
        .values()
        .try_for_each(|layer| manifest.layer_as(&layer.name, layer.shape, &layer.sizes, layer.transposed))?;
    source.check(layers)?;
    let made = place.as_ref().map(Place::make).transpose()?;
    let progress = table::progress_bar(layers.values().map(Layer::bytes).sum());
    // With calibration, the walk over the model keeps what it made.
    let folder = args.keep.as_deref().filter(|_| args.calibration.is_empty());
    let kept = folder.map(|folder| Kept::open(folder, source.by()?)).transpose()?;
    let mut task = Task { layers, source, kept, report: Vec::new(), progress };
    let mut index = Index::new();
    // All files are written before the first takes its place.
    let mut staged = Vec::new();
    let masks = manifest.stage::<Failure>(&out, |masks| {
        for (file, reader) in &readers {
            match &place {
                Some(place) => {
                    let manifest = copy_of(reader)?;
                    let path = place.file(file);
                    staged.push(manifest.stage::<Failure>(path, |copy| task.file(reader, masks, Some(copy)))?);
                    index.add(file, manifest.tensor_names(), manifest.data_bytes())?;
                }
                None => task.file(reader, masks, None)?,
            }
        }
        Ok(())
    })?;
    staged.push(masks);
    if let (Some(place), Some((name, _))) = (&place, model.index()) {
        staged.push(index.stage(place.file(name))?);
    }
    staged.into_iter().try_for_each(Staged::commit)?;
    if let Some(place) = &place {
        place.complete(path)?;
    }
    drop(made);
    if let Some(kept) = &task.kept {
        kept.remove(layers.values());
    }
    task.source.forget(layers);
    task.progress.finish_and_clear();
    output::print_left_out(&readers);
    chosen.print_dense();
    let well = report::finish(&task.report, form, &out)?;
    if let Some(place) = &place {
        println!("the model under these masks is in {}", crate::names::plain(&place.path.display().to_string()));
    }
    Ok(well)
}

/// Whether masks can be chosen for a layer.
fn possible(layer: &Layer) -> Result<(), String> {
    match is_float(layer.dtype) {
        true => Ok(()),
        false => Err("masks are chosen for floats, F32, F16, BF16, F8_E4M3 and F8_E5M2".into()),
    }
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
    source: &'a mut dyn Source,
    kept: Option<Kept>,
    report: Vec<Done>,
    progress: ProgressBar,
}

impl Task<'_> {
    /// What comes of a layer, or came of it before.
    fn made(&mut self, layer: &Layer, dense: &[u8]) -> Result<Made, Failure> {
        let Some(kept) = &self.kept else { return self.source.layer(layer, dense) };
        if let Some(made) = kept.get(layer, dense) {
            return Ok(made);
        }
        let made = self.source.layer(layer, dense).map_err(|e| kept.left_after(&e))?;
        kept.put(layer, dense, &made)?;
        Ok(made)
    }

    /// The masks of a file's layers, and all its tensors if they are wanted.
    fn file(
        &mut self,
        reader: &Reader<'_>,
        masks: &mut masks::Writer<'_>,
        mut copy: Option<&mut twofour_formats::Writer<'_>>,
    ) -> Result<(), Failure> {
        for tensor in reader.tensors() {
            let name = tensor.name();
            let Some(layer) = self.layers.get(name) else {
                if let Some(copy) = &mut copy {
                    copy.tensor(name, &reader.tensor(name)?)?;
                }
                continue;
            };
            table::at(&self.progress, name);
            let dense = layer.rows(reader.tensor(name)?);
            let made = self.made(layer, &dense)?;
            masks.mask(name, &made.mask)?;
            let (done, weight) = done(layer, &dense, &made)?;
            if let Some(copy) = &mut copy {
                copy.tensor(name, &layer.own(weight.into()))?;
            }
            self.report.push(done);
            self.progress.inc(tensor.bytes());
        }
        Ok(())
    }
}

/// What is to be said of a layer, and its weight as written. Energy: the squares of the weights as written, over those
/// of the weights as they were.
pub(super) fn done(layer: &Layer, dense: &[u8], made: &Made) -> Result<(Done, Vec<u8>), Failure> {
    let weight = made.weight(layer, dense)?;
    let share = number::energy(layer.dtype, &weight)? / number::energy(layer.dtype, dense)?;
    let dtype = layer.dtype.name().to_lowercase();
    let mut done = Done::new(&layer.name, &made.mask, dtype, made.score, Some(share));
    (done.error, done.unswapped) = (made.error, made.unswapped);
    if made.empty > 0 {
        let of = format!("{} of {} columns", made.empty, layer.shape.cols);
        done.notes.push(format!("{of} saw no input, and magnitude chose among them"));
    }
    done.notes.extend(layer.note());
    Ok((done, weight))
}
