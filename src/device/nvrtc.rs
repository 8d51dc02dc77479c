//! Compiles the embedded sources at run time, to machine code for one device: a whole file, or one kernel of it. A file
//! has dozens of kernels and a program launches a few, so what a launch asks for is compiled alone.
//!
//! Machine code, not PTX, wherever NVRTC knows the device: PTX of an NVRTC newer than the driver is refused. The
//! headers are handed over in memory under the names by which kernels include them, so nothing is written and nothing
//! of a toolkit is needed but the library.

mod library;

use std::ffi::{CString, NulError, c_int};

use sha2::{Digest, Sha256};

use self::library::{Failure, Nvrtc, nvrtc};
use super::Symbol;
use super::cache::{Cache, Key};
use super::images::{Source, headers, options, source};
use crate::{Error, Result};

/// How much of a kernel file to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    File,
    /// This kernel alone.
    Kernel(Symbol),
}

/// What NVRTC made of a kernel file or of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// `sm_90a` for machine code, `compute_90` for PTX.
    pub arch: String,
    /// A cubin, or PTX with its terminating zero.
    pub bytes: Vec<u8>,
}

/// Compiles every kernel of `cuda/<module>.cu` for a compute capability with NVRTC, as [`prepare`](super::prepare) does
/// when the build has no code for the device. Needs no device and no driver, and leaves the cache alone.
///
/// # Errors
///
/// [`Error::LibraryUnavailable`] without NVRTC or with one too old for the device, [`Error::Compile`] with its log.
///
/// # Example
///
/// ```no_run
/// let compiled = twofour::device::compile("mask", (9, 0))?;
/// assert_eq!(compiled.arch, "sm_90a");
/// # Ok::<(), twofour::Error>(())
/// ```
pub fn compile(module: &str, compute_capability: (u32, u32)) -> Result<Compiled> {
    compile_with(None, module, Part::File, |known| targets(compute_capability, known))
}

/// Every kernel of `cuda/<module>.cu` as PTX, with the options and the headers of [`compile`], through the on-disk
/// cache: for tests that execute it.
///
/// # Errors
///
/// As [`compile`].
#[doc(hidden)]
pub fn compile_ptx(module: &str, (major, minor): (u32, u32)) -> Result<Compiled> {
    let cache = Cache::from_environment();
    compile_with(cache.as_ref(), module, Part::File, |_| vec![format!("compute_{major}{minor}")])
}

/// Compiles one kernel alone, as the first launch of it does when the build has no code for the device; the file's
/// other kernels cost little more than reading them. Needs no device and no driver, and leaves the cache alone.
///
/// # Errors
///
/// As [`compile`], and [`Error::UnknownKernel`] if the file has no such kernel.
///
/// # Example
///
/// ```no_run
/// use twofour::device::{self, Symbol};
///
/// let symbol = Symbol::new("mask", "soft", &["bf16", "bf16"]);
/// let compiled = device::compile_kernel(symbol, (8, 0))?;
/// assert_eq!(compiled.arch, "sm_80");
/// # Ok::<(), twofour::Error>(())
/// ```
pub fn compile_kernel(symbol: Symbol, compute_capability: (u32, u32)) -> Result<Compiled> {
    compile_with(None, symbol.file(), Part::Kernel(symbol), |known| targets(compute_capability, known))
}

/// Either of them through the on-disk cache.
pub(super) fn compile_cached(module: &str, part: Part, compute_capability: (u32, u32)) -> Result<Compiled> {
    let cache = Cache::from_environment();
    compile_with(cache.as_ref(), module, part, |known| targets(compute_capability, known))
}

/// For the first architecture that works, of those that `targets` makes of the known ones.
fn compile_with(
    cache: Option<&Cache>,
    module: &str,
    part: Part,
    targets: impl Fn(&[u32]) -> Vec<String>,
) -> Result<Compiled> {
    let source = source(module).ok_or_else(|| unavailable(format!("there is no cuda/{module}.cu in this build")))?;
    let nvrtc = nvrtc()?;
    let targets = targets(&nvrtc.archs);
    let mut refused = format!("version {}.{} compiles for {:?} only", nvrtc.version.0, nvrtc.version.1, nvrtc.archs);
    for arch in targets {
        let key = key(nvrtc, source, part, &arch);
        if let Some(bytes) = cache.and_then(|cache| cache.get(&key)) {
            return Ok(Compiled { arch, bytes });
        }
        match compile_source(nvrtc, source, part, &arch) {
            Ok(bytes) => {
                let compiled = Compiled { arch, bytes };
                if let Part::Kernel(symbol) = part
                    && !compiled.names(symbol.name())
                {
                    let (name, origin) = (symbol.name().into(), compiled.origin());
                    return Err(Error::UnknownKernel { module: source.module(), name, origin });
                }
                if let Some(cache) = cache {
                    cache.put(&key, &compiled.bytes);
                }
                return Ok(compiled);
            }
            Err(Failure::UnknownOption(log)) => refused = log,
            Err(Failure::Rejected(log)) => return Err(Error::Compile { module: source.module(), arch, log }),
        }
    }
    Err(unavailable(refused))
}

