//! How often each kernel has run, and what ran it: for the suites' own counts, and for the table of all of them that
//! `.ci/kernel-table` makes.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{LazyLock, Mutex, Once};

/// What the emulator's runs are counted as.
pub const EMULATED: &str = "C++";
/// What those from the PTX of each compiler are.
pub const NVCC: &str = "nvcc";
pub const NVRTC: &str = "NVRTC";
/// What watched runs from PTX are.
pub const WATCHED: &str = "watched";
/// Of all, those with a buffer that 32 bits do not address.
pub const FAR: &str = "far";
/// Of all, those of a block behind the first 256; of a kernel whose blocks leave shares of a sum, those of all blocks.
pub const MANY_BLOCKS: &str = "blocks";

/// By kernel, or what else has a name, and by what ran it.
type Runs = BTreeMap<(String, &'static str), u64>;

static RUNS: LazyLock<Mutex<Runs>> = LazyLock::new(Mutex::default);

/// Counts a run of a kernel.
pub fn ran(kernel: &str, by: &'static str) {
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| {
        if std::env::var_os("TWOFOUR_PTX_TABLE").is_some() {
            assert_eq!(atexit(write), 0);
        }
    });
    *RUNS.lock().unwrap().entry((kernel.to_owned(), by)).or_default() += 1;
}

/// How often it has run so.
pub fn runs(kernel: &str, by: &'static str) -> u64 {
    RUNS.lock().unwrap().get(&(kernel.to_owned(), by)).copied().unwrap_or(0)
}

// SAFETY: the C library's function of this name, which any function may be given to.
unsafe extern "C" {
    safe fn atexit(call: extern "C" fn()) -> c_int;
}

/// Adds what has run to the file that `TWOFOUR_PTX_TABLE` names, when the process ends: kernel, by what, how often.
extern "C" fn write() {
    let (Some(path), Ok(runs)) = (std::env::var_os("TWOFOUR_PTX_TABLE"), RUNS.lock()) else { return };
    let mut rows = String::new();
    for ((kernel, by), count) in runs.iter() {
        let _ = writeln!(rows, "{kernel}\t{by}\t{count}");
    }
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| file.write_all(rows.as_bytes())) {
        eprintln!("TWOFOUR_PTX_TABLE={}: {error}", path.display());
    }
}
