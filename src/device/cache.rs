//! Compiled kernels on disk, so that a second process does not compile them again.
//!
//! A file is named by a hash of everything its content depends on, so it is never stale, only unused; it may be deleted
//! at any time. Its content is loaded as code. Hence it lies in a folder that nobody else can write to, is taken only
//! from a file of our own, and carries a checksum against accidents. Nothing here fails: whatever is wrong with the
//! disk or the folder, the kernel is compiled instead.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// A file: these bytes, the content's length as a little-endian u64, its SHA-256, the content.
const MAGIC: [u8; 8] = *b"twofour\x01";
const HEADER: usize = MAGIC.len() + 8 + 32;

/// No module comes near this; a length beyond it is damage.
const MOST: u64 = 256 << 20;

/// The hash that names a file.
pub(super) struct Key(String);

impl Key {
    pub(super) fn new(hash: [u8; 32]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A folder of compiled kernels.
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache, unless it is switched off or there is no place for one.
    pub(super) fn from_environment() -> Option<Self> {
        if env::var_os("TWOFOUR_CACHE").is_some_and(|value| value == "off" || value == "0") {
            return None;
        }
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(root) = set("TWOFOUR_CACHE_DIR") {
            return Some(Self { root });
        }
        // The XDG rule: a relative path there is to be ignored.
        let base = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        let base = base.or_else(|| set("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".cache")))?;
        Some(Self { root: base.join("twofour") })
    }

    /// What was stored under the key, if it is there and whole.
    pub(super) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        if !is_private(&self.root) {
            return None;
        }
        let mut file = File::open(self.path(key)).ok()?;
        // Of the file as opened, so that it cannot be exchanged between the check and the reading.
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || !is_ours(&metadata) || metadata.len() > MOST {
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        unseal(&bytes)
    }

    /// Stores the content under the key, or does not.
    pub(super) fn put(&self, key: &Key, content: &[u8]) {
        // The content is at hand; that the next process compiles it again is all that a failure costs.
        let _ = self.store(key, content);
    }

    fn store(&self, key: &Key, content: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
        create_private(folder)?;
        if !is_private(&self.root) || !is_private(folder) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // Written under a name of its own and then renamed, so that a reader sees all of it or nothing, and of two
        // writers the last one wins.
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{}.{}.{writer}", key.0, process::id()));
        let stored = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
        if stored.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        stored
    }

    /// Two hexadecimal digits of the key make a folder, so that none grows large.
    fn path(&self, key: &Key) -> PathBuf {
        let (shard, _) = key.0.split_at(2);
        self.root.join(shard).join(format!("{}.bin", key.0))
    }
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(&MAGIC)?;
    file.write_all(&(content.len() as u64).to_le_bytes())?;
    file.write_all(&Sha256::digest(content))?;
    file.write_all(content)
}

/// The content of a file, if it is the content that was written.
fn unseal(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, content) = bytes.split_at_checked(HEADER)?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (length, checksum) = rest.split_at(8);
    let whole = magic == MAGIC.as_slice()
        && length == (content.len() as u64).to_le_bytes().as_slice()
        && checksum == Sha256::digest(content).as_slice();
    whole.then(|| content.to_vec())
}

fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Whether a folder is ours, and nobody else can put a file into it.
fn is_private(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.is_dir() && is_ours(&metadata))
}

#[cfg(unix)]
fn is_ours(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    unsafe extern "C" {
        // Of the C library, which std links; it takes nothing and cannot fail.
        safe fn geteuid() -> u32;
    }
    const OTHERS_WRITE: u32 = 0o022;
    metadata.uid() == geteuid() && metadata.mode() & OTHERS_WRITE == 0
}

/// Elsewhere a user's own folders are closed to others by their access lists, which std does not read.
#[cfg(not(unix))]
fn is_ours(_: &fs::Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests;
