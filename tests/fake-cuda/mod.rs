//! Builds the fake libraries beside this file, and runs one test of this program in a child process that finds them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A child process about to run one ignored test.
pub(crate) struct Child {
    command: Command,
    log: PathBuf,
}

impl Child {
    /// A child that finds the fake driver, no NVRTC and no cache.
    pub(crate) fn new(test: &str) -> Self {
        let folder = folder();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", &format!("child::{test}"), "--ignored", "--nocapture"]);
        for (name, _) in env::vars_os() {
            let name_text = name.to_string_lossy();
            if ["FAKE_", "TWOFOUR_", "CUDA_"].iter().any(|prefix| name_text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        static CHILDREN: AtomicUsize = AtomicUsize::new(0);
        let number = CHILDREN.fetch_add(1, Ordering::Relaxed);
        let log = folder.join(format!("{}-{number}.log", std::process::id()));
        let _ = fs::remove_file(&log);
        command.env("FAKE_CUDA_LOG", &log).env("TWOFOUR_NVRTC", "off").env("TWOFOUR_CACHE", "off");
        Self { command, log }.driver(folder)
    }

    /// With this folder first on the loader's path.
    pub(crate) fn driver(mut self, folder: &Path) -> Self {
        let old = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let folders = [folder.to_path_buf()].into_iter().chain(env::split_paths(&old));
        self.command.env("LD_LIBRARY_PATH", env::join_paths(folders).unwrap());
        self
    }

    /// With the fake NVRTC.
    pub(crate) fn nvrtc(self) -> Self {
        let path = folder().join("libnvrtc.so");
        self.env("TWOFOUR_NVRTC", path.to_str().unwrap())
    }

    /// With an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it; the lines the fake libraries wrote down.
    pub(crate) fn run(mut self) -> Vec<String> {
        let output = self.command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "the child failed:\n{said}");
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let _ = fs::remove_file(&self.log);
        log.lines().map(String::from).collect()
    }
}

/// A folder with the fake libraries, built anew by every process that needs them.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake-cuda");
        fs::create_dir_all(&folder).unwrap();
        for (source, library) in [("cuda.c", "libcuda.so"), ("cuda.c", "libcuda.so.1"), ("nvrtc.c", "libnvrtc.so")] {
            build(source, &folder.join(library));
        }
        folder
    })
}

/// An empty folder, deleted when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("device-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl std::ops::Deref for Scratch {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Compiles a C file of this folder into a shared library.
pub(crate) fn build(source: &str, library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-cuda").join(source);
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    // Renamed into place: another process may be using the one that is there.
    let temporary = library.with_extension(format!("{}.tmp", std::process::id()));
    command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&temporary).arg(&source);
    let output = command.output().unwrap_or_else(|e| panic!("these tests need a C compiler; `{compiler}`: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&temporary, library).unwrap();
}
