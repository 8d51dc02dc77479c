//! What is not a valid problem: every error of `check`, with its numbers, before anything is written. Checks are the
//! same on every executor.

use twofour::device::Limits;
use twofour::learn::{self, Moments, NORM_SLOTS};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{Backward, Forward, Keep, Layer, Masks, Plan, Problem, Step};
use twofour::space::Host;
use twofour::{Cpu, Error, Executor, Libraries, Shape, Shard};

/// A valid problem of 3 tokens through [2, 8], to be spoilt.
struct Operands {
    tokens: usize,
    shape: Shape,
    shard: Shard,
    kind: Kind,
    sampling: Sampling,
    lambda: f32,
    logits: Vec<f32>,
    weight: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
    masked: Vec<f32>,
    y: Vec<f32>,
    dx: Vec<f32>,
    logit_gradient: Vec<f32>,
}

impl Operands {
    fn new() -> Self {
        Self {
            tokens: 3,
            shape: Shape::new(2, 8),
            shard: Shard::whole(8),
            kind: Kind::Soft,
            sampling: Sampling { seed: 0, draw: 0, kappa: 1.0, tau: 1.0 },
            lambda: 0.0,
            logits: vec![0.0; 24],
            weight: vec![1.0; 16],
            x: vec![1.0; 24],
            dy: vec![1.0; 6],
            masked: vec![7.0; 16],
            y: vec![7.0; 6],
            dx: vec![7.0; 24],
            logit_gradient: vec![7.0; 24],
        }
    }

    fn forward(&mut self) -> Result<(), Error> {
        let layer = Layer::sampled(self.shape, self.kind, self.sampling, &self.logits, &self.weight).shard(self.shard);
        let plan = layer.plan(&Cpu, self.tokens, Keep::Masked)?;
        Cpu.run(Forward::new(&plan, &layer, &self.x, &mut self.y).save_masked(&mut self.masked))
    }

    fn backward(&mut self) -> Result<(), Error> {
        let layer = Layer::sampled(self.shape, self.kind, self.sampling, &self.logits, &self.weight).shard(self.shard);
        let plan = layer.plan(&Cpu, self.tokens, Keep::Masked)?;
        let pass = Backward::new(&plan, &layer, &self.dy).regulariser(self.lambda);
        let pass = pass.use_masked(&self.masked).input_gradient(&mut self.dx);
        Cpu.run(pass.logit_gradient(&self.x, &mut self.logit_gradient))
    }

    /// The layer without a shard.
    fn layer(&self, kind: Kind) -> Layer<'_, Host, f32, f32> {
        Layer::sampled(self.shape, kind, self.sampling, &self.logits, &self.weight)
    }

    fn untouched(&self) -> bool {
        let outputs = [&self.masked, &self.y, &self.dx, &self.logit_gradient];
        outputs.iter().all(|output| output.iter().all(|&value| value == 7.0))
    }
}

/// Expects the same error of both passes, and untouched outputs.
#[track_caller]
fn both(spoil: impl Fn(&mut Operands), expected: &Error) {
    forward_only(&spoil, expected);
    backward_only(&spoil, expected);
}

#[track_caller]
fn forward_only(spoil: impl Fn(&mut Operands), expected: &Error) {
    let mut operands = Operands::new();
    spoil(&mut operands);
    assert_eq!(operands.forward().as_ref(), Err(expected));
    assert!(operands.untouched());
}

#[track_caller]
fn backward_only(spoil: impl Fn(&mut Operands), expected: &Error) {
    let mut operands = Operands::new();
    spoil(&mut operands);
    assert_eq!(operands.backward().as_ref(), Err(expected));
    assert!(operands.untouched());
}

fn length(what: &'static str, expected: u64, got: u64) -> Error {
    Error::Length { what, expected, got }
}

#[test]
fn the_unspoilt_problem_is_valid() {
    let mut operands = Operands::new();
    assert_eq!(operands.forward(), Ok(()));
    assert_eq!(operands.backward(), Ok(()));
}

