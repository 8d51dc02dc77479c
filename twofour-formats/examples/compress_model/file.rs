//! One file of the model: its manifest, writing it, and reading it back.

use crate::choose::Layers;
use crate::number::{Number, energy, for_type};
use crate::report::{Layer, Report};
use crate::{Failure, Task};
use indicatif::ProgressBar;
use std::path::Path;
use twofour::compress::{Sparsity, convert};
use twofour::{DType, Shape};
use twofour_formats::{Manifest, Reader, Staged, TensorType, Writer};

/// The tensors of the new file: the sizes of all are known before the first is read.
pub(crate) fn manifest(task: &Task, reader: &Reader<'_>) -> Result<Manifest, Failure> {
    let mut manifest = Manifest::new();
    for (key, value) in reader.metadata() {
        manifest.metadata(key, value)?;
    }
    for tensor in reader.tensors() {
        match layer(task, tensor.name()) {
            Some((_, shape, value_type)) => manifest.weight(tensor.name(), value_type, shape)?,
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

/// Writes it, tensor by tensor; it does not take its place yet.
pub(crate) fn write(
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
            progress.set_message(tensor.name().to_owned());
            match layer(task, tensor.name()) {
                Some((layers, shape, value_type)) => {
                    let layer = for_type!(value_type, compress(layers, reader, tensor.name(), shape, file))?;
                    report.layers.push(layer);
                }
                None => file.tensor(tensor.name(), &reader.tensor(tensor.name())?)?,
            }
            progress.inc(tensor.bytes());
        }
        for info in reader.weights() {
            progress.set_message(info.name().to_owned());
            let weight = reader.weight(info.name())?;
            let dense = weight.decompress_bytes();
            file.tensor(info.name(), &dense)?;
            let bytes = (weight.value_bytes().len() + weight.codes().len(), dense.len());
            report.layers.push(Layer::decompressed(info, bytes));
            progress.inc(bytes.0 as u64);
        }
        Ok(())
    })
}

/// The layer that a tensor is to become.
fn layer<'t>(task: &'t Task, name: &str) -> Option<(&'t Layers, Shape, DType)> {
    let Task::Compress(layers) = task else { return None };
    layers.get(name).map(|(shape, value_type)| (layers, shape, value_type))
}

fn compress<T: Number>(
    layers: &Layers,
    reader: &Reader<'_>,
    name: &str,
    shape: Shape,
    file: &mut Writer<'_>,
) -> Result<Layer, Failure> {
    let dense = reader.elements::<T>(name)?;
    let compressed = layers.compress(name, shape, &dense)?;
    file.weight(name, &compressed)?;
    let after = size_of_val(compressed.values()) + compressed.codes().len();
    let kept = energy(compressed.values()) / energy(&dense);
    Ok(Layer::compressed(name, shape, T::DTYPE, (size_of_val(dense.as_slice()), after), kept))
}

/// Compares a file that was written, read from the disk, with what it was made from.
pub(crate) fn verify(
    task: &Task,
    reader: &Reader<'_>,
    written: &Reader<'_>,
    report: &mut Report,
    progress: &ProgressBar,
) -> Result<(), Failure> {
    for tensor in reader.tensors() {
        let name = tensor.name();
        progress.set_message(format!("checking {name}"));
        let well = match layer(task, name) {
            Some((layers, shape, value_type)) => for_type!(value_type, is_kept(layers, reader, written, name, shape))?,
            None => {
                let info = written.tensor_info(name).map(|info| (info.dtype(), info.shape()));
                info == Some((tensor.dtype(), tensor.shape())) && written.tensor(name)? == reader.tensor(name)?
            }
        };
        report.check(name, well);
        progress.inc(tensor.bytes());
    }
    for info in reader.weights() {
        let name = info.name();
        progress.set_message(format!("checking {name}"));
        let weight = reader.weight(name)?;
        report.check(name, *written.tensor(name)? == *weight.decompress_bytes());
        progress.inc((weight.value_bytes().len() + weight.codes().len()) as u64);
    }
    let same = reader.metadata().eq(written.metadata());
    report.check("__metadata__", same);
    Ok(())
}

/// Whether a layer that was read back has the mask it should have, the source's bits where the mask keeps them, and
/// zeros elsewhere.
fn is_kept<T: Number>(
    layers: &Layers,
    reader: &Reader<'_>,
    written: &Reader<'_>,
    name: &str,
    shape: Shape,
) -> Result<bool, Failure> {
    let dense = reader.elements::<T>(name)?;
    let found = written.compressed::<T>(name)?;
    let mask: Vec<bool> = convert::mask_from_codes(Sparsity::of(T::DTYPE), shape, found.codes())?;
    let decompressed = found.decompress();
    let zero = <T as bytemuck::Zeroable>::zeroed();
    let same = |a: &T, b: &T| bytemuck::bytes_of(a) == bytemuck::bytes_of(b);
    let bits = decompressed.iter().zip(&dense).zip(mask);
    let kept = bits.fold(true, |well, ((found, source), kept)| well & same(found, if kept { source } else { &zero }));
    Ok(kept && found.shape() == shape && found.codes() == layers.compress(name, shape, &dense)?.codes())
}
