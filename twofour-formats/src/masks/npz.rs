//! NumPy's archives: a member a mask, read as it inflates.

use super::bits::{Flags, Packer};
use super::npy::{self, Array, Float};
use super::tensors::Failure;
use super::zip::{self, Member};
use super::{Fewer, Form, MASK, Mask, OTHER_MASK, weight_of};
use ::zip::read::{ZipFile, read_zipfile_from_stream_with_options};
use ::zip::{CompressionMethod, ZipReadOptions};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::{Mutex, MutexGuard, PoisonError};
use twofour::Shape;

pub(super) const SHAPE: &str = ".__shape__";
pub(super) const META: &str = "__meta__";
pub(super) const NPY: &str = ".npy";
/// Bytes that are inflated at a time.
const PIECE: usize = 1 << 16;
/// Memory that is taken before a member has been inflated: so many times what is packed. Masks are at 1.5.
const TRUSTED: u64 = 16;
/// Enough to read a member's headers: its own, two fields of 64 KiB at most, and NumPy's, inflated at a time.
const NEAR: u64 = 1 << 18;
/// The longest text that is read: PATCH's is some hundred characters.
const MAX_TEXT: u64 = 1 << 20;

/// Where an archive's bytes come from.
#[derive(Debug)]
pub(super) enum Source<'a> {
    Bytes(&'a [u8]),
    Disk(Mutex<File>),
}

impl Source<'_> {
    /// A reader of its own, or of the one file, whose place nobody else changes meanwhile.
    fn stream(&self) -> Stream<'_> {
        match self {
            Self::Bytes(bytes) => Stream::Bytes(Cursor::new(bytes)),
            Self::Disk(file) => Stream::Disk(file.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

enum Stream<'s> {
    Bytes(Cursor<&'s [u8]>),
    Disk(MutexGuard<'s, File>),
}

impl Read for Stream<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => bytes.read(to),
            Self::Disk(file) => file.read(to),
        }
    }
}

impl Seek for Stream<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => bytes.seek(to),
            Self::Disk(file) => file.seek(to),
        }
    }
}

/// An archive of masks.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    source: Source<'a>,
    form: Form,
    /// Arrays by name, without `.npy`.
    members: BTreeMap<String, Member>,
}

type Outcome<T> = Result<T, Failure>;

impl<'a> Archive<'a> {
    pub(super) fn new(source: Source<'a>) -> Result<Self, String> {
        let mut stream = source.stream();
        let length = stream.seek(SeekFrom::End(0)).map_err(|e| format!("cannot be read: {e}"))?;
        let mut members = BTreeMap::new();
        for member in zip::members(&mut stream, length)? {
            let Some(name) = member.name.strip_suffix(NPY) else {
                return Err(format!("member `{}` is no array of NumPy's", member.name));
            };
            members.insert(name.to_owned(), member);
        }
        let describes = |name: &String| name == META || name.ends_with(SHAPE);
        let form = if members.keys().any(describes) { Form::Patch } else { Form::MaskLlm };
        drop(stream);
        let archive = Self { source, form, members };
        archive.check_names()?;
        Ok(archive)
    }

