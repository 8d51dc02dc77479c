//! Codes from row-major order to a layout and back. Both directions go through the output in order, on as many threads
//! as there are, and fetch codes from where they lie: several at once where layout and shape allow it ([`Run`]), one by
//! one elsewhere and in tiles with padding.

use crate::compress::layout::{Map, Run};
use rayon::prelude::*;

/// What fills places without a code, in a byte.
const PADDING: u8 = 0xee;

/// Row-major codes into a layout; padding becomes E.
pub(super) fn from_plain(map: &Map, codes: &[u8], metadata: &mut [u8]) {
    let tile = Source::new(map);
    let bytes = tile.bytes;
    let [down, along] = map.tiles();
    let (run, runs) = if map.goes_down() { (down, along) } else { (along, down) };
    let (metadata, rest) = metadata.split_at_mut(run * runs * bytes);
    rest.fill(PADDING);
    if run == 0 {
        return;
    }
    // Several runs of tiles together, so that what one cache line of codes holds is used while it is there; but no
    // fewer tasks than keep the threads busy.
    let together = (runs / (4 * rayon::current_num_threads())).clamp(1, 16);
    metadata.par_chunks_mut(together * run * bytes).enumerate().for_each(|(task, metadata)| {
        let mut starts: Vec<&mut [u8]> = metadata.chunks_mut(run * bytes).collect();
        for step in 0..run {
            for (i, start) in starts.iter_mut().enumerate() {
                let across = task * together + i;
                let [tile_row, tile_group] = if map.goes_down() { [step, across] } else { [across, step] };
                tile.fill(codes, tile_row, tile_group, &mut start[step * bytes..(step + 1) * bytes]);
            }
        }
    });
}

/// Where the codes of a tile come from, in the order of the tile.
struct Source {
    rows: usize,
    row_groups: usize,
    tile: [usize; 2],
    bytes: usize,
    /// Row and group in the tile of each code.
    places: Vec<[usize; 2]>,
    run: Run,
    /// Of each run, how many bytes behind the tile's first code it begins.
    runs: Vec<usize>,
}

impl Source {
    fn new(map: &Map) -> Self {
        let ([rows, row_groups], tile) = (map.extent(), map.tile());
        let mut places = vec![[0; 2]; tile[0] * tile[1]];
        for row in 0..tile[0] {
            for group in 0..tile[1] {
                places[map.row_part(row) + map.group_part(group)] = [row, group];
            }
        }
        let run = map.run();
        let step = match run {
            Run::Words => 4,
            Run::Woven => 16,
            Run::Codes => places.len(),
        };
        let runs = places.iter().step_by(step).map(|[row, group]| (row * row_groups + group) / 2).collect();
        Self { rows, row_groups, tile, bytes: places.len() / 2, places, run, runs }
    }

    fn fill(&self, codes: &[u8], tile_row: usize, tile_group: usize, out: &mut [u8]) {
        let (row, group) = (tile_row * self.tile[0], tile_group * self.tile[1]);
        let whole = row + self.tile[0] <= self.rows && group + self.tile[1] <= self.row_groups;
        let first = row * self.row_groups + group;
        match self.run {
            Run::Words if whole => {
                let from = &codes[first / 2..];
                for (out, &at) in out.as_chunks_mut::<2>().0.iter_mut().zip(&self.runs) {
                    *out = [from[at], from[at + 1]];
                }
            }
            Run::Woven if whole => {
                let from = &codes[first / 2..];
                let eight_rows = 4 * self.row_groups;
                for (out, &at) in out.as_chunks_mut::<8>().0.iter_mut().zip(&self.runs) {
                    *out = weave([word(from, at), word(from, at + eight_rows)]);
                }
            }
            _ => self.fill_one_by_one(codes, [row, group], whole, out),
        }
    }

    fn fill_one_by_one(&self, codes: &[u8], [row, group]: [usize; 2], whole: bool, out: &mut [u8]) {
        let first = row * self.row_groups + group;
        let code = |&[r, g]: &[usize; 2]| {
            let inside = whole || (row + r < self.rows && group + g < self.row_groups);
            if inside { nibble(codes, first + r * self.row_groups + g) } else { PADDING & 15 }
        };
        for (out, [even, odd]) in out.iter_mut().zip(self.places.as_chunks::<2>().0) {
            *out = code(even) | code(odd) << 4;
        }
    }
}

