//! What is not a valid problem: every error of `check`, with its numbers, before anything is written.

use twofour::mask::{Kind, Sampling};
use twofour::matmul::cpu::{self, Backward, Forward, Layer};
use twofour::matmul::{Problem, cpu::forward};
use twofour::{Error, Shape, Shard};

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
        let layer = Layer::new(self.shape, self.kind, self.sampling, &self.logits, &self.weight).shard(self.shard);
        cpu::forward_into(Forward::new(layer, self.tokens, &self.x, &mut self.y).keep_masked(&mut self.masked))
    }

    fn backward(&mut self) -> Result<(), Error> {
        let layer = Layer::new(self.shape, self.kind, self.sampling, &self.logits, &self.weight).shard(self.shard);
        let args = Backward::new(layer, self.tokens, &self.dy).regulariser(self.lambda);
        let args = args.kept_masked(&self.masked).input_gradient(&mut self.dx);
        cpu::backward_into(args.logit_gradient(&self.x, &mut self.logit_gradient))
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

    let mut o = Operands::new();
    let layer = Layer::new(o.shape, Kind::Argmax, o.sampling, &o.logits, &o.weight);
    assert!(missing(cpu::backward_into(Backward::new(layer, 3, &o.dy))));
    let args = Backward::new(layer, 3, &o.dy).kept_masked(&o.masked).input_gradient(&mut o.dx);
    assert_eq!(cpu::backward_into(args), Ok(()), "argmax masks have an input gradient");
    assert_eq!(o.dx, [14.0; 24]);
}

#[test]
fn what_is_kept() {
    let missing = |result: Result<(), Error>| matches!(result, Err(Error::Missing { what: "codes", .. }));
    let mut o = Operands::new();
    let mut codes = [7; 2];
    let layer = Layer::new(o.shape, Kind::Soft, o.sampling, &o.logits, &o.weight);
    assert!(missing(cpu::forward_into(Forward::new(layer, 3, &o.x, &mut o.y).keep_codes(&mut codes))));
    assert!(missing(cpu::backward_into(Backward::new(layer, 3, &o.dy).input_gradient(&mut o.dx).kept_codes(&codes))));
    let frozen = Layer::frozen(o.shape, &[0x44, 0x44], &o.weight);
    assert!(missing(cpu::forward_into(Forward::new(frozen, 3, &o.x, &mut o.y).keep_codes(&mut codes))));
    assert!(o.untouched() && codes == [7; 2]);
    let hard = Layer::new(o.shape, Kind::Hard, o.sampling, &o.logits, &o.weight);
    let short = cpu::forward_into(Forward::new(hard, 3, &o.x, &mut o.y).keep_codes(&mut codes[..1]));
    assert_eq!(short, Err(length("codes", 2, 1)));
}

#[test]
fn frozen_layers() {
    let mut o = Operands::new();
    let short = Layer::frozen(o.shape, &[0x44], &o.weight);
    assert_eq!(cpu::forward_into(Forward::new(short, 3, &o.x, &mut o.y)), Err(length("codes", 2, 1)));
    let layer = Layer::frozen(o.shape, &[0x44, 0xee], &o.weight);
    let to_logits = Backward::new(layer, 3, &o.dy).logit_gradient(&o.x, &mut o.logit_gradient);
    assert!(matches!(cpu::backward_into(to_logits), Err(Error::Missing { what: "a gradient", .. })));
    assert!(o.untouched());
    cpu::backward_into(Backward::new(layer, 3, &o.dy).input_gradient(&mut o.dx)).unwrap();
    assert_eq!(o.dx[..8], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    cpu::forward_into(Forward::new(layer, 3, &o.x, &mut o.y)).unwrap();
    assert_eq!(o.y, [4.0; 6]);
}

#[test]
fn only_what_was_asked_for_is_written() {
    let mut o = Operands::new();
    let layer = Layer::new(o.shape, o.kind, o.sampling, &o.logits, &o.weight);
    let args = Backward::new(layer, 3, &o.dy).logit_gradient(&o.x, &mut o.logit_gradient);
    cpu::backward_into(args).unwrap();
    assert!(o.logit_gradient.iter().all(|&value| value != 7.0));
    assert!(o.masked.iter().chain(&o.y).chain(&o.dx).all(|&value| value == 7.0));
}

#[test]
fn the_allocating_form_is_the_same() {
    let mut o = Operands::new();
    o.forward().unwrap();
    let layer = Layer::new(o.shape, o.kind, o.sampling, &o.logits, &o.weight);
    assert_eq!(forward(layer, o.tokens, &o.x), Ok(o.y));
    let short = Layer::new(o.shape, o.kind, o.sampling, &o.logits, &o.weight[..8]);
    assert_eq!(forward(short, o.tokens, &o.x), Err(length("weight", 16, 8)));
    assert_eq!(Problem::new(3, o.shape).operations(), 96.0);
}
