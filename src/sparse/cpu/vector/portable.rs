//! On any machine: arrays, of which compilers make what vectors there are.

use super::{BYTES, LANES, SPAN, Vector};
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub(super) struct Lanes([f32; LANES]);

impl Vector for Lanes {
    // NEON's 32 are of a quarter.
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn load_f16(from: &[f16; LANES]) -> Self {
        Self(from.map(f16::to_f32))
    }

    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        Self(from.map(|from| f32::from_bits(u32::from(from.to_bits()) << 16)))
    }

    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        self.0
    }

    #[inline(always)]
    fn mul_add(self, by: Self, to: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane].mul_add(by.0[lane], to.0[lane])))
    }

    type Index = u32;

    #[inline(always)]
    fn index(selector: u32) -> u32 {
        selector
    }

    #[inline(always)]
    fn pick(x: &[f32; SPAN], selector: u32) -> Self {
        Self(std::array::from_fn(|lane| x[lane / 2 * 4 + (selector >> (2 * lane) & 3) as usize]))
    }

    type Sums = i32;
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn no_sums() -> i32 {
        0
    }

    #[inline(always)]
    fn dot(sums: i32, weights: &[i8; BYTES], x: &[i8; BYTES]) -> i32 {
        weights.iter().zip(x).fold(sums, |sums, (w, x)| sums.wrapping_add(i32::from(*w) * i32::from(*x)))
    }

    #[inline(always)]
    fn total(sums: i32) -> i32 {
        sums
    }
}
