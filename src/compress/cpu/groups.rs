//! Dense groups to kept values and codes, and back. Rows do not matter to a group, so a weight is one long row of them;
//! only where values are padded does it go by rows.

use crate::compress::value::Sparsity;
use crate::element::Element;
use crate::shape::Shape;
use crate::threads;
use multiversion::multiversion;
use rayon::prelude::*;

/// Groups of a piece: one task of a thread, and small enough that its values are still near when its codes are chosen.
/// Even, so that pieces of codes begin with a byte.
pub(super) const PIECE: usize = 2048;

/// Groups that are looked at side by side: so many that compilers keep the loops over them, and make vector code of
/// those.
const LANES: usize = 128;

/// A way to choose which values of a group to keep, from their magnitudes: the code, and whether the group has one (0
/// or all ones). In arithmetic alone, so that loops over it become vector code.
pub(super) trait Rule {
    /// For a group of four. Magnitudes of 8- and 16-bit values fit 16 bits.
    fn two_of_four(magnitudes: [i16; 4]) -> (i16, i16);
    /// For a group of two.
    fn one_of_two(magnitudes: [u32; 2]) -> (u8, bool);
}

/// The largest, of equal ones the lowest.
pub(super) enum Magnitude {}

impl Rule for Magnitude {
    #[inline(always)]
    fn two_of_four([a, b, c, d]: [i16; 4]) -> (i16, i16) {
        let [ab, ac, ad] = [ones(a >= b), ones(a >= c), ones(a >= d)];
        let [bc, bd, cd] = [ones(b >= c), ones(b >= d), ones(c >= d)];
        // Kept are the two that win against two others or all three.
        let two = |x: i16, y: i16, z: i16| (x & y) | (z & (x | y));
        (code_of([two(ab, ac, ad), two(!ab, bc, bd), two(!ac, !bc, cd), two(!ad, !bd, !cd)]), -1)
    }

    #[inline(always)]
    fn one_of_two([a, b]: [u32; 2]) -> (u8, bool) {
        (if a >= b { 0x4 } else { 0xe }, true)
    }
}

/// All that are not zero, and the highest of the others.
pub(super) enum NonZeros {}

impl Rule for NonZeros {
    #[inline(always)]
    fn two_of_four(magnitudes: [i16; 4]) -> (i16, i16) {
        let [a, b, c, d] = magnitudes.map(|magnitude| ones(magnitude != 0));
        // Sums of flags that are 0 or -1.
        let last = d | ones(a + b + c > -2);
        let third = c | ones(a + b + last > -2);
        (code_of([a, b, third, last]), ones(a + b + c + d >= -2))
    }

    #[inline(always)]
    fn one_of_two([a, b]: [u32; 2]) -> (u8, bool) {
        (if a != 0 { 0x4 } else { 0xe }, (a == 0) | (b == 0))
    }
}

/// All bits of a truth.
#[inline(always)]
fn ones(truth: bool) -> i16 {
    -i16::from(truth)
}

/// The code of two kept positions, each flag 0 or all ones.
#[inline(always)]
fn code_of([a, b, c, d]: [i16; 4]) -> i16 {
    let first = !a & (2 + b);
    let second_fourfold = 4 + ((c | d) & 4) + (d & 4);
    first + second_fourfold
}

/// How many values are not zero.
#[inline(always)]
pub(super) fn non_zeros<T: Element>(group: &[T]) -> u32 {
    group.iter().map(|value| u32::from(value.magnitude() != 0)).sum()
}

/// Chooses codes for all groups, and copies the kept values if asked. The first group without a code, if there is one.
pub(super) fn choose_all<T: Element, R: Rule>(
    dense: &[T],
    codes: &mut [u8],
    values: Option<&mut [T]>,
) -> Option<usize> {
    let sparsity = Sparsity::of(T::DTYPE);
    let mut values = values.map(|values| values.chunks_mut(sparsity.kept() * PIECE));
    let pieces = dense.chunks(sparsity.width() * PIECE).zip(codes.chunks_mut(PIECE / 2)).enumerate();
    let pieces = pieces.map(|piece| (piece, values.as_mut().and_then(Iterator::next)));
    let bad = threads::map(pieces, |((i, (dense, codes)), values)| {
        let bad = choose::<T, R>(dense, codes);
        if let Some(values) = values {
            keep(codes, dense, values);
        }
        Some(i * PIECE + bad?)
    });
    bad.into_iter().flatten().min()
}

