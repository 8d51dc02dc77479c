//! Good files made bad: bits, bytes, numbers of the header, cuts and splices. Deterministic.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fmt::Write;

/// Length, header, data.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The smallest file with a weight.
pub(crate) fn one_weight() -> Vec<u8> {
    let entry = r#"{\"shape\":[1,4],\"dtype\":\"i8\",\"sparsity\":\"2:4\",\"axis\":1}"#;
    let metadata = format!(r#""__metadata__":{{"twofour.version":"1","twofour.weight.w":"{entry}"}}"#);
    let values = r#""w.values":{"dtype":"I8","shape":[1,2],"data_offsets":[0,2]}"#;
    let codes = r#""w.codes":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}"#;
    with_header(&format!("{{{metadata},{values},{codes}}}"), &[1, 2, 0xe])
}

/// The smallest with a bitmask.
pub(crate) fn one_bitmask() -> Vec<u8> {
    let values = r#""m.compressed":{"dtype":"I8","shape":[2],"data_offsets":[16,18]}"#;
    let mask = r#""m.bitmask":{"dtype":"U8","shape":[1,1],"data_offsets":[18,19]}"#;
    let shape = r#""m.shape":{"dtype":"I64","shape":[2,1],"data_offsets":[0,16]}"#;
    let data = [&1u64.to_le_bytes()[..], &4u64.to_le_bytes(), &[1, 2, 0x6]].concat();
    with_header(&format!("{{{shape},{values},{mask}}}"), &data)
}

/// The smallest with an older bitmask.
pub(crate) fn one_sparse_bitmask() -> Vec<u8> {
    let values = r#""m.compressed":{"dtype":"I8","shape":[3],"data_offsets":[32,35]}"#;
    let mask = r#""m.bitmask":{"dtype":"U8","shape":[2,1],"data_offsets":[35,37]}"#;
    let shape = r#""m.shape":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}"#;
    let offsets = r#""m.row_offsets":{"dtype":"I64","shape":[2],"data_offsets":[16,32]}"#;
    let numbers = [2u64, 4, 0, 1].map(u64::to_le_bytes).concat();
    with_header(&format!("{{{shape},{offsets},{values},{mask}}}"), &[&numbers[..], &[1, 2, 3, 0x4, 0x6]].concat())
}

/// Weights of nothing.
pub(crate) fn many_weights(count: usize) -> Vec<u8> {
    let entry = r#"{\"shape\":[0,0],\"dtype\":\"i8\",\"sparsity\":\"2:4\",\"axis\":1}"#;
    let mut header = String::from(r#"{"__metadata__":{"twofour.version":"1""#);
    (0..count).for_each(|i| write!(header, r#","twofour.weight.{i:x}":"{entry}""#).unwrap());
    header.push('}');
    for i in 0..count {
        write!(header, r#","{i:x}.values":{{"dtype":"I8","shape":[0,0],"data_offsets":[0,0]}}"#).unwrap();
        write!(header, r#","{i:x}.codes":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#).unwrap();
    }
    header.push('}');
    with_header(&header, b"")
}

pub(crate) struct Mutator {
    rng: StdRng,
}

/// Numbers that are at some edge.
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "7",
    "8",
    "12",
    "255",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
];
/// What headers are made of.
const WORDS: [&str; 14] = ["F16", "BF16", "F32", "I8", "U8", "I64", "F4", "null", "\"", "}", "{", "[", "]", "2:4"];

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    /// A number below another.
    #[allow(dead_code, reason = "not every suite does")]
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    /// A good file with a few changes, of its header or its data, the header's length being right more often than not.
    pub(crate) fn file(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let [seed, other] = [(); 2].map(|()| &seeds[self.rng.random_range(0..seeds.len())]);
        let (header, data) = split(seed);
        let (mut header, mut data) = (header.to_vec(), data.to_vec());
        for _ in 0..self.rng.random_range(1..=3) {
            match self.rng.random_range(0..10) {
                0..3 => data = self.bytes(&data),
                3..6 => header = self.number(&header),
                6 => header = self.word(&header),
                7 => header = self.bytes(&header),
                8 => data = self.splice(&data, split(other).1),
                _ => header = self.splice(&header, split(other).0),
            }
        }
        let mut length = header.len() as u64;
        if self.rng.random_ratio(1, 16) {
            length ^= 1 << self.rng.random_range(0..64);
        }
        let bytes = [&length.to_le_bytes()[..], &header, &data].concat();
        if self.rng.random_ratio(1, 16) { self.bytes(&bytes) } else { bytes }
    }

    /// Flips a bit, sets a byte, cuts, repeats or removes a piece.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        if changed.is_empty() {
            changed.push(self.rng.random());
            return changed;
        }
        let at = self.rng.random_range(0..changed.len());
        let end = (at + self.rng.random_range(1..=16)).min(changed.len());
        match self.rng.random_range(0..8) {
            0..4 => changed[at] ^= 1 << self.rng.random_range(0..8),
            4 => changed[at] = self.rng.random(),
            5 => changed.truncate(at),
            6 => drop(changed.drain(at..end)),
            _ => {
                let piece = changed[at..end].to_vec();
                changed.splice(at..at, piece);
            }
        }
        changed
    }

    /// Another number in place of one.
    pub(crate) fn number(&mut self, header: &[u8]) -> Vec<u8> {
        let starts: Vec<_> = (1..header.len())
            .filter(|&i| header[i].is_ascii_digit() && !header[i - 1].is_ascii_alphanumeric())
            .collect();
        if starts.is_empty() {
            return header.to_vec();
        }
        let start = starts[self.rng.random_range(0..starts.len())];
        let length = header[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = NUMBERS[self.rng.random_range(0..NUMBERS.len())];
        [&header[..start], number.as_bytes(), &header[start + length..]].concat()
    }

    /// A word of headers, put in or in place of as many bytes.
    fn word(&mut self, header: &[u8]) -> Vec<u8> {
        let word = WORDS[self.rng.random_range(0..WORDS.len())].as_bytes();
        let at = self.rng.random_range(0..=header.len());
        let behind = if self.rng.random() { at } else { (at + word.len()).min(header.len()) };
        [&header[..at], word, &header[behind..]].concat()
    }

    /// The beginning of one and the end of the other.
    fn splice(&mut self, a: &[u8], b: &[u8]) -> Vec<u8> {
        let (at, from) = (self.rng.random_range(0..=a.len()), self.rng.random_range(0..=b.len()));
        [&a[..at], &b[from..]].concat()
    }

    /// Type, shape, bitmask and values for `body::parts`: mostly right.
    pub(crate) fn parts(&mut self) -> Vec<u8> {
        let [kind, rows, groups] = [6, 5, 5].map(|below| self.rng.random_range(0..below));
        let row_bytes = usize::from(groups).div_ceil(2);
        let halves: &[u8] = if kind == 2 { &[0x5, 0x6, 0x9, 0xa] } else { &[0x3, 0x5, 0x9, 0x6, 0xa, 0xc] };
        let half =
            |rng: &mut StdRng| halves[rng.random_range(0..halves.len())] & [0xf, 0xf, 0xf, 0x7][rng.random_range(0..4)];
        let mut mask = Vec::new();
        for _ in 0..rows {
            let row: Vec<u8> = (0..groups).map(|_| half(&mut self.rng)).collect();
            mask.extend(row.chunks(2).map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4));
        }
        assert_eq!(mask.len(), usize::from(rows) * row_bytes);
        let kept: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
        let size = [2, 2, 4, 1, 1, 1][usize::from(kind)];
        let values: Vec<u8> = (0..kept as usize * size).map(|_| self.rng.random()).collect();
        let bytes = [&[kind, rows, groups, 0][..], &mask, &values].concat();
        if self.rng.random() { self.bytes(&bytes) } else { bytes }
    }
}

/// The header and the data of a good file.
fn split(file: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = file.split_first_chunk().unwrap();
    rest.split_at(u64::from_le_bytes(*length) as usize)
}
