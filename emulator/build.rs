//! Compiles `../cuda/*.cu` and `kernels/*.cu` as C++, each into one object, and makes a table of them.
//!
//! `TWOFOUR_EMULATOR_CHECKS=off` leaves out the compiler's own checks (undefined behaviour, static array bounds).
//! `TWOFOUR_EMULATOR_OPT=0` compiles kernels without optimisation, for a debugger.
//!
//! Objects are kept in the target folder by their contents: neither another profile nor a change of another kernel compiles
//! a kernel again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let cuda = here.join("..").join("cuda");
    for watched in [&cuda, &here.join("kernels"), &here.join("include"), &here.join("runtime")] {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    println!("cargo::rerun-if-env-changed=TWOFOUR_EMULATOR_CHECKS");
    println!("cargo::rerun-if-env-changed=TWOFOUR_EMULATOR_OPT");

    let kept = kept_objects(&out)?;
    let mut sources = device_sources(&cuda)?;
    sources.extend(device_sources(&here.join("kernels"))?);
    let mut units = Vec::new();
    for source in &sources {
        units.push(write_unit(source, &kept)?);
    }
    let names: Vec<String> = units.iter().map(|unit| stem(unit)).collect();
    let table = out.join("units.cpp");
    fs::write(&table, table_text(&names))?;

    units.insert(0, here.join("runtime/shared_begin.cpp"));
    units.push(here.join("runtime/shared_end.cpp"));
    let build = compiler(&here, &cuda);
    let objects = units.iter().map(|unit| object(&build, unit, &kept)).collect::<Result<Vec<_>, _>>()?;
    let joined = join(&build, &objects, &out.join("kernels.o"));
    if joined.is_none() {
        println!("cargo::warning=objects cannot be joined: static shared memory is not filled before a block");
    }

    let mut archive = cc::Build::new();
    archive.cpp(true).debug(true).std("c++17").include(here.join("include"));
    archive.define("TWOFOUR_EMULATOR_JOINED", if joined.is_some() { "1" } else { "0" });
    archive.file(here.join("runtime/runtime.cpp")).file(&table).objects(joined.map_or(objects, |object| vec![object]));
    archive.try_compile("twofour_emulated_kernels")?;
    Ok(())
}

/// The `.cu` files of a folder, in order; none if the folder is not there.
fn device_sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folder of objects, in the target folder, which all profiles share; in `out` where there is none.
fn kept_objects(out: &Path) -> io::Result<PathBuf> {
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).unwrap_or(out);
    let kept = target.join("emulated");
    fs::create_dir_all(&kept)?;
    Ok(kept)
}

/// The object of one unit, named by what the compiler sees: its own version and options, and the text after the
/// preprocessor.
fn object(build: &cc::Build, unit: &Path, kept: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut build = build.clone();
    build.file(unit);
    let mut compiler = build.try_get_compiler()?.to_command();
    let mut hasher = DefaultHasher::new();
    format!("{compiler:?}").hash(&mut hasher);
    compiler.arg("--version").output()?.stdout.hash(&mut hasher);
    build.try_expand()?.hash(&mut hasher);
    let object = kept.join(format!("{}-{:016x}.o", stem(unit), hasher.finish()));
    if !object.exists() {
        // Renamed when it is whole: several profiles may be built at once.
        let folder = kept.join(format!("{}.{}", stem(unit), std::process::id()));
        for compiled in build.out_dir(&folder).try_compile_intermediates()? {
            fs::rename(compiled, &object)?;
        }
        fs::remove_dir_all(&folder)?;
    }
    Ok(object)
}

/// The translation unit around one `.cu`: the unnamed namespace keeps the helpers of different files apart.
fn write_unit(source: &Path, kept: &Path) -> io::Result<PathBuf> {
    let name = stem(source);
    let path = kept.join(format!("{name}.cpp"));
    let text = format!(
        "#include \"emulator.hpp\"\n\
         namespace {{\n\
         #include \"{}\"\n\
         }}\n\
         extern \"C\" const twofour_emulator::Kernel* twofour_emulator_unit_{name}() {{\n\
         \x20 return twofour_emulator::unit_kernels;\n\
         }}\n",
        source.display()
    );
    if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        fs::write(&path, text)?;
    }
    Ok(path)
}

/// A function from a number to the kernels of that unit. It refers to every unit, so the linker keeps them all.
fn table_text(names: &[String]) -> String {
    let mut text = String::from("#include \"emulator.hpp\"\nextern \"C\" {\n");
    for name in names {
        text += &format!("const twofour_emulator::Kernel* twofour_emulator_unit_{name}();\n");
    }
    text += "const twofour_emulator::Kernel* twofour_emulator_unit(std::size_t i) {\n  switch (i) {\n";
    for (i, name) in names.iter().enumerate() {
        text += &format!("    case {i}: return twofour_emulator_unit_{name}();\n");
    }
    text += "    default: return nullptr;\n  }\n}\n";
    text += &format!("std::size_t twofour_emulator_unit_count() {{ return {}; }}\n}}\n", names.len());
    text
}

fn compiler(here: &Path, cuda: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(opt_level()).debug(true).warnings(false);
    build.include(here.join("include")).include(cuda).define("TWOFOUR_EMULATED", "1");
    // Floats round as on the device: an fma only where one is written. Kernels reinterpret memory freely.
    build.flag("-ffp-contract=off").flag("-fno-strict-aliasing").flag("-fno-exceptions");
    // One section for all thread-local variables of an object, for `join`.
    build.flag("-fno-data-sections");
    // A frame larger than the guard page of a fiber's stack must still run into it.
    build.flag_if_supported("-fstack-clash-protection");
    build.flag_if_supported("-Wno-unknown-pragmas").flag_if_supported("-Wno-unused-function");
    for flag in instruction_sets() {
        build.flag(flag);
    }
    if std::env::var("TWOFOUR_EMULATOR_CHECKS").as_deref() != Ok("off") {
        for flag in undefined_behaviour_traps() {
            build.flag_if_supported(flag);
        }
    }
    build
}

fn opt_level() -> u32 {
    let asked = std::env::var("TWOFOUR_EMULATOR_OPT").ok();
    asked.and_then(|level| level.parse().ok()).unwrap_or(2)
}

/// What this machine has, when it builds for itself: a hardware fma is a hundred times faster than a correct one
/// without.
fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let has_them = std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has_them = false;
    if has_them && std::env::var("HOST") == std::env::var("TARGET") { vec!["-mfma", "-mavx2"] } else { Vec::new() }
}

/// Checks that end in a trapping instruction, which the emulator turns into a fault.
fn undefined_behaviour_traps() -> [&'static str; 2] {
    [
        "-fsanitize=bounds,alignment,shift,integer-divide-by-zero,signed-integer-overflow,unreachable,return",
        "-fsanitize-undefined-trap-on-error",
    ]
}

/// Joins objects into one. Their thread-local variables, which are the kernels' static shared memory and nothing else, then
/// lie side by side in the order of the objects, in every later link; so the first and the last mark both ends.
fn join(build: &cc::Build, objects: &[PathBuf], joined: &Path) -> Option<PathBuf> {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return None;
    }
    let linker = build.try_get_compiler().ok()?;
    let mut command = Command::new(linker.path());
    let status = command.arg("-r").arg("-nostdlib").arg("-o").arg(joined).args(objects).status();
    status.is_ok_and(|status| status.success()).then(|| joined.to_owned())
}
