//! The emulator's executor: the steps that a device would be given, its kernels run as they are. Products by cuBLASLt are
//! done here, naively, at the very addresses that the library would be given.

use crate::array::Array;
use crate::case::{Case, Outputs};
use crate::executor::{Executor, by_codes};
use bytemuck::Pod;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use twofour::dense::product::Product;
use twofour::device::Limits;
use twofour::device::launch::Launch;
use twofour::mask;
use twofour::matmul::steps::Step;
use twofour::matmul::{Backward, Forward, Keep, Layer, Plan};
use twofour::space::Raw;
use twofour::{DType, Float, Logit, bf16, f16};
use twofour_emulator::{Kernel, Options, Schedule};

/// How often each kernel has run in this process.
pub(crate) static RUNS: LazyLock<Mutex<HashMap<&'static str, usize>>> = LazyLock::new(Mutex::default);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Emulated {
    pub(crate) schedule: Schedule,
    pub(crate) limits: Limits,
}

impl Emulated {
    pub(crate) const A100: Self = Self { schedule: Schedule::RoundRobin, limits: Limits::A100 };
}

impl Executor for Emulated {
    fn run<L: Logit, W: Float>(&self, case: &Case<L, W>) -> Outputs<W> {
        let spec = &case.spec;
        let plan = spec.plan::<L, W>(&self.limits);
        let (logits, codes) = (Array::input("logits", &case.logits), Array::input("codes", &case.codes));
        let weight = Array::input("weight", &case.weight);
        let (x, dy) = (Array::input("x", &case.x), Array::input("dy", &case.dy));
        let sampled = Layer::<Raw, L, W>::new(spec.shape, spec.kind, spec.sampling, logits.raw(), weight.raw());
        let frozen = Layer::<Raw, f32, W>::frozen(spec.shape, codes.raw(), weight.raw());
        let operands = Operands { case, plan, weight: &weight, logits: &logits, x: &x, dy: &dy };
        match spec.frozen {
            true => self.passes(&operands, frozen.shard(case.shard)),
            false => self.passes(&operands, sampled.shard(case.shard)),
        }
    }
}

struct Operands<'a, L, W> {
    case: &'a Case<L, W>,
    plan: Plan,
    weight: &'a Array<W>,
    logits: &'a Array<L>,
    x: &'a Array<W>,
    dy: &'a Array<W>,
}

impl Emulated {
    fn passes<L: Logit, W: Float, M: Logit>(
        &self,
        operands: &Operands<'_, L, W>,
        layer: Layer<'_, Raw, M, W>,
    ) -> Outputs<W> {
        let Operands { case, plan, x, dy, .. } = *operands;
        let spec = &case.spec;
        let problem = spec.problem();
        let workspace = Array::<u8>::output("workspace", plan.workspace_bytes());
        let kept_masked =
            Array::<W>::output("masked", if spec.keep() == Keep::Masked { spec.shape.weights() } else { 0 });
        let kept_codes =
            Array::<u8>::output("codes", if spec.keep() == Keep::Codes { spec.shape.packed_codes() } else { 0 });
        let y = Array::<W>::output("y", problem.outputs());
        let args = Forward::<Raw, M, W>::new(layer, spec.tokens, x.raw(), y.raw()).workspace(workspace.raw());
        let args = match spec.keep() {
            Keep::Nothing => args,
            Keep::Masked => args.keep_masked(kept_masked.raw()),
            Keep::Codes => args.keep_codes(kept_codes.raw()),
        };
        if spec.wants[0] || spec.keep() != Keep::Nothing {
            self.run_steps(&args.steps(&plan).unwrap());
        }

        // Nothing may be left there for the backward pass to find.
        workspace.fill(0xff);
        let dx = Array::<W>::output("dx", problem.inputs());
        let logit_gradient = match spec.accumulate {
            true => Array::in_place("logit_gradient", &case.before),
            false => Array::output("logit_gradient", spec.shape.logits()),
        };
        let mut args = Backward::<Raw, M, W>::new(layer, spec.tokens, dy.raw()).regulariser(spec.regulariser);
        if spec.wants[1] {
            args = args.input_gradient(dx.raw());
        }
        args = match spec.keep() {
            Keep::Nothing => args,
            Keep::Masked => args.kept_masked(kept_masked.raw()),
            Keep::Codes => args.kept_codes(kept_codes.raw()),
        };
        args = match (spec.wants[2] && spec.has_logit_gradient(), spec.accumulate) {
            (false, _) => args,
            (_, true) => args.accumulate_logit_gradient(x.raw(), logit_gradient.raw()),
            (_, false) => args.logit_gradient(x.raw(), logit_gradient.raw()),
        };
        if spec.wants[1] || spec.wants[2] && spec.has_logit_gradient() {
            self.run_steps(&args.workspace(workspace.raw()).steps(&plan).unwrap());
        }
        Outputs {
            masked: self.masked(operands),
            kept_masked: (spec.keep() == Keep::Masked).then(|| kept_masked.read()),
            kept_codes: (spec.keep() == Keep::Codes).then(|| kept_codes.read()),
            y: y.read(),
            dx: dx.read(),
            logit_gradient: logit_gradient.read(),
        }
    }

