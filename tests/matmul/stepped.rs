//! The step in one pass: the bits of the backward pass followed by `learn`, on every executor.

use crate::case::{Adds, Case, Routes, Spec};
use crate::common::{Counts, Emulator, everywhere_tests, for_all, same};
use crate::placed::{BEFORE, Held, Placed, State, Sums};
use crate::suite;
use proptest::prelude::*;
use twofour::learn::{AdamW, Clip, Recipe, Statistics, StepSettings};
use twofour::mask::Kind;
use twofour::matmul::{Dense, Keep, LogitRoute};
use twofour::{Cpu, Float, Logit, Shard, bf16, f16};

/// Runs a generic function for each type of logits and of weights; `kernels.rs` has the pairs that are not here. (Each
/// pair is long to compile: the CPU's step is code of its own for it.)
macro_rules! for_types {
    ($function:ident($($argument:expr),*)) => {
        $function::<f32, f32, _>($($argument),*);
        $function::<f32, bf16, _>($($argument),*);
        $function::<bf16, f16, _>($($argument),*);
    };
}

/// What a step has besides the operands of the backward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Moments of eight bits.
    pub(crate) eight: bool,
    pub(crate) factor: Option<f32>,
    /// Whether a group has a gradient that is too large, and another one that is NaN.
    pub(crate) wild: bool,
    pub(crate) sums: bool,
    /// Whether the weight is a slice of a larger one.
    pub(crate) shard: bool,
    /// Whether `learn::Fused` makes the step too.
    pub(crate) by_weight: bool,
    pub(crate) adamw: AdamW,
}

impl Options {
    pub(crate) const PLAIN: Self = Self {
        eight: false,
        factor: None,
        wild: false,
        sums: true,
        shard: false,
        by_weight: true,
        adamw: AdamW { rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, step: 3 },
    };
}

/// Sums in `f64` of non-negative numbers, in another order.
fn close(what: &str, got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs() || got == expected, "{what}: {got} and not {expected}");
}

/// A step in one pass, and the same in two, by both ways.
pub(crate) fn check<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec, options: Options) {
    let mut case = Case::<L, W>::new(spec);
    let cols = spec.shape.cols as u64;
    if options.shard {
        case.shard = Shard { row_offset: 1 << 33, col_offset: 8, global_cols: 8 + cols + 4 };
        case.update_codes();
    }
    if options.wild && !case.weight.is_empty() {
        let at = spec.seed as usize % case.weight.len();
        case.weight[at] = W::from_f32(1e25);
        let at = (spec.seed >> 20) as usize % case.weight.len();
        case.weight[at] = W::from_f32(f32::NAN);
    }
    let placed = Placed::new(on, &case, options.factor);
    let before = State::zero(spec.shape, options.eight, case.logits.clone()).begun(spec.seed);
    let new = |on: &E| (Held::new(on, &before), Sums::new(on));

    let ((mut held, mut sums), context) = (new(on), format!("{on:?} {spec:?} {options:?}"));
    let dx = placed.step(on, options.adamw, &mut held, options.sums.then_some(&mut sums));
    let after = held.read(on);

    let (mut two, mut sums_of_two) = new(on);
    let dx_of_two = placed.backward_and_learn(on, options.adamw, &mut two, &mut sums_of_two);
    let expected = two.read(on);
    assert!(dx.iter().zip(&dx_of_two).all(|(a, b)| same(*a, *b)), "dx: {context}");
    assert_eq!(after.bits(), expected.bits(), "logits: {context}");
    assert!(after.moments == expected.moments, "moments: {context}");
    let stepped = options.factor.is_none_or(|factor| (0.0..=1.0).contains(&factor));
    assert!(stepped || after == before, "stepped: {context}");

    let (mut fused, mut sums_of_fused) = new(on);
    // A library may take another way to rows of another number.
    let same_sums = !E::TENSOR_CORES || E::UNIT < 1.5 / (1 << 24) as f64;
    let by_weight = options.by_weight && same_sums;
    let by_weight = by_weight && placed.weight_gradient_and_learn(on, options.adamw, &mut fused, &mut sums_of_fused);
    if by_weight {
        let expected = fused.read(on);
        assert_eq!(after.bits(), expected.bits(), "logits of `learn::Fused`: {context}");
        assert!(after.moments == expected.moments, "moments of `learn::Fused`: {context}");
    }
    if options.sums {
        let (squares, got) = sums.read(on);
        let (expected_squares, of_two) = sums_of_two.read(on);
        close("norm_squares", squares, expected_squares);
        close("gradient_squares", got.gradient_squares, of_two.gradient_squares);
        if by_weight {
            let (_, of_fused) = sums_of_fused.read(on);
            close("kept_energy", got.kept_energy, of_fused.kept_energy);
            close("confidence", got.confidence, of_fused.confidence);
        }
        let counts = |sums: Statistics| [sums.moved, sums.skipped, sums.groups];
        assert_eq!(counts(got), counts(of_two), "{context}");
        assert_eq!(got.groups as usize, spec.shape.groups());
        assert!(stepped || got.skipped == got.groups);
    } else {
        let (squares, _) = sums.read(on);
        assert_eq!(squares, BEFORE, "{context}");
    }
}

