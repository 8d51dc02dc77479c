//! A file that is there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER: usize = 1 << 20;

/// Symbolic links that lead to one another, at most; as many as Linux follows.
const MOST_LINKS: usize = 40;

/// A new file beside the one that it will replace, with the permissions of that one. A symbolic link stays, and what it
/// leads to is replaced. What is no regular file is never touched. Unless committed, the new file is removed when
/// dropped.
#[derive(Debug)]
pub(super) struct AtomicFile {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    /// The place that the path leads to.
    place: PathBuf,
}

impl AtomicFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        path.file_name().ok_or_else(none)?;
        let (place, old) = place(path)?;
        let name = place.file_name().ok_or_else(none)?;
        // Of this process and this call; what a killed process of the same number left is stepped over.
        loop {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            hidden.push(format!(".{}.{number}.tmp", std::process::id()));
            let temporary = place.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    let file = Some(BufWriter::with_capacity(BUFFER, file));
                    let new = Self { file, temporary, place };
                    old.map_or(Ok(()), |old| keep_permissions(&old, &new.temporary))?;
                    return Ok(new);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// What has been written is on the disk after this, and nothing more is.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some(file) => file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Puts it in the place of the old file.
    pub(super) fn commit(mut self) -> io::Result<()> {
        self.finish()?;
        // Something else may have come there meanwhile.
        match fs::symlink_metadata(&self.place) {
            Ok(meta) => regular(&meta)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        fs::rename(&self.temporary, &self.place)?;
        // Nothing is left to remove.
        self.temporary = PathBuf::new();
        sync_folder(&self.place);
        Ok(())
    }

    fn file(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// The place that a path leads to, and the regular file that is there, if there is one. Anything else is an error.
fn place(path: &Path) -> io::Result<(PathBuf, Option<Metadata>)> {
    let old = match fs::metadata(path) {
        Ok(meta) => regular(&meta).map(|()| Some(meta))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let mut place = path.to_owned();
    for _ in 0..MOST_LINKS {
        if !fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_symlink()) {
            return Ok((place, old));
        }
        let target = fs::read_link(&place)?;
        place = place.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(io::Error::other("too many symbolic links lead to one another"))
}

fn regular(meta: &Metadata) -> io::Result<()> {
    let what = match meta.file_type() {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind => special(kind),
    };
    Err(io::Error::other(format!("it is {what}, and only regular files are replaced")))
}

#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "no regular file",
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "no regular file"
}

/// Before anything is in the new file. Its owner too, where that may be set.
fn keep_permissions(old: &Metadata, new: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let now = fs::metadata(new)?;
        if (now.uid(), now.gid()) != (old.uid(), old.gid()) {
            let _ = chown(new, Some(old.uid()), Some(old.gid()));
        }
    }
    fs::set_permissions(new, old.permissions())
}

/// So that the new name survives a power cut too. Not every file system can; the file is whole in any case.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file()?.seek(to)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // Closed first: some systems remove no open file. Taken apart, so that the buffer is not written out.
        drop(self.file.take().map(BufWriter::into_parts));
        if !self.temporary.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file that is written whole, beside the place that it is for. Files that belong together (a model's shards, their
/// index, masks) are all written before the first takes its place, so that a failure leaves nothing half-written.
/// Dropped, it is removed.
#[derive(Debug)]
#[must_use = "a file that is not committed is removed"]
pub struct Staged {
    file: AtomicFile,
    label: String,
}

impl Staged {
    /// Of a file that these bytes are to be.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File): it cannot be written.
    pub fn of_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> crate::Result<Self> {
        let label = path.as_ref().display().to_string();
        let written = AtomicFile::create(path.as_ref()).and_then(|mut file| file.write_all(bytes).map(|()| file));
        Self::new(written.map_err(|e| unwritable(&label, &e))?, label)
    }

    /// Of a file that all has been written to.
    pub(super) fn new(mut file: AtomicFile, label: String) -> crate::Result<Self> {
        file.finish().map_err(|e| unwritable(&label, &e))?;
        Ok(Self { file, label })
    }

    /// Puts the file in its place, atomically.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File): it cannot be put there.
    pub fn commit(self) -> crate::Result<()> {
        let Self { file, label } = self;
        file.commit().map_err(|e| unwritable(&label, &e))
    }
}

/// The error of a file that cannot be written.
pub(super) fn unwritable(label: &str, e: &io::Error) -> crate::Error {
    super::wrong(label, format_args!("cannot be written: {e}"))
}
