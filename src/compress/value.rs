//! What a compressed weight holds: types of values, and how many of a group are kept.

use crate::element::{DType, E4m3, E5m2};
use crate::shape::Shape;
use crate::space::Plain;
use half::{bf16, f16};

/// How many of how many consecutive values a code keeps: the hardware's choice, by the type of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sparsity {
    /// Two of four: 8- and 16-bit values. Six codes.
    TwoFour,
    /// One of two: `f32` values, which the hardware reads as tf32. The code is that of both halves of the kept value
    /// seen as 16-bit values: 4 for the first, E for the second (PTX ISA, "Sparse matrix storage").
    OneTwo,
}

impl Sparsity {
    /// Consecutive values in a group: 4 or 2.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::TwoFour => 4,
            Self::OneTwo => 2,
        }
    }

    /// Values a group keeps: 2 or 1.
    #[must_use]
    pub const fn kept(self) -> usize {
        self.width() / 2
    }

    /// Whether this is one of the codes: 4, 8, 9, C, D, E, or 4 and E.
    #[must_use]
    pub const fn is_legal(self, code: u8) -> bool {
        let legal: u16 = match self {
            Self::TwoFour => 1 << 0x4 | 1 << 0x8 | 1 << 0x9 | 1 << 0xc | 1 << 0xd | 1 << 0xe,
            Self::OneTwo => 1 << 0x4 | 1 << 0xe,
        };
        code < 16 && legal >> code & 1 == 1
    }

    /// The code that keeps the positions whose bit is set (bit `j` for position `j`), if there is one.
    #[must_use]
    pub const fn code_of_bits(self, bits: u8) -> Option<u8> {
        match (self, bits) {
            (Self::OneTwo, 1) => Some(0x4),
            (Self::OneTwo, 2) => Some(0xe),
            (Self::OneTwo, _) => None,
            (Self::TwoFour, _) => match crate::Pattern::from_bits(bits) {
                Some(pattern) => Some(pattern.code()),
                None => None,
            },
        }
    }

    /// The positions that a code keeps as bits, or `None` if it is not legal.
    #[must_use]
    pub const fn bits_of_code(self, code: u8) -> Option<u8> {
        if !self.is_legal(code) {
            return None;
        }
        match self {
            Self::OneTwo => Some(1 << (code >> 1 & 1)),
            Self::TwoFour => Some(1 << (code & 3) | 1 << (code >> 2)),
        }
    }

    /// Groups in a row of `cols` values.
    #[must_use]
    pub const fn row_groups(self, cols: usize) -> usize {
        cols / self.width()
    }

    /// Groups of a weight, saturating.
    #[must_use]
    pub const fn groups(self, shape: Shape) -> usize {
        shape.rows.saturating_mul(self.row_groups(shape.cols))
    }

    /// Bytes of a weight's codes, two a byte.
    #[must_use]
    pub const fn packed_codes(self, shape: Shape) -> usize {
        self.groups(shape).div_ceil(2)
    }

    /// The legal codes, for messages.
    pub(crate) const fn legal(self) -> &'static str {
        match self {
            Self::TwoFour => "4, 8, 9, C, D and E",
            Self::OneTwo => "4 and E",
        }
    }
}

/// The formats of a compressed weight's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValueType {
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// IEEE binary32, of which tensor cores read the upper 19 bits (tf32).
    F32,
    /// Two's complement.
    I8,
    /// [`E4m3`].
    E4m3,
    /// [`E5m2`].
    E5m2,
}

impl ValueType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::F16, Self::Bf16, Self::F32, Self::I8, Self::E4m3, Self::E5m2];

    /// Bytes of one value.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::I8 | Self::E4m3 | Self::E5m2 => 1,
        }
    }

    /// How many of how many are kept.
    #[must_use]
    pub const fn sparsity(self) -> Sparsity {
        match self {
            Self::F32 => Sparsity::OneTwo,
            _ => Sparsity::TwoFour,
        }
    }

    /// The name used in kernel symbols, files and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::I8 => "i8",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
        }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<DType> for ValueType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
            DType::F32 => Self::F32,
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A type of values: [`struct@f16`], [`bf16`], `f32`, `i8`, [`E4m3`] or [`E5m2`]. Sealed.
pub trait Value: sealed::Sealed + Plain + std::fmt::Debug + 'static {
    /// The format's name as a value.
    const TYPE: ValueType;

    /// A number that orders values as their magnitudes do, 0 for zeros (of both signs) alone. A NaN is above infinity,
    /// and of two NaN the one with the larger payload.
    fn magnitude(self) -> u32;
}

/// A type of values of which two of four are kept: all but `f32`. Sealed by its supertrait.
pub trait TwoFour: Value {}
impl TwoFour for f16 {}
impl TwoFour for bf16 {}
impl TwoFour for i8 {}
impl TwoFour for E4m3 {}
impl TwoFour for E5m2 {}

/// A format whose bits below the sign are in the order of magnitudes.
macro_rules! value {
    ($type:ident, $variant:ident, $bits:expr) => {
        impl sealed::Sealed for $type {}
        impl Value for $type {
            const TYPE: ValueType = ValueType::$variant;
            #[inline(always)]
            fn magnitude(self) -> u32 {
                let bits: fn(Self) -> u32 = $bits;
                bits(self)
            }
        }
    };
}
value!(f16, F16, |x| u32::from(x.to_bits() & 0x7fff));
value!(bf16, Bf16, |x| u32::from(x.to_bits() & 0x7fff));
value!(f32, F32, |x| x.to_bits() & 0x7fff_ffff);
value!(i8, I8, |x| u32::from(x.unsigned_abs()));
value!(E4m3, E4m3, |x| u32::from(x.to_bits() & 0x7f));
value!(E5m2, E5m2, |x| u32::from(x.to_bits() & 0x7f));

/// What a mask is made of: a value says whether its position is kept. Numbers keep where they are not zero. Sealed.
pub trait Flag: flag::Sealed + Copy + Send + Sync + 'static {
    /// Whether the position is kept.
    fn is_kept(self) -> bool;
    /// `true` or 1 for a kept position, `false` or 0.
    fn from_kept(kept: bool) -> Self;
}

mod flag {
    pub trait Sealed {}
}

/// A number as a flag.
macro_rules! flag {
    ($($type:ty: $zero:expr, $one:expr;)*) => {$(
        impl flag::Sealed for $type {}
        impl Flag for $type {
            #[inline(always)]
            fn is_kept(self) -> bool {
                self != $zero
            }
            #[inline(always)]
            fn from_kept(kept: bool) -> Self {
                if kept { $one } else { $zero }
            }
        }
    )*};
}
flag! {
    bool: false, true;
    u8: 0, 1;
    f32: 0.0, 1.0;
    f16: f16::ZERO, f16::ONE;
    bf16: bf16::ZERO, bf16::ONE;
}
