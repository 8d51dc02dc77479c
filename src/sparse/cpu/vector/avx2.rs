//! AVX2, with fused multiply-adds.

use super::{BYTES, LANES, SPAN, Vector, Work};
use half::{bf16, f16};
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<W: Work>(work: W) -> W::Output {
    work.on::<Ymms>()
}

/// Nothing outside of [`run`] can name it.
#[derive(Clone, Copy)]
struct Ymms([__m256; 2]);

/// An instruction, on registers or on a whole array.
macro_rules! op {
    ($call:expr) => {{
        // SAFETY: `Ymms` is named by `run` alone, where these features are on; pointers are those of arrays as long as
        // what is read or written, and need no alignment.
        unsafe { $call }
    }};
}

/// The halves, or quarters, of an array.
#[inline(always)]
fn parts<T, const N: usize, const PART: usize>(from: &[T; N]) -> &[[T; PART]] {
    from.as_chunks().0
}

impl Vector for Ymms {
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([op!(_mm256_set1_ps(value)); 2])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        let halves = parts::<_, LANES, 8>(from);
        Self([op!(_mm256_loadu_ps(halves[0].as_ptr())), op!(_mm256_loadu_ps(halves[1].as_ptr()))])
    }

    #[inline(always)]
    fn load_f16(from: &[f16; LANES]) -> Self {
        let mut wide = [op!(_mm256_setzero_ps()); 2];
        for (to, half) in wide.iter_mut().zip(parts::<_, LANES, 8>(from)) {
            let half = op!(_mm_loadu_si128(half.as_ptr().cast()));
            *to = op!(_mm256_cvtph_ps(half));
        }
        Self(wide)
    }

    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        let mut wide = [op!(_mm256_setzero_ps()); 2];
        for (to, half) in wide.iter_mut().zip(parts::<_, LANES, 8>(from)) {
            let half = op!(_mm_loadu_si128(half.as_ptr().cast()));
            let half = op!(_mm256_cvtepu16_epi32(half));
            let shifted = op!(_mm256_slli_epi32::<16>(half));
            *to = op!(_mm256_castsi256_ps(shifted));
        }
        Self(wide)
    }

    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut to = [0.0; LANES];
        for (to, half) in to.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            op!(_mm256_storeu_ps(to.as_mut_ptr(), half));
        }
        to
    }

    #[inline(always)]
    fn mul_add(self, by: Self, to: Self) -> Self {
        let [low, high] = to.0;
        Self([op!(_mm256_fmadd_ps(self.0[0], by.0[0], low)), op!(_mm256_fmadd_ps(self.0[1], by.0[1], high))])
    }

    // Within eight columns.
    type Index = [__m256i; 2];

    #[inline(always)]
    fn index(selector: u32) -> [__m256i; 2] {
        let shifts = op!(_mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
        let groups = op!(_mm256_setr_epi32(0, 0, 4, 4, 0, 0, 4, 4));
        let three = op!(_mm256_set1_epi32(3));
        let mut index = [groups; 2];
        for (to, selector) in index.iter_mut().zip([selector, selector >> 16]) {
            let selector = op!(_mm256_set1_epi32(selector.cast_signed()));
            let shifted = op!(_mm256_srlv_epi32(selector, shifts));
            let within = op!(_mm256_and_si256(shifted, three));
            *to = op!(_mm256_or_si256(within, groups));
        }
        index
    }

    #[inline(always)]
    fn pick(x: &[f32; SPAN], index: [__m256i; 2]) -> Self {
        let mut quarters = [op!(_mm256_setzero_ps()); 4];
        for (i, (to, x)) in quarters.iter_mut().zip(parts::<_, SPAN, 8>(x)).enumerate() {
            let x = op!(_mm256_loadu_ps(x.as_ptr()));
            *to = op!(_mm256_permutevar8x32_ps(x, index[i / 2]));
        }
        let [a, b, c, d] = quarters;
        Self([op!(_mm256_blend_ps::<0xf0>(a, b)), op!(_mm256_blend_ps::<0xf0>(c, d))])
    }

    type Sums = __m256i;
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn no_sums() -> __m256i {
        op!(_mm256_setzero_si256())
    }

    #[inline(always)]
    fn dot(sums: __m256i, weights: &[i8; BYTES], x: &[i8; BYTES]) -> __m256i {
        let mut sums = sums;
        for (weights, x) in parts::<_, BYTES, 16>(weights).iter().zip(parts::<_, BYTES, 16>(x)) {
            let weights = op!(_mm_loadu_si128(weights.as_ptr().cast()));
            let x = op!(_mm_loadu_si128(x.as_ptr().cast()));
            let (weights, x) = (op!(_mm256_cvtepi8_epi16(weights)), op!(_mm256_cvtepi8_epi16(x)));
            let products = op!(_mm256_madd_epi16(weights, x));
            sums = op!(_mm256_add_epi32(sums, products));
        }
        sums
    }

    #[inline(always)]
    fn total(sums: __m256i) -> i32 {
        let mut lanes = [0; 8];
        op!(_mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums));
        lanes.into_iter().fold(0, i32::wrapping_add)
    }
}
