//! The products of a masked linear layer: `Y = X (W∘M)ᵀ`, `dX = dY (W∘M)`, and `G = dYᵀ X`, of which the gradient of
//! the logits is made. On the GPU if there is one (there must be with `TWOFOUR_REQUIRE_GPU=1`), else on the CPU. Prints
//! routes, workspaces, times, and errors against a naive `f64` reference: `cargo run --release --example masked_gemm`.
//!
//! Exit code 0 if all is well, 1 if a result is off, 2 if the arguments or the file are.

use clap::Parser;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Normal};
use safetensors::{Dtype, SafeTensors};
use std::{path::PathBuf, process::ExitCode, time::Instant};
use twofour::mask::{self, Kind, Sampling};
use twofour::matmul::{Keep, Layer, Problem};
use twofour::{Cpu, DType, Executor, Float, Shape, bf16, f16};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
const U: f64 = 1.0 / (1 << 24) as f64; // unit roundoff of `f32`

/// Runs a masked linear layer forward and backward, and checks it against a naive reference.
#[derive(Debug, Parser)]
#[command(name = "masked_gemm")]
struct Args {
    /// A safetensors file to read the weight from
    #[arg(long, value_name = "FILE", requires = "tensor")]
    weights: Option<PathBuf>,
    /// The weight's name in that file: a 2-D tensor of F32, F16 or BF16
    #[arg(long, value_name = "NAME", requires = "weights")]
    tensor: Option<String>,
    /// Out and in features of a made-up weight, the latter a multiple of 4
    #[arg(long, value_name = "N,K", default_value = "2048,2048", value_delimiter = ',', conflicts_with = "weights")]
    shape: Vec<usize>,
    /// Rows of X
    #[arg(long, value_name = "T", default_value_t = 256)]
    tokens: usize,
    /// How scores become a mask: soft, hard, or argmax, without noise
    #[arg(long, default_value = "soft", value_parser = kind)]
    kind: Kind,
    /// Type of weights and activations [default: the file's, or f32]
    #[arg(long, value_parser = ["f32", "f16", "bf16"])]
    dtype: Option<String>,
}

fn kind(name: &str) -> std::result::Result<Kind, &'static str> {
    let kinds = [("soft", Kind::Soft), ("hard", Kind::Hard), ("argmax", Kind::Argmax)];
    kinds.into_iter().find(|(of, _)| *of == name).map(|(_, kind)| kind).ok_or("expected soft, hard or argmax")
}

fn main() -> ExitCode {
    let good = run(&Args::parse()).inspect_err(|failure| eprintln!("error: {failure}"));
    ExitCode::from(good.map_or(2, |good| u8::from(!good)))
}

fn run(args: &Args) -> Result<bool> {
    let (shape, own, values) = match (&args.weights, &args.tensor, &args.shape[..]) {
        (Some(file), Some(tensor), _) => load(file, tensor)?,
        (_, _, &[rows, cols]) => (Shape::new(rows, cols), "f32", Vec::new()),
        _ => return Err("`--shape` takes two numbers, as in 4096,1024".into()),
    };
    Problem::new(args.tokens, shape).check()?;
    let values = if args.weights.is_some() { values } else { normal(1, shape.weights(), 0.02) };
    match args.dtype.as_deref().unwrap_or(own) {
        "f16" => place::<f16>(args, shape, &values),
        "bf16" => place::<bf16>(args, shape, &values),
        _ => place::<f32>(args, shape, &values),
    }
}

/// A weight of a file: its shape, its type, and its values.
fn load(file: &PathBuf, name: &str) -> Result<(Shape, &'static str, Vec<f32>)> {
    fn wide<T: Float>(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(size_of::<T>()).map(|bytes| bytemuck::pod_read_unaligned::<T>(bytes).to_f32()).collect()
    }
    let fail = |what: String| format!("{}: {what}", file.display());
    let bytes = std::fs::read(file).map_err(|e| fail(format!("cannot read it: {e}")))?;
    let content = SafeTensors::deserialize(&bytes).map_err(|e| fail(format!("not a whole safetensors file: {e}")))?;
    let no_such = |_| fail(format!("no tensor named {name}, only {}", content.names().join(", ")));
    let found = content.tensor(name).map_err(no_such)?;
    let (own, values) = match (found.dtype(), found.data()) {
        (Dtype::F32, data) => ("f32", wide::<f32>(data)),
        (Dtype::F16, data) => ("f16", wide::<f16>(data)),
        (Dtype::BF16, data) => ("bf16", wide::<bf16>(data)),
        (other, _) => return Err(fail(format!("{name} is of type {other:?}, not F32, F16 or BF16")).into()),
    };
    let flat = |_| fail(format!("{name} has shape {:?}, not two dimensions", found.shape()));
    let [rows, cols] = <[usize; 2]>::try_from(found.shape()).map_err(flat)?;
    Shape::new(rows, cols).check().map_err(|e| fail(format!("{name} has shape [{rows}, {cols}]: {e}")))?;
    Ok((Shape::new(rows, cols), own, values))
}

