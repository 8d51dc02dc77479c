//! The state of a run of [`learn`](twofour::learn) in a file, from which it goes on as if it had not been interrupted:
//! to the bit, as every random number is made from the seed, the step and a group's number.
//!
//! A safetensors file, written atomically, layer by layer ([`super`], "Files that are not what they say", holds for it
//! too). A layer `<name>` of a weight `[N, K]` is
//!
//! | tensor | type | shape |
//! | --- | --- | --- |
//! | `<name>.logits` | `F32` or `BF16` | `[N, K/4, 6]` |
//! | `<name>.m`, `<name>.v` | both `F32` or both `U8` | `[N, K/4, 6]` |
//! | `<name>.scales`, where they are `U8` | `F32` | `[blocks, 2]`: see [`Moments`](twofour::learn::Moments) |
//!
//! and these are the entries of `__metadata__`; numbers are decimal, floats with as many digits as tell them apart:
//!
//! | entry | value |
//! | --- | --- |
//! | `twofour-state.version` | `1`; others are refused |
//! | `twofour-state.step`, `twofour-state.seed` | of the [`Run`] |
//! | `twofour-state.caller` | JSON of the caller's own, if there is any |
//! | `twofour-state.recipe.<field>` | of the [`Recipe`], if there is one; a schedule is `linear FROM TO WARMUP` or `cosine FROM TO WARMUP` |
//! | `twofour-state.layer.<name>` | `N K` |
//!
//! Whoever clips by the last step's norm ([`learn`](twofour::learn), "Clipping") has one number more to go on with, the
//! factor, and keeps it in the caller's JSON.
//!
//! ```
//! use twofour_formats::state::{Manifest, Moments, Reader, Run};
//! use twofour::learn::Recipe;
//! use twofour::{DType, Shape};
//!
//! # fn main() -> twofour_formats::Result<()> {
//! let shape = Shape::new(8, 16);
//! let (logits, m, v) = (vec![0.5f32; shape.logits()], vec![0.0; shape.logits()], vec![0.0; shape.logits()]);
//! let run = Run { step: 100, seed: 7, recipe: Some(Recipe::maskllm(2000)), caller: Some(r#"{"epoch":1}"#.into()) };
//!
//! // `save` does the same to a path.
//! let mut manifest = Manifest::new(&run)?;
//! manifest.layer("up", shape, DType::F32, false)?;
//! let bytes = manifest.to_bytes(|file| file.layer("up", &logits, &Moments::F32 { m: m.into(), v: v.into() }))?;
//!
//! let reader = Reader::from_bytes(&bytes)?;
//! assert_eq!(reader.run(), &run);
//! assert_eq!(reader.logits::<f32>("up")?, logits);
//! # Ok(())
//! # }
//! ```

use super::weight::to_bytes;
use super::{TensorType, wrong};
use crate::error::{Error, Result};
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::path::Path;
use twofour::learn::Recipe;
use twofour::{DType, Logit, Shape};

mod entries;
mod reader;

pub use reader::Reader;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// What a file says of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Steps that were made.
    pub step: u64,
    /// The seed.
    pub seed: u64,
    /// The recipe, for those who have one.
    pub recipe: Option<Recipe>,
    /// Whatever else the caller needs to go on, as JSON.
    pub caller: Option<String>,
}

/// The moments of a layer, as [`learn`](twofour::learn::Moments) has them: borrowed to be written, owned when read.
#[derive(Debug, Clone, PartialEq)]
pub enum Moments<'a> {
    /// In `f32`.
    F32 {
        /// First moments.
        m: Cow<'a, [f32]>,
        /// Second moments.
        v: Cow<'a, [f32]>,
    },
    /// In eight bits.
    Eight {
        /// First moments.
        m: Cow<'a, [u8]>,
        /// Square roots of the second moments.
        v: Cow<'a, [u8]>,
        /// Two a block.
        scales: Cow<'a, [f32]>,
    },
}

/// How a file holds a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    name: String,
    shape: Shape,
    logits: DType,
    eight: bool,
}

impl LayerInfo {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `[N, K]` of the weight.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of its logits.
    #[must_use]
    pub fn logits(&self) -> DType {
        self.logits
    }

    /// Whether its moments have eight bits.
    #[must_use]
    pub fn has_eight_bits(&self) -> bool {
        self.eight
    }

    /// Its tensors: the name's end, type and shape.
    fn tensors(&self) -> Vec<(&'static str, TensorType, Vec<usize>)> {
        let logits = match self.logits {
            DType::Bf16 => TensorType::Bf16,
            _ => TensorType::F32,
        };
        let moments = if self.eight { TensorType::U8 } else { TensorType::F32 };
        let six = vec![self.shape.rows, self.shape.cols / 4, 6];
        let mut tensors = vec![("logits", logits, six.clone()), ("m", moments, six.clone()), ("v", moments, six)];
        if self.eight {
            tensors.push(("scales", TensorType::F32, vec![scales(self.shape) / 2, 2]));
        }
        tensors
    }
}

