//! Lanes as registers of 512 bits. These types are named by `by_processor!` alone, inside functions that are compiled
//! for AVX-512 and called where the processor has it: each `unsafe` below is sound by that.

use super::{LANES, Mask, Vector, Words};
use crate::noise;
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Sub};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(__m512);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Words(__m512i);

/// An instruction, or several of the kind.
macro_rules! on_avx512 {
    ($instructions:expr) => {{
        // SAFETY: the processor has AVX-512, says `by_processor!`; what is loaded, stored or gathered is all of an
        // array of the size that the instruction takes, or an index masked to the table's length.
        #[allow(clippy::multiple_unsafe_ops_per_block)]
        unsafe {
            $instructions
        }
    }};
}

macro_rules! operator {
    ($type:ident, $operator:ident, $function:ident, $instruction:ident) => {
        impl $operator for $type {
            type Output = Self;
            #[inline(always)]
            fn $function(self, other: Self) -> Self {
                Self(on_avx512!($instruction(self.0, other.0)))
            }
        }
    };
}
operator!(Avx512, Add, add, _mm512_add_ps);
operator!(Avx512, Sub, sub, _mm512_sub_ps);
operator!(Avx512, Mul, mul, _mm512_mul_ps);
operator!(Avx512, Div, div, _mm512_div_ps);
operator!(Avx512Words, Add, add, _mm512_add_epi32);
operator!(Avx512Words, Sub, sub, _mm512_sub_epi32);
operator!(Avx512Words, BitAnd, bitand, _mm512_and_si512);
operator!(Avx512Words, BitOr, bitor, _mm512_or_si512);

impl Mask for __mmask16 {
    #[inline(always)]
    fn to_bits(self) -> u16 {
        self
    }
}

