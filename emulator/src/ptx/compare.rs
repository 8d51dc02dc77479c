//! One launch on both executors, and where they differ.

use std::sync::Arc;

use super::module::Module;
use crate::element::from_bytes;
use crate::launch::{Options, is_named};
use crate::memory::{Region, regions};
use crate::{Fault, Launch};

/// A buffer with more bytes may be larger than the machine.
const LARGEST: usize = 256 << 20;

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
    /// Runs a launch in the emulator, and again, from the same contents, from this module's PTX; gives a difference for
    /// each buffer in which they left different bits. The buffers keep what the PTX left.
    ///
    /// NaNs count as equal, as 64, 32 or 16 bits: the PTX ISA does not say which of them an operation gives. Compared
    /// are the buffers that the arguments point into; if one of more than 256 MiB is among them, which cannot be put
    /// back as it was, the emulator alone has run and there is nothing to compare.
    ///
    /// # Errors
    ///
    /// The fault of the executor that has one, the emulator's first.
    pub fn compare(&self, launch: &Launch, options: &Options) -> Result<Option<Vec<Difference>>, Fault> {
        let named = |region: &&Arc<Region>| !region.read_only && is_named(region, launch.args);
        let all = regions();
        let written: Vec<_> = all.iter().filter(named).collect();
        if written.iter().any(|region| bytes(region) > LARGEST) {
            return crate::run(launch, options).map(|_| None);
        }
        let before: Vec<_> = written.iter().map(|region| contents(region)).collect();
        crate::run(launch, options)?;
        let of_emulator: Vec<_> = written.iter().map(|region| contents(region)).collect();
        written.iter().zip(&before).for_each(|(region, bytes)| region.mapping.write(bytes));
        self.run_as(launch, options)?;
        let compared = written.iter().zip(&of_emulator);
        let difference =
            |(region, emulator): (&&Arc<Region>, &Vec<u8>)| difference(region.name(), emulator, &contents(region));
        Ok(Some(compared.filter_map(difference).collect()))
    }
}

fn bytes(region: &Region) -> usize {
    let range = region.mapping.bytes();
    range.end - range.start
}

fn contents(region: &Region) -> Vec<u8> {
    region.mapping.read(0, bytes(region))
}

fn difference(buffer: String, emulator: &[u8], ptx: &[u8]) -> Option<Difference> {
    let words = |bytes: &[u8]| {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        from_bytes::<u32>(&padded)
    };
    let (emulator, ptx) = (words(emulator), words(ptx));
    let both_nan = |i| is_double_nan(&emulator, i) && is_double_nan(&ptx, i);
    let differ = |&i: &usize| !(alike(emulator[i], ptx[i]) || both_nan(i));
    let all: Vec<usize> = (0..emulator.len()).filter(differ).collect();
    let first = *all.first()?;
    Some(Difference { buffer, offset: 4 * first, words: all.len(), emulator: emulator[first], ptx: ptx[first] })
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
