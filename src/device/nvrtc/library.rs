//! The NVRTC library: the few functions of it that are used, bound by hand. cudarc's own bindings panic when the
//! library goes by a name they do not try, and do not reach in-memory headers.

use std::env;
use std::ffi::{CStr, CString, NulError, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;

use super::super::probe;
use super::{length, unavailable};
use crate::{Error, Result};

/// NVRTC 11.2 is the first that makes machine code and tells its architectures.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll", "nvrtc64_112_0.dll"]
} else {
    &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"]
};

/// `nvrtcResult`. Success, and the one failure that has an answer.
type Status = c_int;
const SUCCESS: Status = 0;
const INVALID_OPTION: Status = 5;

/// `nvrtcProgram`.
type Handle = *mut std::ffi::c_void;

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($field:ident: $name:literal, fn($($argument:ty),*);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($argument),*) -> Status,)* }

        impl Functions {
            fn of(library: &Library) -> std::result::Result<Self, String> {
                let lacks = |name| format!("the library found lacks {name}: it is older than 11.2, or not NVRTC");
                Ok(Self { $($field: probe::symbol(library, $name).ok_or_else(|| lacks($name))?,)* })
            }
        }
    };
}

functions! {
    version: "nvrtcVersion", fn(*mut c_int, *mut c_int);
    arch_count: "nvrtcGetNumSupportedArchs", fn(*mut c_int);
    archs: "nvrtcGetSupportedArchs", fn(*mut c_int);
    create: "nvrtcCreateProgram", fn(*mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    destroy: "nvrtcDestroyProgram", fn(*mut Handle);
    compile: "nvrtcCompileProgram", fn(Handle, c_int, *const *const c_char);
    cubin_size: "nvrtcGetCUBINSize", fn(Handle, *mut usize);
    cubin: "nvrtcGetCUBIN", fn(Handle, *mut c_char);
    ptx_size: "nvrtcGetPTXSize", fn(Handle, *mut usize);
    ptx: "nvrtcGetPTX", fn(Handle, *mut c_char);
    log_size: "nvrtcGetProgramLogSize", fn(Handle, *mut usize);
    log: "nvrtcGetProgramLog", fn(Handle, *mut c_char);
}

/// The library, open until the process ends.
pub(super) struct Nvrtc {
    functions: Functions,
    /// Major and minor.
    pub(super) version: (c_int, c_int),
    /// The architectures it compiles for, as 80 or 90.
    pub(super) archs: Vec<u32>,
    _library: Library,
    /// Kept open for NVRTC, which looks for it by name.
    _builtins: Option<Library>,
}

/// Why a compilation came to nothing.
pub(super) enum Failure {
    /// It does not know an option, so that another architecture may do.
    UnknownOption(String),
    /// It rejects the source, or cannot work at all; the log says.
    Rejected(String),
}

impl From<NulError> for Failure {
    fn from(error: NulError) -> Self {
        Self::Rejected(format!("a source contains a zero byte: {error}"))
    }
}

/// The library, found once.
pub(super) fn nvrtc() -> Result<&'static Nvrtc> {
    static NVRTC: OnceLock<Result<Nvrtc>> = OnceLock::new();
    NVRTC.get_or_init(|| find().map_err(unavailable)).as_ref().map_err(Error::clone)
}

fn find() -> std::result::Result<Nvrtc, String> {
    let (library, folders) = match env::var_os("TWOFOUR_NVRTC").filter(|value| !value.is_empty()) {
        Some(value) if value == "off" => return Err("TWOFOUR_NVRTC=off".into()),
        Some(value) if Path::new(&value).is_dir() => {
            let folder = PathBuf::from(value);
            let paths: Vec<PathBuf> = NAMES.iter().map(|name| folder.join(name)).collect();
            let found = paths.iter().find(|path| path.exists());
            let path = found.ok_or_else(|| format!("TWOFOUR_NVRTC={} has none of {NAMES:?}", folder.display()))?;
            (probe::open_one(path)?, vec![folder])
        }
        Some(value) => {
            let path = PathBuf::from(value);
            let folder = path.parent().map(Path::to_path_buf);
            (probe::open_one(&path)?, folder.into_iter().collect())
        }
        None => {
            let folders = probe::toolkit_folders();
            (probe::open(NAMES, &folders)?, folders)
        }
    };
    Nvrtc::new(library, &folders)
}

