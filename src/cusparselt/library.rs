//! Finding the library and opening it, once a process: never linked, never needed to build.
//!
//! The version is asked for before anything else, with the one function that wants no handle. For versions differ in
//! the size of objects and in functions under one file name, and an unknown one must not be handed our memory.

use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::call::Version;
use super::sys;
use crate::device::probe;
use crate::error::{Error, Result};

const NAMES: &[&str] = if cfg!(windows) { &["cusparseLt.dll"] } else { &["libcusparseLt.so.0", "libcusparseLt.so"] };

/// The versions this crate was written for, both included. Before 0.7 functions take other arguments; what comes after
/// 0.10 is not known.
const ACCEPTED: [(u32, u32); 2] = [(0, 7), (0, 10)];

/// The library, open until the process ends.
pub(super) struct Library {
    pub(super) table: sys::CusparseLt,
    pub(super) version: Version,
}

/// The library, found once.
pub(super) fn library() -> Result<&'static Library> {
    static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(find).as_ref().map_err(|reason| unavailable(reason.clone()))
}

fn unavailable(reason: String) -> Error {
    Error::LibraryUnavailable {
        library: "cuSPARSELt",
        reason,
        remedy: "Install version 0.7 to 0.10 of it (the wheel nvidia-cusparselt-cu13 has it) and name the file or its folder \
                 in TWOFOUR_CUSPARSELT",
    }
}

fn find() -> std::result::Result<Library, String> {
    let opened = match env::var_os("TWOFOUR_CUSPARSELT").filter(|value| !value.is_empty()) {
        Some(value) if value == "off" => return Err("TWOFOUR_CUSPARSELT=off".into()),
        Some(value) if Path::new(&value).is_dir() => {
            let folder = PathBuf::from(value);
            let found = NAMES.iter().map(|name| folder.join(name)).find(|path| path.exists());
            let path = found.ok_or_else(|| format!("TWOFOUR_CUSPARSELT={} has none of {NAMES:?}", folder.display()))?;
            probe::open_one(&path)?
        }
        Some(value) => probe::open_one(Path::new(&value))?,
        None => probe::open(NAMES, &folders())?,
    };
    Library::new(opened)
}

/// Where the library may be, if not on the loader's path: where variables of its own say, else with the toolkit.
fn folders() -> Vec<PathBuf> {
    let named = ["CUSPARSELT_ROOT", "CUSPARSELT_PATH"].iter().filter_map(env::var_os).filter(|value| !value.is_empty());
    let own = named.map(PathBuf::from).flat_map(|root| [root.join("lib64"), root.join("lib"), root]);
    own.chain(probe::toolkit_folders()).collect()
}

impl Library {
    fn new(opened: libloading::Library) -> std::result::Result<Self, String> {
        // SAFETY: the functions are only looked up here, and the types with which they will be called are the header's.
        let table = unsafe { sys::CusparseLt::from_library(opened) }.map_err(|e| e.to_string())?;
        let version = version(&table)?;
        let number = (version.major, version.minor);
        if number < ACCEPTED[0] || number > ACCEPTED[1] {
            let [(_, oldest), (_, newest)] = ACCEPTED;
            return Err(format!("version {version} was found, and this crate works with 0.{oldest} to 0.{newest}"));
        }
        Ok(Self { table, version })
    }

    /// A function of the table, or an error that says that this version lacks it.
    pub(super) fn function<F: Copy>(
        &self,
        name: &'static str,
        found: &std::result::Result<F, libloading::Error>,
    ) -> Result<F> {
        found.as_ref().copied().map_err(|_| unavailable(format!("version {} lacks {name}", self.version)))
    }

    /// What a call returned, as this crate's result.
    pub(super) fn check(&self, call: &'static str, status: sys::cusparseStatus_t) -> Result<()> {
        if status == sys::cusparseStatus_t::CUSPARSE_STATUS_SUCCESS {
            return Ok(());
        }
        Err(Error::Cuda { call, name: self.status_name(status), code: i64::from(status.0) })
    }

    /// The library's name of a status; in versions before 0.8, which name none, ours of it.
    pub(super) fn status_name(&self, status: sys::cusparseStatus_t) -> String {
        if !KNOWN.contains(&status.0) {
            return format!("status {}", status.0);
        }
        let named = self.table.cusparseLtGetErrorName.as_ref().ok().and_then(|function| {
            // SAFETY: the function takes any number and returns a string of the library's own, or none.
            let name = unsafe { function(status) };
            // SAFETY: as above; the string lives as long as the library, which is never closed.
            unsafe { text(name) }
        });
        named.unwrap_or_else(|| NAMES_BEFORE_0_8[status.0 as usize].to_owned())
    }
}

/// The statuses that have a name.
const KNOWN: std::ops::Range<u32> = 0..NAMES_BEFORE_0_8.len() as u32;

const NAMES_BEFORE_0_8: [&str; 12] = [
    "CUSPARSE_STATUS_SUCCESS",
    "CUSPARSE_STATUS_NOT_INITIALIZED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_INVALID_VALUE",
    "CUSPARSE_STATUS_ARCH_MISMATCH",
    "CUSPARSE_STATUS_MAPPING_ERROR",
    "CUSPARSE_STATUS_EXECUTION_FAILED",
    "CUSPARSE_STATUS_INTERNAL_ERROR",
    "CUSPARSE_STATUS_MATRIX_TYPE_NOT_SUPPORTED",
    "CUSPARSE_STATUS_ZERO_PIVOT",
    "CUSPARSE_STATUS_NOT_SUPPORTED",
    "CUSPARSE_STATUS_INSUFFICIENT_RESOURCES",
];

/// A C string, unless it is null or not UTF-8.
///
/// # Safety
/// `string` is null or points to a zero-terminated string.
unsafe fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: not null, so by this function's contract a zero-terminated string.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_str().ok().map(str::to_owned)
}

fn version(table: &sys::CusparseLt) -> std::result::Result<Version, String> {
    let lacks = "the library found lacks cusparseLtGetProperty, so it is no cuSPARSELt";
    let property = *table.cusparseLtGetProperty.as_ref().map_err(|_| lacks)?;
    let number = |which: sys::libraryPropertyType_t| {
        let mut value: c_int = -1;
        // SAFETY: the function of this name writes one number, and there is room for it.
        let status = unsafe { property(which, &mut value) };
        match u32::try_from(value) {
            Ok(value) if status == sys::cusparseStatus_t::CUSPARSE_STATUS_SUCCESS => Ok(value),
            _ => Err(format!("cusparseLtGetProperty returned {} and the number {value}", status.0)),
        }
    };
    Ok(Version {
        major: number(sys::libraryPropertyType_t::MAJOR_VERSION)?,
        minor: number(sys::libraryPropertyType_t::MINOR_VERSION)?,
        patch: number(sys::libraryPropertyType_t::PATCH_LEVEL)?,
    })
}
