//! The executors the suite runs against: the CPU's, the emulator with a device's launches, and a GPU where there is one.

use crate::case::{Case, Outputs};
use twofour::matmul::{Keep, cpu};
use twofour::{Float, Logit, mask};

pub(crate) trait Executor {
    /// A bound on the relative error of an addition.
    const UNIT: f64 = 1.0 / (1 << 24) as f64;

    /// Runs both passes of a case. Outputs hold NaN before.
    fn run<L: Logit, W: Float>(&self, case: &Case<L, W>) -> Outputs<W>;
}

pub(crate) struct Cpu;

impl Executor for Cpu {
    fn run<L: Logit, W: Float>(&self, case: &Case<L, W>) -> Outputs<W> {
        let Case { spec, shard, logits, codes, weight, .. } = case;
        let sampled = cpu::Layer::new(spec.shape, spec.kind, spec.sampling, logits, weight).shard(*shard);
        let out = match spec.frozen {
            true => passes(case, cpu::Layer::frozen(spec.shape, codes, weight)),
            false => passes(case, sampled),
        };
        Outputs { masked: masked(case), ..out }
    }
}

fn passes<L: Logit, W: Float, M: Logit>(case: &Case<L, W>, layer: cpu::Layer<'_, M, W>) -> Outputs<W> {
    let Case { spec, x, dy, before, .. } = case;
    let mut out = poisoned(case);
    let args = cpu::Forward::new(layer, spec.tokens, x, &mut out.y);
    cpu::forward_into(match (&mut out.kept_masked, &mut out.kept_codes) {
        (Some(kept), _) => args.keep_masked(kept),
        (_, Some(kept)) => args.keep_codes(kept),
        _ => args,
    })
    .unwrap();

    let args = cpu::Backward::new(layer, spec.tokens, dy).regulariser(spec.regulariser).input_gradient(&mut out.dx);
    let args = match (&out.kept_masked, &out.kept_codes) {
        (Some(kept), _) => args.kept_masked(kept),
        (_, Some(kept)) => args.kept_codes(kept),
        _ => args,
    };
    if spec.accumulate {
        out.logit_gradient.copy_from_slice(before);
    }
    cpu::backward_into(match (spec.has_logit_gradient(), spec.accumulate) {
        (false, _) => args,
        (_, true) => args.accumulate_logit_gradient(x, &mut out.logit_gradient),
        (_, false) => args.logit_gradient(x, &mut out.logit_gradient),
    })
    .unwrap();
    out
}

/// `W∘M` as the CPU's `mask` writes it, or as codes say.
fn masked<L: Logit, W: Float>(case: &Case<L, W>) -> Vec<W> {
    let Case { spec, shard, logits, weight, .. } = case;
    if spec.frozen {
        return by_codes(case);
    }
    let mut masked = vec![W::from_f32(f32::NAN); weight.len()];
    let args = mask::cpu::Forward::new(spec.shape, spec.kind, spec.sampling, logits).shard(*shard);
    mask::cpu::forward_into(args.weight(weight).masked(&mut masked)).unwrap();
    masked
}

/// What codes keep of the weight.
pub(crate) fn by_codes<L: Logit, W: Float>(case: &Case<L, W>) -> Vec<W> {
    let kept = |i: usize| {
        let group = i / 4;
        let code = case.codes[group / 2] >> (4 * (group % 2)) & 15;
        let at = |code: u8| usize::from(code % 4) == i % 4 || usize::from(code / 4) == i % 4;
        match [0x4, 0x8, 0xc, 0x9, 0xd, 0xe].contains(&code) {
            true if at(code) => case.weight[i],
            true => W::from_f32(0.0),
            false => W::from_f32(f32::NAN),
        }
    };
    (0..case.weight.len()).map(kept).collect()
}

pub(crate) fn poisoned<L: Logit, W: Float>(case: &Case<L, W>) -> Outputs<W> {
    let (shape, problem, keep) = (case.spec.shape, case.spec.problem(), case.spec.keep());
    let nan = |elements| vec![W::from_f32(f32::NAN); elements];
    Outputs {
        masked: Vec::new(),
        kept_masked: (keep == Keep::Masked).then(|| nan(shape.weights())),
        kept_codes: (keep == Keep::Codes).then(|| vec![0xff; shape.packed_codes()]),
        y: nan(problem.outputs()),
        dx: nan(problem.inputs()),
        logit_gradient: vec![f32::NAN; shape.logits()],
    }
}

/// Equal bits, or both NaN.
pub(crate) fn same<T: Float>(a: T, b: T) -> bool {
    a.to_f32().to_bits() == b.to_f32().to_bits() || (a.to_f32().is_nan() && b.to_f32().is_nan())
}