impl Nvrtc {
    fn new(library: Library, folders: &[PathBuf]) -> std::result::Result<Self, String> {
        let functions = Functions::of(&library)?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the function of this name takes two out-parameters, and both are locals.
        check("nvrtcVersion", unsafe { (functions.version)(&mut major, &mut minor) })?;
        // SAFETY: the function of this name takes one out-parameter, and it is a local.
        check("nvrtcGetNumSupportedArchs", unsafe { (functions.arch_count)(&mut count) })?;
        let mut archs = vec![0; length(count)];
        // SAFETY: the function of this name writes as many numbers as the one before counted, and there is room for
        // them.
        check("nvrtcGetSupportedArchs", unsafe { (functions.archs)(archs.as_mut_ptr()) })?;
        let archs = archs.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect();
        // Found by its full path, NVRTC still looks for this part of itself on the loader's path; one already open
        // under the name satisfies it. On the path it needs no help, so that nothing found is no failure.
        let builtins = format!("libnvrtc-builtins.so.{major}.{minor}");
        let builtins = folders.iter().find_map(|folder| probe::open_one(&folder.join(&builtins)).ok());
        Ok(Self { functions, version: (major, minor), archs, _library: library, _builtins: builtins })
    }

    /// A program of one source and the headers it may include; `texts` and `names` go in pairs.
    pub(super) fn program(
        &self,
        text: &CStr,
        name: &CStr,
        texts: &[CString],
        names: &[CString],
    ) -> std::result::Result<Program<'_>, Failure> {
        let pairs = texts.len().min(names.len());
        let count = c_int::try_from(pairs).map_err(|_| Failure::Rejected("too many headers".into()))?;
        let [texts, names] = [texts, names].map(pointers);
        let mut handle = ptr::null_mut();
        // SAFETY: every pointer is to a zero-terminated string that outlives the call, which copies them, and both
        // lists hold at least `count` of them.
        let status = unsafe {
            (self.functions.create)(&mut handle, text.as_ptr(), name.as_ptr(), count, texts.as_ptr(), names.as_ptr())
        };
        check("nvrtcCreateProgram", status).map_err(Failure::Rejected)?;
        Ok(Program { functions: &self.functions, handle })
    }
}

/// A program, destroyed when dropped.
pub(super) struct Program<'a> {
    functions: &'a Functions,
    handle: Handle,
}

impl Program<'_> {
    pub(super) fn compile(&self, flags: &[CString]) -> std::result::Result<(), Failure> {
        let count = c_int::try_from(flags.len()).map_err(|_| Failure::Rejected("too many options".into()))?;
        let flags = pointers(flags);
        // SAFETY: the program is alive, and there are `count` pointers to zero-terminated strings that outlive the
        // call.
        let status = unsafe { (self.functions.compile)(self.handle, count, flags.as_ptr()) };
        match status {
            SUCCESS => Ok(()),
            INVALID_OPTION => Err(Failure::UnknownOption(self.log(status))),
            _ => Err(Failure::Rejected(self.log(status))),
        }
    }

    pub(super) fn cubin(&self) -> std::result::Result<Vec<u8>, Failure> {
        self.fetch("nvrtcGetCUBIN", self.functions.cubin_size, self.functions.cubin).map_err(Failure::Rejected)
    }

    pub(super) fn ptx(&self) -> std::result::Result<Vec<u8>, Failure> {
        self.fetch("nvrtcGetPTX", self.functions.ptx_size, self.functions.ptx).map_err(Failure::Rejected)
    }

    /// The compiler's own words, or the status if it has none.
    fn log(&self, status: Status) -> String {
        let log = self.fetch("nvrtcGetProgramLog", self.functions.log_size, self.functions.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_matches(['\0', '\n', ' ']).to_owned();
        if log.is_empty() { format!("nvrtcCompileProgram returned {status} and no log") } else { log }
    }

    fn fetch(
        &self,
        call: &str,
        size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
        copy: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    ) -> std::result::Result<Vec<u8>, String> {
        let mut count = 0;
        // SAFETY: the program is alive, and the one out-parameter is a local.
        check(call, unsafe { size(self.handle, &mut count) })?;
        let mut bytes = vec![0_u8; count];
        // SAFETY: the program is alive, and the buffer has the size that NVRTC asked for just now.
        check(call, unsafe { copy(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from nvrtcCreateProgram, and this is its only owner.
        let _ = unsafe { (self.functions.destroy)(&mut self.handle) };
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

fn check(call: &str, status: Status) -> std::result::Result<(), String> {
    if status == SUCCESS { Ok(()) } else { Err(format!("{call} returned {status}")) }
}
