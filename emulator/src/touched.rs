//! What memory holds that may be larger than the machine: the pages of it that were touched.

use std::collections::BTreeMap;
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

/// The first addresses of those of so many pages, from an address on, that were touched.
#[cfg(target_os = "linux")]
pub(crate) fn pages(start: usize, count: usize, size: usize) -> io::Result<Vec<usize>> {
    use std::os::unix::fs::FileExt as _;

    const AT_ONCE: usize = 1 << 16;
    const WORD: usize = size_of::<u64>();
    let map = std::fs::File::open("/proc/self/pagemap")?;
    let (mut words, mut found) = (vec![0; WORD * AT_ONCE], Vec::new());
    for first in (0..count).step_by(AT_ONCE) {
        let words = &mut words[..WORD * AT_ONCE.min(count - first)];
        map.read_exact_at(words, ((start / size + first) * WORD) as u64)?;
        // The two highest bits of a page's word: it is in memory, it is swapped out.
        let touched = words.chunks_exact(WORD).enumerate().filter(|(_, word)| word[WORD - 1] & 0xC0 != 0);
        found.extend(touched.map(|(i, _)| start + (first + i) * size));
    }
    Ok(found)
}

/// All of them, for all that is known.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pages(start: usize, count: usize, size: usize) -> io::Result<Vec<usize>> {
    Ok((0..count).map(|i| start + i * size).collect())
}
