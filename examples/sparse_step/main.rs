//! A training step with hard masks whose forward product runs on the compressed weight: logits to codes and packed
//! weight, `Y` by the 2:4 product, `dX` and the logits' gradient from the same codes. Beside it the same step through
//! `matmul`, which masks on the way: `cargo run --release --example sparse_step`, with `--device cuda` on the first GPU.
//!
//! Only `Y = X (W∘M)ᵀ` contracts over the dimension that groups run along, so only it can use sparse tensor cores; `dX`
//! contracts over rows, and is a product by the masked weight either way.
//!
//! Exit code 0 if all is well, or if there is no CUDA device (unless `TWOFOUR_REQUIRE_GPU=1`); 1 if results differ; 2 if
//! something fails.

#[cfg(feature = "cuda")]
mod gpu;
mod host;

use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use std::process::ExitCode;
use std::time::Instant;
use twofour::mask::Sampling;
use twofour::matmul::Problem;
use twofour::{Float, Shape, bf16, noise};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A training step with hard masks through the compressed weight, compared with the same through the masked weight.
#[derive(Debug, Parser)]
#[command(name = "sparse_step")]
struct Args {
    /// Rows of the weight: out features
    #[arg(long, default_value_t = 1024)]
    rows: usize,
    /// Columns of the weight: in features, a multiple of 4
    #[arg(long, default_value_t = 1024)]
    cols: usize,
    /// Rows of X
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Pairs of measurements, of which the medians count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

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

fn run(args: &Args) -> Result<bool> {
    let data = Data::new(args)?;
    if args.device == Device::Cpu {
        return compare(args, &mut host::Steps::new(&data)?);
    }
    #[cfg(feature = "cuda")]
    match twofour::device::available() {
        Ok(_) => compare(args, &mut gpu::Steps::new(&data)?),
        Err(missing) => skipped(&missing.to_string()),
    }
    #[cfg(not(feature = "cuda"))]
    skipped("built without the feature `cuda`")
}

/// Says that there is nothing to run on; an error where there must be.
fn skipped(why: &str) -> Result<bool> {
    if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|value| value == "1") {
        return Err(format!("TWOFOUR_REQUIRE_GPU=1, but {why}").into());
    }
    println!("skipped: no CUDA device ({why})");
    Ok(true)
}

/// What a step is made of, in the host's memory: normal-distributed, as training begins.
struct Data {
    problem: Problem,
    logits: Vec<f32>,
    weight: Vec<bf16>,
    x: Vec<bf16>,
    dy: Vec<bf16>,
}

/// λ of the regulariser.
const LAMBDA: f32 = 1e-5;

impl Data {
    fn new(args: &Args) -> Result<Self> {
        let problem = Problem::new(args.tokens, Shape::new(args.rows, args.cols));
        problem.check()?;
        let mut rng = StdRng::seed_from_u64(24);
        Ok(Self {
            problem,
            logits: normal(&mut rng, problem.shape.logits(), 0.02)?,
            weight: normal(&mut rng, problem.shape.weights(), 0.02)?,
            x: normal(&mut rng, problem.inputs(), 1.0)?,
            dy: normal(&mut rng, problem.outputs(), 0.001)?,
        })
    }
}

fn normal<T: Float>(rng: &mut StdRng, count: usize, deviation: f32) -> Result<Vec<T>> {
    Ok(Normal::new(0.0, deviation)?.sample_iter(rng).take(count).map(T::from_f32).collect())
}

/// The masks of a step.
fn sampling(step: u32) -> Sampling {
    Sampling { seed: 1, draw: noise::draw(0, step, 0), kappa: 100.0, tau: 4.0 }
}

/// One step in two ways, on some executor.
trait Steps {
    /// What it runs on and how, in lines.
    fn describe(&self) -> Result<String>;
    /// Logits to codes to a packed weight, `Y` by the 2:4 product, then the gradients by the codes.
    fn sparse(&mut self, sampling: Sampling) -> Result<()>;
    /// The same by `matmul` alone.
    fn masked(&mut self, sampling: Sampling) -> Result<()>;
    /// Waits until everything is done.
    fn wait(&self) -> Result<()>;
    /// Waits, and gives what the last step made.
    fn results(&self) -> Result<Results>;
}

/// What a step makes.
struct Results {
    codes: Vec<u8>,
    y: Vec<f32>,
    dx: Vec<f32>,
    dlogits: Vec<f32>,
}

/// Two roundings to bf16, and sums that are small beside them, in relation to the largest value.
const Y_LIMIT: f64 = 1.0 / 128.0;

/// Runs both, and prints errors, bytes and times. Whether they agree.
fn compare(args: &Args, steps: &mut dyn Steps) -> Result<bool> {
    let Args { rows, cols, tokens, .. } = args;
    println!("layer       {rows} x {cols} bf16, hard masks, logits f32, {tokens} tokens");
    println!("{}", steps.describe()?);
    steps.sparse(sampling(0))?;
    let ours = steps.results()?;
    steps.masked(sampling(0))?;
    let theirs = steps.results()?;

    let y_error = error(&ours.y, &theirs.y);
    let same = ours.codes == theirs.codes
        && bits(&ours.dx) == bits(&theirs.dx)
        && bits(&ours.dlogits) == bits(&theirs.dlogits);
    println!("Y           differs by {y_error:.1e} of its largest value (at most {Y_LIMIT:.1e})");
    println!("gradients   {}", if same { "equal to the bit, as the codes are" } else { "DIFFERENT" });

    let weights = (rows * cols) as f64;
    let (masked, packed, codes) = (2.0 * weights, weights * 9.0 / 8.0, weights / 8.0);
    println!(
        "bytes       {packed:.0} of packed weight instead of {masked:.0} masked, and {codes:.0} of codes for the gradients"
    );
    let [sparse, masked, ratio] = times(args, steps)?;
    println!(
        "step        {sparse:.3} ms through the packed weight, {masked:.3} ms through `matmul`: {ratio:.3} times as fast"
    );
    Ok(same && y_error <= Y_LIMIT)
}

/// Milliseconds of either way, and the ratio of the second to the first: medians over rounds.
fn times(args: &Args, steps: &mut dyn Steps) -> Result<[f64; 3]> {
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=u32::from(args.rounds) {
        let mut timed = |run: &mut dyn FnMut(&mut dyn Steps) -> Result<()>| -> Result<f64> {
            let begun = Instant::now();
            run(steps)?;
            steps.wait()?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        };
        let sparse = timed(&mut |steps| steps.sparse(sampling(round)))?;
        let masked = timed(&mut |steps| steps.masked(sampling(round)))?;
        for (samples, value) in samples.iter_mut().zip([sparse, masked, masked / sparse]) {
            samples.push(value);
        }
    }
    Ok(samples.map(median))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The largest difference over the largest value.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let largest = b.iter().fold(f64::MIN_POSITIVE, |largest, b| largest.max(f64::from(b.abs())));
    let worst = |worst: f64, (a, b): (&f32, &f32)| {
        let apart = f64::from((a - b).abs());
        // A NaN is no agreement.
        if apart <= worst { worst } else { apart }
    };
    a.iter().zip(b).fold(0.0, worst) / largest
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
