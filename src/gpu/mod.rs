//! A CUDA device as an [`Executor`]: what a user of the crate holds.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use crate::cusparselt::{self, OfThread};
use crate::dense::Cublaslt;
use crate::device::{self, Limits, driver_error};
use crate::error::{Error, Result, unsupported};
use crate::pass::{Binder, Checked, Executor, Libraries, Pass, Plan, Queue, Work};
use crate::space::{Cuda, Input, Output, Plain};

pub mod library;

/// Why a library is not opened.
const FORBIDDEN: &str = "the handle is to do without: see `Gpu::only`";

/// A stream of the caller's, and what passes on it need: the device's limits, and the libraries, each opened when a
/// plan first needs it. Nothing here synchronises, but [`download`](Executor::download).
///
/// Operands are cudarc's slices and views, by reference: `&CudaSlice`, `&mut CudaSlice`, views. They may be of any
/// stream of this one's `CudaContext`; those of another handle to the same device are refused
/// ([`Error::ForeignHandle`]).
///
/// # CUDA graphs
///
/// `run` of what is ready allocates no device memory, loads and waits for nothing, so it can be captured (as all of
/// cudarc, with event tracking disabled). Ready are: kernels, once their plan is [prepared](Executor::prepare), or by
/// [`device::prepare`] for passes without a plan, or once such a pass has run; products by cuBLASLt and cuSPARSELt,
/// once they have been prepared and have run, for the libraries load an algorithm's code when it first runs. A graph
/// refers to memory of this handle, which are cuBLASLt's workspace and the copies of biases that cuSPARSELt's plans
/// have: **one handle a stream**, and it outlives the graphs that were captured through it.
///
/// # Threads
///
/// A handle may go from thread to thread, but cuSPARSELt's own handle is for one: the thread on which a plan first
/// needs the library. On another, products by cuSPARSELt and packing for it are [`Error::Unsupported`], and a handle
/// that is dropped there leaks what it has of the library.
pub struct Gpu {
    stream: Arc<CudaStream>,
    limits: Limits,
    /// Those that may be used, if they are there.
    libraries: Libraries,
    cublaslt: Option<Cublaslt>,
    cusparselt: Option<OfThread<cusparselt::Plans>>,
}

