//! A masked linear layer, forward and backward, on a real or a generated weight: samples the masks, runs
//! `Y = X (W∘M)ᵀ`, `dX = dY (W∘M)` and the gradient of the logits on the GPU if there is one, else on the CPU, and
//! checks the results against a naive dense reference in `f64`. Prints the plan: which route each product takes on the
//! device, or would take on an H200.
//!
//! Exit code 0 if all is well, 1 if a result is off, 2 if the arguments or a file are.

mod data;
mod layer;
mod reference;
mod report;

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Keep, Problem};
use twofour::{DType, Float, Logit, Shape, bf16, f16};

/// Runs a masked linear layer forward and backward, and checks it against a naive reference.
///
/// The weight is a tensor of a safetensors file, or generated. Logits, activations and their gradient are always
/// generated, normally distributed. Results and times are printed; the exit code is 1 if a result is off, 2 if the
/// arguments or the file are.
#[derive(Debug, Parser)]
#[command(name = "masked_gemm")]
struct Args {
    /// A safetensors file to read the weight from
    #[arg(long, value_name = "FILE", requires = "tensor", conflicts_with = "shape")]
    weights: Option<PathBuf>,
    /// The weight's name in that file: a 2-D tensor of F32, F16 or BF16
    #[arg(long, value_name = "NAME", requires = "weights")]
    tensor: Option<String>,
    /// Out and in features of a generated weight; K is a multiple of 4
    #[arg(long, value_name = "N,K", default_value = "2048,2048", value_parser = parse_shape)]
    shape: Shape,
    /// Rows of X
    #[arg(long, value_name = "T", default_value_t = 256)]
    tokens: usize,
    /// How scores become a mask
    #[arg(long, value_enum, default_value_t = KindArg::Soft)]
    kind: KindArg,
    /// What the forward pass leaves for the backward pass
    #[arg(long, value_enum, default_value_t = KeepArg::Nothing)]
    keep: KeepArg,
    /// Type of weights and activations [default: the file's, or f32]
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
    /// Type of the logits
    #[arg(long, value_enum, default_value_t = LogitArg::F32)]
    logits: LogitArg,
    /// Logit scale κ
    #[arg(long, default_value_t = 100.0)]
    kappa: f32,
    /// Temperature τ, positive
    #[arg(long, default_value_t = 1.0)]
    tau: f32,
    /// Weight-regularisation coefficient λ
    #[arg(long, default_value_t = 1e-5, allow_negative_numbers = true)]
    lambda: f32,
    /// Seed of the noise and of all generated data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to run: `auto` takes the GPU if there is one that works
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    device: DeviceArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    Soft,
    Hard,
    /// The likeliest pattern, without noise: for evaluation, so without gradient to the logits
    Argmax,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeepArg {
    /// The masks are made again
    Nothing,
    /// W∘M
    Masked,
    /// The codes of hard or argmax masks
    Codes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DTypeArg {
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogitArg {
    F32,
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DeviceArg {
    Auto,
    Cpu,
    Cuda,
}

fn parse_shape(text: &str) -> Result<Shape, String> {
    let numbers = text.split_once([',', 'x']).map(|(rows, cols)| (rows.trim().parse(), cols.trim().parse()));
    match numbers {
        Some((Ok(rows), Ok(cols))) => Ok(Shape::new(rows, cols)),
        _ => Err("expected two numbers, as in 4096,1024".into()),
    }
}

/// What to run, once the arguments are understood.
struct Job {
    weight: data::Weight,
    problem: Problem,
    kind: Kind,
    keep: Keep,
    sampling: Sampling,
    lambda: f32,
    seed: u64,
    device: DeviceArg,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Whether every result is within its bound.
fn run(args: &Args) -> Result<bool, Failure> {
    let weight = match (&args.weights, &args.tensor) {
        (Some(file), Some(tensor)) => data::load(file, tensor)?,
        _ => {
            args.shape.check()?;
            data::generate(args.shape, args.seed)
        }
    };
    let dtype = match args.dtype {
        Some(DTypeArg::F32) => DType::F32,
        Some(DTypeArg::F16) => DType::F16,
        Some(DTypeArg::Bf16) => DType::Bf16,
        None => weight.dtype,
    };
    let job = Job {
        problem: Problem::new(args.tokens, weight.shape),
        weight,
        kind: match args.kind {
            KindArg::Soft => Kind::Soft,
            KindArg::Hard => Kind::Hard,
            KindArg::Argmax => Kind::Argmax,
        },
        keep: match args.keep {
            KeepArg::Nothing => Keep::Nothing,
            KeepArg::Masked => Keep::Masked,
            KeepArg::Codes => Keep::Codes,
        },
        sampling: Sampling { seed: args.seed, draw: 0, kappa: args.kappa, tau: args.tau },
        lambda: args.lambda,
        seed: args.seed,
        device: args.device,
    };
    job.problem.check()?;
    match (args.logits, dtype) {
        (LogitArg::F32, DType::F32) => typed::<f32, f32>(&job),
        (LogitArg::F32, DType::F16) => typed::<f32, f16>(&job),
        (LogitArg::F32, _) => typed::<f32, bf16>(&job),
        (LogitArg::Bf16, DType::F32) => typed::<bf16, f32>(&job),
        (LogitArg::Bf16, DType::F16) => typed::<bf16, f16>(&job),
        (LogitArg::Bf16, _) => typed::<bf16, bf16>(&job),
    }
}

fn typed<L: Logit, W: Float>(job: &Job) -> Result<bool, Failure> {
    let operands = data::Operands::<L, W>::new(job);
    let results = layer::run(job, &operands)?;
    let checks = reference::check(job, &operands, &results);
    report::print::<L, W>(job, &results, &checks);
    Ok(checks.iter().all(reference::Check::passed))
}
