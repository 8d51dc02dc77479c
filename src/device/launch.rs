//! One kernel launch as plain data. A pass makes it once, of checked arguments; the driver executes it, or the emulator
//! does, so launch arithmetic is tested without a GPU.

#[cfg(feature = "cuda")]
use std::{ffi::c_void, sync::Arc};

#[cfg(feature = "cuda")]
use cudarc::driver::{CudaStream, result};

use super::Symbol;
#[cfg(feature = "cuda")]
use super::{driver_error, kernels};

/// The most bytes of an argument struct.
const MOST: usize = 512;

/// A kernel's argument struct as its bytes; device addresses in it are `u64`. Every kernel takes exactly one, by value.
#[derive(Clone, Copy, PartialEq)]
#[repr(C, align(16))]
pub struct Args {
    bytes: [u8; MOST],
    length: usize,
}

impl Args {
    /// The bytes of a struct that mirrors the kernel's.
    #[must_use]
    pub fn new<A: bytemuck::Pod>(args: &A) -> Self {
        const { assert!(size_of::<A>() <= MOST) };
        let mut bytes = [0; MOST];
        bytes[..size_of::<A>()].copy_from_slice(bytemuck::bytes_of(args));
        Self { bytes, length: size_of::<A>() }
    }

    /// As many as the struct has.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

/// A launch: which kernel, on which grid, with which arguments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch {
    /// The kernel.
    pub symbol: Symbol,
    /// Blocks along x, y, z; where one is 0 there is nothing to do.
    pub grid: [u32; 3],
    /// Threads of a block, along x.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// What the kernel is given.
    pub args: Args,
}

impl Launch {
    /// A launch of so many blocks along x, without dynamic shared memory.
    #[must_use]
    pub fn new<A: bytemuck::Pod>(symbol: Symbol, blocks: u32, threads: u32, args: &A) -> Self {
        Self { symbol, grid: [blocks, 1, 1], threads, shared_bytes: 0, args: Args::new(args) }
    }

    /// On this grid.
    #[must_use]
    pub fn grid(mut self, grid: [u32; 3]) -> Self {
        self.grid = grid;
        self
    }

    /// With so much dynamic shared memory a block.
    #[must_use]
    pub fn shared_bytes(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// Loads the kernel into the stream's context, compiling it if need be, so that launching it cannot fail for want
    /// of it.
    ///
    /// # Errors
    /// Where the device is too old, there is no code for it, or the stream is being captured and the kernel is not
    /// loaded.
    #[cfg(feature = "cuda")]
    #[doc(hidden)]
    pub fn load(&self, stream: &CudaStream) -> crate::Result<()> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        stream.context().bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
        kernels::function(stream, self.symbol, self.shared_bytes).map(drop)
    }

    /// Puts it on a stream and returns at once. The kernel is loaded if this is its first use in the context;
    /// afterwards this costs a lookup, and no device memory, copy or synchronisation ever.
    ///
    /// # Errors
    /// As [`Launch::load`], and where the driver refuses the launch.
    ///
    /// # Safety
    /// - The argument struct is laid out as the kernel's parameter.
    /// - Every device address in it belongs to the stream's context, and stays valid for the kernel's reads and writes
    ///   until it has run; nothing else on the host or the device accesses what it writes meanwhile, unless ordered by
    ///   the stream.
    /// - The grid, the block and `shared_bytes` are such that the kernel stays inside what those addresses hold.
    #[cfg(feature = "cuda")]
    #[doc(hidden)]
    pub unsafe fn queue(&self, stream: &Arc<CudaStream>) -> crate::Result<()> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        stream.context().bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
        let function = kernels::function(stream, self.symbol, self.shared_bytes)?;
        let mut parameters = [(&raw const self.args.bytes).cast_mut().cast::<c_void>()];
        let (grid, block) = (self.grid.into(), (self.threads, 1, 1));
        // SAFETY: `function` is of a module that is never unloaded, in the context just made current, which is the
        // stream's too; the driver copies the one parameter, which outlives the call, before it returns, and its size
        // and what it points to are the caller's promise.
        unsafe { result::launch_kernel(function, grid, block, self.shared_bytes, stream.cu_stream(), &mut parameters) }
            .map_err(driver_error("cuLaunchKernel"))
    }
}