fn normal<T: Float>(seed: u64, count: usize, spread: f32) -> Vec<T> {
    let numbers = Normal::new(0.0, spread).map(|normal| normal.sample_iter(StdRng::seed_from_u64(seed)));
    numbers.into_iter().flatten().take(count).map(T::from_f32).collect()
}

fn place<W: Float>(args: &Args, shape: Shape, values: &[f32]) -> Result<bool> {
    let weight: Vec<W> = values.iter().map(|&value| W::from_f32(value)).collect();
    #[cfg(feature = "cuda")]
    let missing = match twofour::device::context(0).and_then(|on| twofour::Gpu::new(&on.default_stream())) {
        Ok(mut gpu) => {
            let name = gpu.stream().context().name()?;
            return layer(args, shape, &weight, &mut gpu, &name);
        }
        Err(missing) => missing,
    };
    #[cfg(not(feature = "cuda"))]
    let missing = "built without the feature `cuda`";
    if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|value| value == "1") {
        return Err(format!("TWOFOUR_REQUIRE_GPU=1, but {missing}").into());
    }
    let (why, threads) = (missing.to_string(), rayon::current_num_threads());
    let name = format!("CPU, {threads} threads, with the plan of an H200 ({})", why.split(':').next().unwrap_or(&why));
    layer(args, shape, &weight, &mut Cpu, &name)
}

/// Runs the layer on a device with this name. Whether it agrees with the reference.
fn layer<E: Executor, W: Float>(args: &Args, shape: Shape, weight: &[W], on: &mut E, name: &str) -> Result<bool> {
    let (problem, kind) = (Problem::new(args.tokens, shape), args.kind);
    let sampling = Sampling { seed: 0, draw: 0, kappa: 100.0, tau: 1.0 };
    let (logits, x) = (normal::<f32>(2, shape.logits(), 0.01), normal::<W>(3, problem.inputs(), 1.0));
    let dy = normal::<W>(4, problem.outputs(), 1.0);
    let [on_weight, on_x, on_dy] = [on.upload(weight)?, on.upload(&x)?, on.upload(&dy)?];
    let (mut y, mut dx, mut g) = (on.zeros::<W>(dy.len())?, on.zeros::<W>(x.len())?, on.zeros::<f32>(weight.len())?);
    let on_logits = on.upload(&logits)?;
    let layer = Layer::sampled(shape, kind, sampling, E::input(&on_logits), E::input(&on_weight));
    let plan = layer.plan(on, args.tokens, Keep::Nothing)?;
    let mut scratch = on.scratch(&plan)?;
    println!("device    {name}\nweight    {} x {} {}, {} tokens", shape.rows, shape.cols, W::DTYPE, args.tokens);
    println!("masks     {kind:?}, κ = {}, τ = {}\n{plan}", sampling.kappa, sampling.tau);
    // What was queued is done when a value comes back.
    let (mut best, flag) = ([f64::INFINITY; 2], on.zeros::<u8>(1)?);
    for _ in 0..3 {
        let begun = Instant::now();
        on.run(plan.forward(&layer, E::input(&on_x), E::output(&mut y), &mut scratch))?;
        on.download(&flag)?;
        let forward = begun.elapsed();
        let pass = plan.backward(&layer, E::input(&on_dy), &mut scratch).input_gradient(E::output(&mut dx));
        on.run(pass.weight_gradient(E::input(&on_x), E::output(&mut g)))?;
        on.download(&flag)?;
        best = [best[0].min(forward.as_secs_f64()), best[1].min((begun.elapsed() - forward).as_secs_f64())];
    }
    let speed = 3.0 * problem.operations() / (best[0] + best[1]).max(1e-9) / 1e9;
    let [forward, backward] = best.map(|seconds| 1e3 * seconds);
    println!("times     {forward:.3} ms forward, {backward:.3} ms backward (best of 3): {speed:.1} GFLOP/s");
    let (y, dx, g) = (on.download(&y)?, on.download(&dx)?, on.download(&g)?);
    let mut masked = vec![W::zeroed(); weight.len()];
    Cpu.run(mask::Forward::new(shape, kind, sampling, &logits).weight(weight).masked(&mut masked))?;
    let (t, n, k, soft) = (problem.tokens, shape.rows, shape.cols, kind == Kind::Soft);
    let loose = if soft { weight } else { &masked };
    let of = |a: W, i: usize| [wide(a) * wide(masked[i]), size::<f32>(wide(a) * size::<W>(wide(loose[i])))];
    // Sums in tensor cores are truncated; soft masks may be off by this much on a GPU, and are rounded with the weight.
    let sums = |depth: usize| depth as f64 * if name.starts_with("CPU") { U } else { 2.0 * U };
    let masks = if soft { 22.0 * U + ends::<W>()[0] } else { 0.0 };
    let y = check("Y", [t, n], sums(k) + masks, &|i, j| (y[i * n + j], sum(k, |l| of(x[i * k + l], j * k + l))));
    let dx = check("dX", [t, k], sums(n) + masks, &|i, j| (dx[i * k + j], sum(n, |l| of(dy[i * n + l], l * k + j))));
    let product = |a: W, b: W| [wide(a) * wide(b), size::<f32>(wide(a) * wide(b))];
    let g = check("G", [n, k], sums(t), &|i, j| (g[i * k + j], sum(t, |l| product(dy[l * n + i], x[l * k + j]))));
    Ok(y && dx && g)
}

