//! What the build put into the crate: compiled images, if there was an nvcc, and always the kernels' sources.

/// The fat binary of one kernel file.
#[allow(dead_code, reason = "never constructed in a build without nvcc")]
pub(super) struct Image {
    /// The file's stem.
    module: &'static str,
    /// The architectures with machine code, as `80` or `90a`.
    archs: &'static [&'static str],
    /// The architecture of the PTX, if there is any.
    pub(super) ptx: Option<u32>,
    /// What the driver loads.
    pub(super) bytes: &'static [u8],
}

/// A kernel file or a header, under the name by which kernels include it.
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

impl Source {
    /// The stem of a kernel file.
    pub(super) fn module(&self) -> &'static str {
        self.name.trim_end_matches(".cu")
    }
}

/// The driver reads the header of an image as 64-bit words.
#[allow(dead_code, reason = "never constructed in a build without nvcc")]
#[repr(C, align(16))]
struct Aligned<T>(T);

// IMAGES, SOURCES and OPTIONS, written by build.rs.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Options that NVRTC shares with nvcc.
pub(super) fn options() -> &'static [&'static str] {
    OPTIONS
}

/// The names of the kernel modules in this build, each a file `cuda/<name>.cu`.
pub fn modules() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().filter_map(|source| source.name.strip_suffix(".cu"))
}

/// The architectures this build has machine code for, as `sm_90a`, and PTX for, as `compute_80`; empty where there was
/// no nvcc, so that every kernel is compiled at first use.
#[must_use]
pub fn embedded() -> Vec<String> {
    let codes = IMAGES.iter().flat_map(|image| image.archs).map(|arch| format!("sm_{arch}"));
    let mut names: Vec<String> = codes.collect();
    names.extend(IMAGES.iter().filter_map(|image| image.ptx).map(|ptx| format!("compute_{ptx}")));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The source of a module.
pub(super) fn source(module: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.name.strip_suffix(".cu") == Some(module))
}

/// Every header a kernel can include.
pub(super) fn headers() -> impl Iterator<Item = &'static Source> {
    SOURCES.iter().filter(|source| source.name.ends_with(".cuh"))
}

/// The image of a module.
pub(super) fn image(module: &str) -> Option<&'static Image> {
    IMAGES.iter().find(|image| image.module == module)
}

impl Image {
    /// Whether there is machine code for the device.
    pub(super) fn has_code_for(&self, compute_capability: (u32, u32)) -> bool {
        self.archs.iter().any(|arch| runs_on(arch, compute_capability))
    }
}

/// Machine code runs on its own device and on later minors of the same major; with an `a`, on its own device alone.
fn runs_on(arch: &str, (major, minor): (u32, u32)) -> bool {
    let digits = arch.trim_end_matches(['a', 'f']);
    let Ok(number) = digits.parse::<u32>() else { return false };
    let own = (number / 10, number % 10);
    if arch.ends_with('a') { own == (major, minor) } else { own.0 == major && own.1 <= minor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn machine_code_runs_within_its_major() {
        assert!(runs_on("80", (8, 0)) && runs_on("80", (8, 9)) && runs_on("120", (12, 1)));
        assert!(!runs_on("86", (8, 0)) && !runs_on("80", (9, 0)) && !runs_on("", (8, 0)));
    }

    #[test]
    fn specific_code_runs_on_its_own_device() {
        assert!(runs_on("90a", (9, 0)) && runs_on("100a", (10, 0)) && runs_on("100f", (10, 3)));
        assert!(!runs_on("100a", (10, 3)) && !runs_on("90a", (10, 0)) && !runs_on("100f", (12, 0)));
    }

    fn includes(source: &Source) -> impl Iterator<Item = &'static str> {
        source.text.lines().filter_map(|line| line.strip_prefix("#include \"")?.split('"').next())
    }

    /// NVRTC finds a header by the name in the `#include` and no other, from wherever it is included.
    #[test]
    fn headers_are_included_by_their_whole_names() {
        for source in SOURCES {
            for name in includes(source) {
                let known = headers().any(|header| header.name == name) || !name.ends_with(".cuh");
                assert!(known, "cuda/{}: write the path from cuda/, as common/ptx.cuh", source.name);
            }
        }
    }

    /// The ops whose kernels include a header, themselves or through another.
    fn users(header: &str) -> BTreeSet<&'static str> {
        let direct = SOURCES.iter().filter(|source| includes(source).any(|name| name == header));
        let ops = direct.map(|source| match source.name.strip_suffix(".cu") {
            Some(module) => module.split('_').take(1).collect(),
            None => users(source.name),
        });
        ops.flatten().collect()
    }

    #[test]
    fn what_one_op_alone_includes_lies_in_its_folder_and_the_rest_in_common() {
        for header in headers() {
            let users = users(header.name);
            match header.name.split('/').next() {
                Some("common") => assert!(users.len() > 1, "cuda/{} is of {users:?} alone", header.name),
                op => assert!(users.iter().copied().eq(op), "cuda/{} is of {users:?}", header.name),
            }
        }
    }

    #[test]
    fn the_table_is_whole() {
        for module in modules() {
            assert!(source(module).is_some_and(|source| !source.text.is_empty()), "{module}");
        }
        for image in IMAGES {
            assert!(source(image.module).is_some(), "{}", image.module);
            assert_eq!(image.bytes.as_ptr() as usize % 16, 0, "{}", image.module);
            assert_eq!(image.bytes[..4], [0x50, 0xed, 0x55, 0xba], "{}", image.module);
        }
    }
}
