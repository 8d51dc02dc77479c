//! Masks do not depend on activations, so the next layer's mask can be made while this layer multiplies: the one keeps
//! the memory busy, the other the tensor cores. This runs a stack of masked layers on two streams of the first GPU,
//! then on one, compares the times, and sees that the results are the same to the bit:
//! `cargo run --release --example overlap`.
//!
//! Exit code 0 if all is well or there is no CUDA device (unless `TWOFOUR_REQUIRE_GPU=1`), 1 if results differ, 2 if
//! something fails.

use clap::Parser;
use std::process::ExitCode;

/// Overlaps the next layer's masks with this layer's product, on two streams of the first GPU.
#[derive(Debug, Parser)]
#[command(name = "overlap")]
struct Args {
    /// In and out features of every layer; a multiple of 4
    #[arg(long, default_value_t = 4096)]
    width: usize,
    /// Rows of X
    #[arg(long, default_value_t = 4096)]
    tokens: usize,
    /// Layers of the stack
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    layers: u16,
    /// Steps that are timed together, each with masks of its own
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn run(_: &Args) -> Result<bool, String> {
    skipped("built without the feature `cuda`")
}

#[cfg(feature = "cuda")]
fn run(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    match twofour::device::available() {
        Ok(_) => stack::compare(args),
        Err(missing) => Ok(skipped(&missing.to_string())?),
    }
}

/// Says that there is nothing to run on; an error where there must be.
fn skipped(why: &str) -> Result<bool, String> {
    if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|value| value == "1") {
        return Err(format!("TWOFOUR_REQUIRE_GPU=1, but {why}"));
    }
    println!("skipped: no CUDA device ({why})");
    Ok(true)
}

#[cfg(feature = "cuda")]
mod stack {
    use crate::Args;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rand_distr::{Distribution, Normal};
    use twofour::cudarc::driver::{CudaEvent, sys};
    use twofour::mask::{self, Kind, Sampling};
    use twofour::matmul::{Forward, Keep, Layer, Masks, Plan, Problem};
    use twofour::{Buffer, Executor, Float, Gpu, Shape, bf16, device, noise};

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    /// Pairs of measurements, of which the medians count.
    const ROUNDS: usize = 10;

