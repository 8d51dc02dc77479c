//! AVX-512 as Ice Lake and Zen 4 have it.

use super::{BYTES, LANES, SPAN, Vector, Work};
use half::{bf16, f16};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx512vnni,bmi2,fma,f16c")]
pub(super) fn run<W: Work>(work: W) -> W::Output {
    work.on::<Zmm>()
}

/// Nothing outside of [`run`] can name it.
#[derive(Clone, Copy)]
struct Zmm(__m512);

/// An instruction, on registers or on a whole array.
macro_rules! op {
    ($call:expr) => {{
        // SAFETY: `Zmm` is named by `run` alone, where these features are on; pointers are those of arrays as long as
        // what is read or written, and need no alignment.
        unsafe { $call }
    }};
}

impl Vector for Zmm {
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(op!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(op!(_mm512_loadu_ps(from.as_ptr())))
    }

    #[inline(always)]
    fn load_f16(from: &[f16; LANES]) -> Self {
        let from = op!(_mm256_loadu_si256(from.as_ptr().cast()));
        Self(op!(_mm512_cvtph_ps(from)))
    }

    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        let from = op!(_mm256_loadu_si256(from.as_ptr().cast()));
        let wide = op!(_mm512_cvtepu16_epi32(from));
        let shifted = op!(_mm512_slli_epi32::<16>(wide));
        Self(op!(_mm512_castsi512_ps(shifted)))
    }

    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut to = [0.0; LANES];
        op!(_mm512_storeu_ps(to.as_mut_ptr(), self.0));
        to
    }

    #[inline(always)]
    fn mul_add(self, by: Self, to: Self) -> Self {
        Self(op!(_mm512_fmadd_ps(self.0, by.0, to.0)))
    }

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let [mut twos, mut fours, mut columns] = [rows; 3];
        for i in 0..LANES / 2 {
            let (a, b) = (rows[2 * i].0, rows[2 * i + 1].0);
            twos[2 * i] = Self(op!(_mm512_unpacklo_ps(a, b)));
            twos[2 * i + 1] = Self(op!(_mm512_unpackhi_ps(a, b)));
        }
        // Quarter `l` of `fours[4 i + j]` is column `4 l + j` of four rows from `4 i` on.
        for i in 0..LANES / 2 {
            let at = i / 2 * 4 + i % 2;
            let (a, b) = (op!(_mm512_castps_pd(twos[at].0)), op!(_mm512_castps_pd(twos[at + 2].0)));
            let (low, high) = (op!(_mm512_unpacklo_pd(a, b)), op!(_mm512_unpackhi_pd(a, b)));
            let at = i / 2 * 4 + i % 2 * 2;
            (fours[at], fours[at + 1]) = (Self(op!(_mm512_castpd_ps(low))), Self(op!(_mm512_castpd_ps(high))));
        }
        for j in 0..4 {
            let even = op!(_mm512_shuffle_f32x4::<0x88>(fours[j].0, fours[4 + j].0));
            let odd = op!(_mm512_shuffle_f32x4::<0xdd>(fours[j].0, fours[4 + j].0));
            let more_even = op!(_mm512_shuffle_f32x4::<0x88>(fours[8 + j].0, fours[12 + j].0));
            let more_odd = op!(_mm512_shuffle_f32x4::<0xdd>(fours[8 + j].0, fours[12 + j].0));
            columns[j] = Self(op!(_mm512_shuffle_f32x4::<0x88>(even, more_even)));
            columns[4 + j] = Self(op!(_mm512_shuffle_f32x4::<0x88>(odd, more_odd)));
            columns[8 + j] = Self(op!(_mm512_shuffle_f32x4::<0xdd>(even, more_even)));
            columns[12 + j] = Self(op!(_mm512_shuffle_f32x4::<0xdd>(odd, more_odd)));
        }
        columns
    }

    #[inline(always)]
    fn selector_of_pairs(codes: u64) -> u32 {
        // A code's low half is 0 or 2, and this is twice which of two it keeps.
        let twice = op!(_pext_u64(codes, 0x3333_3333_3333_3333));
        (twice >> 1) as u32 & 0x5555_5555 | 0x8888_8888
    }

    #[inline(always)]
    fn columns(selector: u32, from: u8) -> [u8; LANES] {
        let from = op!(_mm_set1_epi8(from.cast_signed()));
        let within = op!(_mm512_cvtepi32_epi8(Self::index(selector)));
        let columns = op!(_mm_add_epi8(within, from));
        let mut to = [0; LANES];
        op!(_mm_storeu_si128(to.as_mut_ptr().cast(), columns));
        to
    }

    type Index = __m512i;

    #[inline(always)]
    fn index(selector: u32) -> __m512i {
        let shifts = op!(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
        let groups = op!(_mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28));
        let selector = op!(_mm512_set1_epi32(selector.cast_signed()));
        let shifted = op!(_mm512_srlv_epi32(selector, shifts));
        let three = op!(_mm512_set1_epi32(3));
        // a & b | c.
        op!(_mm512_ternarylogic_epi32::<0xea>(shifted, three, groups))
    }

    #[inline(always)]
    fn pick(x: &[f32; SPAN], index: __m512i) -> Self {
        let (low, high) = x.split_at(LANES);
        let low = op!(_mm512_loadu_ps(low.as_ptr()));
        let high = op!(_mm512_loadu_ps(high.as_ptr()));
        Self(op!(_mm512_permutex2var_ps(low, index, high)))
    }

    #[inline(always)]
    fn spread(values: Self, selector: u32) -> ([Self; 2], u32) {
        // Which of four a code keeps, a bit each.
        let kept = op!(_mm_setr_epi8(3, 3, 5, 9, 3, 2, 6, 10, 5, 6, 4, 12, 9, 10, 12, 8));
        // Codes four bits each, lowest first, to bytes.
        let codes = op!(_pdep_u64(selector.into(), 0x0f0f_0f0f_0f0f_0f0f));
        let codes = op!(_mm_cvtsi64_si128(codes.cast_signed()));
        let bits = op!(_mm_shuffle_epi8(kept, codes));
        let bits = op!(_mm_cvtsi128_si64(bits)).cast_unsigned();
        let bits = op!(_pext_u64(bits, 0x0f0f_0f0f_0f0f_0f0f)) as u32;
        let low = op!(_mm512_maskz_expand_ps(bits as u16, values.0));
        let upper = op!(_mm512_shuffle_f32x4::<0x4e>(values.0, values.0));
        let high = op!(_mm512_maskz_expand_ps((bits >> 16) as u16, upper));
        ([Self(low), Self(high)], bits)
    }

    #[inline(always)]
    fn mul_add_where(self, by: Self, to: Self, bits: u16) -> Self {
        Self(op!(_mm512_mask3_fmadd_ps(self.0, by.0, to.0, bits)))
    }

    type Sums = __m512i;
    // One factor of `vpdpbusd` has no sign.
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn no_sums() -> __m512i {
        op!(_mm512_setzero_si512())
    }

    #[inline(always)]
    fn dot(sums: __m512i, weights: &[i8; BYTES], x: &[i8; BYTES]) -> __m512i {
        let weights = op!(_mm512_loadu_si512(weights.as_ptr().cast()));
        let x = op!(_mm512_loadu_si512(x.as_ptr().cast()));
        op!(_mm512_dpbusd_epi32(sums, weights, x))
    }

    #[inline(always)]
    fn total(sums: __m512i) -> i32 {
        op!(_mm512_reduce_add_epi32(sums))
    }

    #[inline(always)]
    fn expand(values: &[i8; BYTES / 2], codes: [u8; BYTES / 8]) -> [i8; BYTES] {
        // Which of four a code keeps, a bit each; those that are not legal keep something.
        let kept = op!(_mm_setr_epi8(3, 3, 5, 9, 3, 2, 6, 10, 5, 6, 4, 12, 9, 10, 12, 8));
        let codes = op!(_mm_cvtsi64_si128(i64::from_le_bytes(codes)));
        let nibble = op!(_mm_set1_epi8(15));
        let even = op!(_mm_and_si128(codes, nibble));
        let shifted = op!(_mm_srli_epi16::<4>(codes));
        let odd = op!(_mm_and_si128(shifted, nibble));
        let even = op!(_mm_shuffle_epi8(kept, even));
        let odd = op!(_mm_shuffle_epi8(kept, odd));
        let odd = op!(_mm_slli_epi16::<4>(odd));
        let both = op!(_mm_or_si128(even, odd));
        let mask = op!(_mm_cvtsi128_si64(both)).cast_unsigned();
        let values = op!(_mm256_loadu_si256(values.as_ptr().cast()));
        let values = op!(_mm512_castsi256_si512(values));
        let spread = op!(_mm512_maskz_expand_epi8(mask, values));
        let offset = op!(_mm512_set1_epi8(Self::OFFSET.cast_signed()));
        let spread = op!(_mm512_xor_si512(spread, offset));
        let mut out = [0; BYTES];
        op!(_mm512_storeu_si512(out.as_mut_ptr().cast(), spread));
        out
    }
}
