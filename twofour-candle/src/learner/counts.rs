//! What steps say of themselves: the statistics of each pass, of this step and of the last one. They are written on the
//! device, one behind the other, and stay there until somebody reads them.

use std::any::Any;
use std::ops::Range;

use candle_core::{Device, Result};
use twofour::Cpu;
use twofour::learn::Statistics;

use crate::place::{DeviceOf, Output, Place, elsewhere};

/// Results of an array. A pass writes one and uses what is behind it as workspace, so results are written in order.
const RESULTS: usize = 1024;

/// The statistics of passes on a device.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Of even steps, and of odd ones: what the last step left is there while the next is made.
    of: [OfStep; 2],
}

#[derive(Debug, Default)]
struct OfStep {
    step: u64,
    passes: usize,
    /// Each a [`Place::Counts`].
    arrays: Vec<Box<dyn Any + Send>>,
}

/// Some passes of a step.
#[derive(Debug, Clone)]
pub(crate) struct Passes {
    step: u64,
    range: Range<usize>,
}

impl Counts {
    /// Where the next pass of a step writes its statistics.
    pub(super) fn next<P: Place>(&mut self, step: u64, device: &DeviceOf<P>) -> Result<Output<'_, P, Statistics>> {
        let of = &mut self.of[(step % 2) as usize];
        if of.step != step {
            (of.step, of.passes) = (step, 0);
        }
        let (array, at) = (of.passes / RESULTS, of.passes % RESULTS);
        if of.arrays.len() <= array {
            of.arrays.push(Box::new(P::counts(device, RESULTS - 1 + Statistics::SLOTS)?));
        }
        of.passes += 1;
        let array = of.arrays[array].downcast_mut::<P::Counts>().ok_or_else(elsewhere)?;
        P::some_counts(array, at..at + Statistics::SLOTS).ok_or_else(elsewhere)
    }

    /// How many passes of a step there were.
    pub(super) fn passes(&self, step: u64) -> usize {
        let of = &self.of[(step % 2) as usize];
        if of.step == step { of.passes } else { 0 }
    }

    /// The passes of a step from one on.
    pub(super) fn since(&self, step: u64, first: usize) -> Passes {
        Passes { step, range: first..self.passes(step) }
    }

    /// The sums over some passes; waits for the device. `None` if there are none, or later steps took their place.
    pub(super) fn sum(&self, passes: &Passes, device: &Device) -> Result<Option<Statistics>> {
        let Passes { step, range } = passes.clone();
        if range.is_empty() || range.end > self.passes(step) {
            return Ok(None);
        }
        let arrays = &self.of[(step % 2) as usize].arrays;
        let all = match device {
            Device::Cpu => read::<Cpu>(arrays, &candle_core::cpu_backend::CpuDevice, range)?,
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => read::<twofour::Gpu>(arrays, device, range)?,
            _ => return Err(elsewhere()),
        };
        Ok(Some(sum(&all)))
    }
}

fn read<P: Place>(
    arrays: &[Box<dyn Any + Send>],
    device: &DeviceOf<P>,
    range: Range<usize>,
) -> Result<Vec<Statistics>> {
    let mut all = Vec::new();
    for array in arrays.iter().take(range.end.div_ceil(RESULTS)) {
        let array = array.downcast_ref::<P::Counts>().ok_or_else(elsewhere)?;
        all.extend(P::read_counts(device, array, RESULTS)?);
    }
    Ok(all.get(range).map(<[_]>::to_vec).unwrap_or_default())
}

/// Sums, and of the confidence a mean over groups that were not skipped.
fn sum(all: &[Statistics]) -> Statistics {
    let mut sum = Statistics::default();
    let mut confidence = 0.0;
    for part in all {
        sum.gradient_squares += part.gradient_squares;
        sum.kept_energy += part.kept_energy;
        sum.moved += part.moved;
        sum.skipped += part.skipped;
        sum.groups += part.groups;
        confidence += part.confidence * (part.groups - part.skipped) as f64;
    }
    let stepped = sum.groups - sum.skipped;
    sum.confidence = if stepped > 0 { confidence / stepped as f64 } else { 0.0 };
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steps_write_is_read_until_the_step_after_the_next() -> Result<()> {
        let (device, mut counts) = (&candle_core::cpu_backend::CpuDevice, Counts::default());
        let mut write = |step: u64, passes: usize| -> Result<Passes> {
            let first = counts.passes(step);
            for pass in first..first + passes {
                let slots = counts.next::<Cpu>(step, device)?;
                // A pass leaves anything in its workspace.
                slots.fill(Statistics { groups: 77, ..Statistics::default() });
                slots[0] = Statistics { groups: 4, skipped: pass as u64 % 2, confidence: 0.5, ..Statistics::default() };
            }
            Ok(counts.since(step, first))
        };
        let (one, two) = (write(3, 1)?, write(3, 2 * RESULTS + 5)?);
        let next = write(4, 2)?;
        let skipped = |passes: &Passes| -> Result<_> {
            Ok(counts.sum(passes, &Device::Cpu)?.map(|sum| (sum.skipped, sum.groups, sum.confidence)))
        };
        assert_eq!(skipped(&one)?, Some((0, 4, 0.5)));
        assert_eq!(skipped(&two)?, Some((RESULTS as u64 + 3, 4 * (2 * RESULTS as u64 + 5), 0.5)));
        assert_eq!(skipped(&next)?, Some((1, 8, 0.5)));
        let later = {
            counts.next::<Cpu>(5, device)?;
            counts.since(5, 0)
        };
        assert_eq!(counts.sum(&two, &Device::Cpu)?, None, "later steps took its place");
        assert!(counts.sum(&later, &Device::Cpu)?.is_some() && counts.sum(&next, &Device::Cpu)?.is_some());
        assert!(counts.sum(&counts.since(9, 0), &Device::Cpu)?.is_none());
        Ok(())
    }
}