    /// Every array is a mask, or describes one.
    fn check_names(&self) -> Result<(), String> {
        for name in self.members.keys() {
            let problem = match self.form {
                Form::Patch if name == META => None,
                Form::Patch => match name.strip_suffix(SHAPE) {
                    Some(of) if self.members.contains_key(of) => None,
                    Some(of) => Some(format!("there is no mask `{of}`, and there is its shape")),
                    None if self.members.contains_key(&format!("{name}{SHAPE}")) => None,
                    None => Some(format!("there is no array `{name}{SHAPE}`")),
                },
                _ if name.ends_with(MASK) => None,
                _ => match name.strip_suffix(OTHER_MASK) {
                    Some(of) if !self.members.contains_key(&format!("{of}{MASK}")) => None,
                    Some(of) => Some(format!("there are two masks of `{of}`")),
                    None => Some(format!("array `{name}` is no mask: its name does not end in `{MASK}`")),
                },
            };
            if let Some(problem) = problem {
                return Err(problem);
            }
        }
        Ok(())
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn names(&self) -> Vec<String> {
        let names = self.members.keys().filter(|name| *name != META && !name.ends_with(SHAPE));
        match self.form {
            Form::Patch => names.cloned().collect(),
            _ => names.filter_map(|name| weight_of(name)).map(str::to_owned).collect(),
        }
    }

    /// The array of a weight's mask.
    fn key(&self, name: &str) -> String {
        let keys = [name.to_owned(), format!("{name}{MASK}"), format!("{name}{OTHER_MASK}")];
        let [bare, first, other] = keys;
        match self.form {
            Form::Patch => bare,
            _ if self.members.contains_key(&other) => other,
            _ => first,
        }
    }

    /// The shape of a mask, if the archive has it.
    pub(super) fn shape(&self, name: &str) -> Outcome<Option<Shape>> {
        if self.form != Form::Patch {
            return self.own_shape(&self.key(name));
        }
        self.open(&format!("{name}{SHAPE}"), |array, _, data| {
            let (&[2], Some(bytes @ (8 | 16))) = (array.shape.as_slice(), array.bytes()) else {
                return problem(format!("is {:?} {:?}, not two sizes: masks are [N, K]", array.element, array.shape));
            };
            let mut sizes = [0; 16];
            data.read_exact(&mut sizes[..bytes as usize]).map_err(broken)?;
            let [rows, cols] = match array.element {
                Float::I64 => [sized(&sizes[..8]), sized(&sizes[8..])],
                Float::I32 => [sized(&sizes[..4]), sized(&sizes[4..8])],
                other => return problem(format!("is of {other:?}, and shapes are of I64")),
            };
            let (Some(rows), Some(cols)) = (rows, cols) else {
                return problem("holds a size that is negative or too large".into());
            };
            Ok(Some(Shape::new(rows, cols)))
        })
    }

    /// That of an array of flags nobody packed. Its header alone is read.
    fn own_shape(&self, key: &str) -> Outcome<Option<Shape>> {
        let in_array = |problem: String| Failure::Problem(format!("array `{key}` {problem}"));
        let Some(member) = self.members.get(key) else { return Err(in_array("is not there".into())) };
        let mut stream = self.source.stream();
        // A reader of streams goes to a member's end when it is dropped: here that is near.
        let mut near = at(&mut stream, member).map_err(in_array)?.take(NEAR);
        let mut data = opened(&mut near, member).map_err(in_array)?;
        let (array, _) = Array::read(&mut data).map_err(in_array)?;
        Ok(match (array.element, array.shape.as_slice()) {
            (Float::Text(_), _) => None,
            (_, &[rows, cols]) => {
                let size = |size: u64| usize::try_from(size).ok();
                size(rows).zip(size(cols)).map(|(rows, cols)| Shape::new(rows, cols))
            }
            _ => None,
        })
    }

    /// Reads a mask of this shape, which has been checked.
    pub(super) fn read(&self, name: &str, shape: Shape, fewer: Fewer) -> Outcome<Mask> {
        self.open(&self.key(name), |array, member, data| {
            let Shape { rows, cols } = shape;
            let (weights, expected) = (shape.weights() as u64, shape.packed_codes() as u64);
            let trusted = member.packed.saturating_mul(TRUSTED).saturating_add(PIECE as u64);
            let memory = usize::try_from(trusted).unwrap_or(usize::MAX);
            match (array.element, array.shape.as_slice()) {
                (Float::U8, &[bytes]) if bytes == expected => {
                    let mut mask = Packer::new(shape, fewer, memory);
                    pieces(data, bytes, |bits| mask.push(bits).map_err(Failure::Error))?;
                    Ok(mask.finish()?)
                }
                (Float::U8, &[bytes]) if bytes != weights => {
                    problem(format!("is {bytes} bytes of packed bits, and a mask of {rows} x {cols} takes {expected}"))
                }
                (Float::Bool, sizes) if sizes == [weights] || sizes == [rows as u64, cols as u64] => {
                    let mut mask = Flags::new(shape, fewer, memory);
                    pieces(data, weights, |bytes| match bytes.iter().find(|byte| **byte > 1) {
                        Some(byte) => problem(format!("holds a bool that is {byte}")),
                        None => Ok(mask.push(bytes.iter().map(|&byte| byte == 1))?),
                    })?;
                    Ok(mask.finish()?)
                }
                (Float::Text(_), sizes) => problem(format!("is a text {sizes:?}, and no mask")),
                (element, sizes) if sizes == [weights] || sizes == [rows as u64, cols as u64] => {
                    let mut mask = Flags::new(shape, fewer, memory);
                    let width = element.bytes();
                    // Pieces are of whole elements, for these are of 8 bytes at most.
                    pieces(data, weights.saturating_mul(width), |bytes| {
                        let elements = bytes.chunks_exact(width as usize);
                        match elements.clone().find(|element| element[0] > 1 || element[1..].iter().any(|&b| b != 0)) {
                            Some(_) => problem(format!("holds a number of {element:?} that is neither 0 nor 1")),
                            None => Ok(mask.push(elements.map(|element| element[0] == 1))?),
                        }
                    })?;
                    Ok(mask.finish()?)
                }
                (element, sizes) => {
                    problem(format!("is {element:?} {sizes:?}, and a mask of {rows} x {cols} is U8 [{expected}]"))
                }
            }
        })
    }

    /// PATCH's text, if there is one.
    pub(super) fn text(&self) -> Outcome<Option<String>> {
        if !self.members.contains_key(META) {
            return Ok(None);
        }
        self.open(META, |array, _, data| {
            let (Float::Text(characters), Some(1)) = (array.element, array.elements()) else {
                return problem(format!("is {:?} {:?}, and one text is expected", array.element, array.shape));
            };
            if characters > MAX_TEXT {
                return problem(format!("is a text of {characters} characters, and {MAX_TEXT} are the most"));
            }
            let mut text = String::new();
            pieces(data, 4 * characters, |bytes| {
                for &character in bytes.as_chunks::<4>().0 {
                    match char::from_u32(u32::from_le_bytes(character)) {
                        Some(character) => text.push(character),
                        None => return problem("is no text: it holds what is no character".into()),
                    }
                }
                Ok(())
            })?;
            // NumPy fills up with zeros.
            text.truncate(text.trim_end_matches('\0').len());
            Ok(Some(text))
        })
    }

    /// Opens an array, and sees to it that it was read to its end, and that its checksum is right.
    fn open<T>(&self, key: &str, read: impl FnOnce(&Array, &Member, &mut dyn Read) -> Outcome<T>) -> Outcome<T> {
        let in_array = |problem: String| Failure::Problem(format!("array `{key}` {problem}"));
        let Some(member) = self.members.get(key) else { return Err(in_array("is not there".into())) };
        let mut stream = self.source.stream();
        let mut data = at(&mut stream, member).and_then(|stream| opened(stream, member)).map_err(in_array)?;
        let (array, header) = Array::read(&mut data).map_err(in_array)?;
        let claimed = array.bytes().and_then(|bytes| bytes.checked_add(header));
        if claimed != Some(member.bytes) {
            let problem = format!("is {:?} {:?}, which its {} bytes are not", array.element, array.shape, member.bytes);
            return Err(in_array(problem));
        }
        let result = read(&array, member, &mut data).map_err(|failure| match failure {
            Failure::Problem(problem) => in_array(problem),
            error => error,
        })?;
        // The end: the checksum is compared when it is met.
        match data.read(&mut [0]) {
            Ok(0) => Ok(result),
            Ok(_) => Err(in_array("has more bytes than its header says".into())),
            Err(e) => Err(in_array(unreadable(e))),
        }
    }
}

fn unreadable(e: impl std::fmt::Display) -> String {
    format!("cannot be read: {e}")
}

/// The stream where a member begins.
fn at<'s, 'a>(stream: &'s mut Stream<'a>, member: &Member) -> Result<&'s mut Stream<'a>, String> {
    stream.seek(SeekFrom::Start(member.start)).map_err(unreadable)?;
    Ok(stream)
}

/// A member, ready to be inflated.
fn opened<'s, R: Read>(stream: &'s mut R, member: &Member) -> Result<ZipFile<'s, R>, String> {
    // The directory counts, also where the member's own header leaves sizes to what follows it.
    let options = ZipReadOptions::new()
        .override_compressed_size(member.packed)
        .override_uncompressed_size(member.bytes)
        .override_crc(member.crc);
    let opened = read_zipfile_from_stream_with_options(stream, options).map_err(unreadable)?;
    let data = opened.ok_or("is not where the directory says")?;
    let method = if member.deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    let agree = data.name_raw() == member.name.as_bytes()
        && data.compressed_size() == member.packed
        && data.compression() == method
        && !data.encrypted();
    if agree { Ok(data) } else { Err("has a header of its own that contradicts the directory".into()) }
}

