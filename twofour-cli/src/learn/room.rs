//! Whether there is room for what is going to be written.

use crate::Failure;
use indicatif::BinaryBytes;
use std::path::Path;

/// Refuses to begin what the disk has no room for, where the system says how much there is.
pub(super) fn check(path: &Path, bytes: u64) -> Result<(), Failure> {
    match free(path) {
        Some(free) if free < bytes => {
            let (free, bytes, path) = (BinaryBytes(free), BinaryBytes(bytes), path.display());
            Err(format!("{path} would take {bytes}, and its disk has {free} left: --state names another place").into())
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn free(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let folder = path.ancestors().skip(1).find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}
