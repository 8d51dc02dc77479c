//! What the CUDA driver says of its first device, without anything of the crate: the judge of whether there is a GPU.

use libloading::{Library, Symbol};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::ffi::{c_char, c_int, c_uint};

/// 2:4 tensor cores begin here.
const OLDEST: (c_int, c_int) = (8, 0);

/// Numbers of CUdevice_attribute.
const MULTIPROCESSORS: c_int = 16;
const L2_BYTES: c_int = 38;
const CAPABILITY: [c_int; 2] = [75, 76];

/// The first device, or why there is none of use.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Device {
    /// None: there is a device.
    pub(super) problem: Option<String>,
    pub(super) name: String,
    pub(super) capability: String,
    /// The newest CUDA that the driver knows.
    pub(super) cuda: String,
    pub(super) devices: c_int,
    pub(super) multiprocessors: c_int,
    pub(super) l2_bytes: c_int,
    pub(super) memory_bytes: usize,
}

pub(super) fn probe() -> Device {
    let mut device = Device::default();
    device.problem = ask(&mut device).err();
    device
}

/// Fills in what the driver answers, as far as it does.
fn ask(device: &mut Device) -> Result<(), String> {
    let driver = Driver::open()?;
    driver.call("cuInit", |init: Symbol<unsafe extern "C" fn(c_uint) -> c_int>| {
        // SAFETY: cuInit takes its flags, which must be zero.
        unsafe { init(0) }
    })?;
    let version = driver.number("cuDriverGetVersion")?;
    device.cuda = format!("{}.{}", version / 1000, version % 1000 / 10);
    device.devices = driver.number("cuDeviceGetCount")?;
    if device.devices < 1 {
        return Err("the driver has no device".into());
    }
    device.name = driver.name()?;
    device.memory_bytes = driver.memory()?;
    device.multiprocessors = driver.attribute(MULTIPROCESSORS)?;
    device.l2_bytes = driver.attribute(L2_BYTES)?;
    let capability = (driver.attribute(CAPABILITY[0])?, driver.attribute(CAPABILITY[1])?);
    device.capability = format!("{}.{}", capability.0, capability.1);
    if capability < OLDEST {
        return Err(format!("{} has compute capability {}, but 8.0 is needed", device.name, device.capability));
    }
    Ok(())
}

struct Driver(Library);

impl Driver {
    fn open() -> Result<Self, String> {
        let mut reason = String::new();
        for name in ["libcuda.so.1", "libcuda.so"] {
            // SAFETY: loading CUDA's driver has no conditions; its initialisers are what every CUDA program runs.
            match unsafe { Library::new(name) } {
                Ok(library) => return Ok(Self(library)),
                Err(error) => reason = error.source().map_or_else(|| error.to_string(), ToString::to_string),
            }
        }
        Err(format!("there is no CUDA driver ({reason})"))
    }

    /// Hands a function of the driver to `call`; a status other than zero is an error.
    fn call<'a, F: 'a>(&'a self, name: &str, call: impl FnOnce(Symbol<'a, F>) -> c_int) -> Result<(), String> {
        // SAFETY: the callers below give each name the signature that CUDA documents for it.
        let symbol = unsafe { self.0.get(name) }.map_err(|_| format!("the driver lacks {name}"))?;
        match call(symbol) {
            0 => Ok(()),
            100 => Err("the driver sees no device (CUDA_ERROR_NO_DEVICE)".into()),
            status => Err(format!("{name} failed with CUDA error {status}")),
        }
    }

    /// What a function with one number to write answers.
    fn number(&self, name: &str) -> Result<c_int, String> {
        let mut number = 0;
        self.call(name, |function: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>| {
            // SAFETY: it writes one int, to which the pointer leads.
            unsafe { function(&raw mut number) }
        })?;
        Ok(number)
    }

    /// Of device 0, whose handle is its number.
    fn attribute(&self, attribute: c_int) -> Result<c_int, String> {
        type Get = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
        let mut value = 0;
        self.call("cuDeviceGetAttribute", |get: Symbol<Get>| {
            // SAFETY: it writes one int, to which the pointer leads.
            unsafe { get(&raw mut value, attribute, 0) }
        })?;
        Ok(value)
    }

    fn name(&self) -> Result<String, String> {
        type Get = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
        let mut bytes = [0_u8; 256];
        self.call("cuDeviceGetName", |get: Symbol<Get>| {
            // SAFETY: it writes no more than the 256 bytes it is told of.
            unsafe { get(bytes.as_mut_ptr().cast(), 256, 0) }
        })?;
        let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    fn memory(&self) -> Result<usize, String> {
        let mut bytes = 0;
        self.call("cuDeviceTotalMem_v2", |get: Symbol<unsafe extern "C" fn(*mut usize, c_int) -> c_int>| {
            // SAFETY: it writes one size_t, to which the pointer leads.
            unsafe { get(&raw mut bytes, 0) }
        })?;
        Ok(bytes)
    }
}
