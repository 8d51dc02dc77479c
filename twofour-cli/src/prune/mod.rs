//! `twofour prune`: one-shot 2:4 masks for a model.
//!
//! `write` goes over the model's files, and asks a `Source` for the mask of each layer: `method` chooses it by the
//! weights and by what is known of the layers' inputs, a layer at a time, in whichever order; `layerwise` runs the model
//! itself over calibration tokens; `kept` keeps what came of a layer. `gguf` writes what comes of a GGUF file.

mod activations;
mod gguf;
mod kept;
mod layerwise;
mod method;
pub(crate) mod report;
mod write;

use crate::choose::{Layers, Which};
use crate::demo::Demo;
use crate::layer::Layer;
use crate::model::{Model, is_gguf};
use crate::{Failure, number};
use candle_core::Device;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use twofour_formats::masks::{Form, Mask};

/// One-shot 2:4 masks for a model, by magnitude, Wanda or SparseGPT.
///
/// The model is a safetensors file, an index of shards, or a folder with either. Layers are the matrices of floats
/// (f32, f16, bf16, fp8) named *.weight whose rows are a multiple of 4 long, stacked experts and convolutions among
/// them, but for embeddings, heads, norms and routers; a line says what was left dense, and why. Rows are outputs, as
/// torch.nn.Linear has them; see --transposed for those of GPT-2.
///
/// Forms: `maskllm` (npz, MaskLLM's mask_compressed.npz), `patch` (npz, PATCH's mask.npz), `flags` (safetensors of
/// zeros and ones), `base6` (safetensors, 0.667 bit a weight).
#[derive(Debug, Parser)]
pub struct Args {
    /// The model [default: a small one is made up]
    pub(crate) model: Option<PathBuf>,
    /// How masks are chosen
    #[arg(long, value_enum, default_value_t = Method::Magnitude)]
    pub(crate) method: Method,
    /// What is known of the layers' inputs, a safetensors file: for each layer NAME.squares [K], sums of squares;
    /// NAME.hessian [K, K]; or NAME, inputs [T, K]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(crate) activations: Option<PathBuf>,
    /// What the model is run over, a block at a time, so that masks are chosen by what its layers read: texts, or token
    /// ids if the name ends in .u16 or .u32. For models that `eval` knows
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "model", conflicts_with = "activations")]
    pub(crate) calibration: Vec<PathBuf>,
    /// Tokens in a window of calibration
    #[arg(long, default_value_t = 512, requires = "calibration")]
    pub(crate) window: usize,
    /// Windows of calibration, at most
    #[arg(long, default_value_t = 128, requires = "calibration")]
    pub(crate) windows: usize,
    /// Exchanges kept and dropped weights after the choice, until no exchange in a group makes a layer's error smaller;
    /// of masks of the weights as they are
    #[arg(long, requires = "calibration")]
    pub(crate) swaps: bool,
    /// SparseGPT: share of the Hessian's mean diagonal that is added to its diagonal
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub(crate) damping: f64,
    /// SparseGPT: masks of the weights as they are, without update, as MaskLLM takes them for a prior
    #[arg(long)]
    pub(crate) as_is: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Where masks are written [default: beside the model, with `masks` in the name]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The form of the masks [default: base6, or patch if --out is an npz]
    #[arg(long, value_parser = crate::convert::form)]
    pub(crate) form: Option<Form>,
    /// Writes the masked model too, or as SparseGPT updated it: to a file if that ends in .safetensors, else to a folder
    /// with all that is beside the model's weights
    #[arg(long, value_name = "PATH", requires = "model")]
    pub(crate) weights: Option<PathBuf>,
    /// Keeps what came of each layer in this folder, until all is written: the same command goes on there after a
    /// failure [default: with --calibration, that of the masks with `.partial` behind its name]
    #[arg(long, value_name = "FOLDER", requires = "model")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// The largest weights
    Magnitude,
    /// The largest products of weight and norm of input
    Wanda,
    /// Those that others make up for least; updates the others
    Sparsegpt,
}

