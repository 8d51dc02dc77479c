//! Who runs passes.

use super::{Libraries, Pass, Queue};
use crate::cusparselt;
use crate::device::Limits;
use crate::error::Result;
use crate::space::{Plain, Space};

/// Runs passes over memory of its own kind: [`Cpu`](crate::Cpu), [`Gpu`](crate::Gpu), and test executors. Code that is
/// generic over it is written once for all of them.
///
/// ```
/// use twofour::mask::{Forward, Kind, Sampling};
/// use twofour::{Cpu, Executor, Result, Shape};
///
/// /// A hard mask of equal logits, on whatever this is.
/// fn masked<E: Executor>(on: &mut E, shape: Shape, weight: &[f32]) -> Result<Vec<f32>> {
///     let sampling = Sampling { seed: 7, draw: 0, kappa: 1.0, tau: 1.0 };
///     let (logits, weight) = (on.zeros::<f32>(shape.logits())?, on.upload(weight)?);
///     let mut masked = on.zeros::<f32>(shape.weights())?;
///     let pass = Forward::new(shape, Kind::Hard, sampling, E::input(&logits)).weight(E::input(&weight));
///     on.run(pass.masked(E::output(&mut masked)))?;
///     on.download(&masked)
/// }
/// let masked = masked(&mut Cpu, Shape::new(1, 4), &[1.0, 2.0, 3.0, 4.0])?;
/// assert_eq!(masked.iter().filter(|value| **value == 0.0).count(), 2);
/// # Ok::<(), twofour::Error>(())
/// ```
pub trait Executor {
    /// Where its arrays live.
    type Space: Space;
    /// An array that it owns.
    type Buffer<T: Plain>;

    /// Runs a pass, or queues it where there is a queue: a [`Gpu`](crate::Gpu) waits for nothing.
    ///
    /// # Errors
    /// What [`Pass::check`] finds, and what the executor's page says.
    fn run<P: Pass<Self::Space>>(&mut self, pass: P) -> Result<()>;

    /// The limits of the device that plans are made for. A [`Cpu`](crate::Cpu) has one way to everything; plans for it
    /// say what an H200 would do.
    fn limits(&self) -> Limits;

    /// Which libraries plans may use.
    fn libraries(&self) -> Libraries;

    /// An array of zeros.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if there is no memory; on the CPU [`Error::Memory`](crate::Error::Memory).
    fn zeros<T: Plain>(&self, elements: usize) -> Result<Self::Buffer<T>>;

    /// An array for outputs: its elements are whatever was there, and on the CPU zeros.
    ///
    /// # Errors
    /// As [`Executor::zeros`].
    fn unset<T: Plain>(&self, elements: usize) -> Result<Self::Buffer<T>> {
        self.zeros(elements)
    }

    /// A copy of the host's values.
    ///
    /// # Errors
    /// As [`Executor::zeros`].
    fn upload<T: Plain>(&self, values: &[T]) -> Result<Self::Buffer<T>>;

    /// A copy for the host, once everything that was queued is done.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the copy fails, or something that was queued has.
    fn download<T: Plain>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>>;

    /// A buffer as an input, in generic code; otherwise passes take a reference as it is.
    fn input<T: Plain>(buffer: &Self::Buffer<T>) -> <Self::Space as Space>::Ref<'_, T>;

    /// A buffer as an output, likewise.
    fn output<T: Plain>(buffer: &mut Self::Buffer<T>) -> <Self::Space as Space>::Mut<'_, T>;

    /// Memory for passes to work in, as much as a plan asks for; none on the CPU, which allocates what it needs.
    ///
    /// # Errors
    /// As [`Executor::zeros`].
    fn workspace(&self, bytes: usize) -> Result<Option<Self::Buffer<u8>>>;

    /// Bytes of workspace of a product by cuSPARSELt that was [prepared](Executor::prepare), which only the library
    /// knows; none where there is no library.
    ///
    /// # Errors
    /// [`Error::Unprepared`](crate::Error::Unprepared) for one that was not.
    #[doc(hidden)]
    fn cusparselt_bytes(&self, _: &cusparselt::Form) -> Result<usize> {
        Ok(0)
    }

    /// Makes a plan's passes ready: loads kernels, opens libraries, chooses algorithms.
    ///
    /// # Errors
    /// As the first run of such a pass.
    fn prepare<P: Plan>(&mut self, plan: &P) -> Result<()>;

    /// What a plan's passes work in and leave for one another, and makes them [ready](Executor::prepare).
    ///
    /// # Errors
    /// As [`Executor::zeros`] and [`Executor::prepare`].
    fn scratch<P: Plan>(&mut self, plan: &P) -> Result<P::Scratch<Self>>
    where
        Self: Sized,
    {
        self.prepare(plan)?;
        plan.scratch(self)
    }
}

/// How an operation's passes of some shape are made: plain data, which outlives what it was made for.
pub trait Plan {
    /// What its passes work in.
    type Scratch<E: Executor>;

    /// Allocates that.
    ///
    /// # Errors
    /// As [`Executor::zeros`].
    #[doc(hidden)]
    fn scratch<E: Executor>(&self, on: &E) -> Result<Self::Scratch<E>>;

    /// Queues its passes over operands that are not there, to load what they need.
    ///
    /// # Errors
    /// As the passes'.
    #[doc(hidden)]
    fn rehearse(&self, queue: &mut Queue) -> Result<()>;
}
