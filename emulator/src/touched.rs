//! What memory holds that may be larger than the machine: the pages of it that were touched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

/// Parts of memory and what they hold, by where they begin. Where there is no part, all is zero.
pub(crate) struct Touched(BTreeMap<usize, Vec<u8>>);

/// What an untouched page holds; no system's pages are larger.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl Touched {
    pub(crate) fn new(parts: impl IntoIterator<Item = (usize, Vec<u8>)>) -> Touched {
        Touched(parts.into_iter().collect())
    }

    /// Every part that either has, of the same memory, with what it holds in both.
    pub(crate) fn pairs<'a>(&'a self, other: &'a Touched) -> impl Iterator<Item = (usize, &'a [u8], &'a [u8])> {
        let own = self.0.iter().map(|(&at, bytes)| {
            let others = other.0.get(&at).map_or(&ZEROS[..bytes.len().min(ZEROS.len())], Vec::as_slice);
            (at, bytes.as_slice(), others)
        });
        let rest = other.0.iter().filter(|(at, _)| !self.0.contains_key(at));
        own.chain(rest.map(|(&at, bytes)| (at, &ZEROS[..bytes.len().min(ZEROS.len())], bytes.as_slice())))
    }
}

/// A file of so many zeros that lives in memory, and takes it page by page.
#[cfg(target_os = "linux")]
pub(crate) fn file(len: usize) -> io::Result<File> {
    use std::os::fd::FromRawFd as _;

    // SAFETY: the name ends in a zero.
    let descriptor = unsafe { libc::memfd_create(c"reserved".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else's.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(len as u64)?;
    Ok(file)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn file(_: usize) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Where a file that lives in memory has pages: the offsets of all that were touched, of those that begin before `len`.
#[cfg(target_os = "linux")]
pub(crate) fn pages(file: &File, len: usize, size: usize) -> io::Result<Vec<usize>> {
    use std::os::fd::AsRawFd as _;

    let (mut found, mut from) = (Vec::new(), 0);
    while from < len {
        // SAFETY: lseek reads and sets a number of the file's own.
        let start = unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, libc::SEEK_DATA) };
        let Ok(start) = usize::try_from(start) else {
            let error = io::Error::last_os_error();
            // There are no more.
            return if error.raw_os_error() == Some(libc::ENXIO) { Ok(found) } else { Err(error) };
        };
        // SAFETY: as above.
        let end = unsafe { libc::lseek(file.as_raw_fd(), start as libc::off_t, libc::SEEK_HOLE) };
        from = usize::try_from(end).map_err(|_| io::Error::last_os_error())?.min(len);
        found.extend((start - start % size..from).step_by(size));
    }
    Ok(found)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pages(_: &File, _: usize, _: usize) -> io::Result<Vec<usize>> {
    Err(io::ErrorKind::Unsupported.into())
}
