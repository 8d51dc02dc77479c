//! The kernels' own PTX, executed. Where `TWOFOUR_PTX=beside`, launches of a kernel run in the emulator and from the PTX
//! that nvcc makes of it, and all must leave the same bits; with `TWOFOUR_PTX_NVRTC=1` some also from the PTX of the NVRTC
//! that the crate finds, which has other instructions for the same source. Where `TWOFOUR_PTX=watched`, launches run from
//! nvcc's PTX alone, and every access of theirs is watched.

use crate::common::counts::{EMULATED, NVCC, NVRTC, WATCHED, ran, runs};
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

/// What is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Executed {
    /// The C++ alone.
    Emulator,
    /// Both, and compared.
    Beside,
    /// The PTX alone, and every access of it is watched.
    Watched,
}

/// What `TWOFOUR_PTX` asks for.
fn executed() -> Executed {
    static WANTED: LazyLock<Executed> = LazyLock::new(|| match std::env::var("TWOFOUR_PTX").as_deref() {
        Ok("beside") => Executed::Beside,
        Ok("watched") => Executed::Watched,
        Err(_) | Ok("") => Executed::Emulator,
        Ok(other) => panic!("TWOFOUR_PTX={other} is neither `beside` nor `watched`"),
    });
    *WANTED
}

/// What runs of launches are counted as.
pub fn columns() -> Vec<&'static str> {
    match executed() {
        Executed::Watched => vec![WATCHED],
        _ => [EMULATED].into_iter().chain(makers().iter().map(|maker| maker.name())).collect(),
    }
}

/// Problems of a kernel that run from PTX, and are counted as this: those after are for the emulator alone, which is
/// faster.
pub fn enough(kernel: &str, by: &str) -> u64 {
    let has_tensor_cores = ["twofour_matmul", "twofour_sparse"].iter().any(|op| kernel.starts_with(op));
    match (by, has_tensor_cores) {
        (NVCC, false) => 300,
        (NVCC, true) => 40,
        (NVRTC, false) => 40,
        (NVRTC, true) => 10,
        _ => u64::MAX,
    }
}

/// Runs a launch as is wanted, and counts it.
pub fn run(launch: &Launch, options: &Options, is_random: bool) -> Result<(), Fault> {
    let name = launch.kernel.name();
    if executed() == Executed::Watched {
        ran(&name, WATCHED);
        module_of(Maker::Nvcc, &name).run_as(launch, &Options { watch: true, ..options.clone() })?;
        return Ok(());
    }
    ran(&name, EMULATED);
    // What is no random problem is a case of its own.
    let is_wanted =
        |maker: &Maker| maker.name() == NVCC && !is_random || runs(&name, maker.name()) < enough(&name, maker.name());
    let makers: Vec<_> = makers().iter().copied().filter(is_wanted).collect();
    if makers.is_empty() {
        twofour_emulator::run(launch, options)?;
        return Ok(());
    }
    let modules: Vec<_> = makers.iter().map(|&maker| module_of(maker, &name)).collect();
    let differences = compare(&modules.iter().map(Arc::as_ref).collect::<Vec<_>>(), launch, options)?;
    for (maker, differences) in makers.into_iter().zip(differences) {
        let of = maker.name();
        assert!(differences.is_empty(), "{name}: the emulator and the PTX of {of} differ: {differences:#x?}");
        ran(&name, of);
    }
    Ok(())
}

/// Whose PTX there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Maker {
    Nvcc,
    Nvrtc,
}

/// Those whose PTX runs beside the emulator.
fn makers() -> &'static [Maker] {
    static BOTH: LazyLock<bool> = LazyLock::new(|| std::env::var("TWOFOUR_PTX_NVRTC").is_ok_and(|value| value == "1"));
    match executed() {
        Executed::Beside if *BOTH => &[Maker::Nvcc, Maker::Nvrtc],
        Executed::Beside => &[Maker::Nvcc],
        _ => &[],
    }
}

impl Maker {
    /// What a run from its PTX is counted as.
    fn name(self) -> &'static str {
        match self {
            Self::Nvcc => NVCC,
            Self::Nvrtc => NVRTC,
        }
    }

    /// The PTX of a kernel file.
    fn ptx(self, source: &Path) -> String {
        match self {
            Self::Nvcc => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                let options: Vec<_> = targets::OPTIONS.into_iter().chain(targets::NVCC_OPTIONS).collect();
                let compiler =
                    Compiler::find().expect("TWOFOUR_PTX needs nvcc: put it on PATH, or name it in TWOFOUR_PTX_NVCC");
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