/// A layout's codes row-major.
pub(super) fn to_plain(map: &Map, metadata: &[u8], codes: &mut [u8]) {
    let [_, row_groups] = map.extent();
    if row_groups == 0 {
        return;
    }
    let parts: Vec<usize> = (0..row_groups).map(|group| map.group_part(group)).collect();
    // Two rows fill whole bytes, and sixteen hold the pairs of rows that are woven.
    let sixteen_rows = 8 * row_groups;
    codes.par_chunks_mut(2 * sixteen_rows).enumerate().for_each(|(task, codes)| {
        let first = 32 * task;
        match map.run() {
            Run::Words => words_to_plain(map, &parts, metadata, first, codes),
            Run::Woven => {
                for (i, codes) in codes.chunks_mut(sixteen_rows).enumerate() {
                    woven_to_plain(map, &parts, metadata, first + 16 * i, codes);
                }
            }
            Run::Codes => {
                for (i, codes) in codes.chunks_mut(row_groups).enumerate() {
                    two_rows_to_plain(map, &parts, metadata, first + 2 * i, codes);
                }
            }
        }
    });
}

fn words_to_plain(map: &Map, parts: &[usize], metadata: &[u8], first: usize, codes: &mut [u8]) {
    for (row, out) in codes.chunks_mut(parts.len() / 2).enumerate() {
        let row_part = map.row_part(first + row);
        for (out, part) in out.as_chunks_mut::<2>().0.iter_mut().zip(parts.iter().step_by(4)) {
            let at = (row_part + part) / 2;
            *out = [metadata[at], metadata[at + 1]];
        }
    }
}

/// Sixteen rows.
fn woven_to_plain(map: &Map, parts: &[usize], metadata: &[u8], first: usize, codes: &mut [u8]) {
    let (upper, lower) = codes.split_at_mut(4 * parts.len());
    let row_bytes = parts.len() / 2;
    for (row, (upper, lower)) in upper.chunks_mut(row_bytes).zip(lower.chunks_mut(row_bytes)).enumerate() {
        let row_part = map.row_part(first + row);
        let (upper, lower) = (upper.as_chunks_mut::<4>().0, lower.as_chunks_mut::<4>().0);
        for ((upper, lower), part) in upper.iter_mut().zip(lower).zip(parts.iter().step_by(8)) {
            [*upper, *lower] = unweave(word(metadata, (row_part + part) / 2));
        }
    }
}

/// Two rows, or the last one, code by code.
fn two_rows_to_plain(map: &Map, parts: &[usize], metadata: &[u8], row: usize, out: &mut [u8]) {
    out.fill(0);
    let rows = 2.min(map.extent()[0] - row);
    let mut at = 0;
    for row_part in (row..row + rows).map(|row| map.row_part(row)) {
        for &part in parts {
            out[at / 2] |= nibble(metadata, row_part + part) << (4 * (at % 2));
            at += 1;
        }
    }
}

/// So many bytes from `at` on.
#[inline(always)]
fn word<const BYTES: usize>(bytes: &[u8], at: usize) -> [u8; BYTES] {
    let from = &bytes[at..at + BYTES];
    std::array::from_fn(|i| from[i])
}

/// Eight codes each of two rows as [`Run::Woven`] says.
#[inline(always)]
fn weave(rows: [[u8; 4]; 2]) -> [u8; 8] {
    let [upper, lower] = rows.map(|codes| {
        let codes = u64::from(u32::from_le_bytes(codes));
        // Group g to byte 2·(g % 4) + g / 4.
        apart(codes & 0xffff) | apart(codes >> 16) << 8
    });
    (upper | lower << 4).to_le_bytes()
}

#[inline(always)]
fn unweave(woven: [u8; 8]) -> [[u8; 4]; 2] {
    let woven = u64::from_le_bytes(woven);
    [woven, woven >> 4].map(|row| ((adjoin(row) | adjoin(row >> 8) << 16) as u32).to_le_bytes())
}

/// Four half bytes to the lowest of each of four 16-bit words.
#[inline(always)]
fn apart(codes: u64) -> u64 {
    let pairs = (codes | codes << 24) & 0x0000_00ff_0000_00ff;
    (pairs | pairs << 12) & 0x000f_000f_000f_000f
}

/// The way back.
#[inline(always)]
fn adjoin(codes: u64) -> u64 {
    let codes = codes & 0x000f_000f_000f_000f;
    let pairs = (codes | codes >> 12) & 0x0000_00ff_0000_00ff;
    (pairs | pairs >> 24) & 0xffff
}

#[inline(always)]
fn nibble(bytes: &[u8], index: usize) -> u8 {
    bytes[index / 2] >> (4 * (index % 2)) & 15
}