/// A piece's codes, and its first group without one.
fn choose<T: Element, R: Rule>(dense: &[T], codes: &mut [u8]) -> Option<usize> {
    let width = Sparsity::of(T::DTYPE).width();
    let bad = |group: &[T]| non_zeros(group) as usize > width / 2;
    // The vector code knows whether there is one; which one is asked once.
    let all = match Sparsity::of(T::DTYPE) {
        Sparsity::TwoFour => choose_fours::<T, R>(dense, codes),
        Sparsity::OneTwo => choose_twos::<T, R>(dense, codes),
    };
    if all { None } else { dense.chunks(width).position(bad) }
}

#[multiversion(targets("x86_64+avx2"))]
fn choose_fours<T: Element, R: Rule>(dense: &[T], codes: &mut [u8]) -> bool {
    let (blocks, rest) = dense.as_chunks::<{ 4 * LANES }>();
    // Not the rest of the bytes' own blocks: where one code is missing in the last byte, they have a block more.
    let (bytes, last) = codes.split_at_mut(blocks.len() * LANES / 2);
    let (bytes, _) = bytes.as_chunks_mut::<{ LANES / 2 }>();
    let mut all = true;
    for (block, bytes) in blocks.iter().zip(bytes) {
        let mut magnitudes = [[0; LANES]; 4];
        for lane in 0..LANES {
            for (j, magnitudes) in magnitudes.iter_mut().enumerate() {
                magnitudes[lane] = block[4 * lane + j].magnitude() as i16;
            }
        }
        let [a, b, c, d] = magnitudes;
        let (mut codes, mut fit) = ([0; LANES], -1);
        for lane in 0..LANES {
            let (code, fits) = R::two_of_four([a[lane], b[lane], c[lane], d[lane]]);
            codes[lane] = code as u8;
            fit &= fits;
        }
        all &= fit != 0;
        for (byte, [even, odd]) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
            *byte = even | odd << 4;
        }
    }
    let of = |group: &[T; 4]| {
        let (code, fits) = R::two_of_four(group.map(|value| value.magnitude() as i16));
        (code as u8, fits != 0)
    };
    all & choose_rest(rest.as_chunks::<4>().0, last, of)
}

#[multiversion(targets("x86_64+avx2"))]
fn choose_twos<T: Element, R: Rule>(dense: &[T], codes: &mut [u8]) -> bool {
    choose_rest(dense.as_chunks::<2>().0, codes, |group| R::one_of_two(group.map(|value| value.magnitude())))
}

/// Group by group.
#[inline(always)]
fn choose_rest<G>(groups: &[G], codes: &mut [u8], rule: impl Fn(&G) -> (u8, bool)) -> bool {
    let (pairs, last) = groups.as_chunks::<2>();
    let mut all = true;
    for ([even, odd], byte) in pairs.iter().zip(codes.iter_mut()) {
        let ((even, fits), (odd, too)) = (rule(even), rule(odd));
        *byte = even | odd << 4;
        all &= fits & too;
    }
    if let ([group], Some(byte)) = (last, codes.last_mut()) {
        let (code, fits) = rule(group);
        *byte = code;
        all &= fits;
    }
    all
}

/// The first group of a piece that keeps more than half its values, and how many.
pub(super) fn first_violation<T: Element>(dense: &[T]) -> Option<(usize, u32)> {
    let most = Sparsity::of(T::DTYPE).kept() as u32;
    if any_violation(dense) {
        let mut kept = dense.chunks(Sparsity::of(T::DTYPE).width()).map(non_zeros).enumerate();
        return kept.find(|&(_, kept)| kept > most);
    }
    None
}

#[multiversion(targets("x86_64+avx2"))]
fn any_violation<T: Element>(dense: &[T]) -> bool {
    match Sparsity::of(T::DTYPE) {
        Sparsity::TwoFour => dense.as_chunks::<4>().0.iter().fold(false, |any, group| any | (non_zeros(group) > 2)),
        Sparsity::OneTwo => dense.as_chunks::<2>().0.iter().fold(false, |any, group| any | (non_zeros(group) > 1)),
    }
}

