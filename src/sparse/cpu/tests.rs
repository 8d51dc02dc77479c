//! All vectors give the same bits.

use super::vector::Path;
use super::{Canonical, Product, make};
use crate::element::{DType, Factor};
use crate::shape::Shape;
use crate::{E4m3, bf16, f16};

/// Bytes that look random.
fn noise(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed * 2 + 1), |n| Some(n.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ n >> 29))
        .map(|n| n >> 32)
}

/// Of any type: a number of some size by its bits, and now and then one that is not finite.
fn number<T: Factor>(bits: u64) -> T {
    let value = (bits as i32 as f32) * 2f32.powi(-30);
    let value = if bits.is_multiple_of(509) { f32::INFINITY } else { value };
    match T::DTYPE {
        DType::F32 => bytemuck::cast_slice(&[value])[0],
        DType::F16 => bytemuck::cast_slice(&[f16::from_f32(value)])[0],
        DType::Bf16 => bytemuck::cast_slice(&[bf16::from_f32(value)])[0],
        _ => bytemuck::cast_slice(&[bits as u8])[0],
    }
}

fn check<T: Factor>(tokens: usize, rows: usize, cols: usize) {
    let shape = Shape::new(rows, cols);
    let legal: &[u8] = if T::DTYPE == DType::F32 { &[0x4, 0xe] } else { &[0x4, 0x8, 0xc, 0x9, 0xd, 0xe] };
    let mut seed = noise((tokens * 31 + rows * 7 + cols) as u64);
    let mut next = || seed.next().unwrap_or_default();
    let mut numbers = |count: usize| -> Vec<T> { (0..count).map(|_| number(next())).collect() };
    let pitch = cols / 2 + 3;
    let (values, x) = (numbers(rows * pitch), numbers(tokens * cols));
    let mut code = || legal[next() as usize % legal.len()];
    let groups = if T::DTYPE == DType::F32 { cols / 2 } else { cols / 4 };
    let codes: Vec<u8> = (0..rows * groups.div_ceil(2)).map(|_| code() | code() << 4).collect();
    let weight = Canonical { shape, values: &values, pitch, codes: &codes, is_checked: false };
    let run = |path| {
        let mut y: Vec<T::Output> = vec![bytemuck::Zeroable::zeroed(); tokens * rows];
        assert!(make(Product { path, weight: &weight, x: &x, bias: None, y: &mut y }));
        y
    };
    let mut paths = Path::all();
    let Some(first) = paths.next() else { return };
    let expected = run(first);
    for path in paths {
        let y = run(path);
        let differs = y.iter().zip(&expected).position(|(y, expected)| !same::<T>(y, expected));
        assert_eq!(differs, None, "{} {tokens}x{rows}x{cols}: {path:?}, not {first:?}", T::DTYPE);
    }
}

/// The same bits, or both NaN, whose payload is the machine's affair.
fn same<T: Factor>(a: &T::Output, b: &T::Output) -> bool {
    let is_nan = |value: &T::Output| match T::DTYPE {
        DType::I8 => false,
        DType::F16 => bytemuck::cast::<_, f16>(*value).is_nan(),
        DType::Bf16 => bytemuck::cast::<_, bf16>(*value).is_nan(),
        _ => bytemuck::cast::<_, f32>(*value).is_nan(),
    };
    bytemuck::bytes_of(a) == bytemuck::bytes_of(b) || is_nan(a) && is_nan(b)
}

#[test]
fn all_vectors_give_the_same_bits() {
    for tokens in [1, 2, 3, 4, 5, 16, 17, 33, 70, 150] {
        for (rows, cols) in [(1, 4), (3, 8), (5, 36), (9, 132), (66, 260), (70, 1032)] {
            check::<f32>(tokens, rows, cols);
            check::<bf16>(tokens, rows, cols);
            check::<f16>(tokens, rows, cols);
            check::<i8>(tokens, rows, cols);
            check::<E4m3>(tokens, rows, cols);
        }
    }
}
