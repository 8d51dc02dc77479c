//! How each program of the bundle is run there, and which are left out.

use anyhow::Result;
use std::fs;
use std::path::Path;

/// How a program differs from the others, which are run whole.
enum Treatment {
    /// It stays here.
    LeaveOut,
    /// It is run with these arguments; of tests, those are parts of the names of the ones to run.
    With(&'static [&'static str]),
}

/// The programs that cannot be run as they are on a machine without the sources, Rust and a C compiler, or are run with
/// arguments; and why.
const EXCEPTIONS: &[(&str, Treatment, &str)] = &[
    (
        "tests/device",
        Treatment::With(&["a_real_device", "nvrtc_compiles"]),
        "the others compile fake libraries with a C compiler, from the sources",
    ),
    (
        "tests/cusparselt",
        Treatment::With(&["a_real_device", "the_real_library_answers"]),
        "the others compile fake libraries with a C compiler, from the sources",
    ),
    (
        "examples/sparse_step",
        Treatment::With(&["--device", "cuda", "--rows", "4096", "--cols", "4096", "--tokens", "2048"]),
        "by itself it would take the CPU",
    ),
    ("examples/relu_decode", Treatment::With(&["--device", "cuda"]), "by itself it would take the CPU"),
    (
        "examples/masked_gemm",
        Treatment::With(&["--shape", "4096,4096", "--tokens", "2048", "--dtype", "bf16"]),
        "by itself it would take a smaller weight, of f32",
    ),
    ("tests/examples", Treatment::LeaveOut, "starts cargo; the examples themselves are here"),
    ("tests/emulator-lib", Treatment::LeaveOut, "tests the emulator, which no GPU changes"),
    ("tests/emulator-faults", Treatment::LeaveOut, "tests the emulator, which no GPU changes"),
    ("tests/emulator-launch", Treatment::LeaveOut, "tests the emulator, which no GPU changes"),
    ("tests/emulator-tensor", Treatment::LeaveOut, "tests the emulator, which no GPU changes"),
    ("tests/emulator-tensor_cores", Treatment::LeaveOut, "tests the emulator, which no GPU changes"),
    ("tests/emulator-tensor_rule", Treatment::LeaveOut, "tests the emulator, which no GPU changes"),
    ("tests/emulator-wrappers", Treatment::LeaveOut, "tests the emulator, which no GPU changes"),
    ("benches/emulator-speed", Treatment::LeaveOut, "measures the emulator, which no GPU makes faster"),
    ("examples/emulator-develop", Treatment::LeaveOut, "is there to be changed and built"),
];

/// What a test says that wants a GPU: the variable that makes it fail without one.
const GPU_MARK: &[u8] = b"TWOFOUR_REQUIRE_GPU";

/// One program of the bundle.
pub(super) struct Program {
    path: String,
    /// A test that does something on a GPU.
    on_gpu: bool,
    arguments: &'static [&'static str],
    note: &'static str,
}

impl Program {
    /// Of the program built at `source`; none if it is to be left out.
    pub(super) fn new(path: &str, source: &Path) -> Result<Option<Self>> {
        let on_gpu = path.starts_with("tests/") && contains(&fs::read(source)?, GPU_MARK);
        let exception = EXCEPTIONS.iter().find(|(name, ..)| *name == path);
        let (arguments, note): (&[&str], &str) = match exception {
            Some((_, Treatment::LeaveOut, _)) => return Ok(None),
            Some((_, Treatment::With(arguments), reason)) => (arguments, reason),
            None => (&[], ""),
        };
        Ok(Some(Self { path: path.to_owned(), on_gpu, arguments, note }))
    }

    /// Its line in `manifest.tsv`, which `run-all.sh` reads: path, `gpu` or `cpu`, arguments, remark.
    pub(super) fn line(&self) -> String {
        let place = if self.on_gpu { "gpu" } else { "cpu" };
        let arguments = if self.arguments.is_empty() { "-".to_owned() } else { self.arguments.join(" ") };
        let note = if self.note.is_empty() { "-" } else { self.note };
        format!("{}\t{place}\t{arguments}\t{note}\n", self.path)
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The newest version of the C library that a program names: it does not start with an older one.
pub(super) fn glibc(program: &[u8]) -> (u32, u32) {
    const MARK: &[u8] = b"GLIBC_";
    let starts = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    starts.filter_map(|(at, _)| version(&program[at + MARK.len()..])).max().unwrap_or_default()
}

/// `2.34` or `2.2.5`, up to the zero byte that ends it.
fn version(bytes: &[u8]) -> Option<(u32, u32)> {
    let text = bytes.split(|&byte| byte == 0).next()?;
    let mut numbers = std::str::from_utf8(text).ok()?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found() {
        assert_eq!(glibc(b"x\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.9\0"), (2, 34));
        assert_eq!(glibc(b"static"), (0, 0));
    }

    #[test]
    fn a_line_has_four_fields() {
        let program = Program { path: "tests/a".into(), on_gpu: true, arguments: &["b", "c"], note: "" };
        assert_eq!(program.line(), "tests/a\tgpu\tb c\t-\n");
    }
}
