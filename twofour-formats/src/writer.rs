//! Writing files: the header first, for all sizes are known from the [`Manifest`], then tensor by tensor, so that a
//! model need not fit the memory.

use super::atomic::{AtomicFile, Staged, unwritable};
use super::dtype::TensorType;
use super::header::{self, TensorInfo};
use super::record::{codes_name, record, values_name};
use super::weight::{Weight, to_bytes};
use super::{RESERVED, VERSION, VERSION_ENTRY, WEIGHT_ENTRY, wrong};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::Path;
use twofour::compress::{Compressed, Sparsity};
use twofour::{DType, Element, Shape};

/// What a file will hold.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    metadata: BTreeMap<String, String>,
    weights: BTreeMap<String, (DType, Shape)>,
    tensors: BTreeMap<String, Slot>,
    bytes: u64,
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
struct Slot {
    dtype: TensorType,
    shape: Vec<usize>,
    bytes: u64,
    /// Made from a compressed weight, which must be written whole.
    of_weight: bool,
}

impl Manifest {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An entry of `__metadata__`, in place of an earlier one of this key.
    ///
    /// # Errors
    /// [`Error::File`]: entries that begin with `twofour.` are written by the manifest itself.
    pub fn metadata(&mut self, key: &str, value: &str) -> Result<()> {
        if key.starts_with(RESERVED) {
            return Err(planned(format!(
                "the entry `{key}` is not free: those with `{RESERVED}` are the format's own"
            )));
        }
        self.metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// A dense tensor.
    ///
    /// # Errors
    /// [`Error::File`]: the name is taken or reserved, or the size is no number of bytes.
    pub fn tensor(&mut self, name: &str, dtype: TensorType, shape: &[usize]) -> Result<()> {
        self.free(name)?;
        self.insert(name, dtype, shape, false)
    }

    /// A compressed weight with values of a type; `shape` is `[N, K]` of the dense weight.
    ///
    /// # Errors
    /// As [`Shape::check`]; [`Error::File`]: a name is taken or reserved, or files hold no values of this type.
    pub fn weight(&mut self, name: &str, value_type: DType, shape: Shape) -> Result<()> {
        shape.check()?;
        let dtype = TensorType::of_values(value_type)
            .ok_or_else(|| planned(format!("weight `{name}` cannot have values of type {value_type}")))?;
        let (values, codes) = (values_name(name), codes_name(name));
        for name in [name, &values, &codes] {
            self.free(name)?;
        }
        // Both or neither.
        let bytes = (shape.weights() / 2).saturating_mul(value_type.size());
        self.room(name, (bytes as u64).saturating_add(Sparsity::of(value_type).packed_codes(shape) as u64))?;
        self.insert(&values, dtype, &[shape.rows, shape.cols / 2], true)?;
        self.insert(&codes, TensorType::U8, &[Sparsity::of(value_type).packed_codes(shape)], true)?;
        self.weights.insert(name.to_owned(), (value_type, shape));
        Ok(())
    }

    fn free(&self, name: &str) -> Result<()> {
        if !header::is_name(name) {
            return Err(planned(format!("no tensor can be named `{name}`")));
        }
        if self.tensors.contains_key(name) || self.weights.contains_key(name) {
            return Err(planned(format!("there is a tensor or weight `{name}` already")));
        }
        Ok(())
    }

    fn insert(&mut self, name: &str, dtype: TensorType, shape: &[usize], of_weight: bool) -> Result<()> {
        let bytes = dtype.bytes(shape).filter(|&bytes| bytes <= i64::MAX as u64);
        let bytes = bytes.ok_or_else(|| planned(format!("{dtype} {shape:?} of `{name}` is no number of bytes")))?;
        self.room(name, bytes)?;
        self.bytes += bytes;
        self.tensors.insert(name.to_owned(), Slot { dtype, shape: shape.to_vec(), bytes, of_weight });
        Ok(())
    }

    /// Checks that offsets in the file, header included, stay numbers of bytes.
    fn room(&self, name: &str, bytes: u64) -> Result<()> {
        match self.bytes.checked_add(bytes) {
            Some(all) if all <= i64::MAX as u64 - header::MAX_HEADER - 8 => Ok(()),
            _ => Err(planned(format!("with `{name}` the file would be larger than files can be"))),
        }
    }

    /// Bytes of all tensors together, without the header: `total_size` of an [`Index`](super::Index).
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.bytes
    }