    /// Whether both orders give the same bits.
    pub(crate) fn compare(args: &Args) -> Result<bool> {
        let mut stack = Stack::new(args)?;
        println!("device      {}", stack.main.stream().context().name()?);
        let (width, tokens) = (args.width, args.tokens);
        println!(
            "stack       {} layers of {width} x {width} bf16, soft masks, logits f32, {tokens} tokens",
            args.layers
        );

        // Loads what has to be, and leaves masks of other draws in the buffers.
        stack.steps(Order::Sequential, 2, 1)?;
        let (mut times, mut ratios, mut same) = ([Vec::new(), Vec::new()], Vec::new(), true);
        for round in 1..=ROUNDS as u16 {
            let [sequential, overlapped] = [Order::Sequential, Order::Overlapped].map(|order| {
                let time = stack.steps(order, args.steps, round)?;
                Ok::<_, Box<dyn std::error::Error>>((time, stack.results()?))
            });
            let ((sequential, expected), (overlapped, got)) = (sequential?, overlapped?);
            times[0].push(sequential);
            times[1].push(overlapped);
            ratios.push(sequential / overlapped);
            same &= expected == got;
        }
        let [sequential, overlapped] = times.map(median);
        println!("sequential  {sequential:.3} ms a step (median of {ROUNDS} rounds)");
        println!("overlapped  {overlapped:.3} ms a step: {:.3} times as fast", median(ratios));
        println!("results     {}", if same { "equal to the bit" } else { "DIFFERENT" });
        Ok(same)
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    #[derive(Debug, Clone, Copy)]
    enum Order {
        Sequential,
        Overlapped,
    }

    struct Weight {
        logits: Buffer<f32>,
        weight: Buffer<bf16>,
        /// `W∘M`, saved for a backward pass.
        masked: Buffer<bf16>,
        /// When `masked` is there.
        ready: CudaEvent,
    }

    struct Stack {
        main: Gpu,
        side: Gpu,
        plan: Plan<f32, bf16>,
        weights: Vec<Weight>,
        /// What goes into each layer, and what comes out of the last.
        activations: Vec<Buffer<bf16>>,
        workspace: Option<Buffer<u8>>,
        /// When a step begins.
        begin: CudaEvent,
    }

    impl Stack {
        fn new(args: &Args) -> Result<Self> {
            let context = device::context(0)?;
            // SAFETY: work on the two streams is ordered by the events below, and `drop` waits for both streams before
            // anything is freed.
            unsafe { context.disable_event_tracking() };
            let (mut main, side) = (Gpu::new(&context.new_stream()?)?, Gpu::new(&context.new_stream()?)?);
            let problem = Problem::new(args.tokens, Shape::new(args.width, args.width));
            let masks = Masks::Sampled(Kind::Soft);
            let plan = Plan::new(&main.limits(), main.libraries(), problem, masks, Keep::Masked)?;
            main.prepare(&plan)?;
            let shape = problem.shape;
            // So wide that activations keep their size from layer to layer.
            let deviation = (2.0 / args.width.max(1) as f32).sqrt();
            let mut rng = StdRng::seed_from_u64(24);
            let logits = normal::<f32>(&mut rng, shape.logits(), 0.01)?;
            let weight = normal::<bf16>(&mut rng, shape.weights(), deviation)?;
            let weights = (0..args.layers).map(|_| {
                Ok(Weight {
                    logits: main.upload(&logits)?,
                    weight: main.upload(&weight)?,
                    masked: main.zeros(shape.weights())?,
                    ready: context.new_event(None)?,
                })
            });
            let weights = weights.collect::<Result<Vec<_>>>()?;
            let mut activations = vec![main.upload(&normal::<bf16>(&mut rng, problem.inputs(), 1.0)?)?];
            for _ in 0..args.layers {
                activations.push(main.zeros(problem.outputs())?);
            }
            let workspace = main.workspace(plan.workspace_bytes())?;
            let begin = context.new_event(None)?;
            Ok(Self { main, side, plan, weights, activations, workspace, begin })
        }

        /// Runs so many steps; milliseconds of one.
        fn steps(&mut self, order: Order, steps: u32, round: u16) -> Result<f64> {
            let timed = || self.main.stream().context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
            let (first, last) = (timed()?, timed()?);
            first.record(self.main.stream())?;
            for step in 0..steps {
                match order {
                    Order::Sequential => self.sequential(step, round)?,
                    Order::Overlapped => self.overlapped(step, round)?,
                }
            }
            last.record(self.main.stream())?;
            Ok(f64::from(first.elapsed_ms(&last)?) / f64::from(steps))
        }

        /// Each layer makes its masks, saves `W∘M`, and multiplies.
        fn sequential(&mut self, step: u32, round: u16) -> Result<()> {
            for at in 0..self.weights.len() {
                self.multiply(at, sampling(at, step, round), Order::Sequential)?;
            }
            Ok(())
        }

        /// Masks are made on the side stream, one layer ahead of the products on the main stream.
        fn overlapped(&mut self, step: u32, round: u16) -> Result<()> {
            // The side stream may write over a `W∘M` only when the step before has multiplied by it. (In training it
            // waits for the new logits here, too.)
            self.begin.record(self.main.stream())?;
            self.side.stream().wait(&self.begin)?;
            self.make_mask(0, sampling(0, step, round))?;
            for at in 0..self.weights.len() {
                if at + 1 < self.weights.len() {
                    self.make_mask(at + 1, sampling(at + 1, step, round))?;
                }
                self.main.stream().wait(&self.weights[at].ready)?;
                self.multiply(at, sampling(at, step, round), Order::Overlapped)?;
            }
            Ok(())
        }

        fn make_mask(&mut self, at: usize, sampling: Sampling) -> Result<()> {
            let shape = self.plan.problem().shape;
            let Weight { logits, weight, masked, ready } = &mut self.weights[at];
            let pass = mask::Forward::new(shape, Kind::Soft, sampling, &*logits);
            self.side.run(pass.weight(&*weight).masked(masked))?;
            Ok(ready.record(self.side.stream())?)
        }

        fn multiply(&mut self, at: usize, sampling: Sampling, order: Order) -> Result<()> {
            let Weight { logits, weight, masked, .. } = &mut self.weights[at];
            let layer = Layer::sampled(self.plan.problem().shape, Kind::Soft, sampling, &*logits, &*weight);
            let (inputs, outputs) = self.activations.split_at_mut(at + 1);
            let pass = Forward::new(&self.plan, &layer, &inputs[at], &mut outputs[0]);
            let pass = match order {
                Order::Sequential => pass.save_masked(masked),
                Order::Overlapped => pass.use_masked(&*masked),
            };
            Ok(self.main.run(match &mut self.workspace {
                Some(workspace) => pass.workspace(workspace),
                None => pass,
            })?)
        }

        /// The bits of the last output and of every `W∘M`, once they are there.
        fn results(&self) -> Result<Vec<Vec<u16>>> {
            let arrays = self.activations.last().into_iter().chain(self.weights.iter().map(|weight| &weight.masked));
            arrays.map(|array| Ok(self.main.download(array)?.into_iter().map(bf16::to_bits).collect())).collect()
        }
    }

    impl Drop for Stack {
        fn drop(&mut self) {
            // Whatever went wrong: nothing is freed that is still in use.
            let _ = (self.side.stream().synchronize(), self.main.stream().synchronize());
        }
    }

    /// No two masks of a run share their noise.
    fn sampling(layer: usize, step: u32, round: u16) -> Sampling {
        Sampling { seed: 1, draw: noise::draw(layer as u32, step, round), kappa: 100.0, tau: 4.0 }
    }

    fn normal<T: Float>(rng: &mut StdRng, elements: usize, deviation: f32) -> Result<Vec<T>> {
        Ok(Normal::new(0.0, deviation)?.sample_iter(rng).take(elements).map(T::from_f32).collect())
    }
}
