//! Lanes as arrays, whose loops compilers turn into vector code. (They do not for closures over arrays, `map` and
//! `from_fn`: those stay calls.)

// A lane's number indexes several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::{LANES, Mask, Vector, Words};
use crate::noise;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Sub};

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Portable([f32; LANES]);

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct PortableWords([u32; LANES]);

/// All ones or all zeros.
type PortableMask = PortableWords;

macro_rules! lane_by_lane {
    ($type:ident, $operator:ident, $function:ident, $of:expr) => {
        impl $operator for $type {
            type Output = Self;
            #[inline(always)]
            fn $function(mut self, other: Self) -> Self {
                for lane in 0..LANES {
                    self.0[lane] = $of(self.0[lane], other.0[lane]);
                }
                self
            }
        }
    };
}
lane_by_lane!(Portable, Add, add, |a, b| a + b);
lane_by_lane!(Portable, Sub, sub, |a, b| a - b);
lane_by_lane!(Portable, Mul, mul, |a, b| a * b);
lane_by_lane!(Portable, Div, div, |a, b| a / b);
lane_by_lane!(PortableWords, Add, add, u32::wrapping_add);
lane_by_lane!(PortableWords, Sub, sub, u32::wrapping_sub);
lane_by_lane!(PortableWords, BitAnd, bitand, |a, b| a & b);
lane_by_lane!(PortableWords, BitOr, bitor, |a, b| a | b);

/// What holds of two lanes.
macro_rules! compare {
    ($self:ident, $other:ident, $of:expr) => {{
        let mut mask = [0; LANES];
        for lane in 0..LANES {
            mask[lane] = if $of($self.0[lane], $other.0[lane]) { u32::MAX } else { 0 };
        }
        PortableWords(mask)
    }};
}

impl Mask for PortableMask {
    #[inline(always)]
    fn to_bits(self) -> u16 {
        let mut bits = 0;
        for lane in 0..LANES {
            bits |= (self.0[lane] as u16 & 1) << lane;
        }
        bits
    }
}

impl Vector for Portable {
    type Words = PortableWords;
    type Mask = PortableMask;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn from_array(values: [f32; LANES]) -> Self {
        Self(values)
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        self.0
    }

    #[inline(always)]
    fn from_bits(bits: PortableWords) -> Self {
        Self(bytemuck::cast(bits.0))
    }

    #[inline(always)]
    fn to_bits(self) -> PortableWords {
        PortableWords(bytemuck::cast(self.0))
    }

    #[inline(always)]
    fn mul_add(mut self, factor: Self, addend: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = self.0[lane].mul_add(factor.0[lane], addend.0[lane]);
        }
        self
    }

    #[inline(always)]
    fn sqrt(mut self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = self.0[lane].sqrt();
        }
        self
    }

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = if self.0[lane] > other.0[lane] { self.0[lane] } else { other.0[lane] };
        }
        self
    }

    #[inline(always)]
    fn equals(self, other: Self) -> PortableMask {
        compare!(self, other, |a, b| a == b)
    }

    #[inline(always)]
    fn is_below(self, other: Self) -> PortableMask {
        compare!(self, other, |a, b| a < b)
    }

    #[inline(always)]
    fn is_unordered(self, other: Self) -> PortableMask {
        compare!(self, other, |a: f32, b: f32| a.is_nan() | b.is_nan())
    }

    #[inline(always)]
    fn select(mask: PortableMask, mut yes: Self, no: Self) -> Self {
        for lane in 0..LANES {
            yes.0[lane] = if mask.0[lane] != 0 { yes.0[lane] } else { no.0[lane] };
        }
        yes
    }

    #[inline(always)]
    fn on_line(mut t: Self, number: PortableWords) -> Self {
        let mut line = [[0; 2]; LANES];
        for lane in 0..LANES {
            line[lane] = noise::LINES[(number.0[lane] & 4095) as usize];
        }
        for lane in 0..LANES {
            t.0[lane] = f32::from_bits(line[lane][0]).mul_add(t.0[lane], f32::from_bits(line[lane][1]));
        }
        t
    }

    #[inline(always)]
    fn turn<const PER: usize>(groups: &[[f32; PER]; LANES]) -> [Self; PER] {
        let mut lanes = [Self([0.0; LANES]); PER];
        for lane in 0..LANES {
            for i in 0..PER {
                lanes[i].0[lane] = groups[lane][i];
            }
        }
        lanes
    }

    #[inline(always)]
    fn turn_back<const PER: usize>(lanes: &[Self; PER], groups: &mut [[f32; PER]; LANES]) {
        for lane in 0..LANES {
            for i in 0..PER {
                groups[lane][i] = lanes[i].0[lane];
            }
        }
    }
}

impl Words for PortableWords {
    type Mask = PortableMask;

    #[inline(always)]
    fn splat(word: u32) -> Self {
        Self([word; LANES])
    }

    #[inline(always)]
    fn to_array(self) -> [u32; LANES] {
        self.0
    }

    #[inline(always)]
    fn shl<const BY: u32>(mut self) -> Self {
        for word in &mut self.0 {
            *word <<= BY;
        }
        self
    }

    #[inline(always)]
    fn shr<const BY: u32>(mut self) -> Self {
        for word in &mut self.0 {
            *word >>= BY;
        }
        self
    }

    #[inline(always)]
    fn shr_each(mut self, by: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] >>= by.0[lane] & 31;
        }
        self
    }

    #[inline(always)]
    fn select(mask: Self, mut yes: Self, no: Self) -> Self {
        for lane in 0..LANES {
            yes.0[lane] = if mask.0[lane] != 0 { yes.0[lane] } else { no.0[lane] };
        }
        yes
    }

    #[inline(always)]
    fn philox(round_keys: &[u32; 20], draw: u64, groups: &[u64; LANES]) -> [Self; 4] {
        let mut x = [Self([0; LANES]); 4];
        for first in (0..LANES).step_by(REGISTERS) {
            let wide = philox(round_keys, draw, &groups[first..first + REGISTERS]);
            for word in 0..4 {
                for lane in 0..REGISTERS {
                    x[word].0[first + lane] = wide[word][lane] as u32;
                }
            }
        }
        x
    }
}

/// Lanes whose four words of Philox fit the processor's registers.
const REGISTERS: usize = 8;

/// Philox of some groups, a word of 32 bits in 64, as the processor multiplies them; what gathers in the upper half is
/// never looked at.
#[inline(always)]
fn philox(round_keys: &[u32; 20], draw: u64, groups: &[u64]) -> [[u64; REGISTERS]; 4] {
    const LOW: u64 = 0xffff_ffff;
    let (mut x0, mut x1) = ([0; REGISTERS], [0; REGISTERS]);
    let (mut x2, mut x3) = ([draw & LOW; REGISTERS], [draw >> 32; REGISTERS]);
    for lane in 0..REGISTERS {
        x0[lane] = groups[lane];
        x1[lane] = groups[lane] >> 32;
    }
    for keys in round_keys.chunks_exact(2) {
        for lane in 0..REGISTERS {
            let a = (x0[lane] & LOW) * u64::from(noise::MULTIPLIERS[0]);
            let b = (x2[lane] & LOW) * u64::from(noise::MULTIPLIERS[1]);
            x0[lane] = (b >> 32) ^ x1[lane] ^ u64::from(keys[0]);
            x1[lane] = b;
            x2[lane] = (a >> 32) ^ x3[lane] ^ u64::from(keys[1]);
            x3[lane] = a;
        }
    }
    [x0, x1, x2, x3]
}
