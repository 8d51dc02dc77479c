//! Reading files of masks, of whichever form.

use super::tensors::{Failure, Tensors};
use super::{Fewer, Form, Mask, Shapes};
use crate::error::{Error, Result};
use crate::{Reader, in_weight, wrong};
use std::io::Read;
use std::path::Path;
use twofour::Shape;

/// A file of masks; see the [module](super). Opening reads what lists them; a mask is read when it is asked for.
/// Methods can be called from several threads, one of which reads at a time.
#[derive(Debug)]
pub struct Masks<'a> {
    inner: Inner<'a>,
    label: String,
    names: Vec<String>,
    shapes: Shapes,
    fewer: Fewer,
}

#[derive(Debug)]
enum Inner<'a> {
    Tensors(Tensors<'a>),
    #[cfg(feature = "npz")]
    Archive(super::npz::Archive<'a>),
}

/// Whether these bytes begin a zip archive, which may be empty. As the length of a safetensors file's header they would
/// be too large.
fn is_archive(start: &[u8]) -> bool {
    matches!(start, [b'P', b'K', 3, 4, version, ..] if *version != 0) || start.starts_with(b"PK\x05\x06")
}

#[cfg(not(feature = "npz"))]
const NO_ARCHIVES: &str = "is an archive of NumPy's, and twofour-formats was built without the feature `npz`";

impl<'a> Masks<'a> {
    /// Reads a whole file in memory.
    ///
    /// # Errors
    /// [`Error::File`]: the bytes are no file of masks, or not what they say.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        if is_archive(bytes) {
            const LABEL: &str = "npz bytes";
            #[cfg(feature = "npz")]
            return Self::of_archive(super::npz::Source::Bytes(bytes), LABEL.into());
            #[cfg(not(feature = "npz"))]
            return Err(wrong(LABEL, NO_ARCHIVES));
        }
        Self::of_tensors(Reader::from_bytes(bytes)?, "safetensors bytes".into())
    }

    fn of_tensors(reader: Reader<'a>, label: String) -> Result<Self> {
        let tensors = Tensors::new(reader).map_err(|problem| wrong(&label, problem))?;
        Ok(Self::new(tensors.names(), Inner::Tensors(tensors), label))
    }

    #[cfg(feature = "npz")]
    fn of_archive(source: super::npz::Source<'a>, label: String) -> Result<Self> {
        let archive = super::npz::Archive::new(source).map_err(|problem| wrong(&label, problem))?;
        Ok(Self::new(archive.names(), Inner::Archive(archive), label))
    }

    fn new(mut names: Vec<String>, inner: Inner<'a>, label: String) -> Self {
        // With their endings they were in another order: `a..mask` is before `a.mask`, and `a.` behind `a`.
        names.sort_unstable();
        Self { inner, label, names, shapes: Shapes::new(), fewer: Fewer::Refuse }
    }

    /// Says what shapes the weights have. MaskLLM's files cannot be read without; of other files a mask of another
    /// shape than its weight's becomes an error.
    #[must_use]
    pub fn with_shapes(mut self, shapes: Shapes) -> Self {
        self.shapes = shapes;
        self
    }

    /// Says what to do with groups that keep fewer than two; [`Fewer::Refuse`] unless this is called.
    #[must_use]
    pub fn fewer(mut self, fewer: Fewer) -> Self {
        self.fewer = fewer;
        self
    }

    /// The file's form.
    #[must_use]
    pub fn form(&self) -> Form {
        match &self.inner {
            Inner::Tensors(tensors) => tensors.form(),
            #[cfg(feature = "npz")]
            Inner::Archive(archive) => archive.form(),
        }
    }

    /// Names of the weights that there are masks of, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The shape of a weight that there is a mask of: as the file says, or as [given](Self::with_shapes).
    ///
    /// # Errors
    /// [`Error::File`]: there is no such mask, its shape is not known, or another than the one given.
    /// [`Error::InWeight`]: the shape is that of no mask, as [`Shape::check`] finds.
    pub fn shape(&self, name: &str) -> Result<Shape> {
        if self.names.binary_search_by(|known| known.as_str().cmp(name)).is_err() {
            return Err(wrong(&self.label, format_args!("there is no mask `{name}`")));
        }
        let given = self.shapes.get(name);
        let shape = match (self.own_shape(name, given)?, given) {
            (Some(own), Some(given)) if own != given => {
                let problem =
                    format!("is of {} x {}, and its weight of {} x {}", own.rows, own.cols, given.rows, given.cols);
                return Err(self.wrong(name, problem));
            }
            (Some(shape), _) | (None, Some(shape)) => shape,
            (None, None) => {
                let problem =
                    "has no shape: this file holds none, so give those of the model, of which this is no weight";
                return Err(self.wrong(name, problem.into()));
            }
        };
        shape.check().map_err(|error| in_weight(&self.label, name, error))?;
        Ok(shape)
    }

    /// The shape that the file says. MaskLLM's is asked only if there is no other.
    fn own_shape(&self, name: &str, given: Option<Shape>) -> Result<Option<Shape>> {
        match &self.inner {
            Inner::Tensors(tensors) => {
                tensors.shape(name, given).map(Some).map_err(|problem| self.wrong(name, problem))
            }
            #[cfg(feature = "npz")]
            Inner::Archive(archive) if archive.form() == Form::MaskLlm && given.is_some() => Ok(None),
            #[cfg(feature = "npz")]
            Inner::Archive(archive) => archive.shape(name).map_err(|failure| self.failed(name, failure)),
        }
    }

    /// Reads a mask.
    ///
    /// # Errors
    /// As [`shape`](Self::shape); [`Error::File`]: it cannot be read, or is no mask. [`Error::InWeight`] with
    /// [`twofour::Error::NotTwoFour`]: a group does not keep two; with
    /// [`twofour::Error::IllegalCode`]: a byte is not of base 6.
    pub fn read(&self, name: &str) -> Result<Mask> {
        let shape = self.shape(name)?;
        let mask = match &self.inner {
            Inner::Tensors(tensors) => tensors.read(name, shape, self.fewer)?,
            #[cfg(feature = "npz")]
            Inner::Archive(archive) => archive.read(name, shape, self.fewer),
        };
        mask.map_err(|failure| self.failed(name, failure))
    }

    /// All masks, each read when it is come to.
    pub fn iter(&self) -> impl Iterator<Item = Result<(&str, Mask)>> {
        self.names().map(|name| Ok((name, self.read(name)?)))
    }

    /// What a file of PATCH's says of itself, JSON, if it does.
    ///
    /// # Errors
    /// [`Error::File`]: it cannot be read, or is no text.
    pub fn text(&self) -> Result<Option<String>> {
        match &self.inner {
            Inner::Tensors(_) => Ok(None),
            #[cfg(feature = "npz")]
            Inner::Archive(archive) => archive.text().map_err(|failure| self.failed(super::npz::META, failure)),
        }
    }

    fn failed(&self, name: &str, failure: Failure) -> Error {
        match failure {
            // Said in the words of the file it is usual in: its makers call such masks hybrid.
            Failure::Error(twofour::Error::NotTwoFour { row, group, kept: 4, .. }) if self.form() == Form::Patch => {
                let hybrid =
                    "this is a hybrid mask with dense tiles, and only a mask that is 2:4 everywhere can be read";
                self.wrong(name, format!("group {group} of row {row} keeps 4 of 4 values: {hybrid}"))
            }
            Failure::Error(error) => in_weight(&self.label, name, error),
            Failure::Problem(problem) => self.wrong(name, problem),
        }
    }

    fn wrong(&self, name: &str, problem: String) -> Error {
        wrong(&self.label, format_args!("mask `{name}`: {problem}"))
    }
}

impl Masks<'static> {
    /// Opens a file on disk, and finds out its form.
    ///
    /// # Errors
    /// As [`from_bytes`](Masks::from_bytes), and if it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let label = path.display().to_string();
        let unreadable = |e| wrong(&label, format_args!("cannot be read: {e}"));
        let mut file = crate::source::open(path)?;
        let mut start = Vec::new();
        file.by_ref().take(8).read_to_end(&mut start).map_err(unreadable)?;
        if is_archive(&start) {
            #[cfg(feature = "npz")]
            return Self::of_archive(super::npz::Source::Disk(file.into()), label);
            #[cfg(not(feature = "npz"))]
            return Err(wrong(&label, NO_ARCHIVES));
        }
        Self::of_tensors(Reader::open(path)?, label)
    }
}
