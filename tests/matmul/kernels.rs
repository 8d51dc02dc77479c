//! What concerns the kernels alone: each of them on many random problems, on tiles' edges, on several schedules.

use crate::case::{Adds, Case, Routes, Spec};
use crate::common::Emulator;
use crate::common::runs::{each_kernel_has_met_many, is_full, wanted};
use crate::oracle::{compare, gradient, logit_gradient};
use crate::{stepped, suite, weight};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRng, TestRunner};
use rayon::prelude::*;
use twofour::device::Limits;
use twofour::mask::Kind;
use twofour::matmul::{Dense, InputRoute, Keep, LogitRoute, OutputRoute};
use twofour::{Float, Libraries, Logit, Shape, bf16, f16};
use twofour_emulator::Schedule;

fn check<L: Logit, W: Float, E: Adds>(spec: Spec, on: &mut E) {
    let case = Case::<L, W>::new(spec);
    compare(&case, &case.run(on), E::UNIT);
}

/// One of the four pairs of types that own kernels take.
pub(crate) fn check_types<E: Adds>(types: u64, spec: Spec, on: &mut E) {
    match types % 4 {
        0 => check::<f32, f16, _>(spec, on),
        1 => check::<f32, bf16, _>(spec, on),
        2 => check::<bf16, f16, _>(spec, on),
        _ => check::<bf16, bf16, _>(spec, on),
    }
}

pub(crate) const ROUTES: [Routes; 3] = [
    Routes {
        output: Some(OutputRoute::Sampled),
        input: Some(InputRoute::Codes),
        logits: Some(LogitRoute::Fused),
        output_splits: None,
        panel_rows: None,
    },
    Routes {
        output: Some(OutputRoute::Codes),
        input: Some(InputRoute::Codes),
        logits: Some(LogitRoute::Fused),
        output_splits: None,
        panel_rows: None,
    },
    Routes {
        output: Some(OutputRoute::Masked(Dense::Own)),
        input: Some(InputRoute::Masked(Dense::Own)),
        logits: Some(LogitRoute::Panels(Dense::Own)),
        output_splits: None,
        panel_rows: None,
    },
];

const Y: [bool; 3] = [true, false, false];
const DX: [bool; 3] = [false, true, false];
const DLOGITS: [bool; 3] = [false, false, true];

/// Problems for a few kernels: what they want, how tokens and columns are to be, the routes, the masks, and in how many
/// types (the first two differ in that of the weight, all four in that of the logits too; 0 is `f32`).
type Target = ([bool; 3], fn(&mut Spec), Routes, Option<Kind>, u64);

const fn output(route: OutputRoute) -> Routes {
    Routes { output: Some(route), input: None, logits: None, output_splits: None, panel_rows: None }
}
const fn input(route: InputRoute) -> Routes {
    Routes { output: None, input: Some(route), logits: None, output_splits: None, panel_rows: None }
}
const fn logits(route: LogitRoute) -> Routes {
    Routes { output: None, input: None, logits: Some(route), output_splits: None, panel_rows: None }
}

/// `None` for masks that are frozen.
const TARGETS: [Target; 16] = {
    use Dense::{Cublaslt, Own};
    const fn any(_: &mut Spec) {}
    fn few(spec: &mut Spec) {
        spec.tokens %= 17;
    }
    fn more(spec: &mut Spec) {
        spec.tokens = 17 + spec.tokens % 40;
    }
    fn many(spec: &mut Spec) {
        (spec.tokens, spec.shape.rows) = (129 + spec.tokens, spec.shape.rows % 9);
    }
    fn long(spec: &mut Spec) {
        (spec.tokens, spec.shape) = (spec.tokens % 9, Shape::new(1 + spec.shape.rows % 9, 512 + spec.shape.cols));
    }
    fn deep(spec: &mut Spec) {
        (spec.tokens, spec.shape) = (512 + spec.tokens, Shape::new(1 + spec.shape.rows % 9, 4 + spec.shape.cols % 12));
    }
    let (soft, hard) = (Some(Kind::Soft), Some(Kind::Hard));
    [
        (Y, few, output(OutputRoute::Sampled), soft, 4),
        (Y, more, output(OutputRoute::Sampled), soft, 4),
        (Y, few, output(OutputRoute::Sampled), hard, 4),
        (Y, more, output(OutputRoute::Sampled), hard, 4),
        (Y, few, output(OutputRoute::Codes), hard, 2),
        (Y, more, output(OutputRoute::Codes), None, 2),
        (Y, many, output(OutputRoute::Codes), hard, 2),
        (Y, any, output(OutputRoute::Masked(Own)), soft, 2),
        (Y, long, output(OutputRoute::Masked(Own)), soft, 2),
        (Y, any, output(OutputRoute::Masked(Cublaslt)), None, 2),
        (Y, any, output(OutputRoute::Masked(Cublaslt)), None, 0),
        (DX, any, input(InputRoute::Codes), hard, 2),
        (DX, any, input(InputRoute::Masked(Own)), soft, 2),
        (DLOGITS, any, logits(LogitRoute::Fused), soft, 4),
        (DLOGITS, any, logits(LogitRoute::Fused), hard, 4),
        (DLOGITS, deep, logits(LogitRoute::Panels(Own)), soft, 2),
    ]
};