    /// Names of the tensors that the file will have, those of weights included.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Writes the file at a path. `fill` writes every tensor once, in any order; only then the file takes the place of
    /// one that was there. After an error that one is as it was.
    ///
    /// # Errors
    /// [`Error::File`]: the file cannot be written, what is there is no regular file, or a tensor is missing. What
    /// `fill` returns.
    pub fn save<E: From<Error>>(
        &self,
        path: impl AsRef<Path>,
        fill: impl FnOnce(&mut Writer<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        Ok(self.stage(path, fill)?.commit()?)
    }

    /// [`save`](Self::save), but for the file's taking its place.
    ///
    /// # Errors
    /// The same.
    pub fn stage<E: From<Error>>(
        &self,
        path: impl AsRef<Path>,
        fill: impl FnOnce(&mut Writer<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Staged, E> {
        let path = path.as_ref();
        let label = path.display().to_string();
        let mut file = AtomicFile::create(path).map_err(|e| unwritable(&label, &e))?;
        self.write(&mut file, &label, fill)?;
        Ok(Staged::new(file, label)?)
    }

    /// The bytes of the file. `fill` writes every tensor once, in any order.
    ///
    /// # Errors
    /// [`Error::File`]: a tensor is missing. What `fill` returns.
    pub fn to_bytes<E: From<Error>>(
        &self,
        fill: impl FnOnce(&mut Writer<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Vec<u8>, E> {
        let mut cursor = Cursor::new(Vec::new());
        self.write(&mut cursor, "safetensors bytes", fill)?;
        Ok(cursor.into_inner())
    }

    fn write<E: From<Error>>(
        &self,
        sink: &mut dyn Sink,
        label: &str,
        fill: impl FnOnce(&mut Writer<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut writer = self.begin(sink, label)?;
        fill(&mut writer)?;
        Ok(writer.finish()?)
    }

    /// Writes the header.
    fn begin<'w>(&'w self, sink: &'w mut dyn Sink, label: &'w str) -> Result<Writer<'w>> {
        let tensors = self.laid_out();
        let header = self.entries().and_then(|metadata| header::write(&metadata, tensors.iter()));
        let header = header.map_err(|problem| wrong(label, problem))?;
        sink.write_all(&header).map_err(|e| unwritable(label, &e))?;
        let begin = header.len() as u64;
        let places = tensors.into_iter().map(|tensor| (tensor.name, begin + tensor.range.start)).collect();
        Ok(Writer { manifest: self, sink, label, places, at: begin })
    }

    /// The tensors, one behind another: by falling alignment, then by name.
    fn laid_out(&self) -> Vec<TensorInfo> {
        let mut slots: Vec<_> = self.tensors.iter().collect();
        slots.sort_by_key(|(_, slot)| std::cmp::Reverse(slot.dtype));
        let mut end = 0;
        let place = |(name, slot): (&String, &Slot)| {
            let start = end;
            end += slot.bytes;
            TensorInfo { name: name.clone(), dtype: slot.dtype, shape: slot.shape.clone(), range: start..end }
        };
        slots.into_iter().map(place).collect()
    }

    fn entries(&self) -> std::result::Result<BTreeMap<String, String>, String> {
        let mut entries = self.metadata.clone();
        for (name, &(value_type, shape)) in &self.weights {
            entries.insert(format!("{WEIGHT_ENTRY}{name}"), record(value_type, shape)?);
        }
        if !self.weights.is_empty() {
            entries.insert(VERSION_ENTRY.to_owned(), VERSION.to_string());
        }
        Ok(entries)
    }
}

trait Sink: Write + Seek {}
impl<T: Write + Seek> Sink for T {}

/// A file that is being written: see [`Manifest::save`].
pub struct Writer<'w> {
    manifest: &'w Manifest,
    sink: &'w mut dyn Sink,
    label: &'w str,
    /// Where the tensors go that are still to be written.
    places: BTreeMap<String, u64>,
    at: u64,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("file", &self.label).field("missing", &self.places).finish_non_exhaustive()
    }
}

impl Writer<'_> {
    /// Writes a dense tensor.
    ///
    /// # Errors
    /// [`Error::File`]: the tensor was not planned, is of another size or was written before; the file cannot be
    /// written.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        match self.manifest.tensors.get(name) {
            Some(slot) if slot.of_weight => Err(self.wrong(format!("`{name}` belongs to a weight: write that"))),
            _ => self.put(name, bytes),
        }
    }

    /// Writes a compressed weight.
    ///
    /// # Errors
    /// The same.
    pub fn weight<T: Element>(&mut self, name: &str, weight: &Compressed<T>) -> Result<()> {
        self.parts(name, weight.value_type(), weight.shape(), &to_bytes(weight.values()), weight.codes())
    }

    /// Writes a compressed weight of whatever values.
    ///
    /// # Errors
    /// The same.
    pub fn any_weight(&mut self, name: &str, weight: &Weight) -> Result<()> {
        self.parts(name, weight.value_type(), weight.shape(), &weight.value_bytes(), weight.codes())
    }

    fn parts(&mut self, name: &str, value_type: DType, shape: Shape, values: &[u8], codes: &[u8]) -> Result<()> {
        match self.manifest.weights.get(name) {
            Some(&planned) if planned == (value_type, shape) => {}
            Some(&(planned, Shape { rows, cols })) => {
                let given = format!("{value_type} {} x {}", shape.rows, shape.cols);
                return Err(
                    self.wrong(format!("weight `{name}` is {given}, and {planned} {rows} x {cols} was planned"))
                );
            }
            None => return Err(self.wrong(format!("weight `{name}` was not planned"))),
        }
        self.put(&values_name(name), values)?;
        self.put(&codes_name(name), codes)
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(slot) = self.manifest.tensors.get(name) else {
            return Err(self.wrong(format!("tensor `{name}` was not planned")));
        };
        if bytes.len() as u64 != slot.bytes {
            let got = bytes.len();
            return Err(self.wrong(format!("tensor `{name}` is {got} bytes, and {} were planned", slot.bytes)));
        }
        let Some(place) = self.places.remove(name) else {
            return Err(self.wrong(format!("tensor `{name}` was written before")));
        };
        // A seek would empty the buffer, and many tensors are small.
        let sought = if place == self.at { Ok(place) } else { self.sink.seek(SeekFrom::Start(place)) };
        sought.and_then(|_| self.sink.write_all(bytes)).map_err(|e| unwritable(self.label, &e))?;
        self.at = place + bytes.len() as u64;
        Ok(())
    }

    /// Checks that nothing is missing.
    fn finish(self) -> Result<()> {
        match self.places.keys().next() {
            Some(name) => {
                let missing = self.places.len();
                Err(self.wrong(format!("{missing} planned tensors were not written, `{name}` the first of them")))
            }
            None => self.sink.flush().map_err(|e| unwritable(self.label, &e)),
        }
    }

    fn wrong(&self, problem: String) -> Error {
        wrong(self.label, problem)
    }
}

fn planned(problem: String) -> Error {
    wrong("the planned file", problem)
}
