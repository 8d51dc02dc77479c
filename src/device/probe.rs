//! Looks for CUDA's libraries before cudarc does, because cudarc panics when one is missing. What is found stays open
//! until the process ends, so that cudarc's own search meets it; what is not found is an error, and stays one.
//!
//! Every path into cudarc begins at a value that only a working driver can make (a stream, a context) or goes through
//! here.

use std::env;
use std::error::Error as _;
use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, DriverError, result, sys};
use libloading::Library;

use crate::{Error, Result};

/// The names under which cudarc looks for the driver with every version of its bindings, in its order.
const DRIVER_NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };

/// What this crate calls in the driver. All of it is older than any device we support, so that only something that is
/// no driver lacks one; cudarc would panic at the call.
const DRIVER_SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuStreamIsCapturing",
];

/// How many CUDA devices there are: at least one.
///
/// # Errors
///
/// [`Error::DriverUnavailable`] without a driver, [`Error::NoDevice`] without a device.
pub fn available() -> Result<usize> {
    driver()?;
    let count = CudaContext::device_count().map_err(driver_error("cuDeviceGetCount"))?;
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::NoDevice { detail: String::new() }),
    }
}

/// The primary context of a device, as [`CudaContext::new`] gives it, but with an error where that panics.
///
/// # Errors
///
/// As [`available`], and [`Error::NoDevice`] if there is no device of this number.
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    let count = available()?;
    if ordinal >= count || c_int::try_from(ordinal).is_err() {
        return Err(Error::NoDevice { detail: format!(" of number {ordinal}, only {count}, counted from 0") });
    }
    CudaContext::new(ordinal).map_err(driver_error("cuDevicePrimaryCtxRetain"))
}

/// The driver library, initialised.
pub(crate) fn driver() -> Result<&'static Library> {
    static DRIVER: OnceLock<Result<Library>> = OnceLock::new();
    DRIVER.get_or_init(find_driver).as_ref().map_err(Error::clone)
}

fn find_driver() -> Result<Library> {
    let unavailable = |reason| Error::DriverUnavailable { reason };
    let library = open(DRIVER_NAMES, &[]).map_err(unavailable)?;
    for name in DRIVER_SYMBOLS {
        if symbol::<unsafe extern "C" fn()>(&library, name).is_none() {
            return Err(unavailable(format!("the library found lacks {name}, so it is no driver")));
        }
    }
    match result::init() {
        Ok(()) => Ok(library),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Err(Error::NoDevice { detail: " (cuInit)".into() }),
        Err(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            Err(unavailable("the library found is the toolkit's stub for linking: put the driver's before it".into()))
        }
        Err(other) => Err(driver_error("cuInit")(other)),
    }
}

/// Makes cuBLASLt safe to call through cudarc.
#[allow(dead_code, reason = "for the ops that use cuBLASLt")]
pub(crate) fn cublaslt() -> Result<()> {
    static CUBLASLT: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    let found = CUBLASLT.get_or_init(|| {
        if cfg!(windows) {
            return open(&["cublasLt64_13.dll", "cublasLt64_12.dll"], &[]);
        }
        // In a toolkit's folder only versioned names: cudarc finds what is open by that name, and not the other.
        let versioned: &[&str] = if bindings_are_13() {
            &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"]
        } else {
            &["libcublasLt.so.12", "libcublasLt.so.11"]
        };
        open(&["libcublasLt.so"], &[]).or_else(|_| open(versioned, &toolkit_folders()))
    });
    match found {
        Ok(_) => Ok(()),
        Err(reason) => Err(Error::LibraryUnavailable {
            library: "cuBLASLt",
            reason: reason.clone(),
            remedy: "Install the CUDA toolkit's cuBLAS, of a version no newer than the one this program was built for",
        }),
    }
}

/// Whether cudarc was built for CUDA 13, which decides whether it looks for `libcublasLt.so.13`. cudarc does not say,
/// but it has this type only then; where it has not, the name means the empty type out here.
fn bindings_are_13() -> bool {
    #[allow(unused_imports, reason = "of a CUDA 12 build")]
    use cudarc::cublaslt::sys::*;
    size_of::<cublasLtEmulationDesc_t>() != 0
}

#[allow(non_camel_case_types, dead_code, reason = "cudarc's name, used in its absence")]
struct cublasLtEmulationDesc_t;

/// Opens the first library of these names that the loader finds on its own path, else in these folders.
pub(crate) fn open(names: &[&str], folders: &[PathBuf]) -> std::result::Result<Library, String> {
    let on_path = names.iter().map(PathBuf::from);
    let in_folders = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    let mut complaints: Vec<String> = Vec::new();
    for candidate in on_path.chain(in_folders.filter(|path| path.exists())) {
        match open_one(&candidate) {
            Ok(library) => return Ok(library),
            Err(complaint) => complaints.push(complaint),
        }
    }
    Err(complaints.join("; "))
}

/// Opens one library, by name or path.
pub(crate) fn open_one(path: &Path) -> std::result::Result<Library, String> {
    // SAFETY: the libraries named in this crate are NVIDIA's, whose initialisers ask nothing of their caller; a path
    // set by the user is the user's word for that.
    let library = unsafe { Library::new(path) };
    library.map_err(|e| match e.source() {
        Some(detail) => detail.to_string(),
        None => format!("{}: {e}", path.display()),
    })
}

/// A function of a library, if it has one of this name. Calling it is unsafe, and there `F` must be its type.
pub(crate) fn symbol<F: Copy>(library: &Library, name: &str) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<usize>(), "F is a function pointer") };
    // SAFETY: the symbol is taken for a value of a pointer's size, as every `F` here is a plain function pointer type;
    // whether it is the function's own type is for the one who calls it to see to.
    let found = unsafe { library.get::<F>(name) };
    found.ok().map(|symbol| *symbol)
}

/// Where toolkits keep libraries, for those the loader's path does not have.
pub(crate) fn toolkit_folders() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).filter(|value| !value.is_empty());
    let roots = named.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    roots.flat_map(|root| [root.join("lib64"), root.join("lib")]).collect()
}

/// Names the call that failed: `.map_err(driver_error("cuLaunchKernel"))`.
pub(crate) fn driver_error(call: &'static str) -> impl Fn(DriverError) -> Error {
    // The status is named by its own Debug: cudarc's of the error would call the driver.
    move |DriverError(status)| Error::Cuda { call, name: format!("{status:?}"), code: status as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said_with_its_names() {
        let complaint = open(&["libtwofour-none.so", "libtwofour-none.so.1"], &["/nowhere".into()]).map(drop);
        let complaint = complaint.err().unwrap_or_default();
        assert!(complaint.contains("libtwofour-none.so:"), "{complaint}");
        assert!(complaint.contains("libtwofour-none.so.1:"), "{complaint}");
    }

    #[test]
    fn asking_for_cublaslt_never_panics() {
        if let Err(error) = cublaslt() {
            assert!(error.to_string().starts_with("cuBLASLt is not available: "), "{error}");
        }
    }
}
