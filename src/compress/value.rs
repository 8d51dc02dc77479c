//! What a compressed weight holds: types of values, and how many of a group are kept.

use crate::element::DType;
use crate::shape::Shape;
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
    /// That of values of this type.
    #[must_use]
    pub const fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::OneTwo,
            _ => Self::TwoFour,
        }
    }

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

/// The formats that a compressed weight's values may be of.
pub const DTYPES: [DType; 6] = [DType::F16, DType::Bf16, DType::F32, DType::I8, DType::E4m3, DType::E5m2];

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
