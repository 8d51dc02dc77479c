//! `twofour eval`: perplexity of a model.

mod change;
mod perplexity;
pub mod tokens;
mod windows;

pub use change::Change;
pub use perplexity::losses;
pub use windows::{Window, apart, sliding};

use crate::demo::Demo;
use crate::device::DeviceArgs;
use crate::model::Model;
use crate::{Failure, table};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Perplexity of a model, dense, under masks, or with compressed weights.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a folder as of Hugging Face, or a GGUF file [default: a small one is made up]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Masks of its layers, in any form that `convert` reads
    #[arg(long)]
    masks: Option<PathBuf>,
    /// Weights of its layers, as `compress` writes them: a file, an index or a folder
    #[arg(long)]
    compressed: Option<PathBuf>,
    /// Texts, which are joined by two newlines
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with = "tokens")]
    text: Vec<PathBuf>,
    /// Token ids: 16-bit numbers, little-endian; 32-bit ones if the name ends in .u32
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Tokens in a window. Windows do not overlap, and all tokens of a window but its first are predicted
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Windows slide by so many tokens, and each predicts what the one before did not
    #[arg(long)]
    stride: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Evaluates. Whether all is well.
///
/// # Errors
/// What is wrong with the model, the text or the arguments.
pub fn run(args: &Args) -> Result<bool, Failure> {
    match &args.model {
        Some(model) => evaluate(args, model, &args.text),
        None => {
            let demo = Demo::new()?;
            println!("A small model, made up. For one of yours: twofour eval --model FOLDER --text FILE\n");
            let own = [demo.text()];
            evaluate(args, demo.model(), if args.text.is_empty() { &own } else { &args.text })
        }
    }
}

fn evaluate(args: &Args, path: &Path, texts: &[PathBuf]) -> Result<bool, Failure> {
    let model = Model::open(path, &args.device.open()?)?;
    let tokens = match &args.tokens {
        Some(file) => tokens::of_file(file)?,
        None if texts.is_empty() => return Err("what is to be predicted? Give --text or --tokens".into()),
        None => tokens::of_texts(&model, texts)?,
    };
    model.check_tokens(&tokens)?;
    let (windows, left) = match args.stride {
        Some(stride) => (sliding(tokens.len(), args.window, stride)?, 0),
        None => apart(tokens.len(), args.window)?,
    };
    let change = Change::open(&model, args.masks.as_deref(), args.compressed.as_deref())?;
    let config = model.config();
    let (kind, weights) = (config.kind.name(), config.weights());
    println!("model       {}: {kind}, {} blocks, {:.1} M weights", path.display(), config.blocks, weights as f64 / 1e6);
    describe(args, &change, model.linears().len());
    if args.window > config.positions {
        println!("            windows are longer than the {} tokens it was made for", config.positions);
    }

    let bar = table::progress_of_blocks(0);
    let start = Instant::now();
    let losses = losses(&model, &tokens, &windows, &mut |block| change.apply(block), &mut |step, of| {
        bar.set_length(of as u64);
        bar.set_position(step as u64);
    })?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let read: usize = windows.iter().map(|window| window.tokens.len()).sum();
    let predicted: usize = losses.iter().map(Vec::len).sum();
    let left = if left > 0 { format!("; {left} at the end, no whole window, are left out") } else { String::new() };
    let longest = windows[0].tokens.len();
    println!("tokens      {read} in {} windows of {longest}, {predicted} of them predicted{left}", windows.len());
    let mean = losses.iter().flatten().map(|&loss| f64::from(loss)).sum::<f64>() / predicted as f64;
    if !mean.is_finite() {
        return Err(format!("the mean loss is {mean}: weights or hidden states are not finite").into());
    }
    println!("perplexity  {:.4} a token, from a mean loss of {mean:.6} nats", mean.exp());
    println!("speed       {:.0} tokens/s, {seconds:.1} s in all", read as f64 / seconds);
    let peak = peak().map_or("not known here".to_owned(), |bytes| format!("{:.0} MB at most", bytes as f64 / 1e6));
    println!("memory      {peak}; the model in f32 is {:.0} MB", weights as f64 * 4.0 / 1e6);
    Ok(true)
}

fn describe(args: &Args, change: &Change, layers: usize) {
    let (masks, compressed) = change.counts();
    for (what, path, count) in [("masks", &args.masks, masks), ("compressed", &args.compressed, compressed)] {
        if let Some(path) = path {
            println!("{what:<11} {}: {count} of {layers} linear layers", path.display());
        }
    }
}

/// The most memory that this process has had, in bytes, where the system says.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}
