//! The executors.

use crate::case::{FusedCase, InitialCase, PriorCase, Stepped, UpdateCase};
use bytemuck::{Pod, Zeroable};
use twofour::learn::cpu::{self, Gradient, Step};
use twofour::learn::{NORM_SLOTS, Statistics};
use twofour::mask::{self, GradientOf};
use twofour::{Float, Logit};

#[derive(Debug, Clone)]
pub(crate) enum Executor {
    Cpu,
}

/// What an output holds before: bytes that are a NaN in every type, so that an unwritten element shows.
fn poison<T: Pod>(len: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); len];
    bytemuck::cast_slice_mut::<T, u8>(&mut values).fill(0xff);
    values
}

/// Running sum and work space; what is in the latter before is of no consequence.
pub(crate) fn sum_of(before: f64) -> Vec<f64> {
    let mut sum = poison::<f64>(NORM_SLOTS);
    sum[0] = before;
    sum
}

/// Adds what a case gives and wants to an argument builder.
macro_rules! given {
    ($args:ident, $($method:ident: $value:expr),* $(,)?) => {
        $(if let Some(value) = $value { $args = $args.$method(value); })*
    };
}

impl Executor {
    /// Whether an array without elements can be given to it.
    pub(crate) fn has_empty_arrays(&self) -> bool {
        match self {
            Self::Cpu => true,
        }
    }

    pub(crate) fn initial<L: Logit>(&self, case: &InitialCase) -> Vec<L> {
        match self {
            Self::Cpu => {
                let mut logits = poison::<L>(case.shape.logits());
                let mut args = cpu::Initial::new(case.shape, case.seed, case.sigma, &mut logits).shard(case.shard);
                if let Some((codes, alpha)) = &case.prior {
                    args = args.prior(codes, *alpha);
                }
                cpu::initial_into(args).unwrap();
                logits
            }
        }
    }

    pub(crate) fn prior<L: Logit>(&self, case: &PriorCase<L>) -> Vec<L> {
        match self {
            Self::Cpu => {
                let mut logits = case.logits.clone();
                cpu::prior_into(cpu::Prior::new(case.shape, &case.codes, case.strength, &mut logits)).unwrap();
                logits
            }
        }
    }

    pub(crate) fn update<L: Logit>(&self, case: &UpdateCase<L>) -> Stepped<L> {
        match self {
            Self::Cpu => update_on_cpu(case),
        }
    }

    pub(crate) fn fused<L, W, G>(&self, case: &FusedCase<L, W, G>) -> Stepped<L>
    where
        L: Logit,
        W: Float,
        G: GradientOf<W>,
    {
        match self {
            Self::Cpu => fused_on_cpu(case),
        }
    }

    /// The gradient of the logits that [`Self::fused`] steps by, by the mask's backward pass of the same executor.
    pub(crate) fn backward<L, W, G>(&self, case: &FusedCase<L, W, G>) -> Vec<f32>
    where
        L: Logit,
        W: Float,
        G: GradientOf<W>,
    {
        match self {
            Self::Cpu => {
                let FusedCase { shape, kind, sampling, .. } = *case;
                let mut gradient = poison::<f32>(shape.logits());
                let args = mask::cpu::Backward::new(shape, kind, sampling, &case.logits, &case.weight, &case.gradient)
                    .shard(case.shard)
                    .regulariser(case.regulariser)
                    .logit_gradient(&mut gradient);
                mask::cpu::backward_into(args).unwrap();
                gradient
            }
        }
    }

    /// The running sum after a measure.
    pub(crate) fn measure<L, W, G>(&self, case: &FusedCase<L, W, G>, before: f64) -> f64
    where
        L: Logit,
        W: Float,
        G: GradientOf<W>,
    {
        match self {
            Self::Cpu => {
                let FusedCase { shape, kind, sampling, .. } = *case;
                let mut sum = sum_of(before);
                let args =
                    cpu::Measure::new(shape, kind, sampling, &case.logits, &case.weight, &case.gradient, &mut sum);
                cpu::measure_into(args.shard(case.shard).regulariser(case.regulariser)).unwrap();
                sum[0]
            }
        }
    }

    /// The running sum after the squares of an update's gradient are added to it.
    pub(crate) fn norm<L: Logit>(&self, case: &UpdateCase<L>, before: f64) -> f64 {
        match self {
            Self::Cpu => {
                let mut sum = sum_of(before);
                cpu::norm_into(cpu::Norm::new(case.shape, &case.gradient, &mut sum).scale(case.scale)).unwrap();
                sum[0]
            }
        }
    }

    /// Factor and norm of a sum, which is zero afterwards.
    pub(crate) fn clip(&self, max_norm: f64, sum: f64) -> [f32; 2] {
        match self {
            Self::Cpu => {
                let mut sum = sum_of(sum);
                let ([mut factor], [mut norm]) = ([f32::NAN], [f32::NAN]);
                let [out, of_norm] = [&mut factor, &mut norm].map(std::slice::from_mut);
                cpu::clip_into(cpu::Clip::new(max_norm, &mut sum, out).norm(of_norm)).unwrap();
                assert_eq!(sum[0].to_bits(), 0);
                [factor, norm]
            }
        }
    }
}

fn update_on_cpu<L: Logit>(case: &UpdateCase<L>) -> Stepped<L> {
    let (mut logits, mut moments, mut gradient) = (case.logits.clone(), case.moments.clone(), case.gradient.clone());
    let (mut sum, mut statistics) =
        (case.norm_squares.map(sum_of), case.statistics.then(|| vec![Statistics::zeroed(); Statistics::SLOTS]));
    let factor = case.factor.map(|factor| [factor]);
    let mut step = Step::new(case.by, moments.state());
    given!(step, factor: factor.as_ref().map(|factor| &factor[..]));
    let from = if case.zero { Gradient::Zero(&mut gradient[..]) } else { Gradient::Read(&case.gradient[..]) };
    let mut args = cpu::Update::new(case.shape, from, &mut logits, step)
        .shard(case.shard)
        .scale(case.scale)
        .rounding(case.rounding);
    given!(args, norm_squares: sum.as_deref_mut(), statistics: statistics.as_deref_mut());
    cpu::update_into(args).unwrap();
    Stepped {
        logits,
        moments,
        gradient,
        norm_squares: sum.map(|sum| sum[0]),
        statistics: statistics.map(|statistics| statistics[0]),
    }
}

fn fused_on_cpu<L: Logit, W: Float, G: GradientOf<W>>(case: &FusedCase<L, W, G>) -> Stepped<L> {
    let (mut logits, mut moments) = (case.logits.clone(), case.moments.clone());
    let (mut sum, mut statistics) =
        (case.norm_squares.map(sum_of), case.statistics.then(|| vec![Statistics::zeroed(); Statistics::SLOTS]));
    let factor = case.factor.map(|factor| [factor]);
    let mut step = Step::new(case.by, moments.state());
    given!(step, factor: factor.as_ref().map(|factor| &factor[..]));
    let FusedCase { shape, kind, sampling, .. } = *case;
    let mut args = cpu::Fused::new(shape, kind, sampling, &mut logits, &case.weight, &case.gradient, step)
        .shard(case.shard)
        .regulariser(case.regulariser);
    given!(args, norm_squares: sum.as_deref_mut(), statistics: statistics.as_deref_mut());
    cpu::fused_into(args).unwrap();
    Stepped {
        logits,
        moments,
        gradient: vec![],
        norm_squares: sum.map(|sum| sum[0]),
        statistics: statistics.map(|statistics| statistics[0]),
    }
}