/// Small problems with forced routes, for every kernel of `cuda/matmul*.cu`.
#[test]
fn every_kernel_meets_many_problems() {
    let rounds = |(target, (.., types)): (usize, &Target)| {
        // A few more, for those without rows or columns are none for a kernel.
        let count = wanted() * 5 / 4 * (*types).max(1);
        (0..count).map(move |round| (target, round)).collect::<Vec<_>>()
    };
    let problems: Vec<(usize, u64)> = TARGETS.iter().enumerate().flat_map(rounds).collect();
    problems.into_par_iter().for_each(|(target, round)| {
        let (wants, adjust, routes, kind, types) = TARGETS[target];
        let algorithm = proptest::test_runner::RngAlgorithm::ChaCha;
        let rng = TestRng::from_seed(algorithm, &seed(target as u64, round));
        let mut spec =
            suite::specs().new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).unwrap().current();
        (spec.wants, spec.routes, spec.keep, spec.frozen) = (wants, routes, Keep::Nothing, kind.is_none());
        spec.kind = kind.unwrap_or(Kind::Hard);
        adjust(&mut spec);
        let schedule = [Schedule::RoundRobin, Schedule::Solo(round), Schedule::Random(round)][round as usize / 4 % 3];
        let on = &mut Emulator::new(schedule).random().limits([Limits::A100, Limits::H200][round as usize / 12 % 2]);
        match types {
            0 => check::<f32, f32, _>(spec, on),
            _ => check_types(round, spec, on),
        }
    });
    let extra: Vec<(Kind, u64)> = [Kind::Soft, Kind::Hard]
        .into_iter()
        .flat_map(|kind| (0..wanted() * 5).map(move |round| (kind, round)))
        .collect();
    extra.into_par_iter().for_each(|(kind, round)| step_and_weight_gradient(kind, round));
    each_kernel_has_met_many("twofour_matmul_", 51);
}

/// What the step and the rounded gradient of the weight meet.
fn step_and_weight_gradient(kind: Kind, round: u64) {
    let rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed(TARGETS.len() as u64, round));
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let spec = suite::specs().new_tree(&mut runner).unwrap().current();
    let options = stepped::options().new_tree(&mut runner).unwrap().current();
    let routes = logits(LogitRoute::Fused);
    let spec = Spec { kind, routes, keep: Keep::Nothing, frozen: false, wants: [false; 3], ..spec };
    let options = stepped::Options { eight: false, by_weight: false, ..options };
    let on = &mut Emulator::numbered(round);
    match round % 4 {
        0 => stepped::check::<f32, f16, _>(on, spec, options),
        1 => stepped::check::<f32, bf16, _>(on, spec, options),
        2 => stepped::check::<bf16, f16, _>(on, spec, options),
        _ => stepped::check::<bf16, bf16, _>(on, spec, options),
    }
    if kind == Kind::Soft {
        return;
    }
    let spec = Spec { routes: logits(LogitRoute::Panels(Dense::Own)), ..spec };
    match round % 4 {
        0 => weight::check::<f32, f16, _>(on, spec, false),
        1 => weight::check::<f32, bf16, _>(on, spec, false),
        _ => {}
    }
}

fn seed(target: u64, round: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&round.to_le_bytes());
    seed[8..16].copy_from_slice(&target.to_le_bytes());
    seed
}

fn each_route(tokens: usize, rows: usize, cols: usize) -> Vec<Spec> {
    let kinds = [Kind::Soft, Kind::Hard];
    let specs =
        ROUTES.into_iter().flat_map(|routes| kinds.map(|kind| Spec { routes, ..Spec::new(tokens, rows, cols, kind) }));
    specs.enumerate().map(|(number, spec)| Spec { seed: (tokens + rows + cols + number) as u64, ..spec }).collect()
}

/// Sizes around a tile's, in each direction, on each route.
pub(crate) fn edges() -> Vec<Spec> {
    let sizes = [(1, 4), (127, 124), (128, 128), (129, 132), (130, 260), (257, 36)];
    let tokens = [0, 1, 7, 31, 33, 129, 200];
    let all = sizes.into_iter().flat_map(|size| tokens.map(|tokens| (tokens, size)));
    all.flat_map(|(tokens, (rows, cols))| each_route(tokens, rows, cols)).collect()
}

