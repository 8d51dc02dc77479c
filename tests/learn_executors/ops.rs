//! The ops of `learn`, set up in an executor's memory, run, and read back.

use crate::case::{FusedCase, Moments, StartCase, Stepped, UpdateCase};
use crate::memory::Memory;
use bytemuck::Zeroable;
use twofour::learn::{
    Clip, Fused, Gradient, Initial, Measure, NORM_SLOTS, Norm, Prior, State, Statistics, Step, Update,
};
use twofour::mask::{Backward, GradientOf};
use twofour::{Float, Logit};

/// The running sum, and work space full of NaNs.
fn slots(sum: f64) -> Vec<f64> {
    let mut slots = vec![f64::NAN; NORM_SLOTS];
    slots[0] = sum;
    slots
}

pub(crate) fn initial<M: Memory, L: Logit>(memory: &M, case: &StartCase<L>) -> Vec<L> {
    let codes = case.codes.as_ref().map(|codes| memory.input("codes", codes));
    let mut logits = memory.in_place("logits", &vec![L::from_f32(f32::NAN); case.shape.logits()]);
    let mut args = Initial::new(case.shape, case.seed, case.sigma, M::get_mut(&mut logits)).shard(case.shard);
    if let Some(codes) = &codes {
        args = args.prior(M::get(codes), case.alpha);
    }
    memory.initial(args);
    memory.read(&logits)
}

pub(crate) fn prior<M: Memory, L: Logit>(memory: &M, case: &StartCase<L>) -> Option<Vec<L>> {
    let codes = memory.input("codes", case.codes.as_ref()?);
    let mut logits = memory.in_place("logits", &case.logits);
    memory.prior(Prior::new(case.shape, M::get(&codes), (case.alpha * case.sigma) as f32, M::get_mut(&mut logits)));
    Some(memory.read(&logits))
}

/// Moments in an executor's memory.
enum Held<M: Memory> {
    F32 { m: M::Held<f32>, v: M::Held<f32> },
    Eight { m: M::Held<u8>, v: M::Held<u8>, scales: M::Held<f32> },
}

impl<M: Memory> Held<M> {
    fn new(memory: &M, moments: &Moments) -> Self {
        match moments {
            Moments::F32 { m, v } => Self::F32 { m: memory.in_place("m", m), v: memory.in_place("v", v) },
            Moments::Eight { m, v, scales } => Self::Eight {
                m: memory.in_place("m", m),
                v: memory.in_place("v", v),
                scales: memory.in_place("scales", scales),
            },
        }
    }

    fn state(&mut self) -> State<'_, M::S> {
        match self {
            Self::F32 { m, v } => State::f32(M::get_mut(m), M::get_mut(v)),
            Self::Eight { m, v, scales } => State::eight(M::get_mut(m), M::get_mut(v), M::get_mut(scales)),
        }
    }

    fn read(&self, memory: &M) -> Moments {
        match self {
            Self::F32 { m, v } => Moments::F32 { m: memory.read(m), v: memory.read(v) },
            Self::Eight { m, v, scales } => {
                Moments::Eight { m: memory.read(m), v: memory.read(v), scales: memory.read(scales) }
            }
        }
    }
}

/// The sums of a step: the running one and the statistics.
struct Sums<M: Memory> {
    norm: Option<M::Held<f64>>,
    statistics: Option<M::Held<Statistics>>,
}

impl<M: Memory> Sums<M> {
    fn new<L>(memory: &M, case: &UpdateCase<L>) -> Self {
        let statistics = vec![Statistics { gradient_squares: f64::NAN, ..Statistics::zeroed() }; Statistics::SLOTS];
        Self {
            norm: case.norm.map(|sum| memory.in_place("norm_squares", &slots(sum))),
            statistics: case.statistics.then(|| memory.in_place("statistics", &statistics)),
        }
    }
}

pub(crate) fn update<M: Memory, L: Logit>(memory: &M, case: &UpdateCase<L>) -> Stepped<L> {
    let mut logits = memory.in_place("logits", &case.logits);
    // What is only read is read-only.
    let mut gradient = match case.zero {
        true => memory.in_place("gradient", &case.gradient),
        false => memory.input("gradient", &case.gradient),
    };
    let factor = case.factor.map(|factor| memory.input("factor", &[factor]));
    let (mut moments, mut sums) = (Held::new(memory, &case.moments), Sums::new(memory, case));
    let mut step = Step::new(case.by, moments.state());
    if let Some(factor) = &factor {
        step = step.factor(M::get(factor));
    }
    let of_memory = match case.zero {
        true => Gradient::Zero(M::get_mut(&mut gradient)),
        false => Gradient::Read(M::get(&gradient)),
    };
    let mut args = Update::new(case.shape, of_memory, M::get_mut(&mut logits), step);
    args = args.shard(case.shard).scale(case.scale).rounding(case.rounding);
    if let Some(norm) = &mut sums.norm {
        args = args.norm_squares(M::get_mut(norm));
    }
    if let Some(statistics) = &mut sums.statistics {
        args = args.statistics(M::get_mut(statistics));
    }
    memory.update(args);
    Stepped {
        logits: memory.read(&logits),
        moments: moments.read(memory),
        gradient: memory.read(&gradient),
        norm: sums.norm.map(|norm| memory.read(&norm)[0]),
        statistics: sums.statistics.map(|statistics| memory.read(&statistics)[0]),
    }
}

