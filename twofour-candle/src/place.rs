//! Where candle's tensors and twofour's arrays are the same memory: the CPU, and a CUDA device. Operations are written
//! once, over any [`Place`].

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Layout, Result, Storage};
use twofour::learn::Statistics;
use twofour::space::Space;
use twofour::{Cpu, Executor};

use crate::engine::Engine;
use crate::number::{Stored, contiguous_range};

/// An executor of twofour's that takes candle's arrays for its own.
pub(crate) trait Place: Executor + 'static {
    /// candle's arrays.
    type Storage: BackendStorage + 'static;

    /// Gives `work` the executor of a device.
    fn with<R>(
        engine: &Engine,
        device: &DeviceOf<Self>,
        work: impl FnOnce(&mut Self) -> twofour::Result<R>,
    ) -> Result<R>;

    /// An array that `write` writes, with the executor of a device.
    fn made<T: Stored>(
        engine: &Engine,
        device: &DeviceOf<Self>,
        elements: usize,
        write: impl FnOnce(&mut Self, &mut Self::Buffer<T>) -> twofour::Result<()>,
    ) -> Result<Self::Storage> {
        let array = Self::with(engine, device, |on| {
            let mut array = on.unset::<T>(elements)?;
            write(on, &mut array)?;
            Ok(array)
        })?;
        Ok(Self::own(array, device))
    }

    /// An array of any place, if it is of this one.
    fn of(storage: &Storage) -> Option<&Self::Storage>;

    /// The same, to be written.
    fn of_mut(storage: &mut Storage) -> Option<&mut Self::Storage>;

    /// Some elements.
    fn elements<T: Stored>(storage: &Self::Storage, range: Range<usize>) -> Result<Input<'_, Self, T>>;

    /// The same, to be written.
    fn elements_mut<T: Stored>(storage: &mut Self::Storage, range: Range<usize>) -> Result<Output<'_, Self, T>>;

    /// An array as candle's.
    fn own<T: Stored>(array: Self::Buffer<T>, device: &DeviceOf<Self>) -> Self::Storage;

    /// An array of what steps say of themselves, which candle has no type for.
    type Counts: Send + 'static;

    /// One of zeros.
    fn counts(device: &DeviceOf<Self>, elements: usize) -> Result<Self::Counts>;

    /// Some of it, to be written.
    fn some_counts(counts: &mut Self::Counts, range: Range<usize>) -> Option<Output<'_, Self, Statistics>>;

    /// The first elements; waits for the device.
    fn read_counts(device: &DeviceOf<Self>, counts: &Self::Counts, elements: usize) -> Result<Vec<Statistics>>;
}

/// candle's device.
pub(crate) type DeviceOf<P> = <<P as Place>::Storage as BackendStorage>::Device;
type Input<'s, P, T> = <<P as Executor>::Space as Space>::Ref<'s, T>;
pub(crate) type Output<'s, P, T> = <<P as Executor>::Space as Space>::Mut<'s, T>;

impl Place for Cpu {
    type Storage = CpuStorage;

    fn with<R>(_: &Engine, _: &DeviceOf<Self>, work: impl FnOnce(&mut Self) -> twofour::Result<R>) -> Result<R> {
        work(&mut Cpu).map_err(crate::number::wrap)
    }

    fn of(storage: &Storage) -> Option<&CpuStorage> {
        if let Storage::Cpu(storage) = storage { Some(storage) } else { None }
    }

    fn of_mut(storage: &mut Storage) -> Option<&mut CpuStorage> {
        if let Storage::Cpu(storage) = storage { Some(storage) } else { None }
    }

    fn elements<T: Stored>(storage: &CpuStorage, range: Range<usize>) -> Result<&[T]> {
        let (all, end) = (storage.as_slice::<T>()?, range.end);
        all.get(range).ok_or_else(|| out_of_range(end, all.len()))
    }

    fn elements_mut<T: Stored>(storage: &mut CpuStorage, range: Range<usize>) -> Result<&mut [T]> {
        let all = T::on_cpu(storage).ok_or_else(elsewhere)?;
        let (end, len) = (range.end, all.len());
        all.get_mut(range).ok_or_else(|| out_of_range(end, len))
    }

    fn own<T: Stored>(array: Vec<T>, _: &DeviceOf<Self>) -> CpuStorage {
        T::to_cpu_storage_owned(array)
    }

    type Counts = Vec<Statistics>;

    fn counts(_: &DeviceOf<Self>, elements: usize) -> Result<Vec<Statistics>> {
        Ok(vec![Statistics::default(); elements])
    }

    fn some_counts(counts: &mut Vec<Statistics>, range: Range<usize>) -> Option<&mut [Statistics]> {
        counts.get_mut(range)
    }

    fn read_counts(_: &DeviceOf<Self>, counts: &Vec<Statistics>, elements: usize) -> Result<Vec<Statistics>> {
        Ok(counts.iter().take(elements).copied().collect())
    }
}

/// A tensor's array, and how the tensor lies in it.
pub(crate) struct Operand<'s, P: Place> {
    storage: &'s P::Storage,
    layout: &'s Layout,
}

impl<P: Place> Clone for Operand<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Place> Copy for Operand<'_, P> {}

impl<'s, P: Place> Operand<'s, P> {
    pub(crate) fn new(storage: &'s P::Storage, layout: &'s Layout) -> Self {
        Self { storage, layout }
    }

    /// Of a tensor whose device was looked at before.
    pub(crate) fn of(storage: &'s Storage, layout: &'s Layout) -> Result<Self> {
        P::of(storage).map(|storage| Self { storage, layout }).ok_or_else(elsewhere)
    }

    pub(crate) fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    pub(crate) fn shape(&self) -> &'s candle_core::Shape {
        self.layout.shape()
    }

    pub(crate) fn device(&self) -> &'s DeviceOf<P> {
        self.storage.device()
    }

    /// The elements of a contiguous tensor.
    pub(crate) fn elements<T: Stored>(&self) -> Result<Input<'s, P, T>> {
        P::elements(self.storage, contiguous_range(self.layout)?)
    }
}

/// Some elements of an array that is not a tensor's, to be written.
pub(crate) fn part_mut<P: Place, T: Stored>(storage: &mut Storage, range: Range<usize>) -> Result<Output<'_, P, T>> {
    P::elements_mut(P::of_mut(storage).ok_or_else(elsewhere)?, range)
}

/// The same, to be read.
pub(crate) fn part<P: Place, T: Stored>(storage: &Storage, range: Range<usize>) -> Result<Input<'_, P, T>> {
    P::elements(P::of(storage).ok_or_else(elsewhere)?, range)
}

pub(crate) fn out_of_range(to: usize, len: usize) -> candle_core::Error {
    candle_core::Error::Msg(format!("a tensor ends at element {to} of a storage of {len}")).bt()
}

/// Of what was on the same device when it was checked.
pub(crate) fn elsewhere() -> candle_core::Error {
    candle_core::Error::Msg("an operand is of another type or on another device than the others".to_owned()).bt()
}
