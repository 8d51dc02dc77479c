//! `twofour generate`: text from a model, with masked or compressed weights beside the dense ones.

mod decoded;
mod layer;
mod sample;

use crate::demo::Demo;
use crate::device::DeviceArgs;
use crate::eval::Change;
use crate::model::{Cache, Model, Network};
use crate::names::plain_but;
use crate::{Failure, table};
use candle_core::{DType, Tensor};
use candle_nn::Linear;
use clap::{Parser, ValueEnum};
use decoded::Decoded;
use layer::Decoding;
use sample::Sampling;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokenizers::Tokenizer;
use twofour_candle::Engine;

/// Text from a model, with masked or compressed weights beside the dense ones.
///
/// Masked weights are compressed, and each token is made by products of the compressed weights, in 16 bits. The dense
/// model reads the same tokens in turn, in f32, so that both speeds are of one run.
#[derive(Debug, Parser)]
pub struct Args {
    /// The model: a folder as of Hugging Face, compressed or not, or a GGUF file [default: a small one is made up]
    model: Option<PathBuf>,
    /// What the text begins with
    #[arg(long, requires = "model")]
    prompt: Option<String>,
    /// Masks of its layers, in any form that `convert` reads
    #[arg(long, requires = "model", value_name = "FILE")]
    masks: Option<PathBuf>,
    /// Weights of its layers, as `compress` writes them: a file, an index or a folder
    #[arg(long, requires = "model", value_name = "PATH")]
    compressed: Option<PathBuf>,
    /// Tokens to make, at most; with those of the prompt no more than the model was made for
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// How freely: 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Only of so many of the likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Of the choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The type of compressed weights that are not of 16 bits already, and of what they are multiplied by
    #[arg(long, value_enum, default_value_t)]
    dtype: Type,
    /// Does not run the dense model beside
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Type {
    /// Finer, for values below 65,504
    #[default]
    F16,
    /// Of any size
    Bf16,
}

/// Generates. Whether all is well.
///
/// # Errors
/// What is wrong with the model, the masks or the arguments.
pub fn run(args: &Args) -> Result<bool, Failure> {
    match &args.model {
        Some(model) => generate(args, model),
        None => demo(),
    }
}

fn generate(args: &Args, path: &Path) -> Result<bool, Failure> {
    let sampling = Sampling::new(args.temperature, args.top_k, args.seed)?;
    let model = Model::open(path, &args.device.open()?)?;
    let prompt = args.prompt.as_deref().ok_or("what does the text begin with? Give --prompt TEXT")?;
    let tokenizer = model.tokenizer()?;
    let encoded = tokenizer.encode_fast(prompt, true).map_err(|e| format!("--prompt: {e}"))?;
    let prompt = encoded.get_ids();
    if prompt.is_empty() {
        return Err("--prompt has no tokens: there is nothing to go on from".into());
    }
    model.check_tokens(prompt)?;
    let most = model.config().positions;
    if prompt.len() > most {
        let count = prompt.len();
        return Err(format!("--prompt is of {count} tokens, and the model was made for {most}").into());
    }
    let tokens = args.tokens.min(most - prompt.len());
    let room = prompt.len() + tokens;
    // A model that is compressed itself needs no other.
    let own = args.compressed.is_none() && !model.compressed().is_empty();
    let change = Change::open(&model, args.masks.as_deref(), args.compressed.as_deref().or(own.then_some(path)))?;
    let (masks, compressed) = change.counts();
    let sparse = masks + compressed > 0;
    let dtype = if args.dtype == Type::F16 { DType::F16 } else { DType::BF16 };
    let engine = Engine::default();
    let main = Network::new(&model, |name, linear| match sparse {
        true => Decoding::new(&change, name, linear, dtype, &engine),
        false => Ok(Decoding::Dense(linear)),
    })?;
    let beside = (sparse && !args.alone).then(|| Network::new(&model, |_, linear| Ok(linear))).transpose()?;
    let mut run =
        Run { main: Timed::new(&main, room)?, beside: beside.as_ref().map(|n| Timed::new(n, room)).transpose()? };
    let made = run.text(prompt, tokens, sampling, &tokenizer, &model.config().ends)?;
    run.report(args, prompt.len(), made, masks, compressed);
    Ok(true)
}

/// A network, what it has read, and how long that took.
struct Timed<'n, L> {
    network: &'n Network<L>,
    cache: Cache,
    prompt: Duration,
    decode: Duration,
}