pub(crate) fn fused<M, L, W, G>(memory: &M, case: &FusedCase<L, W, G>) -> Stepped<L>
where
    M: Memory,
    L: Logit,
    W: Float,
    G: GradientOf<W>,
{
    let update = &case.update;
    let mut logits = memory.in_place("logits", &update.logits);
    let (weight, gradient) = (memory.input("weight", &case.weight), memory.input("gradient", &case.gradient));
    let factor = update.factor.map(|factor| memory.input("factor", &[factor]));
    let (mut moments, mut sums) = (Held::new(memory, &update.moments), Sums::new(memory, update));
    let mut step = Step::new(update.by, moments.state());
    if let Some(factor) = &factor {
        step = step.factor(M::get(factor));
    }
    let (shape, kind, sampling) = (update.shape, case.kind, case.sampling);
    let args = Fused::new(shape, kind, sampling, M::get_mut(&mut logits), M::get(&weight), M::get(&gradient), step);
    let mut args = args.shard(update.shard).regulariser(case.regulariser);
    if let Some(norm) = &mut sums.norm {
        args = args.norm_squares(M::get_mut(norm));
    }
    if let Some(statistics) = &mut sums.statistics {
        args = args.statistics(M::get_mut(statistics));
    }
    memory.fused(args);
    Stepped {
        logits: memory.read(&logits),
        moments: moments.read(memory),
        gradient: vec![],
        norm: sums.norm.map(|norm| memory.read(&norm)[0]),
        statistics: sums.statistics.map(|statistics| memory.read(&statistics)[0]),
    }
}

/// The running sum after the pass.
pub(crate) fn measure<M, L, W, G>(memory: &M, case: &FusedCase<L, W, G>, before: f64) -> f64
where
    M: Memory,
    L: Logit,
    W: Float,
    G: GradientOf<W>,
{
    let update = &case.update;
    let logits = memory.input("logits", &update.logits);
    let (weight, gradient) = (memory.input("weight", &case.weight), memory.input("gradient", &case.gradient));
    let mut sum = memory.in_place("norm_squares", &slots(before));
    let (shape, kind, sampling) = (update.shape, case.kind, case.sampling);
    let (logits, weight, gradient) = (&logits, &weight, &gradient);
    let args =
        Measure::new(shape, kind, sampling, M::get(logits), M::get(weight), M::get(gradient), M::get_mut(&mut sum));
    memory.measure(args.shard(update.shard).regulariser(case.regulariser));
    memory.read(&sum)[0]
}

/// What the mask's backward pass gives for a fused step.
pub(crate) fn backward<M, L, W, G>(memory: &M, case: &FusedCase<L, W, G>) -> Vec<f32>
where
    M: Memory,
    L: Logit,
    W: Float,
    G: GradientOf<W>,
{
    let update = &case.update;
    let logits = memory.input("logits", &update.logits);
    let (weight, gradient) = (memory.input("weight", &case.weight), memory.input("gradient", &case.gradient));
    let mut made = memory.in_place("logit_gradient", &vec![f32::NAN; update.shape.logits()]);
    let (shape, kind, sampling) = (update.shape, case.kind, case.sampling);
    let args = Backward::new(shape, kind, sampling, M::get(&logits), M::get(&weight), M::get(&gradient));
    let args = args.shard(update.shard).regulariser(case.regulariser).logit_gradient(M::get_mut(&mut made));
    memory.backward(args);
    memory.read(&made)
}

/// The running sum after the pass.
pub(crate) fn norm<M: Memory, L>(memory: &M, case: &UpdateCase<L>, before: f64) -> f64 {
    let gradient = memory.input("gradient", &case.gradient);
    let mut sum = memory.in_place("norm_squares", &slots(before));
    memory.norm(Norm::new(case.shape, M::get(&gradient), M::get_mut(&mut sum)).scale(case.scale));
    memory.read(&sum)[0]
}

/// Factor and norm; the sum must be 0 after it.
pub(crate) fn clip<M: Memory>(memory: &M, max_norm: f64, sum: f64) -> (f32, f32) {
    let mut sums = memory.in_place("norm_squares", &slots(sum));
    let mut factor = memory.in_place("factor", &[f32::NAN]);
    let mut norm = memory.in_place("norm", &[f32::NAN]);
    let args = Clip::new(max_norm, M::get_mut(&mut sums), M::get_mut(&mut factor)).norm(M::get_mut(&mut norm));
    memory.clip(args);
    assert_eq!(memory.read(&sums)[0].to_bits(), 0, "the running sum begins anew");
    (memory.read(&factor)[0], memory.read(&norm)[0])
}