#[test]
fn shapes() {
    both(|o| o.shape = Shape::new(2, 6), &Error::NotGrouped { what: "the weight", cols: 6 });
    let huge = usize::MAX / 8;
    both(|o| o.shape = Shape::new(huge, 8), &Error::Overflow { what: "logits", rows: huge as u64, cols: 8 });
    both(|o| o.tokens = huge, &Error::Overflow { what: "x", rows: huge as u64, cols: 8 });
    let spoil = |o: &mut Operands| (o.tokens, o.shape) = (huge, Shape::new(8, 0));
    both(spoil, &Error::Overflow { what: "y", rows: huge as u64, cols: 8 });
    let shard = Shard { row_offset: 0, col_offset: 4, global_cols: 8 };
    let expected = Error::Shard { row_offset: 0, col_offset: 4, col_end: 12, global_cols: 8 };
    both(|o| o.shard = shard, &expected);
}

#[test]
fn lengths() {
    both(|o| o.logits.truncate(23), &length("logits", 24, 23));
    both(|o| o.weight.push(0.0), &length("weight", 16, 17));
    both(|o| o.weight.truncate(8), &length("weight", 16, 8));
    both(|o| o.x.truncate(16), &length("x", 24, 16));
    both(|o| o.masked.truncate(15), &length("masked", 16, 15));
    forward_only(|o| o.y.truncate(5), &length("y", 6, 5));
    backward_only(|o| o.dy.push(0.0), &length("dy", 6, 7));
    backward_only(|o| o.dx.truncate(0), &length("dx", 24, 0));
    backward_only(|o| o.logit_gradient.truncate(16), &length("logit_gradient", 24, 16));
}

#[test]
fn scalars() {
    let scalar = |what: &str, error: Error| matches!(error, Error::Scalar { what: is, .. } if is == what);
    for tau in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-42] {
        let mut operands = Operands::new();
        operands.sampling.tau = tau;
        assert!(scalar("tau", operands.forward().unwrap_err()));
        assert!(scalar("tau", operands.backward().unwrap_err()));
        assert!(operands.untouched());
    }
    for kappa in [f32::NAN, f32::INFINITY, -1.0] {
        let mut operands = Operands::new();
        operands.sampling.kappa = kappa;
        assert!(scalar("kappa", operands.forward().unwrap_err()));
        assert!(scalar("kappa", operands.backward().unwrap_err()));
    }
    let mut operands = Operands::new();
    operands.lambda = f32::NAN;
    assert!(scalar("regulariser", operands.backward().unwrap_err()));
    assert!(operands.untouched());
}

#[test]
fn what_is_asked_for() {
    let missing = |result: Result<(), Error>| matches!(result, Err(Error::Missing { what: "a gradient", .. }));
    let mut operands = Operands::new();
    operands.kind = Kind::Argmax;
    assert_eq!(operands.forward(), Ok(()));
    operands.masked.fill(7.0);
    operands.y.fill(7.0);
    assert!(missing(operands.backward()) && operands.untouched());

    let Operands { shape, sampling, logits, weight, dy, masked, mut dx, .. } = Operands::new();
    let layer = Layer::sampled(shape, Kind::Argmax, sampling, &logits, &weight);
    let plan = layer.plan(&Cpu, 3, Keep::Masked).unwrap();
    assert!(missing(Cpu.run(Backward::new(&plan, &layer, &dy).use_masked(&masked))));
    let pass = Backward::new(&plan, &layer, &dy).use_masked(&masked).input_gradient(&mut dx);
    assert_eq!(Cpu.run(pass), Ok(()), "argmax masks have an input gradient");
    assert_eq!(dx, [14.0; 24]);
}

#[test]
fn what_is_saved() {
    let missing = |result: Result<(), Error>| matches!(result, Err(Error::Missing { what: "codes", .. }));
    let o = Operands::new();
    let (mut y, mut dx, mut codes) = (o.y.clone(), o.dx.clone(), [7; 2]);
    let soft = o.layer(Kind::Soft);
    let plan = soft.plan(&Cpu, 3, Keep::Nothing).unwrap();
    assert!(missing(Cpu.run(Forward::new(&plan, &soft, &o.x, &mut y).save_codes(&mut codes))));
    assert!(missing(Cpu.run(Backward::new(&plan, &soft, &o.dy).input_gradient(&mut dx).use_codes(&codes))));
    let frozen = Layer::frozen(o.shape, &[0x44, 0x44], &o.weight);
    let plan = frozen.plan(&Cpu, 3, Keep::Nothing).unwrap();
    assert!(missing(Cpu.run(Forward::new(&plan, &frozen, &o.x, &mut y).save_codes(&mut codes))));
    assert!(y == o.y && dx == o.dx && codes == [7; 2]);
    let hard = o.layer(Kind::Hard);
    let plan = hard.plan(&Cpu, 3, Keep::Codes).unwrap();
    let short = Cpu.run(Forward::new(&plan, &hard, &o.x, &mut y).save_codes(&mut codes[..1]));
    assert_eq!(short, Err(length("codes", 2, 1)));
    let short = Cpu.run(Backward::new(&plan, &hard, &o.dy).use_codes(&codes[..1]).input_gradient(&mut dx));
    assert_eq!(short, Err(length("codes", 2, 1)));
}

