//! Offsets that 32 bits do not hold, in every operand: weights of which only the end is in memory, and the last block
//! alone. It must do what the same groups do as a slice that begins at nothing.

use crate::case::{Bits, FusedCase, InitialCase, Moments, PriorCase, USUAL, UpdateCase, normal, rng};
use crate::common::emulator::{Array, launches};
use crate::common::{Emulator, SMALL};
use crate::random::random_codes;
use twofour::learn::{self, Fused, Initial, Measure, NORM_SLOTS, Norm, Prior, Step, Update};
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::pass::Pass;
use twofour::space::{Output, Raw, RawSlice};
use twofour::{Float, Logit, Shape, Shard, bf16, f16};
use twofour_emulator::Schedule;

/// 2³⁴ groups: 32 bits hold no numbers of groups, nor of bytes of two groups' codes.
const SHAPE: Shape = Shape::new(1 << 19, 1 << 17);
/// 2³⁸ groups: nor the numbers of two scales for each 64 groups.
const LARGER: Shape = Shape::new(1 << 22, 1 << 18);
/// The groups of a block that takes one step.
const END: Shape = Shape::new(1, 4 * 512);

/// Where they are in a weight.
fn shard(of: Shape) -> Shard {
    let [rows, cols] = [of.rows, of.cols].map(|size| size as u64);
    Shard { row_offset: rows - 1, col_offset: cols - END.cols as u64, global_cols: cols }
}

fn blocks(of: Shape) -> usize {
    of.groups() / END.groups()
}

fn on() -> Emulator {
    Emulator::new(Schedule::RoundRobin)
}

fn run_last(of: Shape, pass: impl Pass<Raw>) {
    on().launch_last(&launches(SMALL, pass).unwrap()[0], blocks(of));
}

/// Moments whose ends are those of a case.
enum Ending {
    Full([Array<f32>; 2]),
    Eight([Array<u8>; 2], Array<f32>),
}

impl Ending {
    fn new(shape: Shape, of: &Moments) -> Self {
        let logits = shape.logits();
        match of {
            Moments::Full { m, v } => Self::Full([m, v].map(|of| Array::ending(logits, of))),
            Moments::Eight { m, v, scales } => {
                let scales = Array::ending(learn::Moments::scales(shape), scales);
                Self::Eight([m, v].map(|of| Array::ending(logits, of)), scales)
            }
        }
    }

    fn moments(&mut self) -> learn::Moments<'_, Raw> {
        match self {
            Self::Full([m, v]) => learn::Moments::f32(m.output(), v.output()),
            Self::Eight([m, v], scales) => learn::Moments::eight(m.output(), v.output(), scales.output()),
        }
    }

    fn end(&self) -> Moments {
        let logits = END.logits();
        match self {
            Self::Full(both) => {
                let [m, v] = [0, 1].map(|i| both[i].read_end(logits));
                Moments::Full { m, v }
            }
            Self::Eight(both, scales) => {
                let [m, v] = [0, 1].map(|i| both[i].read_end(logits));
                Moments::Eight { m, v, scales: scales.read_end(learn::Moments::scales(END)) }
            }
        }
    }
}

/// An array of running sums whose last share is that of the last block.
fn sums(of: Shape) -> Array<f64> {
    Array::reserved(1 + blocks(of))
}

fn update<L: Logit>(shape: Shape, bits: Bits, zero: bool) {
    let rng = &mut rng(1);
    let (gradient, logits) = (normal(rng, END.logits(), 1.0, &[]), normal(rng, END.logits(), 0.02, &[]));
    let mut case = UpdateCase::<L>::plain(END, bits, gradient, logits);
    (case.shard, case.zero, case.norm_squares) = (shard(shape), zero, Some(0.0));
    case.moments = Moments::wild(rng, bits, END, 1.0);
    let expected = case.run(&mut on());

    let mut gradient = Array::ending(shape.logits(), &case.gradient);
    let (mut logits, mut moments) = (Array::ending(shape.logits(), &case.logits), Ending::new(shape, &case.moments));
    let mut shares = sums(shape);
    let step = Step::new(case.by, moments.moments());
    let pass = match zero {
        true => Update::<Raw, L>::zeroing(shape, &mut gradient, &mut logits, step),
        false => Update::new(shape, &gradient, &mut logits, step),
    };
    run_last(shape, pass.rounding(case.rounding).norm_squares(RawSlice::new(shares.output().address, NORM_SLOTS)));
    assert_eq!(logits.read_end(END.logits()), expected.logits);
    assert_eq!(gradient.read_end(END.logits()), expected.gradient);
    assert_eq!(moments.end(), expected.moments);
    assert_eq!(shares.read_end(1)[0], expected.norm_squares.unwrap());
}

#[test]
fn updates_beyond_32_bits_are_right() {
    for zero in [false, true] {
        update::<f32>(SHAPE, Bits::Full, zero);
        update::<bf16>(SHAPE, Bits::Full, zero);
        update::<f32>(SHAPE, Bits::Eight, zero);
        update::<bf16>(LARGER, Bits::Eight, zero);
    }
}

