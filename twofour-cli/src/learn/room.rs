//! Whether there is room for what is going to be written.

use crate::Failure;
use indicatif::BinaryBytes;
use std::path::Path;

/// Refuses to begin a run whose state and masks the disk has no room for, where the system says how much there is. A
/// state is written beside the one before, which may be there already.
pub(super) fn check(path: &Path, state: u64, masks: u64) -> Result<(), Failure> {
    let there = std::fs::metadata(path).map_or(0, |file| file.len());
    let bytes = state.saturating_mul(2).saturating_sub(there).saturating_add(masks);
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

#[cfg(all(test, unix))]
mod tests {
    use super::{check, free};

    #[test]
    fn a_state_is_written_beside_the_one_before() -> Result<(), crate::Failure> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("state");
        let Some(free) = free(&path) else { return Ok(()) };
        assert!(check(&path, free / 4, 0).is_ok() && check(&path, free / 4, free / 4 * 3).is_err());
        assert!(check(&path, free / 4 * 3, 0).is_err(), "there will be two");
        // One is there: nothing but its length is of it.
        std::fs::File::create(&path)?.set_len(free / 4 * 3)?;
        assert!(check(&path, free / 4 * 3, 0).is_ok());
        Ok(())
    }
}