#[test]
fn frozen_layers() {
    let mut o = Operands::new();
    let short = Layer::frozen(o.shape, &[0x44], &o.weight);
    let plan = short.plan(&Cpu, 3, Keep::Nothing).unwrap();
    assert_eq!(Cpu.run(Forward::new(&plan, &short, &o.x, &mut o.y)), Err(length("codes", 2, 1)));
    let layer = Layer::frozen(o.shape, &[0x44, 0xee], &o.weight);
    let to_logits = Backward::new(&plan, &layer, &o.dy).logit_gradient(&o.x, &mut o.logit_gradient);
    assert!(matches!(Cpu.run(to_logits), Err(Error::Missing { what: "a gradient", .. })));
    assert!([&o.y, &o.dx, &o.logit_gradient].into_iter().flatten().all(|&value| value == 7.0));
    Cpu.run(Backward::new(&plan, &layer, &o.dy).input_gradient(&mut o.dx)).unwrap();
    assert_eq!(o.dx[..8], [1.0; 8]);
    Cpu.run(Forward::new(&plan, &layer, &o.x, &mut o.y)).unwrap();
    assert_eq!(o.y, [4.0; 6]);
}

/// A pass whose arguments its plan was not made for.
#[test]
fn arguments_must_be_those_of_the_plan() {
    let unplanned = |result: Result<(), Error>| matches!(result, Err(Error::Unplanned { .. }));
    let o = Operands::new();
    let (mut y, mut dx, mut masked) = (o.y.clone(), o.dx.clone(), o.masked.clone());
    let layer = o.layer(Kind::Soft);
    let plan = |kind, keep| o.layer(kind).plan(&Cpu, 3, keep).unwrap();
    let keeping = plan(Kind::Soft, Keep::Masked);
    assert!(unplanned(Cpu.run(Forward::new(&plan(Kind::Hard, Keep::Nothing), &layer, &o.x, &mut y))));
    assert!(unplanned(Cpu.run(Forward::new(&keeping, &layer, &o.x, &mut y))));
    assert!(unplanned(Cpu.run(Backward::new(&keeping, &layer, &o.dy).input_gradient(&mut dx))));
    let nothing = plan(Kind::Soft, Keep::Nothing);
    assert!(unplanned(Cpu.run(Forward::new(&nothing, &layer, &o.x, &mut y).save_masked(&mut masked))));
    assert!(unplanned(Cpu.run(Forward::new(&nothing, &layer, &o.x, &mut y).use_masked(&masked))));
    let other = Layer::sampled(Shape::new(4, 4), Kind::Soft, o.sampling, &o.logits, &o.weight);
    assert!(unplanned(Cpu.run(Forward::new(&nothing, &other, &o.x, &mut y))));
    assert!(y == o.y && dx == o.dx && masked == o.masked);
    let tokens = layer.plan(&Cpu, 4, Keep::Nothing).unwrap();
    assert_eq!(Cpu.run(Forward::new(&tokens, &layer, &o.x, &mut y)), Err(length("x", 32, 24)));
}

#[test]
fn only_what_was_asked_for_is_written() {
    let Operands { shape, kind, sampling, logits, weight, x, dy, mut logit_gradient, .. } = Operands::new();
    let layer = Layer::sampled(shape, kind, sampling, &logits, &weight);
    let plan = layer.plan(&Cpu, 3, Keep::Nothing).unwrap();
    Cpu.run(Backward::new(&plan, &layer, &dy).logit_gradient(&x, &mut logit_gradient)).unwrap();
    assert!(logit_gradient.iter().all(|&value| value != 7.0));
}

#[test]
fn operations_are_counted() {
    assert_eq!(Problem::new(3, Shape::new(2, 8)).operations(), 96.0);
}