fn fused<L: Logit, W: Float, G: GradientOf<W>>(bits: Bits, kind: Kind) {
    let rng = &mut rng(2);
    let case = FusedCase::<L, W, G> {
        shape: END,
        shard: shard(SHAPE),
        kind,
        sampling: Sampling { seed: 5, draw: 6, kappa: 100.0, tau: 4.0 },
        regulariser: 1e-2,
        by: USUAL,
        logits: normal(rng, END.logits(), 0.02, &[]),
        weight: normal(rng, END.weights(), 0.5, &[]),
        gradient: normal(rng, END.weights(), 0.1, &[]),
        moments: Moments::wild(rng, bits, END, 1.0),
        factor: None,
        norm_squares: Some(0.0),
        statistics: false,
    };
    let expected = case.run(&mut on());
    let (mut logits, mut moments) = (Array::ending(SHAPE.logits(), &case.logits), Ending::new(SHAPE, &case.moments));
    let weight = Array::ending(SHAPE.weights(), &case.weight);
    let gradient = Array::ending(SHAPE.weights(), &case.gradient);
    let [mut shares, mut measured] = [sums(SHAPE), sums(SHAPE)];
    let of = |shares: &mut Array<f64>| RawSlice::new(shares.output().address, NORM_SLOTS);
    let pass = Measure::<Raw, L, W, G>::new(SHAPE, kind, case.sampling, &logits, &weight, &gradient, of(&mut measured));
    run_last(SHAPE, pass.regulariser(1e-2));
    let step = Step::new(case.by, moments.moments());
    let pass = Fused::<Raw, L, W, G>::new(SHAPE, kind, case.sampling, &mut logits, &weight, &gradient, step);
    run_last(SHAPE, pass.regulariser(1e-2).norm_squares(of(&mut shares)));
    assert_eq!(logits.read_end(END.logits()), expected.logits);
    assert_eq!(moments.end(), expected.moments);
    assert_eq!([shares.read_end(1)[0], measured.read_end(1)[0]], [expected.norm_squares.unwrap(); 2]);
}

/// Every kernel of a type of logits; soft masks and hard ones have the same.
fn fused_of<L: Logit>() {
    for (bits, kind) in [(Bits::Full, Kind::Soft), (Bits::Eight, Kind::Hard)] {
        fused::<L, f32, f32>(bits, kind);
        fused::<L, bf16, f32>(bits, kind);
        fused::<L, bf16, bf16>(bits, kind);
    }
    for (bits, kind) in [(Bits::Full, Kind::Hard), (Bits::Eight, Kind::Soft)] {
        fused::<L, f16, f32>(bits, kind);
        fused::<L, f16, f16>(bits, kind);
    }
}

#[test]
fn fused_steps_beyond_32_bits_are_right() {
    fused_of::<f32>();
    fused_of::<bf16>();
}

#[test]
fn norms_beyond_32_bits_are_right() {
    let case = UpdateCase::<f32>::plain(END, Bits::Full, normal(&mut rng(3), END.logits(), 1.0, &[]), vec![]);
    let (gradient, mut shares) = (Array::ending(SHAPE.logits(), &case.gradient), sums(SHAPE));
    run_last(SHAPE, Norm::<Raw>::new(SHAPE, &gradient, RawSlice::new(shares.output().address, NORM_SLOTS)));
    assert_eq!(shares.read_end(1)[0], case.norm(&mut on(), 0.0));
}

fn starts<L: Logit>() {
    let rng = &mut rng(4);
    let codes = random_codes(rng, END.groups());
    let at = Array::ending(SHAPE.packed_codes(), &codes);
    for prior in [None, Some((codes.clone(), 3.0))] {
        let case = InitialCase { shape: END, shard: shard(SHAPE), seed: 9, sigma: 1.0, prior };
        let mut logits = Array::<L>::reserved(SHAPE.logits());
        let pass = Initial::<Raw, L>::new(SHAPE, 9, 1.0, &mut logits);
        run_last(SHAPE, if case.prior.is_some() { pass.prior(&at, 3.0) } else { pass });
        assert_eq!(logits.read_end(END.logits()), case.run::<L, _>(&mut on()).unwrap());
    }
    let case = PriorCase::<L> { shape: END, codes, strength: 0.5, logits: normal(rng, END.logits(), 1.0, &[]) };
    let mut logits = Array::ending(SHAPE.logits(), &case.logits);
    run_last(SHAPE, Prior::<Raw, L>::new(SHAPE, &at, 0.5, &mut logits));
    assert_eq!(logits.read_end(END.logits()), case.run(&mut on()).unwrap());
}

#[test]
fn logits_at_the_start_beyond_32_bits_are_right() {
    starts::<f32>();
    starts::<bf16>();
}
