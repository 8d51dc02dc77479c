//! Reading files.

use super::header::{Header, TensorInfo};
use super::record::{self, Encoding, WeightInfo, codes_name, values_name};
use super::source::Source;
use super::view::{WeightView, other_type};
use super::weight::{Weight, from_bytes, of_type};
use super::{bitmask, in_weight};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use twofour::compress::{Compressed, Sparsity};
use twofour::{DType, Element};

/// A safetensors file: its compressed weights, of either [`Encoding`], and its other tensors. See the [module](super)
/// for the format.
///
/// Opening reads and checks the header; tensors are read when they are asked for. Methods can be called from several
/// threads.
#[derive(Debug)]
pub struct Reader<'a> {
    source: Source<'a>,
    header: Header,
    weights: Vec<WeightInfo>,
    /// Names of tensors that weights are made of.
    parts: BTreeSet<String>,
    left_out: Vec<TensorInfo>,
}

impl<'a> Reader<'a> {
    /// Reads a whole file in memory, such as a mapped one; nothing is copied before it is asked for.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::InWeight`]: the bytes are no whole safetensors file, of another version of the
    /// format, or a weight is not what the file says of it.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        Self::new(Source::from_bytes(bytes)?, |_| true)
    }

    /// Of the tensors that count.
    fn new((source, mut header): (Source<'a>, Header), counts: impl Fn(&str) -> bool) -> Result<Self> {
        let left_out = header.leave_out(|tensor| !counts(&tensor.name));
        if !left_out.is_empty() {
            record::leave_out(&mut header, &left_out);
        }
        let weights = record::weights(&source, &header)?;
        let parts = record::parts(&weights);
        Ok(Self { source, header, weights, parts, left_out })
    }

    /// The compressed weights, by name.
    pub fn weights(&self) -> impl ExactSizeIterator<Item = &WeightInfo> {
        self.weights.iter()
    }

    /// The tensors that belong to no compressed weight, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.header.tensors.iter().filter(|tensor| !self.parts.contains(&tensor.name))
    }

    /// All tensors of the file, by name.
    pub fn all_tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.header.tensors.iter()
    }

    /// Tensors that are in the file but not in the model: its index has them in another file, or not at all (see
    /// [`Model::open`](super::Model::open)). No other method knows them.
    pub fn left_out(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.left_out.iter()
    }

    /// What the file says of itself (`__metadata__`), without the entries of this crate's format.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        record::foreign(&self.header.metadata)
    }

    /// What is known of a compressed weight, if there is one of this name.
    #[must_use]
    pub fn weight_info(&self, name: &str) -> Option<&WeightInfo> {
        let found = self.weights.binary_search_by(|info| info.name.as_str().cmp(name)).ok()?;
        Some(&self.weights[found])
    }

    /// Bytes of the tensors that a compressed weight is made of; 0 if there is none of this name.
    #[must_use]
    pub fn weight_bytes(&self, name: &str) -> u64 {
        let parts = self.weight_info(name).map(WeightInfo::parts).unwrap_or_default();
        parts.iter().filter_map(|part| self.header.tensor(part)).map(TensorInfo::bytes).sum()
    }

    /// What is known of a tensor, if there is one of this name.
    #[must_use]
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensor(name)
    }

    /// The bytes of a tensor, as they are.
    ///
    /// # Errors
    /// [`Error::File`]: there is no such tensor, or it cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Cow<'a, [u8]>> {
        let Some(tensor) = self.header.tensor(name) else {
            return Err(self.source.wrong(format!("there is no tensor `{name}`")));
        };
        self.source.read(tensor.range.clone())
    }

    /// The elements of a dense tensor.
    ///
    /// # Errors
    /// [`Error::File`]: there is no such tensor, it is of another type, or it cannot be read.
    pub fn elements<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        match self.header.tensor(name) {
            Some(tensor) if tensor.dtype.value_type() != Some(T::DTYPE) => Err(self.source.wrong(format!(
                "tensor `{name}` is of type {}, and {} was asked for",
                tensor.dtype,
                T::DTYPE
            ))),
            _ => from_bytes(&self.tensor(name)?).map_err(|error| self.in_weight(name, error)),
        }
    }

    /// A compressed weight of these values.
    ///
    /// # Errors
    /// [`Error::File`]: there is no such weight, or it cannot be read. [`Error::InWeight`]: it holds values of another
    /// type ([`Error::DType`]), a code that is not legal ([`twofour::Error::IllegalCode`]), or a bitmask that is not
    /// 2:4 ([`twofour::Error::NotTwoFour`]; of `f32` [`Error::NotOneTwo`]).
    pub fn compressed<T: Element>(&self, name: &str) -> Result<Compressed<T>> {
        let info = self.known(name)?;
        if info.value_type != T::DTYPE {
            return Err(self.in_weight(name, other_type(info.value_type, T::DTYPE)));
        }
        match info.encoding {
            Encoding::Codes => {
                let view = self.view(name)?;
                view.into_compressed().map_err(|error| self.in_weight(name, error))
            }
            Encoding::Bitmask | Encoding::SparseBitmask => {
                let [values, bits] = self.masked(info)?;
                let compressed = from_bytes(&values).and_then(|values| bitmask::from_parts(info.shape, &values, &bits));
                compressed.map_err(|error| match error {
                    twofour::Error::NotTwoFour { row, group, width: 2, .. } => {
                        self.in_weight(name, Error::NotOneTwo { row, group })
                    }
                    error => self.in_weight(name, error),
                })
            }
        }
    }

    /// Values and bits of a weight under a bitmask.
    fn masked(&self, info: &WeightInfo) -> Result<[Cow<'a, [u8]>; 2]> {
        let part = |part| self.tensor(&bitmask::part(&info.name, part));
        Ok([part("compressed")?, part("bitmask")?])
    }

    /// The dense weight of a compressed one, as it would be in a file: kept values bit for bit, all others `+0.0`,
    /// little-endian. Under a bitmask groups may keep as many as they like.
    ///
    /// # Errors
    /// As [`compressed`](Self::compressed), without those of bitmasks that are not 2:4.
    pub fn dense(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.known(name)?;
        if info.encoding == Encoding::Codes {
            return Ok(self.weight(name)?.decompress_bytes());
        }
        let [values, bits] = self.masked(info)?;
        let dense = bitmask::dense(info.shape, info.value_type.size(), &values, &bits);
        dense.map_err(|error| self.in_weight(name, error))
    }

    /// A compressed weight of whatever values.
    ///
    /// # Errors
    /// As [`compressed`](Self::compressed).
    pub fn weight(&self, name: &str) -> Result<Weight> {
        let unknown =
            |other| Err(self.source.wrong(format!("weight `{name}`: values of type {other} are not supported")));
        of_type!(self.known(name)?.value_type, self.compressed(name), unknown)
    }

    /// A weight where it lies, for one that is held as [`Encoding::Codes`].
    ///
    /// # Errors
    /// As [`compressed`](Self::compressed); [`Error::InWeight`] with [`twofour::Error::Missing`] for a weight under a
    /// bitmask.
    pub fn view(&self, name: &str) -> Result<WeightView<'a>> {
        let info = self.known(name)?;
        if info.encoding != Encoding::Codes {
            let missing = "this file holds it under a bitmask: take a copy with `compressed`";
            return Err(self.in_weight(name, twofour::Error::Missing { what: "a view of the weight", missing }));
        }
        let (values, codes) = (self.tensor(&values_name(name))?, self.tensor(&codes_name(name))?);
        if Sparsity::of(info.value_type).groups(info.shape) % 2 == 1 && codes.last().is_some_and(|last| last >> 4 != 0)
        {
            let problem = "the unused half of the last byte of its codes is not 0";
            return Err(self.source.wrong(format!("weight `{name}`: {problem}")));
        }
        let view = WeightView::new(info.shape, info.value_type, values, codes);
        view.map_err(|error| self.in_weight(name, error))
    }

    fn known(&self, name: &str) -> Result<&WeightInfo> {
        self.weight_info(name).ok_or_else(|| {
            let dense = if self.header.tensor(name).is_some() { ": the tensor of this name is dense" } else { "" };
            self.source.wrong(format!("there is no compressed weight `{name}`{dense}"))
        })
    }

    fn in_weight(&self, name: &str, error: impl Into<Error>) -> Error {
        in_weight(self.source.label(), name, error)
    }
}

impl Reader<'static> {
    /// Opens a file on disk, of which only the header is read.
    ///
    /// # Errors
    /// As [`from_bytes`](Reader::from_bytes), and if the file cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_part(path.as_ref(), |_| true)
    }

    /// Opens a file of which these tensors count.
    pub(super) fn open_part(path: &Path, counts: impl Fn(&str) -> bool) -> Result<Self> {
        Self::new(Source::open(path)?, counts)
    }
}