impl Gpu {
    /// For work on this stream.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver does not say what the device can do. That a device is too old shows at the first
    /// launch.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let limits = device::limits(stream.context())?;
        Ok(Self { stream: Arc::clone(stream), limits, libraries: Libraries::ALL, cublaslt: None, cusparselt: None })
    }

    /// Only these of the libraries that there are: [`Libraries::NONE`] for this crate's kernels alone.
    #[must_use]
    pub fn only(mut self, libraries: Libraries) -> Self {
        self.libraries = self.libraries.and(libraries);
        self
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// cuBLASLt, opened if it is not.
    fn cublaslt(&mut self) -> Result<&mut Cublaslt> {
        if !self.libraries.cublaslt {
            return Err(unsupported("a product by cuBLASLt", FORBIDDEN));
        }
        if self.cublaslt.is_none() {
            self.refuse_captured("cuBLASLt")?;
        }
        match &mut self.cublaslt {
            Some(opened) => Ok(opened),
            closed => Ok(closed.insert(Cublaslt::new(&self.stream)?)),
        }
    }

    /// cuSPARSELt, opened if it is not.
    fn cusparselt(&mut self) -> Result<&mut cusparselt::Plans> {
        if !self.libraries.cusparselt {
            return Err(unsupported("cuSPARSELt", FORBIDDEN));
        }
        if self.cusparselt.is_none() {
            self.refuse_captured("cuSPARSELt")?;
        }
        match &mut self.cusparselt {
            Some(opened) => opened.get_mut(),
            closed => closed.insert(OfThread::new(cusparselt::Plans::new(self.stream.context())?)).get_mut(),
        }
    }

    /// Makes the library's plan of a product, which allocates, and sees that the rest of the call is for it.
    fn prepare_cusparselt(&mut self, call: &cusparselt::Call) -> Result<()> {
        if !self.cusparselt()?.has(&call.form) {
            self.refuse_captured("a product by cuSPARSELt")?;
        }
        let stream = Arc::clone(&self.stream);
        self.cusparselt()?.prepare(&stream, call)
    }

    /// What must not be done while the stream is captured.
    fn refuse_captured(&self, what: &str) -> Result<()> {
        match device::is_captured(&self.stream)? {
            true => Err(Error::Unprepared { what: what.into() }),
            false => Ok(()),
        }
    }

    /// What may fail before anything is queued.
    fn load(&mut self, queue: &Queue) -> Result<()> {
        if let Some(cublaslt) = &mut self.cublaslt {
            cublaslt.trim();
        }
        for work in queue.works() {
            match work {
                Work::Kernel(launch) => launch.load(&self.stream)?,
                Work::Dense(call) => {
                    if !self.cublaslt()?.has(&call.form) {
                        self.refuse_captured("a product by cuBLASLt")?;
                    }
                    let stream = Arc::clone(&self.stream);
                    self.cublaslt()?.prepare(&stream, &call.form)?;
                }
                Work::Cusparselt(call) => self.prepare_cusparselt(call)?,
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("limits", &self.limits).field("libraries", &self.libraries).finish_non_exhaustive()
    }
}

impl Executor for Gpu {
    type Space = Cuda;
    type Buffer<T: Plain> = Buffer<T>;

    /// Queues a pass. Unless the driver refuses a launch, either everything is queued or nothing.
    ///
    /// # Errors
    /// What [`Pass::check`] finds; [`Error::Misaligned`], [`Error::ForeignContext`], [`Error::ForeignHandle`] of an
    /// operand; [`Error::Overflow`] for sizes beyond what kernels count; [`Error::Unprepared`] in a capture; what
    /// finding or launching kernels and algorithms may give ([`crate::device`]).
    fn run<P: Pass<Cuda>>(&mut self, pass: P) -> Result<()> {
        let mut pass = Checked::new(pass)?;
        let stream = Arc::clone(&self.stream);
        let (mut binder, mut queue) = (Binder::new(&stream), Queue::new(self.limits));
        P::queue(&mut pass, &mut binder, &mut queue)?;
        // A kernel alone is loaded as it is launched.
        if !queue.is_one_kernel() {
            self.load(&queue)?;
        }
        for work in queue.works() {
            match work {
                // SAFETY: the pass was checked, so its operands are as long as its kernels read and write; the binder
                // has found them in the stream's context and holds the guards that order the launch; argument structs
                // mirror the kernels'.
                Work::Kernel(launch) => unsafe { launch.queue(&stream) }?,
                // SAFETY: as above; C is an output or a part of the workspace, both borrowed mutably, so that it
                // overlaps no operand.
                Work::Dense(call) => unsafe { self.cublaslt()?.multiply(&stream, call) }?,
                // SAFETY: as above; `load` has seen that weight and workspace are for the library's plan.
                Work::Cusparselt(call) => unsafe { self.cusparselt()?.multiply(&stream, call) }?,
            }
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn libraries(&self) -> Libraries {
        self.libraries.there()
    }

    fn cusparselt_bytes(&self, form: &cusparselt::Form) -> Result<usize> {
        let plans = self.cusparselt.as_ref().map(OfThread::get).transpose()?;
        let bytes = plans.and_then(|plans| plans.workspace_bytes(form));
        bytes.ok_or(Error::Unprepared { what: "a product by cuSPARSELt".into() })
    }

    fn zeros<T: Plain>(&self, elements: usize) -> Result<Buffer<T>> {
        let memory = self.stream.alloc_zeros(elements.max(1)).map_err(driver_error("cuMemAllocAsync"))?;
        Ok(Buffer { memory, elements })
    }

    fn unset<T: Plain>(&self, elements: usize) -> Result<Buffer<T>> {
        // SAFETY: any bits are a value of a plain type.
        let memory = unsafe { self.stream.alloc(elements.max(1)) }.map_err(driver_error("cuMemAllocAsync"))?;
        Ok(Buffer { memory, elements })
    }

    fn upload<T: Plain>(&self, values: &[T]) -> Result<Buffer<T>> {
        if values.is_empty() {
            return self.zeros(0);
        }
        let memory = self.stream.clone_htod(values).map_err(driver_error("cuMemcpyHtoDAsync"))?;
        Ok(Buffer { memory, elements: values.len() })
    }

    fn download<T: Plain>(&self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        let mut values = self.stream.clone_dtoh(&buffer.memory).map_err(driver_error("cuMemcpyDtoHAsync"))?;
        self.stream.synchronize().map_err(driver_error("cuStreamSynchronize"))?;
        values.truncate(buffer.elements);
        Ok(values)
    }

    fn input<T: Plain>(buffer: &Buffer<T>) -> CudaView<'_, T> {
        buffer.input()
    }

    fn output<T: Plain>(buffer: &mut Buffer<T>) -> CudaViewMut<'_, T> {
        buffer.output()
    }

    fn workspace(&self, bytes: usize) -> Result<Option<Buffer<u8>>> {
        if bytes == 0 { Ok(None) } else { self.unset(bytes).map(Some) }
    }

    fn prepare<P: Plan>(&mut self, plan: &P) -> Result<()> {
        let mut queue = Queue::new(self.limits);
        plan.rehearse(&mut queue)?;
        self.load(&queue)
    }
}

/// An array on a device that a [`Gpu`] has allocated. It may be empty, which cudarc's own cannot.
#[derive(Debug)]
pub struct Buffer<T> {
    memory: CudaSlice<T>,
    elements: usize,
}

impl<T> Buffer<T> {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements == 0
    }

    /// cudarc's own, of one element where this one is empty.
    #[must_use]
    pub fn into_slice(self) -> CudaSlice<T> {
        self.memory
    }
}

impl<'a, T: 'a> Input<'a> for &'a Buffer<T> {
    type Space = Cuda;
    type Element = T;
    fn input(self) -> CudaView<'a, T> {
        self.memory.slice(..self.elements)
    }
}

impl<'a, T: 'a> Output<'a> for &'a mut Buffer<T> {
    type Space = Cuda;
    type Element = T;
    fn output(self) -> CudaViewMut<'a, T> {
        self.memory.slice_mut(..self.elements)
    }
}