/// Copies the values that legal codes keep into rows that lie `pitch` apart, with zeros between.
pub(super) fn keep_all<T: Element>(shape: Shape, codes: &[u8], dense: &[T], values: &mut [T], pitch: usize) {
    let (sparsity, kept) = (Sparsity::of(T::DTYPE), shape.cols / 2);
    if pitch == kept {
        let pieces = dense.chunks(sparsity.width() * PIECE).zip(codes.chunks(PIECE / 2));
        let pieces = pieces.zip(values.chunks_mut(sparsity.kept() * PIECE));
        threads::map(pieces, |((dense, codes), values)| keep(codes, dense, values));
        return;
    }
    let rows = dense.chunks(shape.cols).zip(values.chunks_mut(pitch)).enumerate();
    threads::map(rows, |(row, (dense, values))| {
        let (values, padding) = values.split_at_mut(kept);
        padding.fill(T::zeroed());
        let groups = dense.chunks(sparsity.width()).zip(values.chunks_mut(sparsity.kept()));
        for ((group, values), code) in groups.zip(row_codes(sparsity, shape, codes, row)) {
            match sparsity {
                Sparsity::TwoFour => values.copy_from_slice(&[group[first(code)], group[second(code)]]),
                Sparsity::OneTwo => values[0] = group[only(code)],
            }
        }
    });
}

/// Copies the values that legal codes keep to where they were, with zeros between.
pub(super) fn mask_all<T: Element>(codes: &[u8], dense: &[T], masked: &mut [T]) {
    let sparsity = Sparsity::of(T::DTYPE);
    let kept: [u8; 16] = std::array::from_fn(|code| sparsity.bits_of_code(code as u8).unwrap_or(0));
    let pieces = dense.chunks(sparsity.width() * PIECE).zip(masked.chunks_mut(sparsity.width() * PIECE));
    threads::map(pieces.zip(codes.chunks(PIECE / 2)), |((dense, masked), codes)| {
        let groups = dense.chunks(sparsity.width()).zip(masked.chunks_mut(sparsity.width()));
        for ((group, masked), code) in groups.zip(codes.iter().flat_map(|&byte| [byte & 15, byte >> 4])) {
            let bits = kept[usize::from(code)];
            for (j, (masked, value)) in masked.iter_mut().zip(group).enumerate() {
                *masked = if bits >> j & 1 == 1 { *value } else { T::zeroed() };
            }
        }
    });
}

/// Spreads values, in rows that lie `pitch` apart, to where legal codes say.
pub(super) fn spread_all<T: Element>(shape: Shape, codes: &[u8], values: &[T], pitch: usize, dense: &mut [T]) {
    let (sparsity, kept) = (Sparsity::of(T::DTYPE), shape.cols / 2);
    if pitch == kept {
        let pieces = dense.chunks_mut(sparsity.width() * PIECE).zip(codes.chunks(PIECE / 2));
        let pieces = pieces.zip(values.chunks(sparsity.kept() * PIECE));
        threads::map(pieces, |((dense, codes), values)| spread(codes, values, dense));
        return;
    }
    let rows = dense.chunks_mut(shape.cols).zip(values.chunks(pitch)).enumerate();
    threads::map(rows, |(row, (dense, values))| {
        dense.fill(T::zeroed());
        let groups = dense.chunks_mut(sparsity.width()).zip(values.chunks(sparsity.kept()));
        for ((group, values), code) in groups.zip(row_codes(sparsity, shape, codes, row)) {
            match sparsity {
                Sparsity::TwoFour => (group[first(code)], group[second(code)]) = (values[0], values[1]),
                Sparsity::OneTwo => group[only(code)] = values[0],
            }
        }
    });
}

/// The codes of a row, which need not begin with a byte.
fn row_codes(sparsity: Sparsity, shape: Shape, codes: &[u8], row: usize) -> impl Iterator<Item = u8> {
    let groups = sparsity.row_groups(shape.cols);
    (row * groups..(row + 1) * groups).map(|group| codes[group / 2] >> (4 * (group % 2)) & 15)
}

