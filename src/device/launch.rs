//! One kernel launch as plain data. An op's plan builds it once, from checked arguments; the driver executes it, or the
//! emulator does, so launch arithmetic is tested without a GPU.

#[cfg(feature = "cuda")]
use std::{ffi::c_void, sync::Arc};

#[cfg(feature = "cuda")]
use cudarc::driver::{CudaStream, result};

#[cfg(feature = "cuda")]
use super::{driver_error, kernels};
use crate::error::{Error, Result};
use crate::space::RawSlice;

/// Alignment of operands in bytes: kernels' accesses are 16 bytes wide.
pub(crate) const ALIGN: u64 = 16;

/// The address of an operand, 0 where there is none, on a boundary for kernels' accesses.
pub(crate) fn address(what: &'static str, operand: Option<RawSlice>) -> Result<u64> {
    aligned(what, operand.map_or(0, |operand| operand.address), ALIGN)
}

/// An address on a boundary of so many bytes.
pub(crate) fn aligned(what: &'static str, address: u64, align: u64) -> Result<u64> {
    match address.is_multiple_of(align) {
        true => Ok(address),
        false => Err(Error::Misaligned { what, address, align }),
    }
}

/// Names a kernel: the `.cu` file's stem and the symbol in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symbol {
    /// `mask` for `cuda/mask.cu`.
    pub module: &'static str,
    /// `twofour_mask_soft_f32_bf16`.
    pub name: &'static str,
}

/// A launch: which kernel, on which grid, with which argument struct (every kernel takes exactly one, by value).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch<A> {
    /// The kernel.
    pub symbol: Symbol,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The kernel's argument struct; device addresses are `u64`.
    pub args: A,
}

/// Loads a kernel into the stream's context, compiling it if need be, so that launching it cannot fail for want of it.
///
/// # Errors
///
/// Where the device is too old, or there is no code for it.
#[cfg(feature = "cuda")]
pub(crate) fn load(stream: &CudaStream, symbol: Symbol, shared_bytes: u32) -> crate::Result<()> {
    let context = stream.context();
    context.bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
    kernels::function(stream, super::Symbol::named(symbol.module, symbol.name), shared_bytes).map(drop)
}

/// Puts a launch on a stream and returns at once. The kernel is loaded, and compiled where the build has no code for
/// the device, if this is its first use in the context; afterwards a launch costs a lookup, and no device memory, copy
/// or synchronisation ever. A grid without blocks is nothing to do.
///
/// # Errors
///
/// Where the device is too old, there is no code for it, or the driver refuses the launch.
///
/// # Safety
///
/// - `A` is laid out as the kernel's parameter struct is.
/// - Every device address in `launch.args` belongs to the stream's context, and stays valid for the kernel's reads and
///   writes until it has run; nothing else on the host or the device accesses what it writes meanwhile, unless ordered
///   by the stream.
/// - The grid, the block and `shared_bytes` are such that the kernel stays inside what those addresses hold.
#[cfg(feature = "cuda")]
pub unsafe fn launch<A: bytemuck::Pod>(stream: &Arc<CudaStream>, launch: &Launch<A>) -> crate::Result<()> {
    if launch.grid.contains(&0) {
        return Ok(());
    }
    let context = stream.context();
    context.bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
    let function = kernels::function(
        stream,
        super::Symbol::named(launch.symbol.module, launch.symbol.name),
        launch.shared_bytes,
    )?;
    let mut parameters = [(&raw const launch.args).cast_mut().cast::<c_void>()];
    let [grid, block] = [launch.grid, launch.block].map(<(u32, u32, u32)>::from);
    // SAFETY: `function` is of a module that is never unloaded, in the context just made current, which is the stream's
    // too; the driver copies the one parameter, which outlives the call, before it returns, and its size and what it
    // points to are the caller's promise.
    unsafe { result::launch_kernel(function, grid, block, launch.shared_bytes, stream.cu_stream(), &mut parameters) }
        .map_err(driver_error("cuLaunchKernel"))
}
