//! The gradient of the masked weight: beside the others, by whoever multiplies, in both types.

use crate::case::{Adds, Case, Routes, Spec};
use crate::common::{self, Counts, everywhere_tests, for_all};
use crate::oracle::compare_weight_gradient;
use crate::suite::{self, for_all_types};
use twofour::mask::{GradientOf, Kind};
use twofour::matmul::{Backward, Dense, Keep, Layer, LogitRoute, Plan};
use twofour::{Float, Logit, bf16, f16};

/// Both types, as the plan would have it or by who multiplies for the logits; with `beside`, the other gradients too,
/// which are what they are alone.
pub(crate) fn check<L: Logit, W: Float + GradientOf<W>, E: Adds>(on: &mut E, spec: Spec, beside: bool) {
    let case = Case::<L, W>::new(spec);
    let wide = run::<L, W, f32, E>(on, &case, false).1;
    compare_weight_gradient(&case, &wide, E::UNIT);
    let (dx, own) = run::<L, W, W, E>(on, &case, beside);
    compare_weight_gradient(&case, &own, E::UNIT);
    // The same sums, rounded once.
    assert!(E::UNIT > 1.5 / (1 << 24) as f64 || own == common::convert::<W>(&wide), "{on:?} {spec:?}");
    if beside {
        let alone = Case { spec: Spec { keep: Keep::Nothing, ..spec }, ..case }.run(on);
        assert!(dx == alone.dx, "{on:?} {spec:?}");
    }
}

/// `dX`, and `G`.
type Gradients<W, G> = (Vec<W>, Vec<G>);

pub(crate) fn run<L: Logit, W: Float, G: GradientOf<W>, E: Adds>(
    on: &mut E,
    case: &Case<L, W>,
    beside: bool,
) -> Gradients<W, G> {
    let (logits, weight) = (on.upload(&case.logits).unwrap(), on.upload(&case.weight).unwrap());
    let (codes, shape) = (on.upload(&case.codes).unwrap(), case.spec.shape);
    if case.spec.frozen {
        return gradients(on, case, &Layer::frozen(shape, E::input(&codes), E::input(&weight)), beside);
    }
    let layer = Layer::sampled(shape, case.spec.kind, case.spec.sampling, E::input(&logits), E::input(&weight));
    gradients(on, case, &layer, beside)
}

fn gradients<L: Logit, M: Logit, W: Float, G: GradientOf<W>, E: Adds>(
    on: &mut E,
    case: &Case<L, W>,
    layer: &Layer<'_, E::Space, M, W>,
    beside: bool,
) -> Gradients<W, G> {
    let spec = Spec { keep: Keep::Nothing, ..case.spec };
    let plan: Plan<M, W> = spec.plan(&on.limits(), on.libraries());
    let plan = match spec.routes.logits {
        Some(LogitRoute::Panels(dense)) => plan.with_weight_gradient(dense).unwrap_or(plan),
        _ => plan,
    };
    let (x, dy) = (on.upload(&case.x).unwrap(), on.upload(&case.dy).unwrap());
    let mut workspace = on.poisoned(plan.workspace_bytes());
    let (mut dx, mut g) = (on.poisoned(spec.problem().inputs()), on.poisoned::<G>(spec.shape.weights()));
    let mut logit_gradient = on.poisoned(spec.shape.logits());
    {
        let pass = Backward::new(&plan, layer, E::input(&dy)).workspace(E::output(&mut workspace));
        let pass = pass.regulariser(spec.regulariser).weight_gradient::<G>(E::input(&x), E::output(&mut g));
        let pass = common::given!(pass, input_gradient: beside.then(|| E::output(&mut dx)));
        on.run(match beside && spec.has_logit_gradient() {
            true => pass.logit_gradient(E::input(&x), E::output(&mut logit_gradient)),
            false => pass,
        })
        .unwrap();
    }
    (on.download(&dx).unwrap(), on.download(&g).unwrap())
}

fn is_within_its_bound<E: Adds>(on: &mut E, spec: &Spec) {
    for_all_types!(check(on, *spec, spec.accumulate));
}

#[test]
fn any_weight_gradient_is_within_its_bound() {
    for_all!(is_within_its_bound, Counts { cpu: 48, emulator: 48, gpu: 128 }, suite::specs());
}

everywhere_tests!(sizes_no_tile_divides, split_contractions);

fn sizes_no_tile_divides<E: Adds>(on: &mut E) {
    for (tokens, rows, cols) in [(0, 3, 8), (1, 1, 4), (33, 129, 132), (129, 5, 260)] {
        for dense in [Dense::Own, Dense::Cublaslt] {
            let routes = Routes { logits: Some(LogitRoute::Panels(dense)), ..Routes::default() };
            let spec = Spec { routes, ..Spec::new(tokens, rows, cols, Kind::Argmax) };
            for_all_types!(check(on, spec, false));
        }
    }
}

/// The parts are in `f32`, whatever their sum is rounded to.
fn split_contractions<E: Adds>(on: &mut E) {
    let routes = Routes { logits: Some(LogitRoute::Panels(Dense::Own)), ..Routes::default() };
    let spec = Spec { routes, ..Spec::new(1100, 20, 36, Kind::Soft) };
    let plan = spec.plan::<f32, bf16>(&on.limits(), on.libraries()).with_weight_gradient(Dense::Own).unwrap();
    assert!(plan.weight_gradient().splits > 1, "{plan}");
    check::<f32, bf16, _>(on, spec, true);
    check::<f32, f16, _>(on, spec, true);
}
