//! Which of the library's algorithms a product takes, and what searches have found.
//!
//! The library numbers its algorithms anew from version to version, and which is fastest is the device's affair. So
//! what a search found is remembered under both, beside the problem, for all threads and until the process ends. It is
//! plain data: keep it with the same key elsewhere, and hand it to
//! [`Plan::with_algorithm`](super::Plan::with_algorithm).

use crate::check::scalar;
use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::call::{Device, Version};
use super::descriptor::Selection;
use super::handle::Handle;
use super::problem::{Activation, Bias, Placement, Problem};
use super::sys::cusparseLtMatmulAlgAttribute_t as Attribute;
use super::sys::cusparseLtSplitKMode_t as Mode;
use super::value::Types;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// How the contraction is split over blocks. The first two are for devices before Hopper, the others from Hopper on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SplitKMode {
    /// One kernel multiplies and adds up the parts.
    OneKernel,
    /// A second kernel adds up the parts.
    TwoKernels,
    /// The library chooses among the following.
    Heuristic,
    /// Not split.
    DataParallel,
    /// Into even parts.
    SplitK,
    /// Into parts that keep every multiprocessor busy.
    StreamK,
    /// One that this crate has no name for, by the library's number.
    Other(i32),
}

impl SplitKMode {
    const NAMED: [(Self, Mode); 6] = [
        (Self::OneKernel, Mode::CUSPARSELT_SPLIT_K_MODE_ONE_KERNEL),
        (Self::TwoKernels, Mode::CUSPARSELT_SPLIT_K_MODE_TWO_KERNELS),
        (Self::Heuristic, Mode::CUSPARSELT_HEURISTIC),
        (Self::DataParallel, Mode::CUSPARSELT_DATAPARALLEL),
        (Self::SplitK, Mode::CUSPARSELT_SPLITK),
        (Self::StreamK, Mode::CUSPARSELT_STREAMK),
    ];

    fn number(self) -> i32 {
        match (self, Self::NAMED.iter().find(|(mode, _)| *mode == self)) {
            (_, Some((_, number))) => number.0 as i32,
            (Self::Other(number), _) => number,
            // Every other mode is in the table, as a test says.
            (_, None) => Mode::CUSPARSELT_INVALID_MODE.0 as i32,
        }
    }

    fn from_number(number: i32) -> Self {
        let named = Self::NAMED.iter().find(|(_, named)| named.0 as i32 == number);
        named.map_or(Self::Other(number), |(mode, _)| *mode)
    }
}

/// An algorithm of the library and its settings. What is `None` is the library's own default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Algorithm {
    /// Its number, below [`Plan::algorithms`](super::Plan::algorithms).
    pub id: Option<u32>,
    /// Parts that the contraction is split into.
    pub split_k: Option<u32>,
    /// How.
    pub split_k_mode: Option<SplitKMode>,
    /// Buffers for the parts, fewer than there are parts.
    pub split_k_buffers: Option<u32>,
}

impl Algorithm {
    /// Sets a selection, which is at the library's default, to this.
    pub(super) fn apply(&self, selection: &Selection) -> Result<()> {
        if let Some(id) = self.id {
            let count = count(selection)?;
            if id >= count {
                let must = "below the number of algorithms that the library has for this product";
                return scalar("algorithm.id", f64::from(id), must);
            }
            selection.set(Attribute::CUSPARSELT_MATMUL_ALG_CONFIG_ID, small("algorithm.id", id)?)?;
        }
        if let Some(parts) = self.split_k {
            selection.set(Attribute::CUSPARSELT_MATMUL_SPLIT_K, small("algorithm.split_k", parts)?)?;
        }
        if let Some(mode) = self.split_k_mode {
            selection.set(Attribute::CUSPARSELT_MATMUL_SPLIT_K_MODE, mode.number())?;
        }
        if let Some(buffers) = self.split_k_buffers {
            selection
                .set(Attribute::CUSPARSELT_MATMUL_SPLIT_K_BUFFERS, small("algorithm.split_k_buffers", buffers)?)?;
        }
        Ok(())
    }

    /// What a selection is set to. What the library does not tell is `None`.
    pub(super) fn of(selection: &Selection) -> Self {
        let read = |attribute| selection.read(attribute).ok();
        let number = |attribute| read(attribute).and_then(|value| u32::try_from(value).ok());
        Self {
            id: number(Attribute::CUSPARSELT_MATMUL_ALG_CONFIG_ID),
            split_k: number(Attribute::CUSPARSELT_MATMUL_SPLIT_K),
            split_k_mode: read(Attribute::CUSPARSELT_MATMUL_SPLIT_K_MODE).map(SplitKMode::from_number),
            split_k_buffers: number(Attribute::CUSPARSELT_MATMUL_SPLIT_K_BUFFERS),
        }
    }

    /// This, less what `default` has too: setting a default again is what some devices refuse.
    pub(super) fn beyond(self, default: Self) -> Self {
        fn changed<T: PartialEq>(new: Option<T>, old: Option<T>) -> Option<T> {
            if new == old { None } else { new }
        }
        Self {
            // Always: a number that is the default today need not be it for another product of the same key.
            id: self.id,
            split_k: changed(self.split_k, default.split_k),
            split_k_mode: changed(self.split_k_mode, default.split_k_mode),
            split_k_buffers: changed(self.split_k_buffers, default.split_k_buffers),
        }
    }
}

