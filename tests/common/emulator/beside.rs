//! The kernels' own PTX, executed beside the emulator: where `TWOFOUR_PTX=beside`, each launch of a kernel runs in
//! both, and both must leave the same bits.

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

/// Is PTX to be executed beside the emulator?
pub fn wanted() -> bool {
    static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var("TWOFOUR_PTX").is_ok_and(|value| value == "beside"));
    *WANTED
}

/// What a run from PTX is counted as.
pub fn from_ptx(kernel: &str) -> String {
    format!("{kernel} from PTX")
}

/// Runs a launch on both executors.
pub fn run(launch: &Launch, options: &Options) -> Result<(), Fault> {
    let name = launch.kernel.name();
    match module_of(&name).compare(launch, options) {
        Err(fault) => Err(fault),
        Ok(None) => Ok(()),
        Ok(Some(differences)) => {
            assert!(differences.is_empty(), "{name}: emulator and PTX differ: {differences:#x?}");
            super::ran(&from_ptx(&name));
            Ok(())
        }
    }
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
    let compiler =
        Compiler::find().expect("TWOFOUR_PTX=beside needs nvcc: put it on PATH, or name it in TWOFOUR_PTX_NVCC");
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
