//! The library's handle.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

use super::call::{Device, Version};
use super::library::{Library, library};
use super::opaque::{Stored, cusparseLtHandle_t};
use super::result;
use crate::device::{self, driver_error};
use crate::error::{Error, Result};

/// The library, made ready for a device. Keep one a thread: the library's handles must not be shared between threads,
/// so that this is neither `Send` nor `Sync`. Cloning it gives the same handle; it is destroyed with its last clone,
/// and what was made with it holds one.
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<twofour::cusparselt::Handle>();
/// ```
///
/// ```compile_fail
/// fn sent<T: Send>() {}
/// sent::<twofour::cusparselt::Plan>();
/// ```
#[derive(Clone)]
pub struct Handle {
    inner: Rc<Inner>,
}

struct Inner {
    raw: Stored<cusparseLtHandle_t>,
    library: &'static Library,
    context: Arc<CudaContext>,
    device: Device,
}

impl Handle {
    /// Opens the library, if that is still to be done, and makes it ready for the context's device. This takes time:
    /// make it once and keep it.
    ///
    /// # Errors
    /// [`Error::LibraryUnavailable`] without the library or with a version of it that this crate was not written for,
    /// [`Error::UnsupportedDevice`], [`Error::Cuda`] if the library refuses the device (status 4 from one that is too
    /// old for it).
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let library = library()?;
        let limits = device::limits(context)?;
        if !limits.is_supported() {
            return Err(Error::UnsupportedDevice { have: limits.compute_capability, need: device::Limits::OLDEST });
        }
        let device = Device { ordinal: context.ordinal(), compute_capability: limits.compute_capability };
        bind(context)?;
        let raw = Stored::new();
        // SAFETY: the object has room for the library's, and the context is current.
        unsafe { result::init(library, raw.get()) }?;
        Ok(Self { inner: Rc::new(Inner { raw, library, context: Arc::clone(context), device }) })
    }

    /// The library's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.inner.library.version
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> Device {
        self.inner.device
    }

    pub(super) fn library(&self) -> &'static Library {
        self.inner.library
    }

    pub(super) fn raw(&self) -> *const cusparseLtHandle_t {
        self.inner.raw.get()
    }

    /// Makes the handle's context current, which every call of the library wants.
    pub(super) fn bind(&self) -> Result<()> {
        bind(&self.inner.context)
    }

    /// The same for work on a stream, which must be of this context.
    pub(super) fn bind_for(&self, stream: &CudaStream) -> Result<()> {
        if stream.context().cu_ctx() != self.inner.context.cu_ctx() {
            return Err(Error::ForeignContext { what: "handle" });
        }
        self.bind()
    }
}

fn bind(context: &CudaContext) -> Result<()> {
    context.bind_to_thread().map_err(driver_error("cuCtxSetCurrent"))
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("version", &self.version()).field("device", &self.device()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nothing can be done here about a context or a library that is already going down.
        let _ = bind(&self.context);
        // SAFETY: the handle is live, and nothing made with it is, for that holds a clone.
        let _ = unsafe { result::destroy(self.library, self.raw.get()) };
    }
}