fn problem<T>(problem: String) -> Outcome<T> {
    Err(Failure::Problem(problem))
}

fn broken(e: io::Error) -> Failure {
    Failure::Problem(format!("cannot be inflated: {e}"))
}

/// A size, if it is one.
fn sized(bytes: &[u8]) -> Option<usize> {
    let size = bytes.iter().rev().fold(0, |size, &byte| size << 8 | u64::from(byte));
    usize::try_from(size).ok().filter(|_| bytes.last().is_some_and(|last| last >> 7 == 0))
}

/// Hands on so many bytes, in pieces of whole multiples of 4 until the last.
fn pieces(data: &mut dyn Read, bytes: u64, mut take: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
    let mut piece = vec![0; usize::try_from(bytes).unwrap_or(PIECE).min(PIECE)];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE as u64);
        data.read_exact(&mut piece[..now as usize]).map_err(broken)?;
        take(&piece[..now as usize])?;
        left -= now;
    }
    Ok(())
}

/// The bytes of a text, for a `<U` array.
pub(super) fn text_array(text: &str) -> Vec<u8> {
    let characters = text.chars().count().max(1);
    let mut bytes = npy::header(&format!("<U{characters}"), &[]);
    bytes.extend(text.chars().flat_map(|character| u32::from(character).to_le_bytes()));
    if text.is_empty() {
        bytes.extend([0; 4]);
    }
    bytes
}