/// Positions that four bits name, whatever they are.
#[inline(always)]
fn first(code: u8) -> usize {
    usize::from(code & 3)
}

#[inline(always)]
fn second(code: u8) -> usize {
    usize::from(code >> 2 & 3)
}

#[inline(always)]
fn only(code: u8) -> usize {
    usize::from(code >> 1 & 1)
}

/// A piece: the values that its codes keep.
fn keep<T: Element>(codes: &[u8], dense: &[T], values: &mut [T]) {
    match Sparsity::of(T::DTYPE) {
        Sparsity::TwoFour => {
            let ((pairs, last), (out, last_out)) = (dense.as_chunks::<8>(), values.as_chunks_mut::<4>());
            for ((group, out), &byte) in pairs.iter().zip(out).zip(codes) {
                let odd = byte >> 4;
                *out = [group[first(byte)], group[second(byte)], group[4 + first(odd)], group[4 + second(odd)]];
            }
            if let ([_, _, _, _], [a, b], Some(&byte)) = (last, last_out, codes.last()) {
                (*a, *b) = (last[first(byte)], last[second(byte)]);
            }
        }
        Sparsity::OneTwo => {
            let ((pairs, last), (out, last_out)) = (dense.as_chunks::<4>(), values.as_chunks_mut::<2>());
            for ((group, out), &byte) in pairs.iter().zip(out).zip(codes) {
                *out = [group[only(byte)], group[2 + only(byte >> 4)]];
            }
            if let ([_, _], [a], Some(&byte)) = (last, last_out, codes.last()) {
                *a = last[only(byte)];
            }
        }
    }
}

/// A piece: values to where its codes say, zeros elsewhere.
fn spread<T: Element>(codes: &[u8], values: &[T], dense: &mut [T]) {
    match Sparsity::of(T::DTYPE) {
        Sparsity::TwoFour => {
            let ((out, last_out), (pairs, last)) = (dense.as_chunks_mut::<8>(), values.as_chunks::<4>());
            for ((out, &[a, b, c, d]), &byte) in out.iter_mut().zip(pairs).zip(codes) {
                let odd = byte >> 4;
                *out = [T::zeroed(); 8];
                (out[first(byte)], out[second(byte)]) = (a, b);
                (out[4 + first(odd)], out[4 + second(odd)]) = (c, d);
            }
            if let ([_, _, _, _], &[a, b], Some(&byte)) = (&*last_out, last, codes.last()) {
                last_out.fill(T::zeroed());
                (last_out[first(byte)], last_out[second(byte)]) = (a, b);
            }
        }
        Sparsity::OneTwo => {
            let ((out, last_out), (pairs, last)) = (dense.as_chunks_mut::<4>(), values.as_chunks::<2>());
            for ((out, &[a, b]), &byte) in out.iter_mut().zip(pairs).zip(codes) {
                *out = [T::zeroed(); 4];
                (out[only(byte)], out[2 + only(byte >> 4)]) = (a, b);
            }
            if let ([_, _], &[a], Some(&byte)) = (&*last_out, last, codes.last()) {
                last_out.fill(T::zeroed());
                last_out[only(byte)] = a;
            }
        }
    }
}

/// The first of so many groups whose code is not legal, and that code.
pub(super) fn first_illegal(sparsity: Sparsity, codes: &[u8], groups: usize) -> Option<(usize, u8)> {
    let legal: [bool; 256] =
        std::array::from_fn(|byte| sparsity.is_legal(byte as u8 & 15) && sparsity.is_legal(byte as u8 >> 4));
    let pieces = codes.par_chunks(8 * PIECE).enumerate();
    pieces.find_map_first(|(i, piece)| {
        // The last byte may hold one code only, so that a byte is looked at by halves before it is called wrong.
        if piece.iter().fold(true, |all, &byte| all & legal[usize::from(byte)]) {
            return None;
        }
        let start = i * 16 * PIECE;
        let halves = piece.iter().flat_map(|&byte| [byte & 15, byte >> 4]).enumerate();
        let mut codes = halves.map(|(at, code)| (start + at, code)).take_while(|&(group, _)| group < groups);
        codes.find(|&(_, code)| !sparsity.is_legal(code))
    })
}