#[test]
fn the_weight_s_gradient() {
    let o = Operands::new();
    let layer = o.layer(Kind::Argmax);
    let plan = layer.plan(&Cpu, 3, Keep::Nothing).unwrap();
    let mut g = [7.0_f32; 16];
    let run = |x: &[f32], g: &mut [f32]| Cpu.run(Backward::new(&plan, &layer, &o.dy).weight_gradient(x, g));
    assert_eq!(run(&o.x, &mut g[..15]), Err(length("weight_gradient", 16, 15)));
    assert_eq!(run(&o.x[1..], &mut g), Err(length("x", 24, 23)));
    assert_eq!(g, [7.0; 16]);
    run(&o.x, &mut g).unwrap();
    assert_eq!(g, [3.0; 16]);
}

/// A step whose operands are spoilt: nothing has moved.
fn step(spoil: impl FnOnce(&mut Operands), kind: Kind, keep: Keep, [moments, norm]: [usize; 2]) -> Error {
    let mut o = Operands::new();
    let plan =
        Plan::<f32, f32>::new(&Limits::H200, Libraries::ALL, Problem::new(3, o.shape), Masks::Sampled(kind), keep);
    spoil(&mut o);
    let (mut m, mut v) = (vec![7.0; moments], vec![7.0; moments]);
    let (mut norm_squares, logits) = (vec![7.0; norm], o.logits.clone());
    let by = learn::Step::new(learn::Recipe::maskllm(9).at(0).adamw, Moments::f32(&mut m, &mut v));
    let pass = Step::new(&plan.unwrap(), o.sampling, &mut o.logits, &o.weight, &o.dy, &o.x, by);
    let pass = pass.shard(o.shard).regulariser(o.lambda).input_gradient(&mut o.dx).norm_squares(&mut norm_squares);
    let error = Cpu.run(pass).unwrap_err();
    assert!(o.untouched() && logits == o.logits && [m, v].concat().iter().all(|&moment| moment == 7.0));
    assert!(norm_squares.iter().all(|&square| square == 7.0));
    error
}

#[test]
fn steps() {
    let soft = |spoil: fn(&mut Operands)| step(spoil, Kind::Soft, Keep::Nothing, [24, NORM_SLOTS]);
    assert_eq!(soft(|o| o.logits.truncate(23)), length("logits", 24, 23));
    assert_eq!(soft(|o| o.weight.push(0.0)), length("weight", 16, 17));
    assert_eq!(soft(|o| o.dy.push(0.0)), length("dy", 6, 7));
    assert_eq!(soft(|o| o.x.truncate(16)), length("x", 24, 16));
    assert_eq!(soft(|o| o.dx.truncate(23)), length("dx", 24, 23));
    assert!(matches!(soft(|o| o.sampling.tau = 0.0), Error::Scalar { what: "tau", .. }));
    assert!(matches!(soft(|o| o.lambda = f32::NAN), Error::Scalar { what: "regulariser", .. }));
    assert!(matches!(soft(|o| o.shard.col_offset = 4), Error::Shard { .. }));
    assert_eq!(step(|_| {}, Kind::Soft, Keep::Nothing, [23, NORM_SLOTS]), length("m", 24, 23));
    let norm = step(|_| {}, Kind::Soft, Keep::Nothing, [24, 1]);
    assert_eq!(norm, length("norm_squares", NORM_SLOTS as u64, 1));
    let argmax = step(|_| {}, Kind::Argmax, Keep::Nothing, [24, NORM_SLOTS]);
    assert!(matches!(argmax, Error::Missing { what: "a gradient", .. }));
    let mut o = Operands::new();
    let layer = Layer::sampled(o.shape, Kind::Soft, o.sampling, &o.logits, &o.weight);
    let plan = layer.plan(&Cpu, 3, Keep::Nothing).unwrap().with_moments_of_eight_bits();
    let (mut m, mut v) = (vec![0.0; 24], vec![0.0; 24]);
    let by = learn::Step::new(learn::Recipe::maskllm(9).at(0).adamw, Moments::f32(&mut m, &mut v));
    let others = Cpu.run(Step::new(&plan, o.sampling, &mut o.logits, &o.weight, &o.dy, &o.x, by));
    assert!(others.unwrap_err().to_string().contains("eight bits"), "moments that were not planned");
    // The plan would have it saved.
    assert!(matches!(step(|_| {}, Kind::Soft, Keep::Masked, [24, NORM_SLOTS]), Error::Unplanned { .. }));
}