/// The ring goes round, with codes that are copied four bytes at a time.
pub(crate) fn rings() -> Vec<Spec> {
    let sizes = [(136, 264, 288), (200, 328, 320), (129, 520, 96), (130, 200, 192)];
    sizes.into_iter().flat_map(|(tokens, rows, cols)| each_route(tokens, rows, cols)).collect()
}

/// Contractions that are split over blocks.
pub(crate) fn splits() -> Vec<Spec> {
    let sizes = [(1100, 20, 36), (140, 1030, 20), (132, 12, 1540), (3, 40, 2064)];
    sizes.into_iter().flat_map(|(tokens, rows, cols)| each_route(tokens, rows, cols)).collect()
}

fn a100(schedule: Schedule) -> Emulator {
    Emulator::new(schedule).limits(Limits::A100)
}

fn emulate_all(specs: Vec<Spec>) {
    specs.into_par_iter().for_each(|spec| check_types(spec.seed, spec, &mut a100(Schedule::RoundRobin)));
}

#[test]
fn tiles_have_edges() {
    emulate_all(edges());
}

#[test]
fn rings_go_round() {
    let schedules = [Schedule::RoundRobin, Schedule::Solo(1), Schedule::Random(2)];
    let schedules = if is_full() { &schedules[..] } else { &schedules[2..] };
    let of_spec = |spec| schedules.iter().map(move |&schedule| (spec, schedule));
    let all: Vec<_> = rings().into_iter().flat_map(of_spec).collect();
    all.into_par_iter().for_each(|(spec, schedule)| {
        check_types(spec.seed, spec, &mut Emulator::new(schedule).limits(Limits::H200));
    });
}

/// The sum of the parts, the same every time.
#[test]
fn split_products_are_within_their_bounds() {
    for spec in splits() {
        let plan = spec.plan::<f32, bf16>(&Limits::A100, Libraries::CUBLASLT);
        let splits = [plan.output().splits, plan.input_gradient().splits, plan.logit_gradient().splits];
        // With own kernels alone, something is split for each of these sizes.
        let own = spec.routes.output == Some(OutputRoute::Masked(Dense::Own));
        assert!(!own || splits.into_iter().any(|splits| splits > 1), "{splits:?}");
    }
    emulate_all(splits());
}

/// A schedule decides in which order threads run and copies land, and nothing else.
#[test]
fn schedules_change_nothing() {
    // The last stage of the contraction lies in a different place of the ring for each.
    for (number, tokens) in [70, 100, 125, 150].into_iter().enumerate() {
        let spec = Spec { routes: ROUTES[number % 3], keep: Keep::Codes, ..Spec::new(tokens, 140, 68, Kind::Hard) };
        let case = Case::<f32, bf16>::new(spec);
        let run = |schedule| case.run(&mut a100(schedule));
        let first = run(Schedule::RoundRobin);
        compare(&case, &first, Emulator::UNIT);
        for schedule in Schedule::several(2).skip(1) {
            let other = run(schedule);
            assert!(first.y == other.y && first.dx == other.dx, "{number} {schedule:?}");
            assert!(first.logit_gradient == other.logit_gradient, "{number} {schedule:?}");
        }
    }
}

/// What training would do without fusing: the weight's gradient rounded to 16 bits on its way through memory.
#[test]
fn the_fused_gradient_is_more_accurate_than_a_rounded_one() {
    let of = |route| Spec { routes: logits(route), ..Spec::new(200, 24, 64, Kind::Soft) };
    let case = Case::<f32, bf16>::new(of(LogitRoute::Fused));
    let on = &mut a100(Schedule::RoundRobin);
    let fused = case.run(on).logit_gradient;
    let through_panels = Case { spec: of(LogitRoute::Panels(Dense::Cublaslt)), ..case.clone() };
    let panels = through_panels.run(on).logit_gradient;
    let exact = logit_gradient(&case, &gradient(&case, 0.0).into_iter().map(|(g, _)| g).collect::<Vec<_>>());
    let rounded: Vec<f64> = gradient(&case, 0.0).iter().map(|(g, _)| f64::from(bf16::from_f64(*g).to_f32())).collect();
    let rounded = logit_gradient(&case, &rounded);
    let error = |got: &dyn Fn(usize) -> f64| -> f64 {
        let squares: f64 = exact.iter().enumerate().map(|(i, exact)| (got(i) - exact).powi(2)).sum();
        (squares / exact.iter().map(|exact| exact * exact).sum::<f64>()).sqrt()
    };
    let [fused, panels, rounded] =
        [error(&|i| f64::from(fused[i])), error(&|i| f64::from(panels[i])), error(&|i| rounded[i])];
    println!("relative error: fused {fused:.1e}, through f32 panels {panels:.1e}, through bf16 {rounded:.1e}");
    assert!(fused <= 1.5 * panels && 100.0 * fused <= rounded);
}