fn scales(shape: Shape) -> usize {
    twofour::learn::Moments::scales(shape)
}

fn tensor_name(layer: &str, part: &str) -> String {
    format!("{layer}.{part}")
}

/// What a file of state will hold.
#[derive(Debug, Clone)]
pub struct Manifest {
    manifest: super::Manifest,
    layers: Vec<LayerInfo>,
}

impl Manifest {
    /// A file without layers.
    ///
    /// # Errors
    /// [`Error::File`] where the caller's text is not JSON; [`twofour::Error::Scalar`] where the recipe does not
    /// [check](Recipe::check).
    pub fn new(run: &Run) -> Result<Self> {
        if let Some(caller) = &run.caller {
            serde_json::from_str::<IgnoredAny>(caller)
                .map_err(|e| wrong("the planned file", format_args!("the caller's entry is not JSON: {e}")))?;
        }
        if let Some(recipe) = &run.recipe {
            recipe.check()?;
        }
        let mut manifest = super::Manifest::new();
        for (key, value) in entries::of_run(run) {
            manifest.metadata(&key, &value)?;
        }
        Ok(Self { manifest, layers: Vec::new() })
    }

    /// A layer with logits of a type, `f32` or `bf16`, and moments in `f32` or eight bits.
    ///
    /// # Errors
    /// As [`Shape::check`]; [`Error::File`]: a name is taken, or logits have no such type.
    pub fn layer(&mut self, name: &str, shape: Shape, logits: DType, eight: bool) -> Result<()> {
        shape.check()?;
        if !matches!(logits, DType::F32 | DType::Bf16) {
            let problem = format!("layer `{name}` cannot have {logits} logits: they are f32 or bf16");
            return Err(wrong("the planned file", problem));
        }
        let info = LayerInfo { name: name.to_owned(), shape, logits, eight };
        // All tensors or none.
        let mut manifest = self.manifest.clone();
        for (part, dtype, shape) in info.tensors() {
            manifest.tensor(&tensor_name(name, part), dtype, &shape)?;
        }
        let (key, value) = entries::of_layer(&info);
        manifest.metadata(&key, &value)?;
        self.manifest = manifest;
        self.layers.push(info);
        Ok(())
    }

    /// Writes the file at a path. `fill` writes every layer once, in any order; only then the file takes the place of
    /// one that was there. After an error that one is as it was.
    ///
    /// # Errors
    /// [`Error::File`]: the file cannot be written, what is there is no regular file, or a layer is missing. What
    /// `fill` returns.
    pub fn save<E: From<Error>>(
        &self,
        path: impl AsRef<Path>,
        fill: impl FnOnce(&mut Writer<'_, '_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.manifest.save(path, |file| fill(&mut Writer { file, layers: &self.layers }))
    }

    /// The bytes of the file. `fill` writes every layer once, in any order.
    ///
    /// # Errors
    /// [`Error::File`]: a layer is missing. What `fill` returns.
    pub fn to_bytes<E: From<Error>>(
        &self,
        fill: impl FnOnce(&mut Writer<'_, '_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Vec<u8>, E> {
        self.manifest.to_bytes(|file| fill(&mut Writer { file, layers: &self.layers }))
    }
}

/// A file that is being written: see [`Manifest::save`].
#[derive(Debug)]
pub struct Writer<'p, 'w> {
    file: &'p mut super::Writer<'w>,
    layers: &'p [LayerInfo],
}

impl Writer<'_, '_> {
    /// Writes a layer.
    ///
    /// # Errors
    /// [`Error::File`]: the layer was not planned, is of another type or size, or was written before; the file cannot be
    /// written.
    pub fn layer<L: Logit>(&mut self, name: &str, logits: &[L], moments: &Moments<'_>) -> Result<()> {
        let file = "the planned file";
        let Some(info) = self.layers.iter().find(|info| info.name == name) else {
            return Err(wrong(file, format_args!("layer `{name}` was not planned")));
        };
        let eight = matches!(moments, Moments::Eight { .. });
        if (info.logits, info.eight) != (L::DTYPE, eight) {
            let of = |eight| if eight { "8-bit" } else { "f32" };
            let planned = format!("{} logits and {} moments", info.logits, of(info.eight));
            let problem = format!("layer `{name}` has {} logits and {} moments", L::DTYPE, of(eight));
            return Err(wrong(file, format_args!("{problem}, and {planned} were planned")));
        }
        let mut put = |part, bytes: &[u8]| self.file.tensor(&tensor_name(name, part), bytes);
        put("logits", &to_bytes(logits))?;
        match moments {
            Moments::F32 { m, v } => {
                put("m", &to_bytes(m))?;
                put("v", &to_bytes(v))
            }
            Moments::Eight { m, v, scales } => {
                put("m", m)?;
                put("v", v)?;
                put("scales", &to_bytes(scales))
            }
        }
    }
}
