//! PTX from a kernel's source, where there is an nvcc.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use crate::Fault;

/// An nvcc.
#[derive(Debug, Clone)]
pub struct Compiler {
    nvcc: PathBuf,
}

impl Compiler {
    /// The first nvcc of: `TWOFOUR_PTX_NVCC`, which nothing but this looks at, `TWOFOUR_NVCC`, `NVCC`, the toolkit
    /// folders people set, PATH, `/usr/local/cuda`.
    ///
    /// `TWOFOUR_NVCC=off` means none, if the first is not set.
    #[must_use]
    pub fn find() -> Option<Compiler> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = set("TWOFOUR_PTX_NVCC");
        if own.is_none() && set("TWOFOUR_NVCC").is_some_and(|value| value.as_os_str() == "off") {
            return None;
        }
        let named = own.into_iter().chain(["TWOFOUR_NVCC", "NVCC"].into_iter().filter_map(set));
        let toolkits = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"].into_iter().filter_map(set);
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).map(|folder| folder.join("nvcc"));
        let usual = [PathBuf::from("/usr/local/cuda/bin/nvcc")];
        let all = named.chain(toolkits.map(|folder| folder.join("bin/nvcc"))).chain(folders).chain(usual);
        // nvcc finds its own parts beside the name it was called by.
        let real = all.filter(|path| path.is_file()).find_map(|path| fs::canonicalize(path).ok())?;
        Some(Compiler { nvcc: real })
    }

    /// The PTX of a source for `arch` (`compute_80`), with line numbers, made with these options from `folder`.
    ///
    /// It is kept in `cache`, under a name made of the options and of every file in `watched`, and made only once.
    ///
    /// # Errors
    ///
    /// [`Fault::Host`] with what nvcc says.
    pub fn ptx(
        &self,
        source: &Path,
        arch: &str,
        options: &[&str],
        folder: &Path,
        watched: &Path,
        cache: &Path,
    ) -> Result<String, Fault> {
        let host = |error| Fault::Host { what: "compile to PTX", source: error };
        let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut hasher = DefaultHasher::new();
        (&self.nvcc, source, arch, options).hash(&mut hasher);
        digest(watched, &mut hasher).map_err(host)?;
        let kept = cache.join(format!("{stem}-{:016x}.ptx", hasher.finish()));
        if let Ok(text) = fs::read_to_string(&kept) {
            return Ok(text);
        }
        // Under another name first: another process may be at the same.
        let fresh = cache.join(format!("{stem}-{}-{:?}.ptx", std::process::id(), std::thread::current().id()));
        let mut command = Command::new(&self.nvcc);
        command.args(["-ptx", "-lineinfo"]).arg(format!("-arch={arch}")).args(options);
        let output = command.arg("-o").arg(&fresh).arg(source).current_dir(folder).output().map_err(host)?;
        if !output.status.success() {
            return Err(host(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())));
        }
        fs::rename(&fresh, &kept).map_err(host)?;
        fs::read_to_string(&kept).map_err(host)
    }
}

/// Every file of a folder and of those in it, in order.
fn digest(folder: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            digest(&path, hasher)?;
        } else {
            (path.file_name(), fs::read(&path)?).hash(hasher);
        }
    }
    Ok(())
}
