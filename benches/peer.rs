//! Our side of a comparison: `benches/peers/peers.py` starts this, and asks for one measurement at a time between its
//! own.
//!
//! A request is a line `op variant logits weights rows cols tokens threads device iterations`, the answer a line with the
//! nanoseconds of one run on average, or `error` and why. Operands stay from request to request as long as nothing but
//! the number of iterations changes.
//!
//! | word | values |
//! | --- | --- |
//! | op | of masks: `forward`, `backward`, `train` (forward, then backward); with `+metrics`: statistics and regulariser too |
//! | | of logits: `learn-update`, a step of AdamW by a gradient in memory; `learn-train`, `forward`, then the gradient and the step in one pass; moments are `f32` |
//! | | of the masked linear layer: `linear-forward`, which keeps nothing on a GPU; `linear-step`, forward and backward to `X` and to the logits, with the regulariser |
//! | | of a compressed weight: `sparse-product`, without packing; variant and type of logits do not matter |
//! | | of a 2:4 weight: `pack-sparse`, dense to values and metadata in CUTLASS's layout for sm_80, from which PyTorch's kernels read; variant, type of logits and tokens do not matter |
//! | | of logits `[rows, cols]`: `distil-labels`, `distil-forward`, `distil-reverse`, `distil-jsd`, loss and gradient; the type is that of weights; variant, type of logits and tokens do not matter |
//! | variant | `soft`, `hard`, `argmax` |
//! | logits, weights | `f32`, `f16`, `bf16`; `i8` for compressed weights and packing |
//! | tokens | of the linear layer and the product; 0 for masks, packing and distillation |
//! | threads | of the CPU; 0: all |
//! | device | `cpu`, `cuda-hot`, `cuda-cold` |

mod common;

use common::{Cache, Place, Result, Timed, compress, distil, learn, mask, matmul, sparse};
use std::io::{BufRead, Write};
use twofour::compress::Layout;
use twofour::mask::Kind;
use twofour::{DType, Shape};

fn main() -> Result<()> {
    // `cargo bench` starts every bench: this one has nothing to say by itself.
    if !std::env::args().any(|argument| argument == "serve") {
        println!("peer: run `python benches/peers/peers.py` to compare with PyTorch");
        return Ok(());
    }
    let mut server = Server::default();
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        match server.answer(&line?) {
            Ok(nanoseconds) => writeln!(output, "{nanoseconds}")?,
            Err(error) => writeln!(output, "error {}", error.to_string().replace('\n', " "))?,
        }
        output.flush()?;
    }
    Ok(())
}

/// What the last request needed, ready to run again.
#[derive(Default)]
struct Server {
    /// The request without its iterations.
    request: String,
    ready: Option<Box<dyn Timed>>,
}

impl Server {
    fn answer(&mut self, line: &str) -> Result<f64> {
        let (request, iterations) = line.trim().rsplit_once(' ').ok_or("a request has ten words")?;
        let iterations: u64 = iterations.parse()?;
        if self.request != request {
            // The old operands go before the new ones come: both may not fit.
            self.ready = None;
            self.ready = Some(prepare(request)?);
            request.clone_into(&mut self.request);
        }
        let ready = self.ready.as_mut().ok_or("the last request failed")?;
        Ok(ready.time(iterations.max(1))?.as_nanos() as f64 / iterations.max(1) as f64)
    }
}

fn prepare(request: &str) -> Result<Box<dyn Timed>> {
    let words: Vec<&str> = request.split_whitespace().collect();
    let [op, kind, logits, weights, rows, cols, tokens, threads, device] = words[..] else {
        return Err(format!("a request has ten words, not {}", words.len() + 1).into());
    };
    let kind = named(kind, [("soft", Kind::Soft), ("hard", Kind::Hard), ("argmax", Kind::Argmax)])?;
    let dtype =
        |name| named(name, [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::Bf16), ("i8", DType::I8)]);
    let (logits, weights) = (dtype(logits)?, dtype(weights)?);
    let (shape, tokens) = (Shape::new(rows.parse()?, cols.parse()?), tokens.parse()?);
    let places = [("cpu", Place::Cpu), ("cuda-hot", Place::Gpu(Cache::Hot)), ("cuda-cold", Place::Gpu(Cache::Cold))];
    let place = named(device, places)?;
    if place == Place::Cpu {
        use_threads(threads.parse()?)?;
    }
    let mut timed = if op == "sparse-product" {
        sparse::ready(sparse::Case { values: weights, tokens, shape }, place)?
    } else if op == "pack-sparse" {
        let (does, layout) = (compress::Does::Sparse, Layout::CutlassSm80);
        compress::ready(compress::Case { does, values: weights, layout, shape }, place)?
    } else if let Some(op) = op.strip_prefix("learn-") {
        let does = named(op, [("update", learn::Does::Update), ("train", learn::Does::Train)])?;
        learn::ready(learn::Case { does, eight: false, logits, weights, shape }, place)?
    } else if let Some(op) = op.strip_prefix("distil-") {
        use distil::Does::{Forward, Jsd, Labels, Reverse};
        let does = named(op, [("labels", Labels), ("forward", Forward), ("reverse", Reverse), ("jsd", Jsd)])?;
        distil::ready(distil::Case { does, dtype: weights, rows: shape.rows, vocab: shape.cols }, place)?
    } else if let Some(op) = op.strip_prefix("linear-") {
        let part = named(op, [("forward", matmul::Part::Y), ("step", matmul::Part::Step)])?;
        matmul::ready(matmul::Case { part, kind, logits, weights, tokens, shape }, place)?
    } else {
        let (op, metrics) = op.strip_suffix("+metrics").map_or((op, false), |op| (op, true));
        let does = [("forward", mask::Does::Forward), ("backward", mask::Does::Backward), ("train", mask::Does::Train)];
        mask::ready(mask::Case { does: named(op, does)?, kind, logits, weights, shape, metrics }, place)?
    };
    // Touches every page, and compiles what has to be.
    timed.time(1)?;
    Ok(timed)
}

fn named<T, const N: usize>(name: &str, values: [(&str, T); N]) -> Result<T> {
    let found = values.into_iter().find(|(known, _)| *known == name);
    Ok(found.ok_or_else(|| format!("{name} is none of the words for its place"))?.1)
}

/// Makes rayon's pool of so many threads, or sees that it has them: it is made once a process.
fn use_threads(threads: usize) -> Result<()> {
    let made = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let count = rayon::current_num_threads();
    if made.is_err() && threads != 0 && threads != count {
        return Err(format!("the pool has {count} threads by now: start another process for {threads}").into());
    }
    Ok(())
}