impl<'n, L: candle_nn::Module> Timed<'n, L> {
    fn new(network: &'n Network<L>, room: usize) -> Result<Self, Failure> {
        Ok(Self { network, cache: network.cache(room)?, prompt: Duration::ZERO, decode: Duration::ZERO })
    }

    /// Logits of the token that follows.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Failure> {
        let (start, first) = (Instant::now(), self.cache.tokens() == 0);
        // They come to the host, so that a device has made them.
        let logits: Tensor = self.network.next(tokens, &mut self.cache)?;
        let logits = logits.to_vec1::<f32>()?;
        *(if first { &mut self.prompt } else { &mut self.decode }) += start.elapsed();
        Ok(logits)
    }
}

struct Run<'n> {
    main: Timed<'n, Decoding>,
    beside: Option<Timed<'n, Linear>>,
}

impl Run<'_> {
    /// Prints the text while it is made; how many tokens were read one by one.
    fn text(
        &mut self,
        prompt: &[u32],
        tokens: usize,
        mut sampling: Sampling,
        tokenizer: &Tokenizer,
        ends: &[u32],
    ) -> Result<usize, Failure> {
        let (mut new, mut read) = (prompt.to_vec(), 0);
        let mut decoded = Decoded::new(tokenizer);
        show(decoded.add(prompt)?)?;
        for step in 0..tokens {
            let logits = self.main.read(&new)?;
            if let Some(beside) = &mut self.beside {
                beside.read(&new)?;
            }
            read += usize::from(step > 0);
            let next = sampling.next(&logits).map_err(|failure| self.hinted(failure))?;
            if ends.contains(&next) {
                break;
            }
            new = vec![next];
            show(decoded.add(&new)?)?;
        }
        show(&decoded.end()?)?;
        println!("\n");
        Ok(read)
    }

    /// What may help where logits are not finite.
    fn hinted(&self, failure: Failure) -> Failure {
        match self.main.network.linears().any(|(_, layer)| layer.is_f16()) {
            true => format!("{failure}; layers are computed in f16: --dtype bf16 has a wider range").into(),
            false => failure,
        }
    }

    fn report(&self, args: &Args, prompt: usize, read: usize, masks: usize, compressed: usize) {
        let speed = |tokens: usize, time: Duration| match time.as_secs_f64() {
            seconds if tokens > 0 && seconds > 0.0 => format!("{:.2}", tokens as f64 / seconds),
            _ => "-".to_owned(),
        };
        let what = match (masks, compressed) {
            (0, 0) => "dense, f32".to_owned(),
            (masks, 0) => format!("{masks} layers masked, {:?}", args.dtype).to_lowercase(),
            (_, layers) => format!("{layers} layers compressed"),
        };
        let row = |what: String, prompt_time, decode, than: String| {
            [what, speed(prompt, prompt_time), speed(read, decode), than]
        };
        let mut rows = Vec::new();
        let main = (self.main.prompt, self.main.decode);
        let mut than = "-".to_owned();
        if let Some(dense) = &self.beside {
            if read > 0 {
                than = format!("{:.2}", dense.decode.as_secs_f64() / main.1.as_secs_f64());
            }
            rows.push(row("dense, f32".into(), dense.prompt, dense.decode, "1.00".into()));
        }
        rows.insert(0, row(what, main.0, main.1, than));
        println!("{prompt} tokens of a prompt, {read} read one by one; tokens a second:\n");
        table::print(["weights", "prompt", "one by one", "times dense"], rows.into_iter());
    }
}

/// Prints more of a text. What a terminal would take for a command is written out; line ends, tabs, and what joins
/// characters or keeps them apart are not.
fn show(more: &str) -> Result<(), Failure> {
    print!("{}", plain_but(more, &['\n', '\t', '\u{200c}', '\u{200d}']));
    Ok(std::io::stdout().flush()?)
}

/// A small model that is made up, under masks by magnitude.
fn demo() -> Result<bool, Failure> {
    let demo = Demo::new()?;
    let (model, masks) = (demo.model().to_owned(), demo.folder().join("masks.safetensors").into_os_string());
    println!("A small model, made up, under masks by magnitude:\n");
    let arguments = ["prune".into(), model.clone().into_os_string(), "--out".into(), masks.clone()];
    let made = crate::prune::run(&crate::prune::Args::try_parse_from(arguments)?)?;
    println!();
    let mut arguments = vec!["generate".into(), model.into_os_string(), "--masks".into(), masks];
    arguments.extend(["--prompt", "the weight keeps"].map(Into::into));
    Ok(run(&Args::try_parse_from(arguments)?)? && made)
}
