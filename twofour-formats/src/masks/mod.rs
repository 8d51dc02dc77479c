//! Masks without weights, in files: those that others publish, and a smaller one of our own. A layer at a time is in
//! memory, read or written.
//!
//! | [`Form`] | file | a layer `x.weight` `[N, K]` is | bits a weight | shape |
//! | --- | --- | --- | --- | --- |
//! | [`MaskLlm`](Form::MaskLlm) | `.npz` | `x.weight.mask`: `numpy.packbits` of the flattened mask, `uint8 [N·K/8]` | 1, deflated to about 0.65 | not in the file: [`Shapes`] of the model |
//! | [`Patch`](Form::Patch) | `.npz` | `x.weight`: the same; `x.weight.__shape__`: `int64 [2]`; and one `__meta__` for all | the same | in the file |
//! | [`Flags`](Form::Flags) | safetensors | `x.weight.mask` `[N, K]`, `BOOL` or `U8`; other integers, `F16`, `BF16` and `F32` are read too | 8 to 64 | in the file |
//! | [`Base6`](Form::Base6) | safetensors | `x.weight.base6`: `U8 [ceil(N·K/12)]`, see below | 0.667 | in the file |
//!
//! The first is what MaskLLM publishes (`mask_compressed.npz`, made by its `tool_compress_mask.py`, read by its
//! `eval_llama_ppl.py`), the second what PATCH does (`mask.npz`). Both are archives that NumPy writes by
//! `savez_compressed`, and are read whether members are deflated or stored, with 64-bit sizes or not, and with headers
//! of versions 1.0, 2.0 and 3.0. Arrays of bools or integers `[N, K]` that nobody packed are read too. They need the
//! feature `npz`. Names of masks may end in `_mask` instead of `.mask`.
//!
//! A mask of flags lies as its weight does ([`Manifest::layer_as`]): of stacked experts `[E, N, K]`, which are E·N
//! rows; of a convolution `[out, in, kh, kw]`, which is `out` rows; and of a weight `[in, out]`, whose groups run along
//! its first dimension. The last has an entry of `__metadata__`, `twofour_masks.axis.<name>`: `-2`. Other forms hold
//! rows.
//!
//! ```
//! use twofour::Shape;
//! use twofour_formats::masks::{Form, Manifest, Mask, Masks};
//!
//! # fn main() -> twofour_formats::Result<()> {
//! let shape = Shape::new(2, 8);
//! let mask = Mask::new(shape, vec![0x48, 0xee])?;
//!
//! // What will be in the file, and then the masks in any order; `save` does the same to a path.
//! let mut manifest = Manifest::new(Form::Base6);
//! manifest.layer("mlp.up.weight", shape)?;
//! let bytes = manifest.to_bytes(|file| file.mask("mlp.up.weight", &mask))?;
//!
//! // `Masks::open` finds out which form a file has, and reads a mask when it is asked for.
//! let masks = Masks::from_bytes(&bytes)?;
//! assert_eq!(masks.form(), Form::Base6);
//! assert_eq!(masks.read("mlp.up.weight")?, mask);
//! # Ok(())
//! # }
//! ```
//!
//! # Groups that do not keep two
//!
//! A [`Mask`] keeps two of every group. A group in a file that keeps another number is an error that names the layer,
//! the row and the group. Groups that keep **fewer** can be [filled](Fewer::Fill) instead, at their highest free
//! positions, as [`compress`](twofour::compress) fills them. Groups that keep **more** are always refused: PATCH's
//! hybrid masks, which leave whole tiles dense, are no 2:4 masks.
//!
//! # Base 6, version 1
//!
//! There are six patterns, and 6·6·6 = 216 fit a byte. The groups of a layer are numbered row-major; byte `i` holds the
//! pattern indices of groups `3i`, `3i + 1` and `3i + 2` as `p0 + 6·p1 + 36·p2`. Where the last byte has fewer groups,
//! the missing ones count as 0. A byte above 215, or a last byte that holds more than its groups, is refused. Beside
//! the tensors, `__metadata__` has `twofour_masks.version` (`1`), and for each layer
//! `twofour_masks.shape.<name>` (`[N,K]`). [`base6`] has the packing alone.
//!
//! # Files that are not what they say
//!
//! As for [compressed weights](super#files-that-are-not-what-they-say). An archive's member that would inflate to more
//! than it says, or says more than deflate can do, is refused; memory grows with what has been inflated, never by what
//! is claimed. Writing is atomic.

pub mod base6;
mod bits;
mod convert;
mod mask;
#[cfg(feature = "npz")]
mod npy;
#[cfg(feature = "npz")]
mod npz;
#[cfg(feature = "npz")]
mod pack;
mod reader;
mod shapes;
mod tensors;
mod writer;
#[cfg(feature = "npz")]
mod zip;

pub use convert::convert;
pub use mask::Mask;
pub use reader::Masks;
pub use shapes::Shapes;
pub use writer::{Manifest, Writer};

/// How a file holds masks; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Form {
    /// MaskLLM's archive, without shapes.
    MaskLlm,
    /// PATCH's archive, with shapes.
    Patch,
    /// Safetensors of zeros and ones.
    Flags,
    /// Safetensors with three groups a byte.
    Base6,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MaskLlm, Self::Patch, Self::Flags, Self::Base6];

    /// `maskllm`, `patch`, `flags` or `base6`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaskLlm => "maskllm",
            Self::Patch => "patch",
            Self::Flags => "flags",
            Self::Base6 => "base6",
        }
    }

    /// The form of a name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// How files of this form are usually named: `npz` or `safetensors`.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::MaskLlm | Self::Patch => "npz",
            Self::Flags | Self::Base6 => "safetensors",
        }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What to do with groups that keep fewer than two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fewer {
    /// They are errors.
    #[default]
    Refuse,
    /// They are filled up at their highest free positions: the weight that such a mask leaves is the same, if what it
    /// dropped is zero.
    Fill,
}

/// What the names of masks end in, other than PATCH's; written, the first.
const MASK: &str = ".mask";
/// As `torch.nn.utils.prune` names them.
const OTHER_MASK: &str = "_mask";

/// The weight that a tensor or an array of this name is the mask of.
fn weight_of(name: &str) -> Option<&str> {
    name.strip_suffix(MASK).or_else(|| name.strip_suffix(OTHER_MASK))
}
