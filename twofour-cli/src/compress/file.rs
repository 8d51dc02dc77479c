//! One file of the model: its manifest, writing it, and reading it back.

use super::Task;
use super::given::Given;
use super::report::{Done, Report};
use crate::layer::Layer;
use crate::table::at;
use crate::{Failure, number};
use indicatif::ProgressBar;
use std::path::Path;
use twofour::Shape;
use twofour::compress::{Sparsity, convert};
use twofour_formats::{Manifest, Reader, Staged, TensorType, Weight, Writer};

/// The tensors of the new file: the sizes of all are known before the first is read.
pub(super) fn manifest(task: &Task, reader: &Reader<'_>) -> Result<Manifest, Failure> {
    let mut manifest = Manifest::new();
    for (key, value) in reader.metadata() {
        manifest.metadata(key, value)?;
    }
    for tensor in reader.tensors() {
        match task.layer(tensor.name()) {
            Some((_, layer)) => manifest.weight(&layer.name, value_type(layer)?, layer.shape)?,
            None => manifest.tensor(tensor.name(), tensor.dtype(), tensor.shape())?,
        }
    }
    for info in reader.weights() {
        let Shape { rows, cols } = info.shape();
        let dtype = TensorType::of_values(info.value_type()).ok_or("no tensor has values of this type")?;
        manifest.tensor(info.name(), dtype, &[rows, cols])?;
    }
    Ok(manifest)
}

fn value_type(layer: &Layer) -> Result<twofour::DType, Failure> {
    layer.dtype.value_type().ok_or_else(|| format!("there are no layers of {}", layer.dtype).into())
}

impl Task {
    /// The layer that a tensor is to become, and its mask.
    fn layer(&self, name: &str) -> Option<(&Given, &Layer)> {
        let Self::Compress(chosen, given) = self else { return None };
        chosen.layers.get(name).map(|layer| (&**given, layer))
    }
}

/// Writes it, tensor by tensor; it does not take its place yet.
pub(super) fn write(
    task: &Task,
    reader: &Reader<'_>,
    manifest: &Manifest,
    path: &Path,
    report: &mut Report,
    progress: &ProgressBar,
) -> Result<Staged, Failure> {
    report.before += reader.all_tensors().map(|tensor| tensor.bytes()).sum::<u64>();
    report.after += manifest.data_bytes();
    manifest.stage(path, |file| {
        for tensor in reader.tensors() {
            at(progress, tensor.name());
            let dense = reader.tensor(tensor.name())?;
            match task.layer(tensor.name()) {
                Some((given, layer)) => report.layers.push(compress(given, layer, &dense, file)?),
                None => file.tensor(tensor.name(), &dense)?,
            }
            progress.inc(tensor.bytes());
        }
        for info in reader.weights() {
            at(progress, info.name());
            let dense = reader.dense(info.name())?;
            file.tensor(info.name(), &dense)?;
            let before = reader.weight_bytes(info.name());
            report.layers.push(Done::decompressed(info, (before as usize, dense.len())));
            progress.inc(before);
        }
        Ok(())
    })
}

fn compress(given: &Given, layer: &Layer, dense: &[u8], file: &mut Writer<'_>) -> Result<Done, Failure> {
    let compressed = given.compress(layer, dense)?;
    file.any_weight(&layer.name, &compressed)?;
    let values = compressed.value_bytes();
    let after = values.len() + compressed.codes().len();
    let kept = number::energy(layer.dtype, &values)? / number::energy(layer.dtype, dense)?;
    Ok(Done::compressed(&layer.name, layer.shape, compressed.value_type(), (dense.len(), after), kept))
}

/// Compares a file that was written, read from the disk, with what it was made from.
pub(super) fn verify(
    task: &Task,
    reader: &Reader<'_>,
    written: &Reader<'_>,
    report: &mut Report,
    progress: &ProgressBar,
) -> Result<(), Failure> {
    for tensor in reader.tensors() {
        let name = tensor.name();
        at(progress, &format!("checking {name}"));
        let source = reader.tensor(name)?;
        let well = match task.layer(name) {
            Some((given, layer)) => is_kept(given, layer, &source, &written.weight(name)?)?,
            None => {
                let info = written.tensor_info(name).map(|info| (info.dtype(), info.shape()));
                info == Some((tensor.dtype(), tensor.shape())) && written.tensor(name)? == source
            }
        };
        report.check(name, well);
        progress.inc(tensor.bytes());
    }
    for info in reader.weights() {
        let name = info.name();
        at(progress, &format!("checking {name}"));
        report.check(name, *written.tensor(name)? == *reader.dense(name)?);
        progress.inc(reader.weight_bytes(name));
    }
    let same = reader.metadata().eq(written.metadata());
    report.check("__metadata__", same);
    Ok(())
}

/// Whether a layer that was read back has the mask it should have, the source's bits where the mask keeps them, and
/// zeros elsewhere.
fn is_kept(given: &Given, layer: &Layer, source: &[u8], found: &Weight) -> Result<bool, Failure> {
    if (found.shape(), found.value_type()) != (layer.shape, value_type(layer)?) {
        return Ok(false);
    }
    let mask: Vec<bool> = convert::mask_from_codes(Sparsity::of(found.value_type()), layer.shape, found.codes())?;
    let kept = {
        let (dense, size) = (found.decompress_bytes(), layer.dtype.bits() / 8);
        let elements = dense.chunks_exact(size).zip(source.chunks_exact(size)).zip(mask);
        let right = |((found, source), kept): ((&[u8], &[u8]), bool)| match kept {
            true => found == source,
            false => found.iter().all(|&byte| byte == 0),
        };
        dense.len() == source.len() && elements.map(right).fold(true, |all, right| all & right)
    };
    Ok(kept && found.codes() == given.compress(layer, source)?.codes())
}