/// Any factor that may come, and those that step nothing.
const FACTORS: [Option<f32>; 7] = [None, Some(1.0), Some(0.25), Some(0.0), Some(f32::NAN), Some(1.5), Some(-0.5)];

pub(crate) fn options() -> impl Strategy<Value = Options> {
    let adamw = (0.0..0.1f64, 0.0..0.99f64, 0.0..0.999f64, 0.0..1.0f64, 1..2000u64)
        .prop_map(|(rate, beta1, beta2, decay, step)| AdamW { rate, beta1, beta2, epsilon: 1e-8, decay, step });
    let factor = prop_oneof![4 => Just(0), 6 => 1..FACTORS.len()];
    let flag = prop::bool::weighted;
    (any::<bool>(), factor, flag(0.3), flag(0.7), flag(0.4), adamw).prop_map(
        |(eight, factor, wild, sums, shard, adamw)| Options {
            eight,
            factor: FACTORS[factor],
            wild,
            sums,
            shard,
            by_weight: true,
            adamw,
        },
    )
}

/// Of the masks that have a gradient.
fn specs() -> impl Strategy<Value = (Spec, Options)> {
    // Boxed, as what they are made of is too large for the stack of a test.
    (suite::specs().boxed(), options().boxed()).prop_map(|(spec, options)| {
        let kind = if spec.kind == Kind::Argmax { Kind::Hard } else { spec.kind };
        (Spec { kind, frozen: false, ..spec }, options)
    })
}

fn has_the_bits_of_two_passes<E: Adds>(on: &mut E, (spec, options): &(Spec, Options)) {
    for_types!(check(on, *spec, *options));
}

#[test]
fn any_step_has_the_bits_of_two_passes() {
    for_all!(has_the_bits_of_two_passes, Counts { cpu: 64, emulator: 64, gpu: 128 }, specs());
}

everywhere_tests!(
    a_step_in_one_pass_has_the_bits_of_backward_and_learn,
    sizes_no_tile_divides,
    panels_do_not_show,
    factors_are_from_0_to_1,
    nothing_to_multiply,
);

const ROUTES: [LogitRoute; 3] =
    [LogitRoute::Fused, LogitRoute::Panels(Dense::Own), LogitRoute::Panels(Dense::Cublaslt)];

fn by(route: LogitRoute) -> Routes {
    Routes { logits: Some(route), ..Routes::default() }
}

/// Several steps of a run, one's logits, moments and clip factor being the next one's.
fn a_step_in_one_pass_has_the_bits_of_backward_and_learn<E: Adds>(on: &mut E) {
    for (number, route) in ROUTES.into_iter().enumerate() {
        for eight in [false, true] {
            let kind = [Kind::Soft, Kind::Hard][number % 2];
            let spec = Spec { routes: by(route), keep: Keep::Masked, ..Spec::new(40, 24, 64, kind) };
            for_types!(recipe(on, spec, eight));
        }
    }
}

fn recipe<L: Logit, W: Float, E: Adds>(on: &mut E, spec: Spec, eight: bool) {
    let case = Case::<L, W>::new(spec);
    let start = State::zero(spec.shape, eight, case.logits.clone());
    let [mut one, mut two] = [(); 2].map(|()| (Held::new(on, &start), on.upload(&[1.0f32]).unwrap()));
    let recipe = Recipe::maskllm(8);
    for step in 0..4 {
        let at: StepSettings = recipe.at(step);
        let sampling = at.sampling(9, twofour::noise::draw(0, step as u32, 0));
        let spec = Spec { sampling, regulariser: at.regulariser, ..spec };
        let mut sums = [(); 2].map(|()| Sums::new(on));
        let mut dx = Vec::new();
        for (which, ((held, factor), sums)) in [&mut one, &mut two].into_iter().zip(&mut sums).enumerate() {
            let mut placed = Placed::<E, L, W>::new(on, &Case { spec, ..case.clone() }, None);
            placed.factor = Some(on.upload(&on.download(factor).unwrap()).unwrap());
            dx.push(match which {
                0 => placed.step(on, at.adamw, held, Some(sums)),
                _ => placed.backward_and_learn(on, at.adamw, held, sums),
            });
            let (squares, factor) = (E::output(&mut sums.norm_squares), E::output(factor));
            on.run(Clip::new(recipe.max_norm, squares, factor)).unwrap();
        }
        let states = [&one, &two].map(|(held, factor)| (held.read(on), on.download(factor).unwrap()));
        assert_eq!(states[0].0.bits(), states[1].0.bits(), "step {step}: {on:?}");
        assert!(states[0] == states[1] && dx[0] == dx[1], "step {step}: {on:?}");
        assert_ne!(states[0].0, start);
        assert!(states[0].1[0] < 1.0, "the norm of the next step is clipped");
    }
}

