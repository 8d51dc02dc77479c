//! The bank rule of shared memory: how many wavefronts an access takes.
//!
//! 32 banks, each of one 4-byte word a clock; lanes that want the same word share it. An access whose words all lie in
//! banks of their own is one wavefront. Else one of 8 bytes a lane goes by half-warps and one of 16 by quarters, each
//! part as long as its busiest bank (CUDA programming guide, "shared memory"; that halves which fit one wavefront are
//! joined is what Nsight Compute counts for broadcasts, and not documented).

use super::super::lanes::{Doubles, Lanes};

const BANKS: u64 = 32;

/// Wavefronts of a load or store of so many bytes by each of these lanes.
pub(super) fn wavefronts(places: &Doubles, lanes: u32, bytes: u32) -> u32 {
    part(places, lanes, bytes, [0, 32])
}

/// Those of `count` lanes from `first` on: at once if no bank is asked twice, else by halves down to 128 bytes.
fn part(places: &Doubles, lanes: u32, bytes: u32, [first, count]: [u32; 2]) -> u32 {
    let own = lanes & (u32::MAX >> (32 - count)) << first;
    let busiest = busiest(words(places, own, bytes));
    let half = count / 2;
    if busiest <= 1 || count * bytes.max(4) <= 128 {
        return busiest;
    }
    part(places, lanes, bytes, [first, half]) + part(places, lanes, bytes, [first + half, half])
}

/// Wavefronts of an atomic: lanes of one word follow each other.
pub(super) fn atomic(places: &Doubles, lanes: u32, bytes: u32) -> u32 {
    let wide = u64::from(bytes.div_ceil(4));
    busiest(Lanes(lanes).flat_map(|lane| places[lane as usize] / 4..places[lane as usize] / 4 + wide))
}

/// Wavefronts if every bank had as much to do.
pub(super) fn ideal(places: &Doubles, lanes: u32, bytes: u32) -> u32 {
    words(places, lanes, bytes).count().div_ceil(BANKS as usize) as u32
}

/// The different words that are touched.
fn words(places: &Doubles, lanes: u32, bytes: u32) -> impl Iterator<Item = u64> + use<> {
    let wide = u64::from(bytes.div_ceil(4));
    let mut words: Vec<u64> =
        Lanes(lanes).flat_map(|lane| places[lane as usize] / 4..places[lane as usize] / 4 + wide).collect();
    words.sort_unstable();
    words.dedup();
    words.into_iter()
}

fn busiest(words: impl Iterator<Item = u64>) -> u32 {
    let mut banks = [0; BANKS as usize];
    words.for_each(|word| banks[(word % BANKS) as usize] += 1);
    banks.into_iter().max().unwrap_or(0)
}
