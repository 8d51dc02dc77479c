//! One launch on several executors, and where they differ.

use std::sync::Arc;

use super::module::Module;
use crate::element::from_bytes;
use crate::launch::{Options, is_named};
use crate::memory::{Region, regions};
use crate::touched::Touched;
use crate::{Fault, Launch};

/// A place at which two executors left different bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The buffer's name.
    pub buffer: String,
    /// Offset in bytes of the first word that differs, a multiple of 4.
    pub offset: usize,
    /// How many words differ.
    pub words: usize,
    /// What the emulator left there.
    pub emulator: u32,
    /// What the PTX left there.
    pub ptx: u32,
}

impl Module {
    /// [`compare`] with this module alone.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn compare(&self, launch: &Launch, options: &Options) -> Result<Vec<Difference>, Fault> {
        compare(&[self], launch, options).map(|found| found.into_iter().flatten().collect())
    }
}

/// Runs a launch in the emulator, and again, from the same contents, from the PTX of each of these modules; gives, for
/// each module, a difference for each buffer in which it and the emulator left different bits. The buffers keep what
/// the last left. With [`Options::watch`] the PTX is watched, but for loads of what was never written in buffers: the
/// emulator, which runs first, counts as having written all of them.
///
/// NaNs count as equal, as 64, 32 or 16 bits: the PTX ISA does not say which of them an operation gives. Compared are
/// the buffers that the arguments point into, of a [reserved](crate::Buffer::reserve) one the pages that were touched.
///
/// # Errors
///
/// The fault of the executor that has one, the emulator's first.
pub fn compare(modules: &[&Module], launch: &Launch, options: &Options) -> Result<Vec<Vec<Difference>>, Fault> {
    let all = regions();
    let written: Vec<_> = all.iter().filter(|region| !region.read_only && is_named(region, launch.args)).collect();
    let before = contents(&written)?;
    crate::run(launch, options)?;
    let of_emulator = contents(&written)?;
    let (mut found, mut left) = (Vec::new(), None);
    for module in modules {
        for ((region, then), now) in written.iter().zip(&before).zip(left.as_ref().unwrap_or(&of_emulator)) {
            then.pairs(now).for_each(|(offset, then, _)| region.mapping.write_at(offset, then));
        }
        module.run_as(launch, options)?;
        let of_ptx = contents(&written)?;
        let both = written.iter().zip(&of_emulator).zip(&of_ptx);
        found.push(both.filter_map(|((region, emulator), ptx)| difference(region, emulator, ptx)).collect());
        left = Some(of_ptx);
    }
    Ok(found)
}

fn contents(regions: &[&Arc<Region>]) -> Result<Vec<Touched>, Fault> {
    let read = |region: &&Arc<Region>| region.mapping.touched();
    regions.iter().map(read).collect::<Result<_, _>>().map_err(|source| Fault::Host { what: "copy a buffer", source })
}

fn difference(region: &Region, emulator: &Touched, ptx: &Touched) -> Option<Difference> {
    let mut found: Option<Difference> = None;
    for (start, emulator, ptx) in emulator.pairs(ptx).filter(|(_, emulator, ptx)| emulator != ptx) {
        let (emulator, ptx) = (words(emulator), words(ptx));
        let both_nan = |i| is_double_nan(&emulator, i) && is_double_nan(&ptx, i);
        for i in (0..emulator.len()).filter(|&i| !(alike(emulator[i], ptx[i]) || both_nan(i))) {
            let (offset, emulator, ptx) = (start + 4 * i, emulator[i], ptx[i]);
            let first = || Difference { buffer: region.name(), offset, words: 0, emulator, ptx };
            found.get_or_insert_with(first).words += 1;
        }
    }
    found
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    from_bytes::<u32>(&padded)
}

/// Is a word half of a NaN of 64 bits?
fn is_double_nan(words: &[u32], i: usize) -> bool {
    let pair = words.get(i & !1).zip(words.get(i | 1));
    pair.is_some_and(|(&low, &high)| f64::from_bits(u64::from(high) << 32 | u64::from(low)).is_nan())
}

/// The same bits, or NaNs in the same places.
fn alike(a: u32, b: u32) -> bool {
    let is_nan = |x: u32| x & 0x7FFF_FFFF > 0x7F80_0000;
    let is_half_nan = |x: u32| x & 0x7FFF > 0x7C00;
    let halves = |a: u32, b: u32| a == b || is_half_nan(a) && is_half_nan(b);
    a == b || is_nan(a) && is_nan(b) || halves(a & 0xFFFF, b & 0xFFFF) && halves(a >> 16, b >> 16)
}
