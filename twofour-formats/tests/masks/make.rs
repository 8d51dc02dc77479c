//! Masks, and archives made by hand, right or wrong.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;
use twofour::{Pattern, Shape};
use twofour_formats::masks::Mask;

/// A mask of random patterns.
pub(crate) fn random(shape: Shape, seed: u64) -> Mask {
    let mut rng = StdRng::seed_from_u64(seed);
    of_patterns(shape, |_| rng.random_range(0..6))
}

/// A mask whose group `g` has the pattern of this index.
pub(crate) fn of_patterns(shape: Shape, mut index: impl FnMut(usize) -> u8) -> Mask {
    let mut codes = vec![0; shape.packed_codes()];
    for group in 0..shape.groups() {
        codes[group / 2] |= Pattern::from_index(index(group)).unwrap().code() << (4 * (group % 2));
    }
    Mask::new(shape, codes).unwrap()
}

/// A path for a test, under its own name so that tests do not meet; nothing is there.
pub(crate) fn path(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("masks-{name}"));
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// An array of NumPy's with this header, whatever it says.
pub(crate) fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Packed bits as NumPy has them.
pub(crate) fn bits(data: &[u8]) -> Vec<u8> {
    npy(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}\n", data.len()), data)
}

/// `<name>.__shape__`.
pub(crate) fn shape(sizes: [i64; 2]) -> Vec<u8> {
    let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }\n";
    npy(header, sizes.map(i64::to_le_bytes).as_flattened())
}

/// A member, and what its headers say of it; as it is unless changed.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    pub(crate) crc: u32,
    pub(crate) packed: u64,
    pub(crate) bytes: u64,
    pub(crate) offset: Option<u64>,
    /// 64-bit fields in the directory.
    pub(crate) wide: bool,
}

impl Member {
    pub(crate) fn stored(name: &str, data: Vec<u8>) -> Self {
        let (crc, bytes) = (crc(&data), data.len() as u64);
        Self { name: name.into(), data, method: 0, flags: 0, crc, packed: bytes, bytes, offset: None, wide: false }
    }

    /// Deflated by the `zip` crate.
    pub(crate) fn deflated(name: &str, data: &[u8]) -> Self {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        writer.start_file("x", options).unwrap();
        std::io::Write::write_all(&mut writer, data).unwrap();
        let archive = writer.finish().unwrap().into_inner();
        let field = |at: usize| u32::from_le_bytes(archive[at..at + 4].try_into().unwrap());
        let packed = field(18) as usize;
        let begin = 30 + 1 + usize::from(u16::from_le_bytes([archive[28], archive[29]]));
        let deflated = archive[begin..begin + packed].to_vec();
        let made = Self::stored(name, deflated);
        Self { method: 8, crc: crc(data), bytes: data.len() as u64, ..made }
    }
}

fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// An archive of these members.
pub(crate) fn archive(members: &[Member]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let offset = member.offset.unwrap_or(file.len() as u64);
        let Member { name, data, method, flags, crc, packed, bytes, wide, .. } = member;
        let time = [method, &0, &0x21].map(|field| field.to_le_bytes()).concat();
        let short = |size: u64| if *wide { u32::MAX } else { size as u32 }.to_le_bytes();
        let sizes = [crc.to_le_bytes(), short(*packed), short(*bytes)].concat();
        let length = (name.len() as u16).to_le_bytes();
        let local = if *wide { [bytes, packed].map(|size| size.to_le_bytes()).concat() } else { vec![] };
        let central = if *wide { [&local[..], &offset.to_le_bytes()].concat() } else { vec![] };
        let extra = |field: &[u8]| match field.len() as u16 {
            0 => vec![],
            length => [&1u16.to_le_bytes(), &length.to_le_bytes(), field].concat(),
        };
        let [local, central] = [extra(&local), extra(&central)];
        let head = [&20u16.to_le_bytes()[..], &flags.to_le_bytes(), &time, &sizes, &length].concat();
        let [local_length, length] = [&local, &central].map(|extra| (extra.len() as u16).to_le_bytes());
        file.extend([b"PK\x03\x04", &head[..], &local_length, name.as_bytes(), &local, data].concat());
        let rest = [&length[..], &[0; 10], &short(offset), name.as_bytes(), &central].concat();
        directory.extend([b"PK\x01\x02\x14\x00", &head[..], &rest].concat());
    }
    let (start, bytes, count) = (file.len() as u64, directory.len() as u64, members.len() as u64);
    file.extend(directory);
    if members.iter().any(|member| member.wide) {
        let at = file.len() as u64;
        file.extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[45, 0, 45, 0], &[0; 8]].concat());
        file.extend([count, count, bytes, start].map(u64::to_le_bytes).as_flattened());
        file.extend([b"PK\x06\x07", &[0; 4][..], &at.to_le_bytes(), &1u32.to_le_bytes()].concat());
        file.extend([b"PK\x05\x06", &[0; 4][..], &[0xff; 12], &[0; 2]].concat());
    } else {
        let counts = [count as u16; 2].map(u16::to_le_bytes).concat();
        let place = [bytes as u32, start as u32].map(u32::to_le_bytes).concat();
        file.extend([b"PK\x05\x06", &[0; 4][..], &counts, &place, &[0; 2]].concat());
    }
    file
}
