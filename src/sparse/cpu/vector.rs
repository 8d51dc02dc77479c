//! Sixteen numbers at a time, on whatever instructions there are. What is computed is the same bits everywhere: sums of
//! `f32` are fused multiply-adds in an order that does not depend on the vectors, and sums of integers wrap.

use crate::element::{DType, Factor};
use crate::sample::vector::Processor;
use half::{bf16, f16};
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Numbers of a vector, and kept values that a selector speaks of.
pub(super) const LANES: usize = 16;
/// Columns that these are kept of.
pub(super) const SPAN: usize = 2 * LANES;
/// Bytes of a line of a cache.
pub(super) const LINE: usize = 64;
/// Columns of integers at a time.
pub(super) const BYTES: usize = 64;

/// On the boundary of a line of a cache: a vector that lies across two takes twice the time.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Aligned<A>(pub(super) A);

/// Sixteen `f32`, and what goes with them for integers.
///
/// A selector says where sixteen kept values stand in 32 columns: value `j` is in column `4 (j / 2) + p` where `p` is in
/// bits `2 j` and `2 j + 1`. That is what the codes of eight groups of four are, lowest nibble first.
pub(super) trait Vector: Copy {
    /// How many of a machine's registers there may be.
    const REGISTERS: usize;
    fn splat(value: f32) -> Self;
    fn load(from: &[f32; LANES]) -> Self;
    fn load_f16(from: &[f16; LANES]) -> Self;
    fn load_bf16(from: &[bf16; LANES]) -> Self;
    fn array(self) -> [f32; LANES];
    /// `self · by + to`, rounded once.
    fn mul_add(self, by: Self, to: Self) -> Self;
    /// Rows to columns.
    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let rows = rows.map(Self::array);
        std::array::from_fn(|column| Self::load(&std::array::from_fn(|row| rows[row][column])))
    }

    /// The selector that the codes of sixteen pairs are.
    #[inline(always)]
    fn selector_of_pairs(codes: u64) -> u32 {
        // The second bit of a code is which of two it keeps: together, which of four two groups keep.
        let mut bits = codes >> 1 & 0x1111_1111_1111_1111;
        bits = (bits | bits >> 2) & 0x0505_0505_0505_0505;
        bits = (bits | bits >> 4) & 0x0055_0055_0055_0055;
        bits = (bits | bits >> 8) & 0x0000_5555_0000_5555;
        (bits | bits >> 16) as u32 | 0x8888_8888
    }

    /// The columns that a selector speaks of, counted from some column.
    #[inline(always)]
    fn columns(selector: u32, from: u8) -> [u8; LANES] {
        std::array::from_fn(|lane| from + (lane / 2 * 4) as u8 + (selector >> (2 * lane) & 3) as u8)
    }

    /// A selector, ready for use.
    type Index: Copy;
    fn index(selector: u32) -> Self::Index;
    /// The columns that it selects.
    fn pick(x: &[f32; SPAN], index: Self::Index) -> Self;
    /// Sixteen kept values where a selector says, zeros elsewhere, and a bit for each of the 32 columns that has one.
    #[inline(always)]
    fn spread(values: Self, selector: u32) -> ([Self; 2], u32) {
        let (mut to, mut kept) = ([[0.0; LANES]; 2], 0);
        for (lane, value) in values.array().into_iter().enumerate() {
            let column = lane / 2 * 4 + (selector >> (2 * lane) & 3) as usize;
            to[column / LANES][column % LANES] = value;
            kept |= 1 << column;
        }
        ([Self::load(&to[0]), Self::load(&to[1])], kept)
    }
    /// `self · by + to`, rounded once, where a bit is set; `to` elsewhere.
    #[inline(always)]
    fn mul_add_where(self, by: Self, to: Self, bits: u16) -> Self {
        let (sum, to) = (self.mul_add(by, to).array(), to.array());
        Self::load(&std::array::from_fn(|lane| if bits >> lane & 1 == 1 { sum[lane] } else { to[lane] }))
    }

    /// Partial sums of products of integers.
    type Sums: Copy;
    /// What weights have added to them when they are expanded.
    const OFFSET: u8;
    fn no_sums() -> Self::Sums;
    /// Adds the products of such weights and activations.
    fn dot(sums: Self::Sums, weights: &[i8; BYTES], x: &[i8; BYTES]) -> Self::Sums;
    fn total(sums: Self::Sums) -> i32;
    /// The values of sixteen groups where they belong, zeros elsewhere; and `OFFSET` on top, modulo 256.
    #[inline(always)]
    fn expand(values: &[i8; BYTES / 2], codes: [u8; BYTES / 8]) -> [i8; BYTES] {
        let mut out = [Self::OFFSET.cast_signed(); BYTES];
        for (group, (out, pair)) in out.as_chunks_mut::<4>().0.iter_mut().zip(values.as_chunks::<2>().0).enumerate() {
            let code = codes[group / 2] >> (group % 2 * 4);
            let at = [code & 3, code >> 2 & 3].map(usize::from);
            at.into_iter().zip(pair).for_each(|(at, value)| out[at] = value.wrapping_add_unsigned(Self::OFFSET));
        }
        out
    }
}