fn small(what: &'static str, value: u32) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::Scalar { what, value: f64::from(value), must: "below 2^31" })
}

/// How many algorithms the library has for a selection's product.
pub(super) fn count(selection: &Selection) -> Result<u32> {
    let count = selection.read(Attribute::CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID)?;
    Ok(u32::try_from(count).unwrap_or(0))
}

/// What an algorithm is remembered under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    version: Version,
    device: Device,
    types: Types,
    tokens: usize,
    shape: Shape,
    batches: usize,
    placements: [Placement; 3],
    transposed: [bool; 2],
    bias: Option<Bias>,
    alpha_per_row: bool,
    // Not its numbers, which cost no time.
    activation: Discriminant<Activation>,
    adds: bool,
}

impl Key {
    pub(super) fn of(handle: &Handle, problem: &Problem, adds: bool) -> Self {
        Self::new(handle.version(), handle.device(), problem, adds)
    }

    fn new(version: Version, device: Device, problem: &Problem, adds: bool) -> Self {
        Self {
            version,
            device,
            types: problem.types,
            tokens: problem.tokens,
            shape: problem.shape,
            batches: problem.batches,
            placements: [problem.weight, problem.input, problem.output],
            transposed: [problem.input_transposed, problem.output_transposed],
            bias: problem.bias,
            alpha_per_row: problem.alpha_per_row,
            activation: discriminant(&problem.activation),
            adds,
        }
    }
}

static FOUND: LazyLock<Mutex<HashMap<Key, Algorithm>>> = LazyLock::new(Mutex::default);

fn found() -> MutexGuard<'static, HashMap<Key, Algorithm>> {
    // An insertion that panicked left the map whole.
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn recall(key: &Key) -> Option<Algorithm> {
    found().get(key).copied()
}

pub(super) fn remember(key: Key, algorithm: Algorithm) {
    found().insert(key, algorithm);
}

/// The algorithm that [`Plan::search`](super::Plan::search) found in this process for the problem, on the handle's
/// device and with its version of the library; `adds` if the product had an addend.
#[must_use]
pub fn remembered(handle: &Handle, problem: &Problem, adds: bool) -> Option<Algorithm> {
    recall(&Key::of(handle, problem, adds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::element::DType;

    #[test]
    fn modes_have_the_librarys_numbers() {
        let numbers: Vec<i32> = SplitKMode::NAMED.iter().map(|(mode, _)| mode.number()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
        assert!(SplitKMode::NAMED.iter().all(|(mode, _)| SplitKMode::from_number(mode.number()) == *mode));
        assert_eq!((SplitKMode::from_number(9), SplitKMode::Other(9).number()), (SplitKMode::Other(9), 9));
    }

    /// What a search found for one device, library or problem is not for another.
    #[test]
    fn every_part_of_a_problem_is_in_its_key() {
        let types = |operand, result| Types::new(operand, result).unwrap();
        let (version, device) =
            (Version { major: 0, minor: 8, patch: 1 }, Device { ordinal: 0, compute_capability: (9, 0) });
        let problem = Problem::new(types(DType::Bf16, DType::Bf16), 64, Shape::new(96, 160));
        let placed = Placement { pitch: Some(512), batch: None };
        let problems = [
            problem,
            Problem { types: types(DType::F16, DType::F16), ..problem },
            Problem { tokens: 72, ..problem },
            Problem { shape: Shape::new(160, 160), ..problem },
            Problem { shape: Shape::new(96, 96), ..problem },
            Problem { batches: 2, ..problem },
            Problem { weight: placed, ..problem },
            Problem { input: placed, ..problem },
            Problem { output: placed, ..problem },
            Problem { output: Placement { batch: Some(0), ..placed }, ..problem },
            Problem { input_transposed: true, ..problem },
            Problem { output_transposed: true, ..problem },
            Problem { bias: Some(Bias::Shared), ..problem },
            Problem { bias: Some(Bias::PerBatch), ..problem },
            Problem { alpha_per_row: true, ..problem },
            Problem { activation: Activation::RELU, ..problem },
        ];
        let mut keys: Vec<_> = problems.iter().map(|problem| Key::new(version, device, problem, false)).collect();
        keys.push(Key::new(version, device, &problem, true));
        keys.push(Key::new(Version { patch: 2, ..version }, device, &problem, false));
        keys.push(Key::new(version, Device { ordinal: 1, ..device }, &problem, false));
        keys.push(Key::new(version, Device { compute_capability: (8, 0), ..device }, &problem, false));
        let distinct: std::collections::HashSet<_> = keys.iter().copied().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn only_what_a_search_changed_is_kept() {
        let default = Algorithm {
            id: Some(0),
            split_k: Some(1),
            split_k_mode: Some(SplitKMode::OneKernel),
            ..Algorithm::default()
        };
        let searched = Algorithm { id: Some(0), split_k: Some(3), split_k_buffers: Some(2), ..default };
        let kept = Algorithm { id: Some(0), split_k: Some(3), split_k_mode: None, split_k_buffers: Some(2) };
        assert_eq!(searched.beyond(default), kept);
    }
}