fn sizes_no_tile_divides<E: Adds>(on: &mut E) {
    let sizes = [(0, 9, 20), (1, 129, 132), (33, 130, 4), (129, 5, 260), (70, 257, 36), (31, 128, 128)];
    for (number, (tokens, rows, cols)) in sizes.into_iter().enumerate() {
        for (other, route) in ROUTES.into_iter().enumerate() {
            let kind = [Kind::Soft, Kind::Hard][(number + other) % 2];
            let routes = Routes { panel_rows: Some(48), ..by(route) };
            let spec = Spec { routes, seed: number as u64, ..Spec::new(tokens, rows, cols, kind) };
            let options = Options { wild: number % 2 == 0, shard: number % 3 == 0, ..Options::PLAIN };
            match number % 2 {
                0 => check::<f32, bf16, _>(on, spec, options),
                _ => check::<bf16, f16, _>(on, spec, options),
            }
            check::<f32, f32, _>(on, spec, Options { eight: true, ..options });
        }
    }
}

/// More tiles than threads of the kernel that adds their shares up, and than an array of sums has room for.
#[test]
fn sums_of_many_tiles() {
    let spec = Spec { routes: by(LogitRoute::Fused), ..Spec::new(1, 1, 128 * 1030, Kind::Hard) };
    check::<bf16, bf16, _>(&mut Emulator::numbered(0), Spec { wants: [false; 3], ..spec }, Options::PLAIN);
}

/// Whatever the panels, and of however few groups a row has.
fn panels_do_not_show<E: Adds>(on: &mut E) {
    for (rows, cols) in [(150, 4), (70, 12), (20, 64), (9, 256)] {
        for eight in [false, true] {
            let of = |panel_rows| {
                let routes = Routes { panel_rows: Some(panel_rows), ..by(LogitRoute::Panels(Dense::Own)) };
                let case = Case::<bf16, f16>::new(Spec { routes, ..Spec::new(40, rows, cols, Kind::Soft) });
                let state = State::zero(case.spec.shape, eight, case.logits.clone()).begun(1);
                (Placed::new(on, &case, None), Held::new(on, &state))
            };
            let [few, many] = [1, 1000].map(of);
            let [few, many] = [few, many].map(|(placed, mut held)| {
                let mut sums = Sums::new(on);
                placed.step(on, Options::PLAIN.adamw, &mut held, Some(&mut sums));
                (held.read(on), sums.read(on))
            });
            assert!(few.0 == many.0, "[{rows}, {cols}] {on:?}");
            close("gradient_squares", few.1.1.gradient_squares, many.1.1.gradient_squares);
            assert_eq!([few.1.1.moved, few.1.1.groups], [many.1.1.moved, many.1.1.groups]);
        }
    }
}

/// Others step nothing, and the sums say so.
fn factors_are_from_0_to_1<E: Adds>(on: &mut E) {
    for factor in FACTORS {
        for route in ROUTES {
            for eight in [false, true] {
                let spec = Spec { routes: by(route), ..Spec::new(8, 8, 64, Kind::Soft) };
                check::<f32, bf16, _>(on, spec, Options { factor, eight, ..Options::PLAIN });
            }
        }
    }
}

fn nothing_to_multiply<E: Adds>(on: &mut E) {
    for (tokens, rows, cols) in [(0, 0, 0), (3, 0, 8), (3, 5, 0), (0, 5, 8)] {
        for (number, route) in ROUTES.into_iter().enumerate() {
            let kind = [Kind::Soft, Kind::Hard][number % 2];
            let spec = Spec { routes: by(route), ..Spec::new(tokens, rows, cols, kind) };
            for_types!(check(on, spec, Options { eight: number % 2 == 0, ..Options::PLAIN }));
        }
    }
}

/// The CPU takes the weight's gradient 4 MiB of rows at a time: 256 rows here.
#[test]
fn panels_of_the_cpu_do_not_show() {
    for eight in [false, true] {
        check::<f32, f32, _>(&mut Cpu, Spec::new(2, 270, 4096, Kind::Soft), Options { eight, ..Options::PLAIN });
    }
}
