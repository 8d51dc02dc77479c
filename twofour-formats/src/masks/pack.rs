//! Writing NumPy's archives, as its `savez_compressed` does: a deflated member an array, sizes of 64 bits. The same
//! masks in the same order make the same bytes.

use super::npz::{META, NPY, SHAPE, text_array};
use super::writer::{Manifest, Put};
use super::{Form, MASK, Mask, npy};
use crate::error::{Error, Result};
use crate::wrong;
use ::zip::ZipWriter;
use ::zip::write::SimpleFileOptions;
use std::cell::RefCell;
use std::io::{self, Seek, SeekFrom, Write};
use std::rc::Rc;

pub(super) trait Sink: Write + Seek {}
impl<T: Write + Seek> Sink for T {}

/// What the `zip` crate writes to. After a failure it takes everything, for that crate tries again when it is dropped,
/// and then prints what failed.
struct Sheltered<'w> {
    sink: &'w mut dyn Sink,
    failed: Rc<RefCell<Option<io::Error>>>,
}

impl Sheltered<'_> {
    fn run<T>(&mut self, otherwise: T, run: impl FnOnce(&mut dyn Sink) -> io::Result<T>) -> io::Result<T> {
        if self.failed.borrow().is_some() {
            return Ok(otherwise);
        }
        run(self.sink).or_else(|e| {
            // Tried again by every caller.
            if e.kind() == io::ErrorKind::Interrupted {
                return Err(e);
            }
            *self.failed.borrow_mut() = Some(e);
            Ok(otherwise)
        })
    }
}

impl Write for Sheltered<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.run(bytes.len(), |sink| sink.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.run((), |sink| sink.flush())
    }
}

impl Seek for Sheltered<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        // Positions of a file that is given up; they must not be before those of earlier members.
        self.run(1 << 40, |sink| sink.seek(to))
    }
}

/// An archive that is being written.
pub(super) struct Archive<'w> {
    zip: ZipWriter<Sheltered<'w>>,
    failed: Rc<RefCell<Option<io::Error>>>,
    label: &'w str,
    /// PATCH's text, once.
    text: Option<String>,
}

/// What a file of PATCH's says of itself if nobody says more.
const TEXT: &str = r#"{"format": "packbits", "pattern": "2:4", "sparsity": 0.5, "measured_sparsity": 0.5}"#;

impl<'w> Archive<'w> {
    pub(super) fn new(sink: &'w mut dyn Sink, label: &'w str, manifest: &Manifest) -> Self {
        let failed = Rc::new(RefCell::new(None));
        let zip = ZipWriter::new(Sheltered { sink, failed: Rc::clone(&failed) });
        let text = (manifest.form == Form::Patch).then(|| manifest.text.clone().unwrap_or_else(|| TEXT.to_owned()));
        Self { zip, failed, label, text }
    }

    fn array(&mut self, name: &str, parts: &[&[u8]]) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(::zip::CompressionMethod::Deflated)
            // As NumPy does, for arrays that are larger than they were thought to be.
            .large_file(true);
        let started = self.zip.start_file(format!("{name}{NPY}"), options);
        started.map_err(|e| self.unwritable(&e))?;
        for part in parts {
            self.zip.write_all(part).map_err(|e| self.unwritable(&e))?;
        }
        self.check()
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<()> {
        if let Some(text) = self.text.take() {
            self.array(META, &[&text_array(&text)])?;
        }
        let Self { zip, failed, label, .. } = self;
        let finished = zip.finish().and_then(|mut sink| Ok(sink.flush()?));
        match (failed.borrow_mut().take(), finished) {
            (Some(e), _) => Err(unwritable(label, &e)),
            (None, Err(e)) => Err(unwritable(label, &e)),
            (None, Ok(())) => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        match self.failed.borrow().as_ref() {
            Some(e) => Err(unwritable(self.label, e)),
            None => Ok(()),
        }
    }

    fn unwritable(&self, e: &dyn std::fmt::Display) -> Error {
        self.check().err().unwrap_or_else(|| unwritable(self.label, e))
    }
}

fn unwritable(label: &str, e: &dyn std::fmt::Display) -> Error {
    wrong(label, format_args!("cannot be written: {e}"))
}

impl Put for Archive<'_> {
    fn put(&mut self, form: Form, name: &str, mask: &Mask, _: Option<[usize; 2]>) -> Result<()> {
        let bits = mask.bits();
        let header = npy::header("|u1", &[bits.len() as u64]);
        if form != Form::Patch {
            return self.array(&format!("{name}{MASK}"), &[&header, &bits]);
        }
        self.array(name, &[&header, &bits])?;
        let sizes = [mask.shape().rows, mask.shape().cols].map(|size| (size as u64).to_le_bytes());
        self.array(&format!("{name}{SHAPE}"), &[&npy::header("<i8", &[2]), sizes.as_flattened()])
    }
}
