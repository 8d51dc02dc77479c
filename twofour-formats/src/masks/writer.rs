//! Writing files of masks, of any form.

use super::tensors::{AXIS, AXIS_ENTRY, BASE6, SHAPE_ENTRY, VERSION, VERSION_ENTRY, transposed};
use super::{Form, MASK, Mask, Shapes};
use crate::error::{Error, Result};
use crate::{Staged, TensorType, wrong};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use twofour::Shape;

/// Bytes of a name in an archive, without what is added to it.
const MAX_ARCHIVE_NAME: usize = 65_000;

/// What a file of masks will hold.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub(super) form: Form,
    layers: Shapes,
    /// Sizes of weights that are not `[N, K]`, and whether their groups run along the dimension before the last.
    own: BTreeMap<String, (Vec<usize>, bool)>,
    dtype: TensorType,
    pub(super) text: Option<String>,
}

impl Manifest {
    /// An empty file.
    #[must_use]
    pub fn new(form: Form) -> Self {
        Self { form, layers: Shapes::new(), own: BTreeMap::new(), dtype: TensorType::U8, text: None }
    }

    /// Writes flags as `BOOL` and not as `U8`; of other forms it changes nothing.
    pub fn bools(&mut self) {
        self.dtype = TensorType::Bool;
    }

    /// What a file of PATCH's says of itself, JSON, in place of the little that is known here; other forms have no
    /// place for it.
    pub fn text(&mut self, text: &str) {
        self.text = Some(text.to_owned());
    }

    /// A weight's mask.
    ///
    /// # Errors
    /// As [`Shape::check`]; [`Error::File`]: the name is taken, or the form cannot hold it.
    pub fn layer(&mut self, name: &str, shape: Shape) -> Result<()> {
        shape.check()?;
        let refused = |problem: &str| Err(planned(format!("mask `{name}`: {problem}")));
        if self.layers.get(name).is_some() {
            return refused("is there already");
        }
        match self.form {
            // Their reader unpacks whole bytes and then wants the weight's shape.
            Form::MaskLlm if !shape.weights().is_multiple_of(8) => {
                let Shape { rows, cols } = shape;
                let weights = format!("{rows} x {cols} weights are not a multiple of 8");
                refused(&format!("{weights}, and MaskLLM's reader unpacks bytes of 8: write another form"))
            }
            Form::Patch if name == "__meta__" || name.ends_with(".__shape__") => {
                refused("the name means something else in a file of PATCH's")
            }
            // Zip has 16 bits for a name's length, endings included, and Python ends names at a NUL.
            Form::MaskLlm | Form::Patch if name.len() > MAX_ARCHIVE_NAME || name.contains('\0') => {
                refused("the name is too long for an archive of NumPy's or has a NUL: write another form")
            }
            Form::MaskLlm | Form::Patch if !cfg!(feature = "npz") => {
                refused("twofour-formats was built without the feature `npz`, which writes archives of NumPy's")
            }
            _ => {
                self.layers.insert(name, shape);
                Ok(())
            }
        }
    }

    /// A weight's mask, of a weight that has other sizes than its rows of groups: flags are written as the weight lies,
    /// other forms hold rows. With `across` groups run along the dimension before the last: the weight is `[in, out]`,
    /// or several of these.
    ///
    /// # Errors
    /// As [`layer`](Self::layer); [`Error::File`]: the sizes are not those of such rows.
    pub fn layer_as(&mut self, name: &str, shape: Shape, sizes: &[usize], across: bool) -> Result<()> {
        let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let inputs = sizes.len().checked_sub(2).map(|before| sizes[before]);
        let fits = product == shape.rows.checked_mul(shape.cols) && (!across || inputs == Some(shape.cols));
        if !fits || sizes.len() < 2 {
            let Shape { rows, cols } = shape;
            return Err(planned(format!("mask `{name}`: a weight {sizes:?} is not {rows} rows of {cols}")));
        }
        self.layer(name, shape)?;
        if across || sizes.len() > 2 {
            self.own.insert(name.to_owned(), (sizes.to_vec(), across));
        }
        Ok(())
    }