impl Vector for Avx512 {
    type Words = Avx512Words;
    type Mask = __mmask16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(on_avx512!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn from_array(values: [f32; LANES]) -> Self {
        load(&values)
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        self.store(&mut values);
        values
    }

    #[inline(always)]
    fn from_bits(bits: Avx512Words) -> Self {
        Self(on_avx512!(_mm512_castsi512_ps(bits.0)))
    }

    #[inline(always)]
    fn to_bits(self) -> Avx512Words {
        Avx512Words(on_avx512!(_mm512_castps_si512(self.0)))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(on_avx512!(_mm512_fmadd_ps(self.0, factor.0, addend.0)))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(on_avx512!(_mm512_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(on_avx512!(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn equals(self, other: Self) -> __mmask16 {
        on_avx512!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0))
    }

    #[inline(always)]
    fn is_below(self, other: Self) -> __mmask16 {
        on_avx512!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0))
    }

    #[inline(always)]
    fn is_unordered(self, other: Self) -> __mmask16 {
        on_avx512!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, other.0))
    }

    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        Self(on_avx512!(_mm512_mask_blend_ps(mask, no.0, yes.0)))
    }

    // A line is 64 bits, so eight lanes are gathered at a time, and slopes and offsets parted afterwards.
    #[inline(always)]
    fn on_line(t: Self, number: Avx512Words) -> Self {
        let number = (number & Avx512Words::splat(noise::LINES.len() as u32 - 1)).0;
        let table = noise::LINES.as_ptr().cast();
        let low = on_avx512!(_mm512_i32gather_epi64::<8>(_mm512_castsi512_si256(number), table));
        let high = on_avx512!(_mm512_i32gather_epi64::<8>(_mm512_extracti64x4_epi64::<1>(number), table));
        let (low, high) = (Self::from_bits(Avx512Words(low)), Self::from_bits(Avx512Words(high)));
        low.pick(&EVEN, high).mul_add(t, low.pick(&ODD, high))
    }

    #[inline(always)]
    fn turn<const PER: usize>(groups: &[[f32; PER]; LANES]) -> [Self; PER] {
        const { assert!(PER == 4 || PER == 6) };
        let mut lanes = [Self::splat(0.0); PER];
        match groups.as_flattened().as_chunks().0 {
            [a, b, c, d] => {
                let [a, b, c, d] = [load(a), load(b), load(c), load(d)];
                for (i, lanes) in lanes.chunks_exact_mut(2).enumerate() {
                    let (low, high) = (a.pick_pairs(&PAIRS_OF_4[i], b), c.pick_pairs(&PAIRS_OF_4[i], d));
                    lanes.copy_from_slice(&[low.pick(&EVEN, high), low.pick(&ODD, high)]);
                }
            }
            [a, b, c, d, e, f] => {
                let [a, b, c] = [load(a), load(b), load(c)];
                let [d, e, f] = [load(d), load(e), load(f)];
                for (i, lanes) in lanes.chunks_exact_mut(2).enumerate() {
                    let [first, second] = &PAIRS_OF_6[i];
                    let low = a.pick_pairs(first, b).pick_pairs(second, c);
                    let high = d.pick_pairs(first, e).pick_pairs(second, f);
                    lanes.copy_from_slice(&[low.pick(&EVEN, high), low.pick(&ODD, high)]);
                }
            }
            _ => {}
        }
        lanes
    }

    #[inline(always)]
    fn turn_back<const PER: usize>(lanes: &[Self; PER], groups: &mut [[f32; PER]; LANES]) {
        const { assert!(PER == 4 || PER == 6) };
        match (lanes.as_slice(), groups.as_flattened_mut().as_chunks_mut().0) {
            ([p, q, r, s], [a, b, c, d]) => {
                let [first, second] = [p.zip(*q), r.zip(*s)];
                for (i, [to, next]) in [[a, b], [c, d]].into_iter().enumerate() {
                    first[i].pick_pairs(&ZIP_PAIRS[0], second[i]).store(to);
                    first[i].pick_pairs(&ZIP_PAIRS[1], second[i]).store(next);
                }
            }
            ([p, q, r, s, t, u], [a, b, c, d, e, f]) => {
                let [first, second, third] = [p.zip(*q), r.zip(*s), t.zip(*u)];
                for (i, to) in [[a, b, c], [d, e, f]].into_iter().enumerate() {
                    for (to, [one, two]) in to.into_iter().zip(&UNPAIR_6) {
                        first[i].pick_pairs(one, second[i]).pick_pairs(two, third[i]).store(to);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Avx512 {
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        on_avx512!(_mm512_storeu_ps(to.as_mut_ptr(), self.0));
    }

    /// Values of `self`, numbered from 0, and of `other`, from 16 on.
    #[inline(always)]
    fn pick(self, numbers: &[i32; LANES], other: Self) -> Self {
        let numbers = on_avx512!(_mm512_loadu_si512(numbers.as_ptr().cast()));
        Self(on_avx512!(_mm512_permutex2var_ps(self.0, numbers, other.0)))
    }

    /// Pairs of values of `self`, numbered from 0, and of `other`, from 8 on.
    #[inline(always)]
    fn pick_pairs(self, numbers: &[i64; LANES / 2], other: Self) -> Self {
        let numbers = on_avx512!(_mm512_loadu_si512(numbers.as_ptr().cast()));
        let (from, other) = (on_avx512!(_mm512_castps_pd(self.0)), on_avx512!(_mm512_castps_pd(other.0)));
        Self(on_avx512!(_mm512_castpd_ps(_mm512_permutex2var_pd(from, numbers, other))))
    }

    /// `self`'s and `other`'s values in turn.
    #[inline(always)]
    fn zip(self, other: Self) -> [Self; 2] {
        [self.pick(&ZIP[0], other), self.pick(&ZIP[1], other)]
    }
}

#[inline(always)]
fn load(values: &[f32; LANES]) -> Avx512 {
    Avx512(on_avx512!(_mm512_loadu_ps(values.as_ptr())))
}

impl Words for Avx512Words {
    type Mask = __mmask16;

    #[inline(always)]
    fn splat(word: u32) -> Self {
        Self(on_avx512!(_mm512_set1_epi32(word as i32)))
    }

    #[inline(always)]
    fn to_array(self) -> [u32; LANES] {
        let mut words = [0; LANES];
        on_avx512!(_mm512_storeu_si512(words.as_mut_ptr().cast(), self.0));
        words
    }

    #[inline(always)]
    fn shl<const BY: u32>(self) -> Self {
        Self(on_avx512!(_mm512_slli_epi32::<BY>(self.0)))
    }

    #[inline(always)]
    fn shr<const BY: u32>(self) -> Self {
        Self(on_avx512!(_mm512_srli_epi32::<BY>(self.0)))
    }

    #[inline(always)]
    fn shr_each(self, by: Self) -> Self {
        Self(on_avx512!(_mm512_srlv_epi32(self.0, by.0)))
    }

    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        Self(on_avx512!(_mm512_mask_blend_epi32(mask, no.0, yes.0)))
    }

    // A word of 32 bits in 64, as the processor multiplies them: eight groups a register.
    #[inline(always)]
    fn philox(round_keys: &[u32; 20], draw: u64, groups: &[u64; LANES]) -> [Self; 4] {
        let (low, high) = groups.split_at(LANES / 2);
        let (low, high) = (philox(round_keys, draw, low), philox(round_keys, draw, high));
        let mut words = [Self::splat(0); 4];
        for ((words, low), high) in words.iter_mut().zip(low).zip(high) {
            *words = Avx512::from_bits(low).pick(&EVEN, Avx512::from_bits(high)).to_bits();
        }
        words
    }
}

/// Philox of eight groups; what gathers in the upper half of a word is never looked at.
#[inline(always)]
fn philox(round_keys: &[u32; 20], draw: u64, groups: &[u64]) -> [Avx512Words; 4] {
    let multipliers = [splat_wide(noise::MULTIPLIERS[0].into()), splat_wide(noise::MULTIPLIERS[1].into())];
    let groups = on_avx512!(_mm512_loadu_si512(groups[..LANES / 2].as_ptr().cast()));
    let (mut x0, mut x1) = (groups, upper(groups));
    let (mut x2, mut x3) = (splat_wide(draw & 0xffff_ffff), splat_wide(draw >> 32));
    for keys in round_keys.chunks_exact(2) {
        let a = on_avx512!(_mm512_mul_epu32(x0, multipliers[0]));
        let b = on_avx512!(_mm512_mul_epu32(x2, multipliers[1]));
        x0 = xor(upper(b), x1, splat_wide(keys[0].into()));
        x2 = xor(upper(a), x3, splat_wide(keys[1].into()));
        (x1, x3) = (b, a);
    }
    [Avx512Words(x0), Avx512Words(x1), Avx512Words(x2), Avx512Words(x3)]
}

#[inline(always)]
fn splat_wide(word: u64) -> __m512i {
    on_avx512!(_mm512_set1_epi64(word as i64))
}

/// The upper halves of words of 64 bits, shifted down.
#[inline(always)]
fn upper(words: __m512i) -> __m512i {
    on_avx512!(_mm512_srli_epi64::<32>(words))
}

#[inline(always)]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    on_avx512!(_mm512_ternarylogic_epi64::<0x96>(a, b, c))
}

macro_rules! numbers {
    ([$type:ty; $len:literal], $i:ident => $number:expr) => {{
        let mut numbers: [$type; $len] = [0; $len];
        let mut $i = 0;
        while $i < $len {
            numbers[$i as usize] = $number;
            $i += 1;
        }
        numbers
    }};
}

static EVEN: [i32; 16] = numbers!([i32; 16], i => 2 * i);
static ODD: [i32; 16] = numbers!([i32; 16], i => 2 * i + 1);
/// Halves of two registers, value by value in turn.
static ZIP: [[i32; 16]; 2] =
    [numbers!([i32; 16], i => i / 2 + 16 * (i % 2)), numbers!([i32; 16], i => i / 2 + 16 * (i % 2) + 8)];
/// The same by pairs.
static ZIP_PAIRS: [[i64; 8]; 2] =
    [numbers!([i64; 8], i => i / 2 + 8 * (i % 2)), numbers!([i64; 8], i => i / 2 + 8 * (i % 2) + 4)];
/// The first or second pair of eight groups of four, from two registers.
static PAIRS_OF_4: [[i64; 8]; 2] = [numbers!([i64; 8], i => 2 * i), numbers!([i64; 8], i => 2 * i + 1)];
/// One of the three pairs of eight groups of six: from two of three registers, and then with the third.
static PAIRS_OF_6: [[[i64; 8]; 2]; 3] = [pair_of_6(0), pair_of_6(1), pair_of_6(2)];
/// A register of eight groups of six: of their first and second pairs, and then with the third.
static UNPAIR_6: [[[i64; 8]; 2]; 3] = [unpair_6(0), unpair_6(1), unpair_6(2)];

const fn pair_of_6(pair: i64) -> [[i64; 8]; 2] {
    let first = numbers!([i64; 8], i => if 3 * i + pair < 16 { 3 * i + pair } else { 0 });
    let second = numbers!([i64; 8], i => if 3 * i + pair < 16 { i } else { 3 * i + pair - 8 });
    [first, second]
}

const fn unpair_6(register: i64) -> [[i64; 8]; 2] {
    // The pair at `i` is number `at % 3` of group `at / 3`.
    let first = numbers!([i64; 8], i => { let at = 8 * register + i; if at % 3 == 1 { 8 + at / 3 } else { at / 3 } });
    let second = numbers!([i64; 8], i => { let at = 8 * register + i; if at % 3 == 2 { 8 + at / 3 } else { i } });
    [first, second]
}