    /// `W∘M` as the mask kernel writes it, or as codes say.
    fn masked<L: Logit, W: Float>(&self, operands: &Operands<'_, L, W>) -> Vec<W> {
        let Operands { case, weight, logits, .. } = *operands;
        let spec = &case.spec;
        if spec.frozen {
            return by_codes(case);
        }
        let masked = Array::<W>::output("masked", spec.shape.weights());
        let args = mask::Forward::<Raw, L, W>::new(spec.shape, spec.kind, spec.sampling, logits.raw());
        let args = args.shard(case.shard).weight(weight.raw()).masked(masked.raw());
        self.emulate(&args.launch(&self.limits).unwrap().pass);
        masked.read()
    }

    fn run_steps(&self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Sample(launch) => self.emulate(launch),
                Step::Mask(launch) => self.emulate(launch),
                Step::Small(launch) => self.emulate(launch),
                Step::Tile(launch) => self.emulate(launch),
                Step::Sum(launch) => self.emulate(launch),
                Step::Logits(launch) => self.emulate(launch),
                Step::MaskBackward(launch) => self.emulate(launch),
                Step::BlasLt(product, addresses) => multiply(product, *addresses),
            }
        }
    }

    /// Runs a launch as the driver would. A grid without blocks is nothing to do.
    fn emulate<A: Pod>(&self, launch: &Launch<A>) {
        if launch.grid.contains(&0) {
            return;
        }
        *RUNS.lock().unwrap().entry(launch.symbol.name).or_default() += 1;
        assert!(launch.shared_bytes <= self.limits.max_shared_bytes, "{}", launch.symbol.name);
        let of_emulator = twofour_emulator::Launch {
            kernel: Kernel::find(launch.symbol.name).unwrap(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            args: bytemuck::bytes_of(&launch.args),
        };
        let options = Options { schedule: self.schedule, workers: 1, ..Options::default() };
        if let Err(fault) = twofour_emulator::run(&of_emulator, &options) {
            panic!("{}: {fault}", launch.symbol.name);
        }
    }
}

/// A product in `f32`, one rounding at the end.
fn multiply(product: &Product, addresses: [u64; 3]) {
    match (product.operands, product.result) {
        (DType::F32, _) => multiply_as::<f32, f32>(product, addresses),
        (DType::F16, DType::F32) => multiply_as::<f16, f32>(product, addresses),
        (DType::F16, _) => multiply_as::<f16, f16>(product, addresses),
        (_, DType::F32) => multiply_as::<bf16, f32>(product, addresses),
        _ => multiply_as::<bf16, bf16>(product, addresses),
    }
}

fn multiply_as<T: Float, C: Float>(product: &Product, [a, b, c]: [u64; 3]) {
    let Product { rows, depth, cols, a_transposed, b_transposed, a_pitch, .. } = *product;
    if rows == 0 || cols == 0 {
        return;
    }
    let (a_rows, a_cols) = if a_transposed { (depth, rows) } else { (rows, depth) };
    let a_elements = if a_rows == 0 { 0 } else { (a_rows - 1) * a_pitch + a_cols };
    let b_pitch = if b_transposed { depth } else { cols };
    // SAFETY: the steps under test say that there is a buffer of so many elements; a guard page ends the test if not.
    let a = unsafe { std::slice::from_raw_parts(a as *const T, a_elements) };
    // SAFETY: as above.
    let b = unsafe { std::slice::from_raw_parts(b as *const T, depth * cols) };
    // SAFETY: as above; it is an output or a part of the work space, apart from the other two.
    let c = unsafe { std::slice::from_raw_parts_mut(c as *mut C, rows * cols) };
    for (i, c) in c.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let term = |d: usize| {
            let a = a[if a_transposed { d * a_pitch + row } else { row * a_pitch + d }];
            a.to_f32() * b[if b_transposed { col * b_pitch + d } else { d * b_pitch + col }].to_f32()
        };
        *c = C::from_f32((0..depth).map(term).sum());
    }
}
