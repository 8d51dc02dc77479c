//! From a kernel's name to a function of the driver: choosing the code, loading it, remembering it.
//!
//! An image holds all kernels of its file and is loaded for all of them; what NVRTC compiles for a launch is a module
//! of that kernel alone. Everything is kept for a context once, and until the process ends. That includes a reference
//! to the context, so the key, its address, cannot come to mean another one.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_uint};
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use sys::CUdevice_attribute as Attribute;
use sys::CUfunction_attribute as FunctionAttribute;
use sys::CUresult as Status;

use super::Symbol;
use super::limits::Limits;
use super::nvrtc::{self, Part};
use super::{driver_error, images, probe};
use crate::{Error, Result};

/// A context by its address.
type ContextId = usize;

/// A kernel ready for launch.
#[derive(Clone, Copy)]
struct Kernel {
    function: sys::CUfunction,
    /// Whether it may ask for more shared memory than every kernel may.
    takes_all_shared: bool,
}

// SAFETY: the driver's function handles may be used from every thread that has their context current.
unsafe impl Send for Kernel {}
// SAFETY: as above; the handle is only ever copied.
unsafe impl Sync for Kernel {}

/// The table that a hot launch reads.
static KERNELS: LazyLock<RwLock<HashMap<(ContextId, Symbol), Kernel>>> = LazyLock::new(RwLock::default);

static DEVICES: LazyLock<Mutex<HashMap<ContextId, Arc<Device>>>> = LazyLock::new(Mutex::default);

/// What is known of a context's device, and what is loaded there.
struct Device {
    /// Keeps the context, and with it the modules.
    context: Arc<CudaContext>,
    limits: Limits,
    /// By file, and what of it the module holds.
    modules: Mutex<HashMap<(&'static str, Part), Module>>,
}

/// A loaded module, never unloaded.
#[derive(Clone)]
struct Module {
    handle: sys::CUmodule,
    /// What it holds of its file, which may be more than was asked for.
    part: Part,
    /// Where its code is from, in words.
    origin: String,
}

// SAFETY: the driver's module handles may be used from every thread that has their context current.
unsafe impl Send for Module {}

/// The limits of a context's device, asked for once.
///
/// # Errors
///
/// What the driver says.
pub fn limits(context: &Arc<CudaContext>) -> Result<Limits> {
    Ok(device(context)?.limits)
}

/// Whether the stream is being captured into a CUDA graph: nothing can be loaded then.
///
/// # Errors
///
/// What the driver says.
pub fn is_captured(stream: &CudaStream) -> Result<bool> {
    let status = stream.capture_status().map_err(driver_error("cuStreamIsCapturing"))?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// Loads every kernel into the stream's context. Afterwards no launch loads anything, which a stream that is being
/// captured into a CUDA graph does not permit. (A driver older than CUDA 12.4 loads a kernel only when it is first
/// asked for: there, run once what is to be captured.)
///
/// Where the build has no code for the device, every kernel file is compiled as a whole, which takes seconds a file; a
/// program that launches a few kernels and captures no graph starts sooner without this.
///
/// # Errors
///
/// As the first launch of a kernel: the device is too old, there is no code for it, a source does not compile, or the
/// stream is being captured before everything is loaded.
pub fn prepare(stream: &Arc<CudaStream>) -> Result<()> {
    let device = device(stream.context())?;
    device.context.bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))?;
    for file in images::modules() {
        let module = device.module(file, Part::File, stream)?;
        load_functions(module.handle)?;
    }
    Ok(())
}

/// The kernel's function, which must be called with the context current.
pub(super) fn function(stream: &CudaStream, symbol: Symbol, shared_bytes: u32) -> Result<sys::CUfunction> {
    let context = stream.context();
    let key = (id(context), symbol);
    let known = KERNELS.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
    if let Some(kernel) = known
        && (kernel.takes_all_shared || shared_bytes <= Limits::DEFAULT_SHARED_BYTES)
    {
        return Ok(kernel.function);
    }
    let device = device(context)?;
    let mut kernel = match known {
        Some(kernel) => kernel,
        None => Kernel { function: device.function(stream, symbol)?, takes_all_shared: false },
    };
    if shared_bytes > Limits::DEFAULT_SHARED_BYTES {
        allow_all_shared(kernel.function, &device.limits)?;
        kernel.takes_all_shared = true;
    }
    KERNELS.write().unwrap_or_else(PoisonError::into_inner).insert(key, kernel);
    Ok(kernel.function)
}

