//! A training step with hard masks whose forward product runs on the compressed weight: logits to codes and packed
//! weight, `Y` by the 2:4 product, `dX` and the logits' gradient from the same codes. Beside it the same step through
//! `matmul`, which masks on the way: `cargo run --release --example sparse_step`, with `--device cuda` on the first GPU.
//!
//! Only `Y = X (W∘M)ᵀ` contracts over the dimension that groups run along, so only it can use sparse tensor cores; `dX`
//! contracts over rows, and is a product by the masked weight either way.
//!
//! Exit code 0 if all is well, or if there is no CUDA device (unless `TWOFOUR_REQUIRE_GPU=1`); 1 if results differ; 2 if
//! something fails.

use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use std::process::ExitCode;
use std::time::Instant;
use twofour::compress::{Layout, Pack};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Keep, Layer, Problem};
use twofour::sparse::{Given, Weight};
use twofour::{Cpu, DType, Executor, Float, Shape, bf16, noise};

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
    ExitCode::from(run(&Args::parse()).map_or_else(
        |failure| {
            eprintln!("error: {failure}");
            2
        },
        |agree| u8::from(!agree),
    ))
}

fn run(args: &Args) -> Result<bool> {
    if args.device == Device::Cpu {
        return compare(args, Cpu, "CPU", |_| Ok(()));
    }
    #[cfg(feature = "cuda")]
    match twofour::device::available() {
        Ok(_) => {
            let stream = twofour::device::context(0)?.default_stream();
            let gpu = twofour::Gpu::new(&stream)?;
            compare(args, gpu, &stream.context().name()?, |gpu| Ok(gpu.stream().synchronize()?))
        }
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

/// The masks of a step.
fn sampling(step: u32) -> Sampling {
    Sampling { seed: 1, draw: noise::draw(0, step, 0), kappa: 100.0, tau: 4.0 }
}

/// Two roundings to bf16, and sums that are small beside them, in relation to the largest value.
const Y_LIMIT: f64 = 1.0 / 128.0;

/// λ of the regulariser.
const LAMBDA: f32 = 1e-5;
/// Of the packed weight.
const LAYOUT: Layout = Layout::CutlassSm80;

/// Runs both on normal-distributed operands, as training begins, and prints errors, bytes and times. Whether they agree.
fn compare<E: Executor>(args: &Args, mut on: E, name: &str, wait: impl Fn(&E) -> Result<()>) -> Result<bool> {
    let &Args { rows, cols, tokens, rounds, .. } = args;
    let (shape, rng) = (Shape::new(rows, cols), &mut StdRng::seed_from_u64(24));
    let problem = Problem::new(tokens, shape);
    problem.check()?;
    let logits = on.upload(&normal::<f32>(rng, shape.logits(), 0.02)?)?;
    let weight = on.upload(&normal::<bf16>(rng, shape.weights(), 0.02)?)?;
    let x = on.upload(&normal::<bf16>(rng, problem.inputs(), 1.0)?)?;
    let dy = on.upload(&normal::<bf16>(rng, problem.outputs(), 0.001)?)?;
    let sizes = LAYOUT.sizes(shape, DType::Bf16)?;
    let (mut values, mut metadata) = (on.zeros::<bf16>(sizes.values)?, on.zeros(sizes.metadata)?);
    let (mut codes, mut y) = (on.zeros(shape.packed_codes())?, on.zeros::<bf16>(problem.outputs())?);
    let (mut dx, mut dlogits) = (on.zeros::<bf16>(problem.inputs())?, on.zeros(shape.logits())?);
    // A weight that changes with every step is not worth packing for cuSPARSELt; of this one no plan asks for it.
    let plan = Weight::<E::Space, bf16>::new(shape, LAYOUT, E::input(&values), E::input(&metadata)).plan(
        &on,
        tokens,
        Given::WEIGHT,
    )?;
    let layer = |sampling| Layer::sampled(shape, Kind::Hard, sampling, E::input(&logits), E::input(&weight));
    let of_masked = layer(sampling(0)).plan(&on, tokens, Keep::Codes)?;
    let (mut scratch, mut for_masked) = (on.scratch(&plan)?, on.scratch(&of_masked)?);
    println!("layer       {rows} x {cols} bf16, hard masks, logits f32, {tokens} tokens\ndevice      {name}");
    if args.device == Device::Cuda {
        println!("plan        {plan}");
    }

    let (mut results, mut times) = (Vec::new(), [const { Vec::new() }; 3]);
    for round in 0..=u32::from(rounds) {
        let (sampling, mut milliseconds) = (sampling(round), [0.0; 2]);
        let layer = layer(sampling);
        for (packed, milliseconds) in [true, false].into_iter().zip(&mut milliseconds) {
            let begun = Instant::now();
            if packed {
                // From logits to the packed weight in one pass; the codes are for the way back.
                let pack = Pack::from_logits(shape, Kind::Hard, sampling, E::input(&logits), E::input(&weight));
                let pack = pack.layout(LAYOUT).values(E::output(&mut values)).metadata(E::output(&mut metadata));
                on.run(pack.codes(E::output(&mut codes)))?;
                let weight = Weight::new(shape, LAYOUT, E::input(&values), E::input(&metadata));
                on.run(plan.multiply(&weight, E::input(&x), E::output(&mut y), &mut scratch))?;
            } else {
                let pass = of_masked.forward(&layer, E::input(&x), E::output(&mut y), &mut for_masked);
                on.run(pass.save_codes(E::output(&mut codes)))?;
            }
            let pass = of_masked.backward(&layer, E::input(&dy), &mut for_masked).regulariser(LAMBDA);
            let pass = pass.use_codes(E::input(&codes)).input_gradient(E::output(&mut dx));
            on.run(pass.logit_gradient(E::input(&x), E::output(&mut dlogits)))?;
            wait(&on)?;
            *milliseconds = begun.elapsed().as_secs_f64() * 1e3;
            if round == 0 {
                let bits: Vec<u16> = on.download(&dx)?.into_iter().map(bf16::to_bits).collect();
                let wide: Vec<u32> = on.download(&dlogits)?.into_iter().map(f32::to_bits).collect();
                results.push((on.download(&y)?, (on.download(&codes)?, bits, wide)));
            }
        }
        // The first is a warm-up.
        let [sparse, masked] = milliseconds;
        times.iter_mut().zip([sparse, masked, masked / sparse]).for_each(|(times, value)| times.push(value));
    }

    let [(ours, our_bits), (theirs, their_bits)] = &results[..] else { return Err("there are not two results".into()) };
    let (y_error, same) = (error(ours, theirs), our_bits == their_bits);
    println!("Y           differs by {y_error:.1e} of its largest value (at most {Y_LIMIT:.1e})");
    println!("gradients   {}", if same { "equal to the bit, as the codes are" } else { "DIFFERENT" });
    let weights = (rows * cols) as f64;
    let (masked, packed, codes) = (2.0 * weights, weights * 9.0 / 8.0, weights / 8.0);
    println!(
        "bytes       {packed:.0} of packed weight instead of {masked:.0} masked, and {codes:.0} of codes for the gradients"
    );
    let [sparse, masked, ratio] = times.map(|times| median(times[1..].to_vec()));
    println!(
        "step        {sparse:.3} ms through the packed weight, {masked:.3} ms through `matmul`: {ratio:.3} times as fast"
    );
    Ok(same && y_error <= Y_LIMIT)
}

fn normal<T: Float>(rng: &mut StdRng, count: usize, deviation: f32) -> Result<Vec<T>> {
    Ok(Normal::new(0.0, deviation)?.sample_iter(rng).take(count).map(T::from_f32).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The largest difference over the largest value.
fn error(a: &[bf16], b: &[bf16]) -> f64 {
    let largest = b.iter().fold(f64::MIN_POSITIVE, |largest, b| largest.max(b.to_f64().abs()));
    let apart = a.iter().zip(b).map(|(a, b)| (a.to_f64() - b.to_f64()).abs());
    // A NaN is no agreement, and stays.
    let worst = |worst: f64, apart: f64| if apart <= worst || worst.is_nan() { worst } else { apart };
    apart.fold(0.0, worst) / largest
}
