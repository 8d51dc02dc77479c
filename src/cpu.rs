//! The CPU as an [`Executor`]: slices and vectors, on all threads of rayon's pool.

use crate::check::zeros;
use crate::device::Limits;
use crate::error::Result;
use crate::pass::{self, Executor, Libraries, Pass, Plan};
use crate::space::{Host, Plain};

/// Runs passes on the host, before it returns. Operands are slices, and references to vectors and arrays.
///
/// ```
/// use twofour::mask::{Forward, Kind, Sampling};
/// use twofour::{Cpu, Executor, Shape};
///
/// let sampling = Sampling { seed: 1, draw: 0, kappa: 1000.0, tau: 1.0 };
/// let (logits, weight) = ([0.0_f32, 0.1, 0.0, 0.0, 0.0, 0.0], [1.0_f32, 2.0, 3.0, 4.0]);
/// let mut masked = [0.0; 4];
/// Cpu.run(Forward::new(Shape::new(1, 4), Kind::Hard, sampling, &logits).weight(&weight).masked(&mut masked))?;
/// assert_eq!(masked, [1.0, 0.0, 3.0, 0.0]);
/// # Ok::<(), twofour::Error>(())
/// ```
///
/// It uses what the processor has of AVX-512 and AVX2. The environment variable `TWOFOUR_CPU`, `avx2` or `portable`,
/// keeps it from more than that, for measurements; of sampling, steps, distillation and compressed products no bit
/// depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Executor for Cpu {
    type Space = Host;
    type Buffer<T: Plain> = Vec<T>;

    fn run<P: Pass<Host>>(&mut self, pass: P) -> Result<()> {
        pass::run_on_host(pass)
    }

    fn limits(&self) -> Limits {
        Limits::H200
    }

    fn libraries(&self) -> Libraries {
        Libraries::ALL
    }

    fn zeros<T: Plain>(&self, elements: usize) -> Result<Vec<T>> {
        zeros("an array", elements)
    }

    fn upload<T: Plain>(&self, values: &[T]) -> Result<Vec<T>> {
        let mut copy = zeros("an array", values.len())?;
        copy.copy_from_slice(values);
        Ok(copy)
    }

    fn download<T: Plain>(&self, buffer: &Vec<T>) -> Result<Vec<T>> {
        self.upload(buffer)
    }

    fn input<T: Plain>(buffer: &Vec<T>) -> &[T] {
        buffer
    }

    fn output<T: Plain>(buffer: &mut Vec<T>) -> &mut [T] {
        buffer
    }

    fn workspace(&self, _: usize) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn prepare<P: Plan>(&mut self, _: &P) -> Result<()> {
        Ok(())
    }
}