/// What came of a layer, as rows of groups.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) mask: Mask,
    /// The updated weight `[N, K]`, little-endian and of the layer's type, zeros where the mask is. `None`: what is
    /// kept is as it was.
    pub(crate) updated: Option<Vec<u8>>,
    /// The share of all scores that is kept; there is none where scores change on the way.
    pub(crate) score: Option<f64>,
    /// The share of the layer's output on calibration tokens that is lost, `‖(W − Ŵ)X‖² / ‖WX‖²`, if they are known.
    pub(crate) error: Option<f64>,
    /// The same before swaps, if there were any.
    pub(crate) unswapped: Option<f64>,
    /// Columns that saw no input, among which magnitude chose.
    pub(crate) empty: usize,
}

impl Made {
    /// The layer's weight as written, of the layer's type, where `dense` is what it was.
    pub(crate) fn weight(&self, layer: &Layer, dense: &[u8]) -> Result<Vec<u8>, Failure> {
        match &self.updated {
            Some(updated) if updated.len() == dense.len() => Ok(updated.clone()),
            Some(updated) => {
                let (bytes, got) = (dense.len(), updated.len());
                Err(format!("`{}` has {bytes} bytes, and its update {got}", layer.name).into())
            }
            None => Ok(number::masked(dense, layer.dtype.bits() / 8, &self.mask.flags()?)),
        }
    }
}

/// Where masks of layers come from.
pub(crate) trait Source {
    /// Looks at all that can be known before the first layer is worked on. Nothing has been written then.
    fn check(&mut self, layers: &Layers) -> Result<(), Failure>;

    /// The mask of a layer, whose weight is `dense`: rows of groups `[N, K]`, little-endian. Layers are
    /// asked for in the order of the model's files; those that are [kept](kept::Kept) are not.
    fn layer(&mut self, layer: &Layer, dense: &[u8]) -> Result<Made, Failure>;

    /// What masks are made by, in words that change whenever masks would.
    fn by(&self) -> Result<String, Failure>;

    /// Of these layers all is written: what the source keeps itself may go.
    fn forget(&self, _: &Layers) {}
}

/// Prunes. Whether all is well.
///
/// # Errors
/// What is wrong with the model, what is known of its inputs, or the arguments.
pub fn run(args: &Args) -> Result<bool, Failure> {
    let Some(path) = &args.model else { return demo(args) };
    method::check(args)?;
    let is_gguf = path.is_file() && is_gguf(path)?;
    if args.calibration.is_empty() {
        let mut chooser = method::Chooser::new(args)?;
        return match is_gguf {
            true => gguf::run(args, &Model::open(path, &Device::Cpu)?, &mut chooser),
            false => write::run(args, path, &mut chooser),
        };
    }
    let model = Model::open(path, &Device::Cpu)?;
    let mut walk = layerwise::Walk::new(args, &model)?;
    match is_gguf {
        true => gguf::run(args, &model, &mut walk),
        false => write::run(args, path, &mut walk),
    }
}

/// What is read beside the model.
fn read_beside(args: &Args) -> impl Iterator<Item = PathBuf> {
    args.activations.iter().chain(&args.calibration).cloned()
}

/// A small model that is made up, by magnitude and by Wanda, in two forms.
fn demo(args: &Args) -> Result<bool, Failure> {
    let demo = Demo::new()?;
    println!("A small model, made up. For one of yours: twofour prune FOLDER\n\nBy magnitude:\n");
    let of = |path: &std::path::Path| path.as_os_str().to_owned();
    let parsed =
        |more: &[std::ffi::OsString]| Args::try_parse_from([&["prune".into(), of(demo.model())], more].concat());
    let by_magnitude = run(&parsed(&[])?)?;
    println!("\nBy Wanda on a text, with swaps, as PATCH has masks:\n");
    let [method, wanda, swaps, from, to] = ["--method", "wanda", "--swaps", "--calibration", "--out"].map(Into::into);
    let masks = args.out.clone().unwrap_or_else(|| demo.folder().join("mask.npz"));
    Ok(run(&parsed(&[method, wanda, swaps, from, of(&demo.text()), to, of(&masks)])?)? && by_magnitude)
}
