//! Decode of a feed-forward whose neurons are mostly off, with made-up weights of LLaMA-2 7B's size: all rows read, 2:4
//! weights, rows of neurons that are off skipped, both, and both with a mask that is given. Bytes and time of each, and
//! every result checked: `cargo run --release --example relu_decode`, with `--device cuda` on the first GPU.
//!
//! The share of gates and of ups that is positive is chosen, each by itself: of dReLU's neurons that are on for a tenth,
//! 32 in a hundred have a gate that is. Real models' two are not independent; what a model saves is to be measured.
//!
//! Exit code 0 if all is well, or if there is no CUDA device (unless `TWOFOUR_REQUIRE_GPU=1`); 1 if results differ; 2 if
//! something fails.

use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Normal};
use std::process::ExitCode;
use std::time::Instant;
use twofour::compress::{Compressed, Layout};
use twofour::glu::{Activation, Axis, FeedForward, Neurons, Plan, Route, words};
use twofour::{Cpu, Executor, Shape, bf16};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Decode of a feed-forward that skips neurons that are off, on dense and 2:4 weights.
#[derive(Debug, Parser)]
#[command(name = "relu_decode")]
struct Args {
    /// Width of X and Y: a multiple of 8
    #[arg(long, default_value_t = 4096)]
    width: usize,
    /// Neurons
    #[arg(long, default_value_t = 11_008)]
    neurons: usize,
    /// Tokens, 1 to 8
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    tokens: u8,
    /// Share of neurons that are on for a token
    #[arg(long, default_value_t = 0.1)]
    active: f64,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Rounds, of which the medians count
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
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
    if !(0.0..=1.0).contains(&args.active) || !args.width.is_multiple_of(8) {
        return Err("--active is from 0 to 1, and --width a multiple of 8".into());
    }
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

/// Roundings to bf16, and sums in another order, in relation to the largest value.
const LIMIT: f64 = 1.0 / 128.0;

/// What is timed: on 2:4 weights or dense ones, with which rows read, and whether a mask is given.
const WAYS: [(&str, bool, Route, bool); 6] = [
    ("dense", false, Route::Whole, false),
    ("2:4", true, Route::Whole, false),
    ("skipping", false, Route::Skip, false),
    ("skipping on 2:4", true, Route::Skip, false),
    ("given mask", false, Route::Skip, true),
    ("given mask, 2:4", true, Route::Skip, true),
];

/// Runs all ways in turns and prints bytes and times. Whether those on the same weights agree.
fn compare<E: Executor>(args: &Args, mut on: E, name: &str, wait: impl Fn(&E) -> Result<()>) -> Result<bool> {
    let (tokens, size) = (usize::from(args.tokens), [args.width, args.neurons]);
    let rng = &mut StdRng::seed_from_u64(18);
    let (x, weights) = made_up(rng, tokens, size, args.active)?;
    let plain = weights.each_ref().map(|weight| on.upload(weight)).into_iter().collect::<twofour::Result<Vec<_>>>()?;
    let mut kept = Vec::new();
    for weight in &weights {
        let weight = Compressed::by_magnitude(Shape::new(args.neurons, args.width), weight)?;
        kept.push((on.upload(weight.values())?, on.upload(&weight.metadata(Layout::Plain)?)?));
    }
    let [dense, sparse] = [false, true].map(|is_kept| {
        let of = |i: usize| match is_kept {
            true => Neurons::kept(Axis::Width, E::input(&kept[i].0), E::input(&kept[i].1)),
            false => Neurons::dense(E::input(&plain[i])),
        };
        FeedForward::<E::Space, bf16>::new(size, of(0), of(1), of(2))
    });
    println!("weights     3 x {} x {} bf16, made up; {tokens} token(s), dReLU", args.neurons, args.width);
    println!("device      {name}");

    let x = on.upload(&x)?;
    let (mut y, mut rows) = (on.zeros::<bf16>(tokens * args.width)?, on.zeros::<u32>(3)?);
    let mut given = [0, 1]
        .map(|_| on.zeros::<u32>(tokens * words(args.neurons)))
        .into_iter()
        .collect::<twofour::Result<Vec<_>>>()?;
    let (mut times, mut made, mut bytes) = ([const { Vec::new() }; 6], Vec::new(), Vec::new());
    for round in 0..=args.rounds {
        for (way, (_, is_kept, route, is_given)) in WAYS.into_iter().enumerate() {
            let plan = Plan::new(tokens, size, Activation::DRelu)?.with_route(route);
            let mut scratch = on.scratch(&plan)?;
            let weights = if is_kept { &sparse } else { &dense };
            let begun = Instant::now();
            let pass = plan.decode(weights, Activation::DRelu, E::input(&x), E::output(&mut y), &mut scratch);
            let pass = pass.rows(E::output(&mut rows));
            // What a perfect predictor would give is what the way before it has found.
            let mask = &mut given[usize::from(is_kept)];
            on.run(if is_given { pass.given(E::input(mask)) } else { pass.mask(E::output(mask)) })?;
            wait(&on)?;
            times[way].push(begun.elapsed().as_secs_f64() * 1e3);
            if round == 0 {
                made.push(on.download(&y)?);
                bytes.push(weights.bytes([0, 1, 2].map(|i| on.download(&rows).map_or(0, |rows| rows[i] as usize))));
            }
        }
    }

    println!("\n                   MB read   times fewer       ms   times as fast");
    let times = times.map(|times| median(times[1..].to_vec()));
    for (way, (name, ..)) in WAYS.iter().enumerate() {
        let (read, time) = (bytes[way] as f64 * 1e-6, times[way]);
        let (fewer, faster) = (bytes[0] as f64 / bytes[way] as f64, times[0] / time);
        println!("{name:16} {read:9.1} {fewer:13.2} {time:8.3} {faster:15.2}");
    }
    let worst = (2..6).map(|way| error(&made[way], &made[way % 2])).fold(0.0, f64::max);
    println!("\nY           differs by {worst:.1e} of its largest value (at most {LIMIT:.1e})");
    Ok(worst <= LIMIT)
}

/// X and three weights, of which gate and up have the square root of a share of positive products with the first token.
fn made_up(
    rng: &mut StdRng,
    tokens: usize,
    [width, neurons]: [usize; 2],
    active: f64,
) -> Result<(Vec<bf16>, [Vec<bf16>; 3])> {
    let x: Vec<bf16> = Normal::new(0.0, 1.0)?.sample_iter(&mut *rng).take(tokens * width).map(bf16::from_f32).collect();
    let normal = Normal::new(0.0f32, 0.02)?;
    let mut weights =
        [(); 3].map(|()| normal.sample_iter(&mut *rng).take(width * neurons).map(bf16::from_f32).collect::<Vec<_>>());
    for weight in &mut weights[..2] {
        for row in weight.chunks_mut(width.max(1)) {
            let product: f32 = row.iter().zip(&x).map(|(weight, x)| weight.to_f32() * x.to_f32()).sum();
            if (product > 0.0) != rng.random_bool(active.sqrt()) {
                row.iter_mut().for_each(|weight| *weight = -*weight);
            }
        }
    }
    Ok((x, weights))
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
