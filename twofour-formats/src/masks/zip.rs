//! The directory of a zip archive: which members there are, where, and how long. Members themselves are inflated by the
//! `zip` crate. With its `ZipArchive` for the directory `members_of_every_kind` of `tests/masks/archives.rs` fails: it
//! looks for archives inside of other files, which arrays are never in.
//!
//! Source: APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.

use std::io::{self, Read, Seek, SeekFrom};

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const ENTRY: [u8; 4] = *b"PK\x01\x02";
/// Bytes of the records, without what is variable of them.
const END_BYTES: u64 = 22;
const END_64_BYTES: u64 = 56;
const LOCATOR_BYTES: u64 = 20;
const ENTRY_BYTES: usize = 46;
/// What stands for "see the 64-bit field".
const ELSEWHERE: u32 = u32::MAX;
/// The most that deflate makes of a byte.
const MOST_INFLATED: u64 = 1032;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its own header is.
    pub(super) start: u64,
    /// Bytes in the archive.
    pub(super) packed: u64,
    /// Bytes when it is inflated.
    pub(super) bytes: u64,
    pub(super) crc: u32,
    pub(super) deflated: bool,
}

/// The members of an archive of this length, by name.
pub(super) fn members(file: &mut (impl Read + Seek), length: u64) -> Result<Vec<Member>, String> {
    let unreadable = |e: io::Error| format!("its directory cannot be read: {e}");
    let directory = directory(file, length).map_err(unreadable)??;
    let bytes = read_at(file, directory.start, directory.bytes).map_err(unreadable)?;
    let mut members = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (member, behind) = entry(rest)?;
        if end(&member).is_none_or(|end| end > directory.start) {
            return Err(format!("member `{}` ends behind the members: is the file cut short?", member.name));
        }
        plausible(&member)?;
        members.push(member);
        rest = behind;
    }
    if members.len() as u64 != directory.entries {
        return Err(format!("has {} members, and says that it has {}", members.len(), directory.entries));
    }
    apart(&mut members)?;
    members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match members.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(format!("there are two members `{}`", pair[0].name)),
        None => Ok(members),
    }
}

/// Whether no member lies in another: a few bytes that are many members would inflate to far more than deflate can do.
fn apart(members: &mut [Member]) -> Result<(), String> {
    members.sort_unstable_by_key(|member| member.start);
    match members.windows(2).find(|pair| end(&pair[0]).is_none_or(|end| end > pair[1].start)) {
        Some(pair) => Err(format!("members `{}` and `{}` overlap", pair[0].name, pair[1].name)),
        None => Ok(()),
    }
}

/// Where a member's data end at the earliest: before them is a header of 30 bytes, and the name again.
fn end(member: &Member) -> Option<u64> {
    (30 + member.name.len() as u64).checked_add(member.start)?.checked_add(member.packed)
}

/// Whether so many bytes can be made of so many.
fn plausible(member: &Member) -> Result<(), String> {
    let Member { name, packed, bytes, deflated, .. } = member;
    if !deflated && packed != bytes {
        return Err(format!("member `{name}` is stored in {packed} bytes and says that it has {bytes}"));
    }
    if *bytes > packed.saturating_mul(MOST_INFLATED) {
        return Err(format!("member `{name}` says that its {packed} bytes inflate to {bytes}: they cannot"));
    }
    Ok(())
}

struct Directory {
    start: u64,
    bytes: u64,
    entries: u64,
}

