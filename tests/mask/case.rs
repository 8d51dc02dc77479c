//! What passes of `mask` are given, and how they are run.

use crate::common::{TestExecutor, convert, given};
use twofour::mask::{Backward, Forward, GradientOf, Kind, Sampling, Statistics};
use twofour::{Float, Logit, Shape, Shard};

/// A forward pass with its inputs, and which outputs it wants.
#[derive(Debug, Clone)]
pub(crate) struct ForwardCase<L, W> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) logits: Vec<L>,
    pub(crate) weight: Option<Vec<W>>,
    pub(crate) previous_codes: Option<Vec<u8>>,
    pub(crate) wants: Wants,
}

/// Outputs of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) masked: bool,
    pub(crate) mask: bool,
    pub(crate) patterns: bool,
    pub(crate) codes: bool,
    pub(crate) statistics: bool,
}

impl Wants {
    pub(crate) const ALL: Self = Self { masked: true, mask: true, patterns: true, codes: true, statistics: true };
    pub(crate) const MASKED: Self =
        Self { masked: true, mask: false, patterns: false, codes: false, statistics: false };
}

/// What a forward pass wrote.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forwarded<W> {
    pub(crate) masked: Option<Vec<W>>,
    pub(crate) mask: Option<Vec<W>>,
    pub(crate) patterns: Option<Vec<u8>>,
    pub(crate) codes: Option<Vec<u8>>,
    pub(crate) statistics: Option<Statistics>,
}

impl<L: Logit, W: Float> ForwardCase<L, W> {
    /// All outputs of the whole weight.
    pub(crate) fn new(shape: Shape, kind: Kind, sampling: Sampling, logits: &[f32], weight: &[f32]) -> Self {
        Self {
            shape,
            shard: Shard::whole(shape.cols as u64),
            kind,
            sampling,
            logits: convert(logits),
            weight: Some(convert(weight)),
            previous_codes: None,
            wants: Wants::ALL,
        }
    }

    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Forwarded<W> {
        let (shape, wants) = (self.shape, self.wants);
        let logits = on.upload(&self.logits).unwrap();
        let weight = self.weight.as_ref().map(|weight| on.upload(weight).unwrap());
        let previous = self.previous_codes.as_ref().map(|codes| on.upload(codes).unwrap());
        let mut masked = wants.masked.then(|| on.poisoned(shape.weights()));
        let mut mask = wants.mask.then(|| on.poisoned(shape.weights()));
        let mut patterns = wants.patterns.then(|| on.poisoned(shape.groups()));
        let mut codes = wants.codes.then(|| on.poisoned(shape.packed_codes()));
        let mut statistics = wants.statistics.then(|| on.poisoned(Statistics::SLOTS));
        let pass = Forward::new(shape, self.kind, self.sampling, E::input(&logits)).shard(self.shard);
        let pass = given!(pass,
            weight: weight.as_ref().map(E::input),
            previous_codes: previous.as_ref().map(E::input),
            masked: masked.as_mut().map(E::output),
            mask: mask.as_mut().map(E::output),
            patterns: patterns.as_mut().map(E::output),
            codes: codes.as_mut().map(E::output),
            statistics: statistics.as_mut().map(E::output),
        );
        on.run(pass).unwrap();
        Forwarded {
            masked: on.read(masked.as_ref()),
            mask: on.read(mask.as_ref()),
            patterns: on.read(patterns.as_ref()),
            codes: on.read(codes.as_ref()),
            statistics: on.read(statistics.as_ref()).map(|all| all[0]),
        }
    }
}

/// A backward pass with its inputs; both gradients are wanted.
#[derive(Debug, Clone)]
pub(crate) struct BackwardCase<L, W, G> {
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) kind: Kind,
    pub(crate) sampling: Sampling,
    pub(crate) logits: Vec<L>,
    pub(crate) weight: Vec<W>,
    pub(crate) gradient: Vec<G>,
    pub(crate) regulariser: f32,
    /// What `logit_gradient` holds before, if it is to be added to.
    pub(crate) before: Option<Vec<f32>>,
}

/// What a backward pass wrote.
#[derive(Debug, Clone)]
pub(crate) struct Backwarded<G> {
    pub(crate) logit_gradient: Vec<f32>,
    pub(crate) weight_gradient: Vec<G>,
}

impl<L: Logit, W: Float, G: GradientOf<W>> BackwardCase<L, W, G> {
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Backwarded<G> {
        let (logits, weight) = (on.upload(&self.logits).unwrap(), on.upload(&self.weight).unwrap());
        let gradient = on.upload(&self.gradient).unwrap();
        let mut logit_gradient = on.started(self.before.as_ref(), self.shape.logits());
        let mut weight_gradient = on.poisoned(self.shape.weights());
        let (logits, weight, gradient) = (E::input(&logits), E::input(&weight), E::input(&gradient));
        let pass = Backward::new(self.shape, self.kind, self.sampling, logits, weight, gradient)
            .shard(self.shard)
            .regulariser(self.regulariser)
            .weight_gradient(E::output(&mut weight_gradient));
        on.run(match self.before {
            Some(_) => pass.accumulate_logit_gradient(E::output(&mut logit_gradient)),
            None => pass.logit_gradient(E::output(&mut logit_gradient)),
        })
        .unwrap();
        Backwarded {
            logit_gradient: on.download(&logit_gradient).unwrap(),
            weight_gradient: on.download(&weight_gradient).unwrap(),
        }
    }
}

/// Runs a mask that is given by codes.
pub(crate) fn frozen<E: TestExecutor, W: Float>(on: &mut E, shape: Shape, codes: &[u8], weight: &[W]) -> Vec<W> {
    let (codes, weight) = (on.upload(codes).unwrap(), on.upload(weight).unwrap());
    let mut masked = on.poisoned(shape.weights());
    on.run(Forward::frozen(shape, E::input(&codes), E::input(&weight)).masked(E::output(&mut masked))).unwrap();
    on.download(&masked).unwrap()
}
