//! The kernels' own PTX, executed: where `TWOFOUR_PTX=beside`, each launch of a kernel runs in the emulator and from its
//! PTX, and both must leave the same bits; where `TWOFOUR_PTX=watched`, it runs from its PTX alone, and is watched.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use twofour_emulator::ptx::{Compiler, Module};
use twofour_emulator::{Fault, Launch, Options};

/// What nvcc is told, as `build.rs` tells it.
mod targets {
    #![allow(dead_code)]
    include!("../../../build/targets.rs");
}

/// What is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// The C++ alone.
    Emulator,
    /// Both, and compared.
    Beside,
    /// The PTX alone, and every access of it is watched.
    Watched,
}

/// What `TWOFOUR_PTX` asks for.
pub fn wanted() -> Executed {
    static WANTED: LazyLock<Executed> = LazyLock::new(|| match std::env::var("TWOFOUR_PTX").as_deref() {
        Ok("beside") => Executed::Beside,
        Ok("watched") => Executed::Watched,
        Err(_) | Ok("") => Executed::Emulator,
        Ok(other) => panic!("TWOFOUR_PTX={other} is neither `beside` nor `watched`"),
    });
    *WANTED
}

/// What a run from PTX is counted as.
pub fn from_ptx(kernel: &str) -> String {
    format!("{kernel} from PTX")
}

/// What a watched run is counted as.
pub fn watched(kernel: &str) -> String {
    format!("{kernel} watched")
}

/// Runs a launch as is wanted, and counts it.
pub fn run(launch: &Launch, options: &Options) -> Result<(), Fault> {
    let name = launch.kernel.name();
    match wanted() {
        Executed::Emulator => {
            super::ran(&name);
            twofour_emulator::run(launch, options)?;
        }
        Executed::Beside => {
            super::ran(&name);
            if let Some(differences) = module_of(&name).compare(launch, options)? {
                assert!(differences.is_empty(), "{name}: emulator and PTX differ: {differences:#x?}");
                super::ran(&from_ptx(&name));
            }
        }
        Executed::Watched => {
            super::ran(&watched(&name));
            module_of(&name).run_as(launch, &Options { watch: true, ..options.clone() })?;
        }
    }
    Ok(())
}

/// The module with a kernel, of those of its op.
fn module_of(kernel: &str) -> Arc<Module> {
    static MODULES: LazyLock<Mutex<HashMap<String, Arc<Module>>>> = LazyLock::new(Mutex::default);
    let mut modules = MODULES.lock().unwrap();
    if let Some(module) = modules.get(kernel) {
        return Arc::clone(module);
    }
    let op = kernel.split('_').nth(1).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = Compiler::find().expect("TWOFOUR_PTX needs nvcc: put it on PATH, or name it in TWOFOUR_PTX_NVCC");
    let options: Vec<_> = targets::OPTIONS.into_iter().chain(targets::NVCC_OPTIONS).collect();
    for entry in std::fs::read_dir(root.join("cuda")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "cu") || stem.split('_').next() != Some(op) {
            continue;
        }
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let text = compiler.ptx(&path, "compute_80", &options, root, &root.join("cuda"), cache).unwrap();
        let module = Arc::new(Module::new(&text).unwrap());
        for kernel in module.kernels() {
            modules.insert(kernel.to_owned(), Arc::clone(&module));
        }
    }
    Arc::clone(modules.get(kernel).unwrap_or_else(|| panic!("no PTX has {kernel}")))
}
