//! The header of a `.npy` file: what type an array has, and which shape. It is a Python literal, of which exactly the
//! kind that NumPy writes is read, by a parser that neither recurses nor takes memory by what it reads.
//!
//! Not by the crate `npyz`: with it `tests/masks_hostile.rs` fails, as a file of 1 kB takes 825 MB by the length of
//! header that it claims, and so does `headers_that_numpy_can_write` of `tests/masks/archives.rs`, for Python 2's
//! sizes.
//!
//! Source: `numpy/lib/_format_impl.py` (versions 1.0, 2.0 and 3.0).

use std::io::Read;

/// NumPy itself reads no longer ones, unless it is told that the file is trusted.
const MAX_HEADER: u32 = 10_000;
/// As many as NumPy has.
const MAX_DIMENSIONS: usize = 64;
const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// The types that masks come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Float {
    U8,
    Bool,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    /// UTF-32, so many characters.
    Text(u64),
}

impl Float {
    /// Of NumPy's name, with byte order and size.
    fn of(descr: &str) -> Result<Self, String> {
        match descr {
            "|u1" => Ok(Self::U8),
            "|b1" => Ok(Self::Bool),
            "|i1" => Ok(Self::I8),
            "<i2" => Ok(Self::I16),
            "<u2" => Ok(Self::U16),
            "<i4" => Ok(Self::I32),
            "<u4" => Ok(Self::U32),
            "<i8" => Ok(Self::I64),
            "<u8" => Ok(Self::U64),
            _ => {
                let characters = descr.strip_prefix("<U").and_then(|count| count.parse().ok());
                let unknown = || format!("elements of type `{descr}` are not supported here");
                characters.map(Self::Text).ok_or_else(unknown)
            }
        }
    }

    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::Bool | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 => 8,
            Self::Text(characters) => characters.saturating_mul(4),
        }
    }
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Array {
    pub(super) element: Float,
    pub(super) shape: Vec<u64>,
}

impl Array {
    /// Elements; `None` if they overflow.
    pub(super) fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))
    }

    /// Bytes behind the header; `None` if they overflow.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.elements()?.checked_mul(self.element.bytes())
    }

    /// Reads a header, up to the first byte of the array. With it, how long it was.
    pub(super) fn read(from: &mut impl Read) -> Result<(Self, u64), String> {
        let unreadable = |e: std::io::Error| format!("its header cannot be read: {e}");
        let mut start = [0; 8];
        from.read_exact(&mut start).map_err(unreadable)?;
        let [.., major, minor] = start;
        if &start[..6] != MAGIC {
            return Err("is no array of NumPy's: it does not begin with `\\x93NUMPY`".into());
        }
        let (length, before) = match (major, minor) {
            (1, 0) => {
                let mut length = [0; 2];
                from.read_exact(&mut length).map_err(unreadable)?;
                (u32::from(u16::from_le_bytes(length)), 10)
            }
            (2 | 3, 0) => {
                let mut length = [0; 4];
                from.read_exact(&mut length).map_err(unreadable)?;
                (u32::from_le_bytes(length), 12)
            }
            _ => return Err(format!("is of version {major}.{minor} of NumPy's format, and 1.0 to 3.0 are known")),
        };
        if length > MAX_HEADER {
            return Err(format!("has a header of {length} bytes, and {MAX_HEADER} are the most"));
        }
        let mut header = vec![0; length as usize];
        from.read_exact(&mut header).map_err(unreadable)?;
        let text = std::str::from_utf8(&header).map_err(|_| "has a header that is not UTF-8".to_owned())?;
        let array = Literal { rest: text }.array().map_err(|problem| {
            let shown: String = text.trim_end().chars().take(120).collect();
            format!("has the header `{shown}`: {problem}")
        })?;
        Ok((array, before + u64::from(length)))
    }
}

/// A header of version 1.0, as NumPy writes it: `descr` and shape, padded so that the array begins at a multiple of 64.
pub(super) fn header(descr: &str, shape: &[u64]) -> Vec<u8> {
    let mut sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    if shape.len() != 1 {
        sizes.truncate(sizes.trim_end_matches(", ").len());
    } else {
        sizes.truncate(sizes.trim_end().len());
    }
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    let length = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
    text.extend(std::iter::repeat_n(' ', length - 1 - text.len()));
    text.push('\n');
    // Shapes here have two sizes at most: the length fits 16 bits many times over.
    [&MAGIC[..], &[1, 0], &(length as u16).to_le_bytes(), text.as_bytes()].concat()
}

/// What is left of a dictionary.
struct Literal<'t> {
    rest: &'t str,
}

impl<'t> Literal<'t> {
    /// The three entries, in any order, each once.
    fn array(mut self) -> Result<Array, String> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.eat('}') {
            let key = self.string()?;
            self.expect(':')?;
            let again = match key {
                "descr" => descr.replace(self.string()?).is_some(),
                "fortran_order" => fortran.replace(self.truth()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                _ => return Err(format!("there is no entry `{key}`")),
            };
            if again {
                return Err(format!("`{key}` is there twice"));
            }
            if !self.eat(',') {
                self.expect('}')?;
                break;
            }
        }
        if !self.rest.trim_start().is_empty() {
            return Err("something follows it".into());
        }
        let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err("`descr`, `fortran_order` or `shape` is missing".into());
        };
        if fortran && shape.len() > 1 {
            return Err("the array is in Fortran's order: save `numpy.ascontiguousarray` of it".into());
        }
        Ok(Array { element: Float::of(descr)?, shape })
    }

    fn eat(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: char) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("`{token}` is expected where {} is left", self.left())) }
    }

    fn left(&self) -> String {
        match self.rest.chars().next() {
            Some(_) => format!("`{}`", self.rest.chars().take(16).collect::<String>()),
            None => "nothing".into(),
        }
    }

    /// In either quotes. NumPy never needs a backslash in one.
    fn string(&mut self) -> Result<&'t str, String> {
        let quote = if self.eat('"') { '"' } else { '\'' };
        if quote == '\'' {
            self.expect('\'')?;
        }
        let (text, rest) = self.rest.split_once(quote).ok_or("a string does not end")?;
        if text.contains('\\') {
            return Err("a string has a backslash".into());
        }
        self.rest = rest;
        Ok(text)
    }

    fn truth(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(format!("`True` or `False` is expected where {} is left", self.left()))
    }

    /// `()`, `(1,)`, `(1, 2)`.
    fn tuple(&mut self) -> Result<Vec<u64>, String> {
        let mut sizes = Vec::new();
        self.expect('(')?;
        while !self.eat(')') {
            if sizes.len() == MAX_DIMENSIONS {
                return Err(format!("the array has more than {MAX_DIMENSIONS} dimensions"));
            }
            sizes.push(self.size()?);
            if !self.eat(',') {
                self.expect(')')?;
                // Without its comma it is a number in parentheses.
                return if sizes.len() == 1 { Err("the shape is no tuple".into()) } else { Ok(sizes) };
            }
        }
        Ok(sizes)
    }

    fn size(&mut self) -> Result<u64, String> {
        self.rest = self.rest.trim_start();
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.rest.split_at(digits);
        let size = number.parse().map_err(|_| format!("a size is expected where {} is left", self.left()))?;
        // Python 2 wrote long ones so.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        Ok(size)
    }
}