/// Has a line of memory brought near, if there is one and the machine knows how.
#[inline(always)]
pub(super) fn prefetch<T>(line: Option<&T>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(line) = line {
        // SAFETY: every x86-64 has the instruction, which reads nothing and faults nowhere.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(line).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Has what lies so far ahead of places in some rows brought near: of themselves, or from their end on of those that come
/// next. A row is too short for a processor to see where it goes.
#[inline(always)]
pub(super) fn prefetch_rows<T, const R: usize>(rows: &[&[T]; R], next: &[&[T]; R], places: Range<usize>) {
    const AHEAD_BYTES: usize = 2048;
    let ahead = AHEAD_BYTES / size_of::<T>().max(1);
    for (row, next) in rows.iter().zip(next) {
        let (from, at) = match places.start + ahead {
            at if at < row.len() => (row, at),
            at => (next, at - row.len()),
        };
        let some = from.get(at..from.len().min(at + places.len())).unwrap_or_default();
        some.iter().step_by(LINE / size_of::<T>().max(1)).for_each(|line| prefetch(Some(line)));
    }
}

/// Sums over all lanes, in a fixed order.
#[inline(always)]
pub(super) fn sum<V: Vector>(vector: V) -> f32 {
    let eight: [f32; 8] = {
        let a = vector.array();
        std::array::from_fn(|i| a[i] + a[i + 8])
    };
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The selector that the codes of 32 columns are, four bytes of groups of four or eight of pairs.
#[inline(always)]
pub(super) fn selector<V: Vector, const CODES: usize>(codes: &[u8; CODES]) -> u32 {
    match (codes.first_chunk(), codes.first_chunk()) {
        (_, Some(pairs)) => V::selector_of_pairs(u64::from_le_bytes(*pairs)),
        (Some(fours), None) => u32::from_le_bytes(*fours),
        (None, None) => 0,
    }
}

/// What runs on any vectors. `on` is to be `#[inline(always)]`, and what it calls: it is compiled for each.
pub(super) trait Work {
    type Output;
    fn on<V: Vector>(self) -> Self::Output;
}

/// The vectors to use: those of a processor that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path(Processor);

impl Path {
    /// All that this machine has, the fastest first.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let all = [Processor::Avx512, Processor::Avx2, Processor::Portable];
        all.into_iter().filter(|processor| *processor <= Processor::detected()).map(Self)
    }

    pub(super) fn best() -> Self {
        Self(Processor::at_hand())
    }

    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        match self.0 {
            // SAFETY: `Processor::detected` found the instructions.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx512 => unsafe { avx512::run(work) },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Processor::Avx2 => unsafe { avx2::run(work) },
            _ => work.on::<portable::Lanes>(),
        }
    }
}

/// Sixteen values of a type whose sums are `f32`, widened.
#[inline(always)]
pub(super) fn load<V: Vector, T: Factor>(from: &[T; LANES]) -> V {
    match T::DTYPE {
        DType::F16 => V::load_f16(bytemuck::cast_ref(from)),
        DType::Bf16 => V::load_bf16(bytemuck::cast_ref(from)),
        DType::F32 => V::load(bytemuck::cast_ref(from)),
        _ => {
            let mut wide = [0.0; LANES];
            T::widen(from, bytemuck::cast_slice_mut(&mut wide));
            V::load(&wide)
        }
    }
}
