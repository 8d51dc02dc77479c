//! Compiles every kernel through NVRTC for every architecture: headers in memory, no include path, as the crate does.

use anyhow::{Context, Result, anyhow, bail};
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Instant;

use super::targets::OPTIONS;
use super::{in_parallel, kernel_files, module};
use crate::toolkit;

type Program = *mut c_void;
type Strings = *const *const c_char;
type Create = unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Strings, Strings) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, Strings) -> c_int;
type LogSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Log = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

pub(super) fn run(root: &Path, archs: &[String]) -> Result<()> {
    let nvrtc = Nvrtc::find(root)?;
    let headers = headers(root)?;
    let files = kernel_files(root)?;
    let jobs: Vec<_> = files.iter().flat_map(|file| archs.iter().map(move |arch| (file, arch))).collect();
    let outcomes = in_parallel(&jobs, |(file, arch)| {
        let begun = Instant::now();
        let log = nvrtc.compile(&source(&root.join(file))?, &module(file), &headers, arch)?;
        let what = format!("{} for sm_{arch}", file.display());
        if log.is_none() {
            println!("{what}: {:.1} s", begun.elapsed().as_secs_f32());
        }
        Ok(log.map(|log| format!("{what}:\n{log}")))
    })?;
    let failures: Vec<String> = outcomes.into_iter().flatten().collect();
    if !failures.is_empty() {
        bail!("NVRTC refuses:\n{}", failures.join("\n"));
    }
    Ok(())
}

/// A header and the name it is included by.
struct Header {
    name: CString,
    text: CString,
}

/// `cuda/*/*.cuh`, by names relative to `cuda`.
fn headers(root: &Path) -> Result<Vec<Header>> {
    let folder = root.join("cuda");
    let mut headers = Vec::new();
    for room in files(&folder)?.iter().filter(|path| path.is_dir()) {
        for path in files(room)?.iter().filter(|path| path.extension().is_some_and(|extension| extension == "cuh")) {
            let name = path.strip_prefix(&folder)?.display().to_string();
            headers.push(Header { name: CString::new(name)?, text: source(path)? });
        }
    }
    Ok(headers)
}

/// What is in a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    listing.map(|entry| Ok(entry?.path())).collect()
}

fn source(path: &Path) -> Result<CString> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    CString::new(text).with_context(|| format!("{} has a zero byte", path.display()))
}

struct Nvrtc {
    create: Create,
    compile: Compile,
    log_size: LogSize,
    log: Log,
    destroy: Destroy,
    _library: Library,
    /// NVRTC opens this by name, which finds the one already open.
    _builtins: Option<Library>,
}

impl Nvrtc {
    /// In the folder or file that `TWOFOUR_NVRTC` names, beside the toolkits, or where the loader looks.
    fn find(root: &Path) -> Result<Self> {
        let mut folders = Vec::new();
        if let Some(named) = toolkit::variable("TWOFOUR_NVRTC") {
            folders.push(if named.is_dir() { named } else { named.parent().unwrap_or(root).to_path_buf() });
        }
        for folder in toolkit::folders(root) {
            folders.extend([folder.join("lib"), folder.join("lib64")]);
        }
        let library = open(&folders, |name| name.starts_with("libnvrtc.so"))
            .or_else(|| load(Path::new("libnvrtc.so")).ok())
            .context("there is no libnvrtc.so: name it in TWOFOUR_NVRTC")?;
        Ok(Self {
            create: symbol(&library, "nvrtcCreateProgram")?,
            compile: symbol(&library, "nvrtcCompileProgram")?,
            log_size: symbol(&library, "nvrtcGetProgramLogSize")?,
            log: symbol(&library, "nvrtcGetProgramLog")?,
            destroy: symbol(&library, "nvrtcDestroyProgram")?,
            _builtins: open(&folders, |name| name.starts_with("libnvrtc-builtins.so")),
            _library: library,
        })
    }

    /// None if it compiles, else the compiler's log.
    fn compile(&self, text: &CString, module: &str, headers: &[Header], arch: &str) -> Result<Option<String>> {
        let name = CString::new(format!("{module}.cu"))?;
        let texts: Vec<*const c_char> = headers.iter().map(|header| header.text.as_ptr()).collect();
        let names: Vec<*const c_char> = headers.iter().map(|header| header.name.as_ptr()).collect();
        let count = c_int::try_from(headers.len())?;
        let mut program = ptr::null_mut();
        let (texts, names) = (texts.as_ptr(), names.as_ptr());
        // SAFETY: all strings end in zero and outlive the call, which copies them; both lists have `count` entries.
        let status = unsafe { (self.create)(&mut program, text.as_ptr(), name.as_ptr(), count, texts, names) };
        if status != 0 {
            bail!("nvrtcCreateProgram returned {status}");
        }
        let outcome = self.build(program, arch);
        // SAFETY: the program is alive and not used again.
        unsafe { (self.destroy)(&mut program) };
        outcome
    }

    fn build(&self, program: Program, arch: &str) -> Result<Option<String>> {
        let arch = format!("--gpu-architecture=sm_{arch}");
        let flags: Vec<CString> =
            OPTIONS.into_iter().chain([arch.as_str()]).map(CString::new).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = flags.iter().map(|flag| flag.as_ptr()).collect();
        let count = c_int::try_from(pointers.len())?;
        // SAFETY: the program is alive, and there are `count` strings ending in zero that outlive the call.
        let status = unsafe { (self.compile)(program, count, pointers.as_ptr()) };
        if status == 0 {
            return Ok(None);
        }
        let mut size = 0;
        // SAFETY: the program is alive, and the out-parameter is a local.
        unsafe { (self.log_size)(program, &mut size) };
        let mut log = vec![0_u8; size];
        // SAFETY: the program is alive, and the buffer has the size it asked for.
        unsafe { (self.log)(program, log.as_mut_ptr().cast()) };
        Ok(Some(format!("status {status}: {}", String::from_utf8_lossy(&log).trim_end_matches('\0'))))
    }
}

/// The first library in the folders whose name fits and that opens.
fn open(folders: &[PathBuf], fits: impl Fn(&str) -> bool) -> Option<Library> {
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let fitting = files.filter(|entry| entry.file_name().to_str().is_some_and(&fits));
    fitting.filter_map(|entry| load(&entry.path()).ok()).next()
}

fn load(path: &Path) -> Result<Library> {
    // SAFETY: NVRTC and its parts do nothing but set themselves up when they are loaded.
    unsafe { Library::new(path) }.map_err(|e| anyhow!("{}: {e}", path.display()))
}

fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T> {
    // SAFETY: the caller's type is that of the function of this name in nvrtc.h.
    let found = unsafe { library.get::<T>(name) };
    Ok(*found.with_context(|| format!("NVRTC has no {name}"))?)
}