/// Finds the directory: its end is the last thing in the file, before a comment.
fn directory(file: &mut (impl Read + Seek), length: u64) -> io::Result<Result<Directory, String>> {
    let tail = (END_BYTES + u64::from(u16::MAX)).min(length);
    let bytes = read_at(file, length - tail, tail)?;
    let is_end = |at: &usize| {
        let comment = |end: &[u8]| u16::from_le_bytes([end[20], end[21]]) as usize;
        bytes[*at..].starts_with(&END) && comment(&bytes[*at..]) == bytes.len() - at - END_BYTES as usize
    };
    let ends = (bytes.len() + 1).saturating_sub(END_BYTES as usize);
    let Some(at) = (0..ends).rev().find(is_end) else {
        return Ok(Err("has no directory at its end, as a zip archive has: is the file cut short?".into()));
    };
    let mut fields = Fields(&bytes[at + 4..]);
    let [disk, first_disk, here, entries] = [(); 4].map(|()| fields.u16());
    let [size, start] = [(); 2].map(|()| fields.u32());
    if disk != first_disk || here != entries {
        return Ok(Err("is a part of an archive of several files".into()));
    }
    let end = length - tail + at as u64;
    let directory = match directory_64(file, end)? {
        Some(directory) => directory,
        None => Directory { start: start.into(), bytes: size.into(), entries: entries.into() },
    };
    // Before memory is taken by it. Nothing may lie between the directory and its end but the records of 64 bits.
    let behind = directory.start.checked_add(directory.bytes);
    Ok(match behind {
        Some(behind) if behind <= end && directory.entries <= directory.bytes / ENTRY_BYTES as u64 => Ok(directory),
        _ => {
            let Directory { start, bytes, entries } = directory;
            Err(format!("says that {entries} members are listed in {bytes} bytes at {start}, which cannot be"))
        }
    })
}

/// The directory by 64-bit fields, if they are there.
fn directory_64(file: &mut (impl Read + Seek), end: u64) -> io::Result<Option<Directory>> {
    let Some(locator) = end.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
    let locator = read_at(file, locator, LOCATOR_BYTES)?;
    if !locator.starts_with(&LOCATOR_64) {
        return Ok(None);
    }
    let at = Fields(&locator[8..]).u64();
    // Without the record the locator is a comment of chance, and the fields of the end count.
    if at.checked_add(END_64_BYTES).is_none_or(|behind| behind > end) {
        return Ok(None);
    }
    let record = read_at(file, at, END_64_BYTES)?;
    if !record.starts_with(&END_64) {
        return Ok(None);
    }
    let mut fields = Fields(&record[32..]);
    let [entries, bytes, start] = [(); 3].map(|()| fields.u64());
    Ok(Some(Directory { start, bytes, entries }))
}

/// The first of some entries, and the others.
fn entry(bytes: &[u8]) -> Result<(Member, &[u8]), String> {
    let broken = || String::from("has a directory that is not one of a zip archive");
    if bytes.len() < ENTRY_BYTES || !bytes.starts_with(&ENTRY) {
        return Err(broken());
    }
    let (fixed, rest) = bytes.split_at(ENTRY_BYTES);
    let mut fields = Fields(&fixed[8..]);
    let [flags, method] = [(); 2].map(|()| fields.u16());
    let _time = fields.u32();
    let [crc, packed, size] = [(); 3].map(|()| fields.u32());
    let lengths = [(); 3].map(|()| usize::from(fields.u16()));
    let start = Fields(&fixed[42..]).u32();
    let [name, extra, comment] = lengths;
    if rest.len() < name + extra + comment {
        return Err(broken());
    }
    let (name, rest) = rest.split_at(name);
    let (extra, rest) = rest.split_at(extra);
    let name = std::str::from_utf8(name).map_err(|_| "has a member whose name is not UTF-8".to_owned())?;
    if flags & 1 != 0 {
        return Err(format!("member `{name}` is encrypted"));
    }
    let deflated = match method {
        0 => false,
        8 => true,
        _ => return Err(format!("member `{name}` is compressed by method {method}: NumPy stores or deflates")),
    };
    // Only what does not fit 32 bits is in the 64-bit field, in this order.
    let mut wide = Fields(field_64(extra));
    let [bytes, packed, start] = [size, packed, start].map(|short| match short {
        ELSEWHERE if wide.0.len() >= 8 => wide.u64(),
        short => short.into(),
    });
    Ok((Member { name: name.to_owned(), start, packed, bytes, crc, deflated }, &rest[comment..]))
}

/// The 64-bit field among extra ones, or nothing.
fn field_64(extra: &[u8]) -> &[u8] {
    let mut rest = extra;
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        let [id, length] = [u16::from_le_bytes([head[0], head[1]]), u16::from_le_bytes([head[2], head[3]])];
        let Some((field, behind)) = behind.split_at_checked(usize::from(length)) else { break };
        if id == 1 {
            return field;
        }
        rest = behind;
    }
    &[]
}

/// Little-endian fields, one after another; zeros behind the last.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn next<const B: usize>(&mut self) -> [u8; B] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; B],
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.next())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.next())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.next())
    }
}

/// Bytes that have been checked to be in the file.
fn read_at(file: &mut (impl Read + Seek), at: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
