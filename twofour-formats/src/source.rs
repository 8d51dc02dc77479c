//! Where a file's bytes come from: a slice, or the disk.

use super::header::{Header, MAX_HEADER};
use super::wrong;
use crate::error::Result;
use std::borrow::Cow;
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The bytes behind a header.
#[derive(Debug)]
pub(super) enum Source<'a> {
    Bytes(&'a [u8]),
    Disk { path: PathBuf, file: Mutex<File>, data: u64 },
}

impl<'a> Source<'a> {
    /// Of a whole file in memory.
    pub(super) fn from_bytes(bytes: &'a [u8]) -> Result<(Self, Header)> {
        let none = Self::Bytes(&[]);
        let Some((length, rest)) = bytes.split_first_chunk() else {
            return Err(none.wrong(too_short(bytes.len() as u64)));
        };
        let length = none.header_length(*length, rest.len() as u64)?;
        let (json, data) = rest.split_at(length);
        let header = Header::parse(json, data.len() as u64).map_err(|problem| none.wrong(problem))?;
        Ok((Self::Bytes(data), header))
    }

    /// Of a file on disk, of which only the header is read.
    pub(super) fn open(path: &Path) -> Result<(Self, Header)> {
        let unreadable = |e| wrong(path.display(), format_args!("cannot be read: {e}"));
        let mut file = open(path)?;
        let meta = file.metadata().map_err(unreadable)?;
        let Some(rest) = meta.len().checked_sub(8) else {
            return Err(wrong(path.display(), too_short(meta.len())));
        };
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(unreadable)?;
        let mut source = Self::Disk { path: path.to_owned(), file: Mutex::new(file), data: 8 };
        let length = source.header_length(length, rest)?;
        let json = source.read(0..length as u64)?;
        let header = Header::parse(&json, rest - length as u64).map_err(|problem| source.wrong(problem))?;
        if let Self::Disk { data, .. } = &mut source {
            *data += length as u64;
        }
        Ok((source, header))
    }

    /// The header's length, checked against the bytes that follow it.
    fn header_length(&self, length: [u8; 8], rest: u64) -> Result<usize> {
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            let problem = format!("the header would be {length} bytes, and {MAX_HEADER} is the most there may be");
            return Err(self.wrong(format!("{problem}: this is not a safetensors file")));
        }
        if length > rest {
            return Err(
                self.wrong(format!("the header is {length} bytes and {rest} are there: is the file cut short?"))
            );
        }
        Ok(length as usize)
    }

    /// Some bytes behind the header. The range has been checked against the file's length.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Cow<'a, [u8]>> {
        match self {
            Self::Bytes(data) => match data.get(range.start as usize..range.end as usize) {
                Some(bytes) => Ok(Cow::Borrowed(bytes)),
                None => Err(self.wrong(format!("has no bytes {range:?}"))),
            },
            Self::Disk { file, data, .. } => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let read = read_at(&mut file, data + range.start, range.end - range.start);
                Ok(Cow::Owned(read.map_err(|e| self.wrong(format!("cannot be read: {e}")))?))
            }
        }
    }

    /// The file's path, or what stands for it.
    pub(super) fn label(&self) -> impl Display + '_ {
        match self {
            Self::Bytes(_) => Cow::Borrowed("safetensors bytes"),
            Self::Disk { path, .. } => path.to_string_lossy(),
        }
    }

    /// The error of this file.
    pub(super) fn wrong(&self, problem: impl Display) -> crate::Error {
        wrong(self.label(), problem)
    }
}

/// Opens a regular file. Others are not opened at all: that of a FIFO would wait for somebody to write to it.
pub(super) fn open(path: &Path) -> Result<File> {
    let unreadable = |e| wrong(path.display(), format_args!("cannot be read: {e}"));
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(wrong(path.display(), "is not a file"));
    }
    File::open(path).map_err(unreadable)
}

fn too_short(bytes: u64) -> String {
    format!("{bytes} bytes are no safetensors file: it begins with 8 bytes that tell the header's length")
}

fn read_at(file: &mut File, at: u64, length: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    // A sparse file can say that it is longer than any memory.
    bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX)).map_err(std::io::Error::other)?;
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
