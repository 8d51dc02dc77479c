//! What a kernel is called.

use std::fmt;

/// The most bytes of a name.
const MOST: usize = 63;

/// Names a kernel: the `.cu` file's stem, and the symbol in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symbol {
    file: &'static str,
    bytes: [u8; MOST],
    length: u8,
}

impl Symbol {
    /// The kernel of an operation in this variant for these types: `twofour_<op>_<variant>_<types>`, where the file's
    /// stem begins with the operation's name, as `matmul_small`. This is the one place that spells symbols.
    #[must_use]
    pub fn new(file: &'static str, variant: &str, types: &[&str]) -> Self {
        let op = file.split('_').next().unwrap_or(file);
        let mut symbol = Self { file, bytes: [0; MOST], length: 0 };
        for part in ["twofour", op, variant].iter().chain(types) {
            symbol.push(part);
        }
        symbol
    }

    /// A kernel by its whole name, as a list of a file's kernels has it.
    #[must_use]
    pub fn named(file: &'static str, name: &str) -> Self {
        let mut symbol = Self { file, bytes: [0; MOST], length: 0 };
        symbol.push(name);
        symbol
    }

    /// The stem of its file: `mask` for `cuda/mask.cu`.
    #[must_use]
    pub const fn file(&self) -> &'static str {
        self.file
    }

    /// `twofour_mask_soft_f32_bf16`.
    #[must_use]
    pub fn name(&self) -> &str {
        // Of whole strings only.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    /// A part, after an underscore unless it is the first. What does not fit is left out whole: no kernel has that
    /// name.
    fn push(&mut self, part: &str) {
        let start = usize::from(self.length) + usize::from(self.length > 0);
        let end = start + part.len();
        if part.is_empty() || end > MOST {
            return;
        }
        if self.length > 0 {
            self.bytes[start - 1] = b'_';
        }
        self.bytes[start..end].copy_from_slice(part.as_bytes());
        self.length = end as u8;
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.cu: {}", self.file, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_by_the_rule() {
        let name = |file, variant, types: &[&str]| {
            Symbol::new(file, variant, types).name().strip_prefix("twofour_").map(str::to_owned)
        };
        assert_eq!(name("mask", "soft", &["f32", "bf16"]).as_deref(), Some("mask_soft_f32_bf16"));
        assert_eq!(name("matmul_small", "small_codes", &["f16", "16"]).as_deref(), Some("matmul_small_codes_f16_16"));
        assert_eq!(name("compress_unpack", "reorder", &[]).as_deref(), Some("compress_reorder"));
        let whole = "twofour_mask_soft_f32_bf16";
        assert_eq!(Symbol::named("mask", whole), Symbol::new("mask", "soft", &["f32", "bf16"]));
        // Cut between parts, never within one.
        assert_eq!(name("mask", &"x".repeat(60), &[]).as_deref(), Some("mask"));
    }
}