    /// Names and shapes of the masks, by name.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = (&str, Shape)> {
        self.layers.iter()
    }

    /// Writes the file at a path. `fill` writes every mask once, in any order; only then the file takes the place of
    /// one that was there. After an error that one is as it was.
    ///
    /// # Errors
    /// [`Error::File`]: the file cannot be written, what is there is no regular file, or a mask is missing. What `fill`
    /// returns.
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
        match self.form {
            Form::Flags | Form::Base6 => self.tensors()?.stage(path, |file| self.fill(&label, file, fill)),
            #[cfg(feature = "npz")]
            Form::MaskLlm | Form::Patch => {
                let created = crate::atomic::AtomicFile::create(path);
                let mut file = created.map_err(|e| crate::atomic::unwritable(&label, &e))?;
                self.archive(&label, &mut file, fill)?;
                Ok(Staged::new(file, label)?)
            }
            #[cfg(not(feature = "npz"))]
            Form::MaskLlm | Form::Patch => Err(without_npz(&label).into()),
        }
    }

    /// The bytes of the file. `fill` writes every mask once, in any order.
    ///
    /// # Errors
    /// [`Error::File`]: a mask is missing. What `fill` returns.
    pub fn to_bytes<E: From<Error>>(
        &self,
        fill: impl FnOnce(&mut Writer<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Vec<u8>, E> {
        match self.form {
            Form::Flags | Form::Base6 => self.tensors()?.to_bytes(|file| self.fill("safetensors bytes", file, fill)),
            #[cfg(feature = "npz")]
            Form::MaskLlm | Form::Patch => {
                let mut bytes = std::io::Cursor::new(Vec::new());
                self.archive("npz bytes", &mut bytes, fill)?;
                Ok(bytes.into_inner())
            }
            #[cfg(not(feature = "npz"))]
            Form::MaskLlm | Form::Patch => Err(without_npz("npz bytes").into()),
        }
    }

    /// The manifest of a safetensors file.
    fn tensors(&self) -> Result<crate::Manifest> {
        let mut manifest = crate::Manifest::new();
        if self.form == Form::Base6 {
            manifest.metadata(VERSION_ENTRY, VERSION)?;
        }
        for (name, shape) in self.layers() {
            let Shape { rows, cols } = shape;
            if self.form == Form::Base6 {
                manifest.metadata(&format!("{SHAPE_ENTRY}{name}"), &format!("[{rows},{cols}]"))?;
                manifest.tensor(&format!("{name}{BASE6}"), TensorType::U8, &[super::base6::packed_len(shape)])?;
            } else {
                let tensor = format!("{name}{MASK}");
                match self.own.get(name) {
                    Some((sizes, across)) => {
                        if *across {
                            manifest.metadata(&format!("{AXIS_ENTRY}{name}"), AXIS)?;
                        }
                        manifest.tensor(&tensor, self.dtype, sizes)?;
                    }
                    None => manifest.tensor(&tensor, self.dtype, &[rows, cols])?,
                }
            }
        }
        Ok(manifest)
    }

    #[cfg(feature = "npz")]
    fn archive<E: From<Error>>(
        &self,
        label: &str,
        sink: &mut dyn super::pack::Sink,
        fill: impl FnOnce(&mut Writer<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut archive = super::pack::Archive::new(sink, label, self);
        self.fill(label, &mut archive, fill)?;
        Ok(archive.finish()?)
    }

    fn fill<E: From<Error>>(
        &self,
        label: &str,
        out: &mut dyn Put,
        fill: impl FnOnce(&mut Writer<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let missing = self.layers().map(|(name, _)| name).collect();
        let mut writer = Writer { manifest: self, out, label, missing };
        fill(&mut writer)?;
        match writer.missing.first() {
            Some(name) => {
                let count = writer.missing.len();
                let problem = format!("{count} planned masks were not written, `{name}` the first of them");
                Err(wrong(label, problem).into())
            }
            None => Ok(()),
        }
    }
}

#[cfg(not(feature = "npz"))]
fn without_npz(label: &str) -> Error {
    wrong(label, "cannot be written: twofour-formats was built without the feature `npz`")
}

/// What takes the masks of a file.
pub(super) trait Put {
    /// Of a weight whose groups run across, these are its last two sizes.
    fn put(&mut self, form: Form, name: &str, mask: &Mask, across: Option<[usize; 2]>) -> Result<()>;
}

impl Put for crate::Writer<'_> {
    fn put(&mut self, form: Form, name: &str, mask: &Mask, across: Option<[usize; 2]>) -> Result<()> {
        match (form, across) {
            (Form::Base6, _) => self.tensor(&format!("{name}{BASE6}"), &mask.base6()?),
            (_, Some([inputs, outputs])) => {
                let flags = transposed(&mask.flags::<u8>()?, outputs, inputs, 1)?;
                self.tensor(&format!("{name}{MASK}"), &flags)
            }
            _ => self.tensor(&format!("{name}{MASK}"), &mask.flags::<u8>()?),
        }
    }
}

/// A file of masks that is being written: see [`Manifest::save`].
pub struct Writer<'w> {
    manifest: &'w Manifest,
    out: &'w mut dyn Put,
    label: &'w str,
    missing: BTreeSet<&'w str>,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("file", &self.label).field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl Writer<'_> {
    /// Writes a mask.
    ///
    /// # Errors
    /// [`Error::File`]: the mask was not planned, is of another shape or was written before; the file cannot be
    /// written.
    pub fn mask(&mut self, name: &str, mask: &Mask) -> Result<()> {
        let Shape { rows, cols } = mask.shape();
        match self.manifest.layers.get(name) {
            Some(shape) if shape == mask.shape() => {}
            Some(shape) => {
                let planned = format!("{} x {} was planned", shape.rows, shape.cols);
                return Err(self.wrong(format!("mask `{name}` is {rows} x {cols}, and {planned}")));
            }
            None => return Err(self.wrong(format!("mask `{name}` was not planned"))),
        }
        if !self.missing.contains(name) {
            return Err(self.wrong(format!("mask `{name}` was written before")));
        }
        let across = self.manifest.own.get(name).filter(|(_, across)| *across);
        let across = across.and_then(|(sizes, _)| sizes.last_chunk().copied());
        self.out.put(self.manifest.form, name, mask, across)?;
        // Only now: a failure that `fill` passes over is a mask that is missing.
        self.missing.remove(name);
        Ok(())
    }

    fn wrong(&self, problem: String) -> Error {
        wrong(self.label, problem)
    }
}

fn planned(problem: String) -> Error {
    wrong("the planned file", problem)
}