/// Unit roundoff of a type, and its smallest normal number: below it, numbers are rounded as it is.
fn ends<T: Float>() -> [f64; 2] {
    let digits = if T::DTYPE == DType::F32 { 24 } else { [8, 11][usize::from(T::DTYPE == DType::F16)] };
    [digits, if T::DTYPE == DType::F16 { 14 } else { 126 }].map(|bits| 2f64.powi(-bits))
}

fn wide<T: Float>(value: T) -> f64 {
    f64::from(value.to_f32())
}

fn size<T: Float>(value: f64) -> f64 {
    value.abs().max(ends::<T>()[1])
}

/// Sums of values and of sizes.
fn sum(depth: usize, term: impl Fn(usize) -> [f64; 2]) -> [f64; 2] {
    (0..depth).map(term).fold([0.0; 2], |[value, size], term| [value + term[0], size + term[1]])
}

/// Compares results on a grid with values and their sizes, of which they may be off this share, and a rounding.
fn check<O: Float>(name: &str, size: [usize; 2], share: f64, of: &dyn Fn(usize, usize) -> (O, [f64; 2])) -> bool {
    const GRID: usize = 64;
    let grid = |count: usize| (1..=count.min(GRID)).map(move |i| i * count / count.min(GRID) - 1);
    let (mut error, mut worst) = (0.0_f64, 0.0_f64);
    for (row, col) in grid(size[0]).flat_map(|row| grid(size[1]).map(move |col| (row, col))) {
        let (got, [value, size]) = of(row, col);
        let bound = share * size + ends::<O>()[0] * value.abs().max(ends::<O>()[1]);
        // Rounded as results are: to numbers that the type has, and to infinity where it ends.
        let [low, value, high] = [-bound, 0.0, bound].map(|off| wide(O::from_f32((value + off) as f32)));
        let (got, off) = (wide(got), (wide(got) - value).abs());
        // Where a sum leaves `f32` on the way it is infinite, or NaN.
        if got == value || got.is_nan() && value.is_nan() || !got.is_finite() && size > f64::from(f32::MAX) {
            continue;
        }
        let part = if (low..=high).contains(&got) { (off / bound).min(1.0) } else { (off / bound).max(2.0) };
        (error, worst) = (error.max(off), worst.max(part));
    }
    let (points, verdict) = (grid(size[0]).count() * grid(size[1]).count(), if worst <= 1.0 { "ok" } else { "FAILED" });
    println!("{name:<9} off by {error:.3e}, {:.1} % of the bound, at {points} points: {verdict}", 100.0 * worst);
    worst <= 1.0
}
