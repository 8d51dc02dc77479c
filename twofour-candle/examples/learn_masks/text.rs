//! Text that every user has: the sources of the crates in cargo's registry cache, or what they name.
//!
//! A domain is split by files (of crates: by crates, whose files resemble each other), by a hash of the name, so that
//! a text keeps its side when others come and go. Nothing depends on the order of a file system.

use crate::Failure;
use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longer files are mostly generated.
const LONGEST_FILE: u64 = 64 << 10;
/// Of one crate: no single one is to be most of the text.
const MOST_OF_A_CRATE: usize = 96 << 10;
/// A file in so many is for validation.
const FOR_VALIDATION: u64 = 8;

/// What language a text is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Domain {
    /// Rust sources.
    Code,
    /// Documents in Markdown.
    Prose,
}

impl Domain {
    fn extension(self) -> &'static str {
        match self {
            Self::Code => "rs",
            Self::Prose => "md",
        }
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Prose => "prose",
        })
    }
}

/// The bytes of a domain.
pub(crate) struct Text {
    domain: Domain,
    pub(crate) train: Vec<u8>,
    pub(crate) validation: Vec<u8>,
    pub(crate) files: usize,
    /// Of all bytes: the same text or another?
    pub(crate) fingerprint: u64,
}

impl Text {
    /// Reads a domain's text, at most `limit` bytes: from a folder or file, or else from the registry cache.
    pub(crate) fn read(domain: Domain, from: Option<&Path>, limit: usize) -> Result<Self, Failure> {
        let mut units = match from {
            Some(path) if path.is_file() => return Self::of_one(domain, &std::fs::read(path)?, limit),
            Some(path) => by_file(path, domain)?,
            None => by_crate(domain)?,
        };
        // In an order that has nothing to do with names, so that a limit takes some of everything.
        units.sort_by_cached_key(|unit| (hash(unit.name.as_bytes()), unit.name.clone()));
        let mut text = Self { domain, train: Vec::new(), validation: Vec::new(), files: 0, fingerprint: 0 };
        let mut seen = std::collections::HashSet::new();
        for unit in units {
            let validates = hash(unit.name.as_bytes()).is_multiple_of(FOR_VALIDATION);
            let side = if validates { &mut text.validation } else { &mut text.train };
            let room =
                if validates { limit / FOR_VALIDATION as usize } else { limit - limit / FOR_VALIDATION as usize };
            let before = side.len();
            for path in unit.files {
                let bytes = std::fs::read(&path)?;
                // Licences, and files that crates copy from each other.
                if !seen.insert(hash(&bytes)) || side.len() - before + bytes.len() > MOST_OF_A_CRATE {
                    continue;
                }
                if side.len() < room {
                    side.extend_from_slice(&bytes[..bytes.len().min(room - side.len())]);
                    text.files += 1;
                }
            }
        }
        text.finish()
    }

    /// The last part of a single file validates.
    fn of_one(domain: Domain, bytes: &[u8], limit: usize) -> Result<Self, Failure> {
        let bytes = &bytes[..bytes.len().min(limit)];
        let (train, validation) = bytes.split_at(bytes.len() - bytes.len() / FOR_VALIDATION as usize);
        Self { domain, train: train.to_vec(), validation: validation.to_vec(), files: 1, fingerprint: 0 }.finish()
    }

    fn finish(mut self) -> Result<Self, Failure> {
        const LEAST: usize = 64 << 10;
        if self.train.len() < LEAST || self.validation.len() < LEAST / 8 {
            let (train, validation) = (self.train.len(), self.validation.len());
            return Err(format!(
                "there is too little text: {train} bytes to train on and {validation} to validate with, of {} files; \
                 name a larger folder or file with --text (and --prose)",
                self.files
            )
            .into());
        }
        self.fingerprint = hash(&self.train).rotate_left(1) ^ hash(&self.validation);
        Ok(self)
    }

    /// The same for the same text.
    pub(crate) fn identity(&self) -> String {
        format!("{} {:016x}", self.domain, self.fingerprint)
    }

    pub(crate) fn description(&self) -> String {
        let Self { domain, train, validation, files, .. } = self;
        format!(
            "{domain}: {} bytes to train on and {} to validate with, of {files} files",
            train.len(),
            validation.len()
        )
    }

    /// `count` sequences of `length` bytes, from anywhere in the training text.
    pub(crate) fn draw(&self, random: &mut StdRng, count: usize, length: usize) -> Vec<u8> {
        let starts = (0..count).map(|_| random.random_range(0..=self.train.len() - length));
        starts.flat_map(|start| &self.train[start..start + length]).copied().collect()
    }

    /// At most `count` sequences of `length` bytes, evenly spread over the validation text: always the same.
    pub(crate) fn validation(&self, count: usize, length: usize) -> Vec<u8> {
        let fit = self.validation.len() / length;
        let sequences: Vec<_> = self.validation.chunks_exact(length).collect();
        let count = count.min(fit);
        (0..count).flat_map(|i| sequences[i * fit / count]).copied().collect()
    }
}

/// Files that stay on one side of the split.
struct Unit {
    name: String,
    files: Vec<PathBuf>,
}

fn by_file(root: &Path, domain: Domain) -> Result<Vec<Unit>, Failure> {
    let files = find(root, domain).map_err(|e| format!("{} cannot be read: {e}", root.display()))?;
    let name = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
    Ok(files.into_iter().map(|path| Unit { name: name(&path), files: vec![path] }).collect())
}

/// Of each crate the latest version.
fn by_crate(domain: Domain) -> Result<Vec<Unit>, Failure> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let sources = home.ok_or("there is no home folder: name a text with --text DIR|FILE")?.join("registry/src");
    let missing = |e| format!("no crates in {} ({e}): name a text with --text DIR|FILE", sources.display());
    let mut crates: BTreeMap<String, (Vec<u64>, PathBuf)> = BTreeMap::new();
    for registry in std::fs::read_dir(&sources).map_err(missing)? {
        let registry = registry?.path();
        if !registry.is_dir() {
            continue;
        }
        for folder in std::fs::read_dir(registry)? {
            let folder = folder?.path();
            let Some((name, version)) = folder.file_name().and_then(|name| name_and_version(name.to_str()?)) else {
                continue;
            };
            match crates.get(&name) {
                Some((other, _)) if *other >= version => {}
                _ => drop(crates.insert(name, (version, folder))),
            }
        }
    }
    let units = crates.into_iter().map(|(name, (_, folder))| Ok(Unit { name, files: find(&folder, domain)? }));
    units.collect()
}

/// Of a folder's name such as `rand-0.9.2`.
fn name_and_version(folder: &str) -> Option<(String, Vec<u64>)> {
    let split = folder.match_indices('-').find(|(i, _)| folder[i + 1..].starts_with(|c: char| c.is_ascii_digit()))?.0;
    let numbers = folder[split + 1..].split(['.', '-', '+']).map_while(|part| part.parse().ok());
    Some((folder[..split].to_owned(), numbers.collect()))
}

/// Files of a domain, in the order of their paths.
fn find(folder: &Path, domain: Domain) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|extension| extension == domain.extension())
                && entry.metadata()?.len() <= LONGEST_FILE
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The same for the same file.
pub(crate) fn identity_of_file(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    Ok(format!("{:016x}", hash(&bytes)))
}

/// FNV-1a, for it is the same everywhere and for ever.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