impl Compiled {
    /// Where the code is from, in words.
    pub(super) fn origin(&self) -> String {
        format!("compiled by NVRTC for {}", self.arch)
    }

    /// Whether the name occurs, as every kernel's does in a cubin (of a section) and in PTX. A source that lacks the
    /// kernel asked for compiles all the same, to a module without kernels.
    fn names(&self, kernel: &str) -> bool {
        self.bytes.windows(kernel.len().max(1)).any(|bytes| bytes == kernel.as_bytes())
    }
}

impl Part {
    /// The options for `TWOFOUR_KERNEL` in `cuda/common/types.cuh`, which decides what is compiled.
    fn options(self) -> Vec<String> {
        let define = |name| format!("--define-macro={name}=1");
        match self {
            Self::File => Vec::new(),
            // No kernel has a name that is not an identifier, and NVRTC would stumble over the option.
            Self::Kernel(symbol) if !is_identifier(symbol.name()) => vec![define("TWOFOUR_ONLY".into())],
            Self::Kernel(symbol) => {
                vec![define("TWOFOUR_ONLY".into()), define(format!("TWOFOUR_WANTED_{}", symbol.name()))]
            }
        }
    }
}

fn is_identifier(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The architectures to try, best first. From Hopper on, the matrix instructions are in the device's own set, `a`. For
/// a device newer than this NVRTC: machine code of its major if there is any, else PTX for the driver to translate.
fn targets((major, minor): (u32, u32), known: &[u32]) -> Vec<String> {
    let device = major * 10 + minor;
    let older = known.iter().copied().filter(|&number| number <= device).max();
    match older {
        Some(number) if number == device && major >= 9 => vec![format!("sm_{number}a"), format!("sm_{number}")],
        Some(number) if number / 10 == major => vec![format!("sm_{number}")],
        Some(number) => vec![format!("compute_{number}")],
        None => Vec::new(),
    }
}

fn compile_source(
    nvrtc: &Nvrtc,
    source: &'static Source,
    part: Part,
    arch: &str,
) -> std::result::Result<Vec<u8>, Failure> {
    let own = [part.options(), vec![format!("--gpu-architecture={arch}")]].concat();
    let flags: Vec<CString> = c_strings(options().iter().copied().chain(own.iter().map(String::as_str)))?;
    let names: Vec<CString> = c_strings(headers().map(|header| header.name))?;
    let texts: Vec<CString> = c_strings(headers().map(|header| header.text))?;
    let [name, text] = [CString::new(source.name)?, CString::new(source.text)?];
    let program = nvrtc.program(&text, &name, &texts, &names)?;
    program.compile(&flags)?;
    if arch.starts_with("compute_") { program.ptx() } else { program.cubin() }
}

fn c_strings<'a>(texts: impl Iterator<Item = &'a str>) -> std::result::Result<Vec<CString>, NulError> {
    texts.map(CString::new).collect()
}

/// Everything the result depends on.
fn key(nvrtc: &Nvrtc, source: &'static Source, part: Part, arch: &str) -> Key {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        // Lengths first, so that no two lists of parts run together into the same bytes.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    };
    add(env!("CARGO_PKG_VERSION"));
    add(&format!("nvrtc {}.{}", nvrtc.version.0, nvrtc.version.1));
    add(arch);
    options().iter().copied().for_each(&mut add);
    part.options().iter().for_each(|option| add(option));
    for Source { name, text } in std::iter::once(source).chain(headers()) {
        add(name);
        add(text);
    }
    Key::new(hash.finalize().into())
}

/// NVRTC is of no use here, and why.
fn unavailable(reason: String) -> Error {
    Error::LibraryUnavailable {
        library: "NVRTC",
        reason,
        remedy: "Install the CUDA toolkit's NVRTC (libnvrtc.so) on the loader's path, or set TWOFOUR_NVRTC to it",
    }
}

/// A number from NVRTC as a length.
fn length(count: c_int) -> usize {
    usize::try_from(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_its_own_machine_code() {
        let known = [75, 80, 86, 89, 90, 100, 120];
        assert_eq!(targets((8, 0), &known), ["sm_80"]);
        assert_eq!(targets((9, 0), &known), ["sm_90a", "sm_90"]);
        assert_eq!(targets((12, 0), &known), ["sm_120a", "sm_120"]);
    }

    #[test]
    fn a_kernel_is_chosen_by_macros() {
        assert!(Part::File.options().is_empty());
        let options = Part::Kernel(Symbol::new("x", "", &[])).options();
        assert_eq!(options, ["--define-macro=TWOFOUR_ONLY=1", "--define-macro=TWOFOUR_WANTED_twofour_x=1"]);
        for odd in ["x=1 -DTWOFOUR_ONLY", "a\0b", "é"] {
            assert_eq!(Part::Kernel(Symbol::named("x", odd)).options(), ["--define-macro=TWOFOUR_ONLY=1"], "{odd}");
        }
    }

    #[test]
    fn a_device_newer_than_nvrtc_gets_the_nearest() {
        assert_eq!(targets((12, 1), &[80, 90, 120]), ["sm_120"]);
        assert_eq!(targets((10, 3), &[80, 90]), ["compute_90"]);
        assert!(targets((8, 0), &[90, 100]).is_empty());
    }
}
