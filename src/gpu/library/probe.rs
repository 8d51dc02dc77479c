//! The probes: small weights that the library compresses, to see in which layout it writes.
//!
//! A code has six values (of a pair, two), so that a weight cannot tell all its groups apart by their codes. Several
//! can: the code of a group in probe `d` is the `d`-th digit of the group's number to the base six, and its values are
//! digits of the values' numbers. A layout that agrees with all of them has every code and every value where the
//! library has it, whatever permutation that is.

use crate::element::{DType, Element, Factor};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaStream;
use half::{bf16, f16};

use crate::compress::{Layout, Sparsity};
use crate::cusparselt::{self, Compressor, Device, Handle, Version};
use crate::error::Result;
use crate::shape::Shape;

/// Values of a digit of a value's number: 1 to 126 are numbers in every type, in E4m3 by their bits.
const VALUES: usize = 126;

/// What answers are remembered under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    version: Version,
    device: Device,
    values: DType,
    probe: Shape,
}

static ANSWERS: LazyLock<Mutex<HashMap<Key, Vec<Layout>>>> = LazyLock::new(Mutex::default);

fn answers() -> MutexGuard<'static, HashMap<Key, Vec<Layout>>> {
    // An insertion that panicked left the map whole.
    ANSWERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The layouts in which the library writes weights of this class of shapes, the likeliest first.
pub(super) fn agreed<T: Factor>(handle: &Handle, stream: &Arc<CudaStream>, shape: Shape) -> Result<Vec<Layout>> {
    let probe = probe_shape(shape);
    let key = Key { version: handle.version(), device: handle.device(), values: T::DTYPE, probe };
    if let Some(known) = answers().get(&key) {
        return Ok(known.clone());
    }
    let found = ask::<T>(handle, stream, probe)?;
    answers().insert(key, found.clone());
    Ok(found)
}

/// A small shape of the same class. Layouts are known to change at 256 rows; what they do with sizes that are no
/// multiples of their tiles, of 256 at most, is not known, so that the rest is kept; and two tiles of 256, or four of
/// 128, each way show in which order tiles come. What is small is its own probe.
fn probe_shape(Shape { rows, cols }: Shape) -> Shape {
    let small = |size: usize, least: usize| if size < least { size } else { 512 + size % 256 };
    Shape::new(small(rows, 256), small(cols, 512))
}

/// Layouts that hold such values, the one that is expected on the device first.
fn candidates(device: Device, values: DType, probe: Shape) -> Vec<Layout> {
    let expected = Layout::cusparselt(device.compute_capability, values, probe);
    let others =
        [Layout::CusparseltMma, Layout::CusparseltSm90, Layout::CusparseltSm86Int8, Layout::CutlassSm80, Layout::Plain];
    let others = others.into_iter().filter(|layout| Some(*layout) != expected);
    expected.into_iter().chain(others).filter(|layout| layout.check(probe, values).is_ok()).collect()
}

fn ask<T: Factor>(handle: &Handle, stream: &Arc<CudaStream>, probe: Shape) -> Result<Vec<Layout>> {
    let values = T::DTYPE;
    let mut left = candidates(handle.device(), values, probe);
    let compressor = Compressor::<T>::new(handle, probe, None)?;
    for digit in 0..digits(Sparsity::of(values), probe) {
        if left.is_empty() {
            break;
        }
        let spelt = Spelt::<T>::new(probe, digit);
        let wrote = compressor.probe(stream, &spelt.dense)?;
        left.retain(|layout| spelt.agrees(*layout, &wrote));
    }
    Ok(left)
}

/// Digits that tell all groups and all values apart.
fn digits(sparsity: Sparsity, probe: Shape) -> u32 {
    let needed = |numbers: usize, base: usize| numbers.max(2).ilog(base) + 1;
    needed(sparsity.groups(probe), legal(sparsity).len()).max(needed(probe.weights() / 2, VALUES))
}

const fn legal(sparsity: Sparsity) -> &'static [u8] {
    match sparsity {
        Sparsity::TwoFour => &[0x4, 0x8, 0xc, 0x9, 0xd, 0xe],
        Sparsity::OneTwo => &[0x4, 0xe],
    }
}

/// A weight that spells one digit of all numbers.
struct Spelt<T> {
    shape: Shape,
    dense: Vec<T>,
    kept: Vec<T>,
    /// One a group.
    codes: Vec<u8>,
}

