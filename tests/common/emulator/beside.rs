//! The kernels' own PTX, executed beside the emulator: where `TWOFOUR_PTX=beside`, each launch of a kernel runs in the
//! emulator and from the PTX that nvcc makes of it, and all must leave the same bits. With `TWOFOUR_PTX_NVRTC=1` it also
//! runs from the PTX of the NVRTC that the crate finds, which has other instructions for the same source.

use crate::common::counts::ran;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use twofour_emulator::ptx::{Compiler, Module, compare};
use twofour_emulator::{Fault, Launch, Options};

/// What nvcc is told, as `build.rs` tells it.
mod targets {
    #![allow(dead_code)]
    include!("../../../build/targets.rs");
}

/// Whose PTX there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Maker {
    Nvcc,
    Nvrtc,
}

impl Maker {
    pub const ALL: [Self; 2] = [Self::Nvcc, Self::Nvrtc];

    /// What a run from its PTX is counted as.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvcc => "nvcc",
            Self::Nvrtc => "NVRTC",
        }
    }

    /// Is its PTX to be executed beside the emulator?
    pub fn is_wanted(self) -> bool {
        fn is(name: &str, wanted: &str) -> bool {
            std::env::var(name).is_ok_and(|value| value == wanted)
        }
        static NVCC: LazyLock<bool> = LazyLock::new(|| is("TWOFOUR_PTX", "beside"));
        static NVRTC: LazyLock<bool> = LazyLock::new(|| *NVCC && is("TWOFOUR_PTX_NVRTC", "1"));
        match self {
            Self::Nvcc => *NVCC,
            Self::Nvrtc => *NVRTC,
        }
    }

    /// The PTX of a kernel file.
    fn ptx(self, source: &Path) -> String {
        match self {
            Self::Nvcc => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                let options: Vec<_> = targets::OPTIONS.into_iter().chain(targets::NVCC_OPTIONS).collect();
                let compiler = Compiler::find()
                    .expect("TWOFOUR_PTX=beside needs nvcc: put it on PATH, or name it in TWOFOUR_PTX_NVCC");
                let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
                compiler.ptx(source, "compute_80", &options, root, &root.join("cuda"), cache).unwrap()
            }
            Self::Nvrtc => of_nvrtc(&source.file_stem().unwrap().to_string_lossy()),
        }
    }
}

#[cfg(feature = "cuda")]
fn of_nvrtc(file: &str) -> String {
    let compiled = twofour::device::compile_ptx(file, (8, 0)).unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8(compiled.bytes).unwrap().trim_end_matches('\0').to_owned()
}

#[cfg(not(feature = "cuda"))]
fn of_nvrtc(_: &str) -> String {
    panic!("TWOFOUR_PTX_NVRTC=1 needs the feature `cuda`, which opens NVRTC");
}

/// Is any?
pub fn wanted() -> bool {
    Maker::Nvcc.is_wanted()
}

/// Runs a launch on all executors.
pub fn run(launch: &Launch, options: &Options) -> Result<(), Fault> {
    let name = launch.kernel.name();
    let makers: Vec<_> = Maker::ALL.into_iter().filter(|maker| maker.is_wanted()).collect();
    let modules: Vec<_> = makers.iter().map(|&maker| module_of(maker, &name)).collect();
    let differences = compare(&modules.iter().map(Arc::as_ref).collect::<Vec<_>>(), launch, options)?;
    for (maker, differences) in makers.into_iter().zip(differences) {
        let of = maker.name();
        assert!(differences.is_empty(), "{name}: the emulator and the PTX of {of} differ: {differences:#x?}");
        ran(&name, of);
    }
    Ok(())
}

/// By the kernels that each has.
type Modules = HashMap<(Maker, String), Arc<Module>>;

/// The module with a kernel, of those of its op.
fn module_of(maker: Maker, kernel: &str) -> Arc<Module> {
    static MODULES: LazyLock<Mutex<Modules>> = LazyLock::new(Mutex::default);
    let mut modules = MODULES.lock().unwrap();
    let key = (maker, kernel.to_owned());
    if !modules.contains_key(&key) {
        for source in sources_of(kernel.split('_').nth(1).unwrap()) {
            let text = maker.ptx(&source);
            let module = Module::new(&text).unwrap_or_else(|fault| panic!("{}: {fault}", source.display()));
            let module = Arc::new(module);
            for kernel in module.kernels() {
                modules.insert((maker, kernel.to_owned()), Arc::clone(&module));
            }
        }
    }
    Arc::clone(modules.get(&key).unwrap_or_else(|| panic!("no PTX of {} has {kernel}", maker.name())))
}

/// The kernel files of an op.
fn sources_of(op: &str) -> impl Iterator<Item = PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(move |path| {
        let stem = path.file_stem().unwrap().to_string_lossy();
        path.extension().is_some_and(|extension| extension == "cu") && stem.split('_').next() == Some(op)
    })
}