fn id(context: &CudaContext) -> ContextId {
    context.cu_ctx().addr()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is only ever added to, one whole entry at a time, so a panic elsewhere leaves it sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device(context: &Arc<CudaContext>) -> Result<Arc<Device>> {
    let mut devices = locked(&DEVICES);
    if let Some(device) = devices.get(&id(context)) {
        return Ok(Arc::clone(device));
    }
    let limits = query(context)?;
    let device = Arc::new(Device { context: Arc::clone(context), limits, modules: Mutex::default() });
    devices.insert(id(context), Arc::clone(&device));
    Ok(device)
}

fn query(context: &CudaContext) -> Result<Limits> {
    let attribute = |which: Attribute| -> Result<u32> {
        let value = context.attribute(which).map_err(driver_error("cuDeviceGetAttribute"))?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok(Limits {
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        max_shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        shared_bytes_per_multiprocessor: attribute(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        )?,
        max_threads_per_multiprocessor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
    })
}

impl Device {
    fn function(&self, stream: &CudaStream, symbol: Symbol) -> Result<sys::CUfunction> {
        let module = self.module(symbol.file(), Part::Kernel(symbol), stream)?;
        let unknown = || Error::UnknownKernel {
            module: symbol.file(),
            name: symbol.name().into(),
            origin: module.origin.clone(),
        };
        let name = CString::new(symbol.name()).map_err(|_| unknown())?;
        // SAFETY: the module is loaded in the context, which is current, and is never unloaded.
        let function = unsafe { result::module::get_function(module.handle, name) };
        function.map_err(|error| match error {
            DriverError(Status::CUDA_ERROR_NOT_FOUND) => unknown(),
            other => driver_error("cuModuleGetFunction")(other),
        })
    }

    /// A module with this part of the file, loaded if there was none; threads that ask at once wait for one loading.
    /// For a stream that is being captured, nothing can be loaded.
    fn module(&self, file: &'static str, part: Part, stream: &CudaStream) -> Result<Module> {
        let mut modules = locked(&self.modules);
        let known = modules.get(&(file, Part::File)).or_else(|| modules.get(&(file, part)));
        if let Some(module) = known {
            return Ok(module.clone());
        }
        if is_captured(stream)? {
            return Err(Error::Unprepared { what: format!("a kernel of cuda/{file}.cu") });
        }
        let module = self.load(file, part)?;
        modules.insert((file, module.part), module.clone());
        Ok(module)
    }

    /// Tries the sources of code in turn; see [`crate::device`].
    fn load(&self, file: &'static str, part: Part) -> Result<Module> {
        let have = self.limits.compute_capability;
        if !self.limits.is_supported() {
            return Err(Error::UnsupportedDevice { have, need: Limits::OLDEST });
        }
        let image = images::image(file);
        if let Some(image) = image.filter(|image| image.has_code_for(have))
            && let Ok(module) = load_data(image.bytes, Part::File, "machine code embedded at build time".into())?
        {
            return Ok(module);
        }
        let failure = match nvrtc::compile_cached(file, part, have) {
            Ok(compiled) => match load_data(&compiled.bytes, part, compiled.origin())? {
                Ok(module) => return Ok(module),
                Err(refusal) => Error::LibraryUnavailable {
                    library: "NVRTC",
                    reason: format!(
                        "the driver refuses its {}, {refusal:?}: it is newer than the driver",
                        compiled.arch
                    ),
                    remedy: "Update the driver, or use an older NVRTC",
                },
            },
            Err(failure) => failure,
        };
        if let Some(image) = image.filter(|image| image.ptx.is_some() && !image.has_code_for(have))
            && let Ok(module) = load_data(image.bytes, Part::File, "PTX embedded at build time".into())?
        {
            return Ok(module);
        }
        let embedded = images::embedded();
        let embedded = if embedded.is_empty() { "nothing".into() } else { embedded.join(", ") };
        match failure {
            Error::LibraryUnavailable { reason, .. } => {
                Err(Error::NoKernelImage { device: have, embedded, nvrtc: reason })
            }
            other => Err(other),
        }
    }
}

/// Loads an image into the current context. The inner result is whether the driver takes it: what it refuses, another
/// source may serve.
fn load_data(image: &[u8], part: Part, origin: String) -> Result<std::result::Result<Module, Status>> {
    // SAFETY: the image is a fat binary or cubin, which carry their own length, or PTX with its terminating zero; the
    // driver copies it.
    let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
    match loaded {
        Ok(handle) => Ok(Ok(Module { handle, part, origin })),
        Err(DriverError(
            refusal @ (Status::CUDA_ERROR_INVALID_IMAGE
            | Status::CUDA_ERROR_NO_BINARY_FOR_GPU
            | Status::CUDA_ERROR_INVALID_PTX
            | Status::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | Status::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | Status::CUDA_ERROR_JIT_COMPILATION_DISABLED
            | Status::CUDA_ERROR_INVALID_SOURCE),
        )) => Ok(Err(refusal)),
        Err(other) => Err(driver_error("cuModuleLoadData")(other)),
    }
}

/// Raises a kernel's limit of dynamic shared memory to all that the device has beside the kernel's static share. Always
/// to the same value, so that threads raising it at once agree.
fn allow_all_shared(function: sys::CUfunction, limits: &Limits) -> Result<()> {
    let size = FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    // SAFETY: the function is of a module that is never unloaded.
    let own = unsafe { result::function::get_function_attribute(function, size) };
    let own = own.map_err(driver_error("cuFuncGetAttribute"))?;
    let most = i32::try_from(limits.max_shared_bytes).unwrap_or(i32::MAX).saturating_sub(own);
    let maximum = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: as above; the attribute takes a number of bytes.
    let set = unsafe { result::function::set_function_attribute(function, maximum, most) };
    set.map_err(driver_error("cuFuncSetAttribute"))?;
    // A kernel that asks for much wants as many blocks as fit beside one another, not a large first-level cache.
    let carveout = FunctionAttribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
    // SAFETY: as above; the attribute takes per cent.
    let set = unsafe { result::function::set_function_attribute(function, carveout, 100) };
    set.map_err(driver_error("cuFuncSetAttribute"))
}

/// Loads the kernels of a module, which drivers put off until one is asked for. The calls came with CUDA 12.4, so they
/// are looked up here; cudarc would panic on an older driver.
fn load_functions(module: sys::CUmodule) -> Result<()> {
    type Count = unsafe extern "C" fn(*mut c_uint, sys::CUmodule) -> c_int;
    type Enumerate = unsafe extern "C" fn(*mut sys::CUfunction, c_uint, sys::CUmodule) -> c_int;
    type Load = unsafe extern "C" fn(sys::CUfunction) -> c_int;
    let driver = probe::driver()?;
    let count: Option<Count> = probe::symbol(driver, "cuModuleGetFunctionCount");
    let enumerate: Option<Enumerate> = probe::symbol(driver, "cuModuleEnumerateFunctions");
    let load: Option<Load> = probe::symbol(driver, "cuFuncLoad");
    let (Some(count), Some(enumerate), Some(load)) = (count, enumerate, load) else { return Ok(()) };

    let mut functions = 0;
    // SAFETY: the type is the documented one; the module is loaded, and the out-parameter is a local.
    check("cuModuleGetFunctionCount", unsafe { count(&mut functions, module) })?;
    let mut list = vec![ptr::null_mut(); functions as usize];
    // SAFETY: as above; the list has room for as many as are asked for.
    check("cuModuleEnumerateFunctions", unsafe { enumerate(list.as_mut_ptr(), functions, module) })?;
    for function in list.into_iter().filter(|function| !function.is_null()) {
        // SAFETY: the function is of that module, which is never unloaded.
        check("cuFuncLoad", unsafe { load(function) })?;
    }
    Ok(())
}

/// The status of a call that cudarc does not make for us.
fn check(call: &'static str, status: c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::Cuda { call, name: "CUresult".into(), code: status.into() }) }
}