impl<T: Element> Spelt<T> {
    fn new(shape: Shape, digit: u32) -> Self {
        let sparsity = Sparsity::of(T::DTYPE);
        let legal = legal(sparsity);
        let of = |number: usize, base: usize| base.checked_pow(digit).map_or(0, |power| number / power % base);
        let codes: Vec<u8> = (0..sparsity.groups(shape)).map(|group| legal[of(group, legal.len())]).collect();
        let kept: Vec<T> = (0..shape.weights() / 2).map(|number| value(1 + of(number, VALUES) as u8)).collect();
        let mut dense = vec![T::zeroed(); shape.weights()];
        let groups = dense.chunks_mut(sparsity.width()).zip(kept.chunks(sparsity.kept()));
        for ((group, kept), code) in groups.zip(&codes) {
            let bits = sparsity.bits_of_code(*code).unwrap_or(0);
            let places = group.iter_mut().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
            places.zip(kept).for_each(|((_, place), kept)| *place = *kept);
        }
        Self { shape, dense, kept, codes }
    }

    /// Whether the library wrote what our packer would in this layout, gaps aside.
    fn agrees(&self, layout: Layout, wrote: &cusparselt::Compressed) -> bool {
        let groups = Sparsity::of(T::DTYPE).row_groups(self.shape.cols);
        let Ok(map) = layout.map(self.shape, T::DTYPE) else { return false };
        let nibble = |group: usize| {
            let place = map.place(group / groups, group % groups)?;
            Some(wrote.metadata().get(place.byte)? >> place.shift & 15)
        };
        wrote.values() == bytemuck::cast_slice::<T, u8>(&self.kept)
            && (0..self.codes.len()).all(|group| nibble(group) == Some(self.codes[group]))
    }
}

/// A value that is not zero, another for each number from 1 to 126.
fn value<T: Element>(number: u8) -> T {
    let float = f32::from(number);
    match T::DTYPE {
        DType::F16 => bytemuck::cast(f16::from_f32(float)),
        DType::Bf16 => bytemuck::cast(bf16::from_f32(float)),
        DType::F32 => bytemuck::cast(float),
        DType::I8 | DType::E4m3 | DType::E5m2 => bytemuck::cast(number),
        DType::I32 => bytemuck::cast(u32::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::DTYPES;

    #[test]
    fn a_probe_is_of_the_class_of_its_shape() {
        for (rows, cols) in [(16, 16), (240, 4096), (256, 64), (320, 96), (4096, 4096), (11008, 4112), (28672, 8192)] {
            let shape = Shape::new(rows, cols);
            let probe = probe_shape(shape);
            assert!(probe.rows < 768 && probe.cols < 768, "{probe:?}");
            assert_eq!((probe.rows % 256, probe.cols % 256), (rows % 256, cols % 256));
            assert_eq!(probe.rows < 256, rows < 256);
            for values in DTYPES {
                for layout in Layout::ALL {
                    assert_eq!(layout.check(shape, values).is_ok(), layout.check(probe, values).is_ok());
                }
            }
        }
    }

    /// Over all digits, no two groups and no two values are the same.
    #[test]
    fn probes_tell_all_groups_and_values_apart() {
        fn apart<T: Element>(shape: Shape) {
            let digits = digits(Sparsity::of(T::DTYPE), shape);
            let probes: Vec<Spelt<T>> = (0..digits).map(|digit| Spelt::new(shape, digit)).collect();
            let count = probes[0].codes.len();
            let spelt: std::collections::HashSet<Vec<u8>> =
                (0..count).map(|group| probes.iter().map(|probe| probe.codes[group]).collect()).collect();
            assert_eq!(spelt.len(), count);
            let bytes = |value: &T| bytemuck::bytes_of(value).to_vec();
            let count = probes[0].kept.len();
            let spelt: std::collections::HashSet<Vec<Vec<u8>>> =
                (0..count).map(|at| probes.iter().map(|probe| bytes(&probe.kept[at])).collect()).collect();
            assert_eq!(spelt.len(), count);
        }
        let shape = Shape::new(400, 496);
        apart::<f16>(shape);
        apart::<i8>(shape);
        apart::<f32>(shape);
        apart::<crate::E4m3>(Shape::new(32, 64));
    }
}
