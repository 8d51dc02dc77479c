//! The operands of a step where an executor has them, and the step: in one pass, and in two.

use crate::case::{Adds, Case, Spec};
use crate::common::{self, TestExecutor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::learn::{self, AdamW, Fused, NORM_SLOTS, Rounding, Statistics, Update};
use twofour::matmul::{Backward, Dense, Forward, Keep, Layer, LogitRoute, Plan, Step};
use twofour::space::Plain;
use twofour::{Float, Logit, Shape, Shard};

/// Logits and moments, as a step changes them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State<L> {
    pub(crate) logits: Vec<L>,
    pub(crate) moments: Moments,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Moments {
    Full([Vec<f32>; 2]),
    Eight([Vec<u8>; 2], Vec<f32>),
}

impl<L: Logit> State<L> {
    /// Zero, as before the first step.
    pub(crate) fn zero(shape: Shape, eight: bool, logits: Vec<L>) -> Self {
        let moments = match eight {
            false => Moments::Full([vec![0.0; shape.logits()], vec![0.0; shape.logits()]]),
            true => Moments::Eight(
                [vec![0; shape.logits()], vec![0; shape.logits()]],
                vec![0.0; learn::Moments::scales(shape)],
            ),
        };
        Self { logits, moments }
    }

    /// As after some steps.
    pub(crate) fn begun(mut self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        match &mut self.moments {
            Moments::Full([m, v]) => {
                *m = common::normal(&mut rng, m.len(), 0.5, &[]);
                *v = common::normal(&mut rng, v.len(), 0.5, &[]).into_iter().map(|v| v * v).collect();
            }
            Moments::Eight([m, v], scales) => {
                m.iter_mut().chain(v).for_each(|code| *code = rng.random());
                scales.iter_mut().for_each(|scale| *scale = rng.random_range(0.01..2.0));
            }
        }
        self
    }

    pub(crate) fn bits(&self) -> Vec<u32> {
        self.logits.iter().map(|logit| logit.to_f32().to_bits()).collect()
    }
}

/// The same in an executor's memory.
pub(crate) struct Held<E: TestExecutor, L: Logit> {
    logits: E::Buffer<L>,
    moments: HeldMoments<E>,
}

pub(crate) enum HeldMoments<E: TestExecutor> {
    Full([E::Buffer<f32>; 2]),
    Eight([E::Buffer<u8>; 2], E::Buffer<f32>),
}

impl<E: TestExecutor, L: Logit> Held<E, L> {
    pub(crate) fn new(on: &E, state: &State<L>) -> Self {
        fn two<E: TestExecutor, T: Plain>(on: &E, values: &[Vec<T>; 2]) -> [E::Buffer<T>; 2] {
            values.each_ref().map(|values| on.upload(values).unwrap())
        }
        let moments = match &state.moments {
            Moments::Full(moments) => HeldMoments::Full(two(on, moments)),
            Moments::Eight(moments, scales) => HeldMoments::Eight(two(on, moments), on.upload(scales).unwrap()),
        };
        Self { logits: on.upload(&state.logits).unwrap(), moments }
    }

    pub(crate) fn parts(&mut self) -> (&mut E::Buffer<L>, learn::Moments<'_, E::Space>) {
        let moments = match &mut self.moments {
            HeldMoments::Full([m, v]) => learn::Moments::f32(E::output(m), E::output(v)),
            HeldMoments::Eight([m, v], scales) => learn::Moments::eight(E::output(m), E::output(v), E::output(scales)),
        };
        (&mut self.logits, moments)
    }

    pub(crate) fn read(&self, on: &E) -> State<L> {
        fn two<E: TestExecutor, T: Plain>(on: &E, of: &[E::Buffer<T>; 2]) -> [Vec<T>; 2] {
            of.each_ref().map(|of| on.download(of).unwrap())
        }
        let moments = match &self.moments {
            HeldMoments::Full(moments) => Moments::Full(two(on, moments)),
            HeldMoments::Eight(moments, scales) => Moments::Eight(two(on, moments), on.download(scales).unwrap()),
        };
        State { logits: on.download(&self.logits).unwrap(), moments }
    }
}

/// The sums of a step, in the executor's memory.
pub(crate) struct Sums<E: TestExecutor> {
    pub(crate) norm_squares: E::Buffer<f64>,
    statistics: E::Buffer<Statistics>,
}

/// What the running sum is before a step.
pub(crate) const BEFORE: f64 = 0.75;

impl<E: TestExecutor> Sums<E> {
    pub(crate) fn new(on: &E) -> Self {
        let mut squares = common::executor::poison::<f64>(NORM_SLOTS);
        squares[0] = BEFORE;
        Self { norm_squares: on.upload(&squares).unwrap(), statistics: on.poisoned(Statistics::SLOTS) }
    }

    pub(crate) fn read(&self, on: &E) -> (f64, Statistics) {
        (on.download(&self.norm_squares).unwrap()[0], on.download(&self.statistics).unwrap()[0])
    }
}

/// A case with its operands where the executor has them.
pub(crate) struct Placed<E: TestExecutor, L: Logit, W: Float> {
    spec: Spec,
    shard: Shard,
    plan: Plan<L, W>,
    weight: E::Buffer<W>,
    x: E::Buffer<W>,
    dy: E::Buffer<W>,
    pub(crate) factor: Option<E::Buffer<f32>>,
}

impl<E: Adds, L: Logit, W: Float> Placed<E, L, W> {
    pub(crate) fn new(on: &E, case: &Case<L, W>, factor: Option<f32>) -> Self {
        let (spec, up) = (case.spec, |values: &Vec<W>| on.upload(values).unwrap());
        let plan = spec.plan(&on.limits(), on.libraries());
        let factor = factor.map(|factor| on.upload(&[factor]).unwrap());
        let [weight, x, dy] = [&case.weight, &case.x, &case.dy].map(up);
        Self { spec, shard: case.shard, plan, weight, x, dy, factor }
    }

    fn by<'a>(&'a self, adamw: AdamW, moments: learn::Moments<'a, E::Space>) -> learn::Step<'a, E::Space> {
        let by = learn::Step::new(adamw, moments);
        common::given!(by, factor: self.factor.as_ref().map(E::input))
    }

    fn layer<'a>(&'a self, logits: &'a E::Buffer<L>) -> Layer<'a, E::Space, L, W> {
        let Spec { shape, kind, sampling, .. } = self.spec;
        Layer::sampled(shape, kind, sampling, E::input(logits), E::input(&self.weight)).shard(self.shard)
    }

    /// The step in one pass, and `dX` of the logits before it.
    pub(crate) fn step(&self, on: &mut E, adamw: AdamW, held: &mut Held<E, L>, sums: Option<&mut Sums<E>>) -> Vec<W> {
        let (spec, plan) = (&self.spec, self.plan(held));
        let mut workspace = on.poisoned(plan.workspace_bytes());
        let mut y = on.poisoned(spec.problem().outputs());
        let mut masked = (spec.keep() == Keep::Masked).then(|| on.poisoned(spec.shape.weights()));
        let mut codes = (spec.keep() == Keep::Codes).then(|| on.poisoned(spec.shape.packed_codes()));
        if spec.keep() != Keep::Nothing {
            let layer = self.layer(&held.logits);
            let pass = Forward::new(&plan, &layer, E::input(&self.x), E::output(&mut y));
            on.run(common::given!(pass.workspace(E::output(&mut workspace)),
                save_masked: masked.as_mut().map(E::output),
                save_codes: codes.as_mut().map(E::output),
            ))
            .unwrap();
        }
        let mut workspace = on.poisoned(plan.workspace_bytes());
        let mut dx = on.poisoned(spec.problem().inputs());
        {
            let (logits, moments) = held.parts();
            let [weight, dy, x] = [&self.weight, &self.dy, &self.x].map(E::input);
            let pass = Step::new(&plan, spec.sampling, E::output(logits), weight, dy, x, self.by(adamw, moments));
            let pass = pass.shard(self.shard).regulariser(spec.regulariser).workspace(E::output(&mut workspace));
            let (norm_squares, statistics) = match sums {
                Some(Sums { norm_squares, statistics }) => (Some(E::output(norm_squares)), Some(E::output(statistics))),
                None => (None, None),
            };
            on.run(common::given!(pass,
                input_gradient: spec.wants[1].then(|| E::output(&mut dx)),
                use_masked: masked.as_ref().map(E::input),
                use_codes: codes.as_ref().map(E::input),
                norm_squares: norm_squares,
                statistics: statistics,
            ))
            .unwrap();
        }
        on.download(&dx).unwrap()
    }

    /// The gradients by the step's own route, then `learn`: in two passes.
    pub(crate) fn backward_and_learn(
        &self,
        on: &mut E,
        adamw: AdamW,
        held: &mut Held<E, L>,
        sums: &mut Sums<E>,
    ) -> Vec<W> {
        let spec = &self.spec;
        // A plan that keeps something wants it saved: what is sampled again is the same.
        let plan = Plan::new(&on.limits(), on.libraries(), spec.problem(), spec.masks(), Keep::Nothing).unwrap();
        let plan = plan.with_input_gradient(self.plan.input_gradient().route).unwrap();
        let plan = plan.with_logit_gradient(self.choice(held).0).unwrap();
        let plan = spec.routes.panel_rows.map_or(plan, |rows| plan.with_panel_rows(rows));
        let mut workspace = on.poisoned(plan.workspace_bytes());
        let (mut gradient, mut dx) = (on.poisoned(spec.shape.logits()), on.poisoned(spec.problem().inputs()));
        {
            let layer = self.layer(&held.logits);
            let pass = Backward::new(&plan, &layer, E::input(&self.dy)).regulariser(spec.regulariser);
            let pass = common::given!(pass.workspace(E::output(&mut workspace)),
                input_gradient: spec.wants[1].then(|| E::output(&mut dx)),
            );
            on.run(pass.logit_gradient(E::input(&self.x), E::output(&mut gradient))).unwrap();
        }
        let (logits, moments) = held.parts();
        let pass = Update::new(spec.shape, E::input(&gradient), E::output(logits), self.by(adamw, moments));
        let pass = pass.shard(self.shard).rounding(Rounding { seed: spec.sampling.seed, draw: spec.sampling.draw });
        let pass = pass.norm_squares(E::output(&mut sums.norm_squares));
        on.run(pass.statistics(E::output(&mut sums.statistics))).unwrap();
        on.download(&dx).unwrap()
    }

    /// `G` in `f32`, then `learn::Fused`: in two passes. By whoever multiplies in the step.
    pub(crate) fn weight_gradient_and_learn(
        &self,
        on: &mut E,
        adamw: AdamW,
        held: &mut Held<E, L>,
        sums: &mut Sums<E>,
    ) -> bool {
        let (spec, (route, splits)) = (&self.spec, self.choice(held));
        let dense = if let LogitRoute::Panels(dense) = route { dense } else { Dense::Own };
        let again =
            Plan::<L, W>::new(&on.limits(), on.libraries(), spec.problem(), spec.masks(), Keep::Nothing).unwrap();
        let again = again.with_weight_gradient(dense).unwrap();
        if again.weight_gradient().splits != splits {
            return false;
        }
        let mut workspace = on.poisoned(again.workspace_bytes());
        let mut gradient = on.poisoned::<f32>(spec.shape.weights());
        {
            let layer = self.layer(&held.logits);
            let pass = Backward::new(&again, &layer, E::input(&self.dy)).workspace(E::output(&mut workspace));
            on.run(pass.weight_gradient::<f32>(E::input(&self.x), E::output(&mut gradient))).unwrap();
        }
        let (logits, moments) = held.parts();
        let (weight, gradient, by) = (E::input(&self.weight), E::input(&gradient), self.by(adamw, moments));
        let pass = Fused::new(spec.shape, spec.kind, spec.sampling, E::output(logits), weight, gradient, by);
        let pass = pass.shard(self.shard).regulariser(spec.regulariser);
        let pass = pass.norm_squares(E::output(&mut sums.norm_squares));
        on.run(pass.statistics(E::output(&mut sums.statistics))).unwrap();
        true
    }

    /// The plan for such moments.
    fn plan(&self, held: &Held<E, L>) -> Plan<L, W> {
        match held.moments {
            HeldMoments::Full(_) => self.plan,
            HeldMoments::Eight(..) => self.plan.with_moments_of_eight_bits(),
        }
    }

    /// The step's route, and in how many parts it takes the contraction.
    fn choice(&self, held: &Held<E, L>) -> (LogitRoute, u32) {
        let choice = self.plan(held).step_route();
        (choice.route, choice.splits)
    }
}
