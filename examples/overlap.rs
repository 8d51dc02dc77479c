//! Masks do not depend on activations, so the next layer's mask can be made while this layer multiplies: the one keeps
//! the memory busy, the other the tensor cores. Runs a stack of masked layers on one stream of the first GPU and on two,
//! and compares times and bits: `cargo run --release --example overlap`.
//!
//! Exit code 0 if all is well or there is no CUDA device (unless `TWOFOUR_REQUIRE_GPU=1`), 1 if results differ, 2 if
//! something fails.

use clap::Parser;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

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
    let same = run(&Args::parse()).inspect_err(|failure| eprintln!("error: {failure}"));
    ExitCode::from(same.map_or(2, |same| u8::from(!same)))
}

/// Without a device it says so; an error where there must be one.
fn run(args: &Args) -> Result<bool> {
    #[cfg(feature = "cuda")]
    let missing = match twofour::device::available() {
        Ok(_) => return stack::compare(args),
        Err(missing) => missing,
    };
    #[cfg(not(feature = "cuda"))]
    let missing = format!("built without the feature `cuda`, for {args:?}");
    if std::env::var_os("TWOFOUR_REQUIRE_GPU").is_some_and(|value| value == "1") {
        return Err(format!("TWOFOUR_REQUIRE_GPU=1, but {missing}").into());
    }
    println!("skipped: no CUDA device ({missing})");
    Ok(true)
}

#[cfg(feature = "cuda")]
mod stack {
    use crate::Args;
    use crate::Result;
    use rand::{SeedableRng, rngs::StdRng};
    use rand_distr::{Distribution, Normal};
    use std::time::Instant;
    use twofour::cudarc::driver::CudaEvent;
    use twofour::mask::{self, Kind, Sampling};
    use twofour::matmul::{Forward, Keep, Layer, Masks, Plan, Problem};
    use twofour::{Buffer, Executor, Float, Gpu, Shape, bf16, device, noise};

    /// Whether both orders give the same bits.
    pub(crate) fn compare(args: &Args) -> Result<bool> {
        let mut stack = Stack::new(args)?;
        let Args { width, tokens, layers, .. } = args;
        println!("device      {}", stack.main.stream().context().name()?);
        println!("stack       {layers} layers of {width} x {width} bf16, soft masks, logits f32, {tokens} tokens");

        // Loads what has to be, and leaves masks of other draws in the buffers.
        stack.steps(false, 2, 0)?;
        let (mut best, mut same) = ([f64::INFINITY; 2], true);
        for round in 1..=10 {
            let (sequential, expected) = (stack.steps(false, args.steps, round)?, stack.results()?);
            let (overlapped, got) = (stack.steps(true, args.steps, round)?, stack.results()?);
            best = [best[0].min(sequential), best[1].min(overlapped)];
            same &= expected == got;
        }
        let ratio = best[0] / best[1];
        println!("sequential  {:.3} ms a step (best of 10 rounds)", best[0]);
        println!("overlapped  {:.3} ms a step: {ratio:.3} times as fast", best[1]);
        println!("results     {}", if same { "equal to the bit" } else { "DIFFERENT" });
        Ok(same)
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
            let (shape, masks) = (problem.shape, Masks::Sampled(Kind::Soft));
            let plan = Plan::new(&main.limits(), main.libraries(), problem, masks, Keep::Masked)?;
            main.prepare(&plan)?;
            // So wide that activations keep their size from layer to layer.
            let deviation = (2.0 / args.width.max(1) as f32).sqrt();
            let mut rng = StdRng::seed_from_u64(24);
            let (logits, weight) =
                (normal(&mut rng, shape.logits(), 0.01)?, normal(&mut rng, shape.weights(), deviation)?);
            let mut weights = Vec::new();
            for _ in 0..args.layers {
                let (logits, weight, masked) =
                    (main.upload(&logits)?, main.upload(&weight)?, main.zeros(shape.weights())?);
                weights.push(Weight { logits, weight, masked, ready: context.new_event(None)? });
            }
            let first = normal::<bf16>(&mut rng, problem.inputs(), 1.0)?;
            let others = (0..args.layers).map(|_| main.zeros(problem.outputs()));
            let activations = std::iter::once(main.upload(&first)).chain(others).collect::<twofour::Result<_>>()?;
            let (workspace, begin) = (main.workspace(plan.workspace_bytes())?, context.new_event(None)?);
            Ok(Self { main, side, plan, weights, activations, workspace, begin })
        }

        /// Runs so many steps; milliseconds of one. Each layer makes its masks, saves `W∘M`, and multiplies. Overlapped,
        /// masks are made on the side stream, ahead of the products on the main stream.
        fn steps(&mut self, overlapped: bool, steps: u32, round: u16) -> Result<f64> {
            let begun = Instant::now();
            for step in 0..steps {
                // No two masks of a run share their noise.
                let draw = |at: usize| noise::draw(at as u32, step, round);
                let sampling = |at: usize| Sampling { seed: 1, draw: draw(at), kappa: 100.0, tau: 4.0 };
                if overlapped {
                    // The side stream may write over a `W∘M` only when the step before has multiplied by it. (In
                    // training it waits for the new logits here, too.)
                    self.begin.record(self.main.stream())?;
                    self.side.stream().wait(&self.begin)?;
                    (0..self.weights.len()).try_for_each(|at| self.make_mask(at, sampling(at)))?;
                }
                for at in 0..self.weights.len() {
                    if overlapped {
                        self.main.stream().wait(&self.weights[at].ready)?;
                    }
                    self.multiply(at, sampling(at), overlapped)?;
                }
            }
            self.main.stream().synchronize()?;
            Ok(1e3 * begun.elapsed().as_secs_f64() / f64::from(steps))
        }

        fn make_mask(&mut self, at: usize, sampling: Sampling) -> Result<()> {
            let shape = self.plan.problem().shape;
            let Weight { logits, weight, masked, ready } = &mut self.weights[at];
            let pass = mask::Forward::new(shape, Kind::Soft, sampling, &*logits);
            self.side.run(pass.weight(&*weight).masked(masked))?;
            Ok(ready.record(self.side.stream())?)
        }

        fn multiply(&mut self, at: usize, sampling: Sampling, overlapped: bool) -> Result<()> {
            let Weight { logits, weight, masked, .. } = &mut self.weights[at];
            let layer = Layer::sampled(self.plan.problem().shape, Kind::Soft, sampling, &*logits, &*weight);
            let (inputs, outputs) = self.activations.split_at_mut(at + 1);
            let pass = Forward::new(&self.plan, &layer, &inputs[at], &mut outputs[0]);
            let pass = if overlapped { pass.use_masked(&*masked) } else { pass.save_masked(masked) };
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

    fn normal<T: Float>(rng: &mut StdRng, elements: usize, deviation: f32) -> Result<Vec<T>> {
        Ok(Normal::new(0.0, deviation)?.sample_iter(rng).take(elements).map(T::from_f32).collect())
    }
}
