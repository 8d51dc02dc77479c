//! Swaps in a mask: what they add to a loss, where they end, and that every executor makes the same ones.

use crate::case::{By, SPECIAL, ScoreCase, all_same, normal, rng};
use crate::common::{Counts, TestExecutor, everywhere_tests, for_all, given};
use crate::oracle::{self, Row};
use proptest::prelude::any;
use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;
use twofour::select::{Hessian, Squares, Swaps};
use twofour::{Cpu, Executor, Float, Pattern, Shape, bf16, f16};

everywhere_tests!(
    swaps_end_where_none_is_left,
    limits_take_the_first_swaps,
    ties_and_zeros_are_told_by_position,
    what_is_not_finite_stays_as_it_is,
    nothing_to_swap,
);

const COUNTS: Counts = Counts { cpu: 150, emulator: 150, gpu: 150 };

#[derive(Debug, Clone)]
pub(crate) struct SwapsCase<W> {
    pub(crate) shape: Shape,
    pub(crate) weight: Vec<W>,
    pub(crate) hessian: Vec<f32>,
    pub(crate) codes: Vec<u8>,
    pub(crate) limit: Option<u32>,
    /// masked, patterns, codes, losses before, losses, swaps.
    pub(crate) wants: [bool; 6],
}

#[derive(Debug, Clone)]
pub(crate) struct Swapped<W> {
    pub(crate) masked: Option<Vec<W>>,
    pub(crate) patterns: Option<Vec<u8>>,
    pub(crate) codes: Option<Vec<u8>>,
    pub(crate) losses_before: Option<Vec<f64>>,
    pub(crate) losses: Option<Vec<f64>>,
    pub(crate) swaps: Option<Vec<u32>>,
}

/// `2/T Σ x xᵀ` of a few sources, mixed, with noise of its own in every column; some columns always 0 if asked.
pub(crate) fn hessian(rng: &mut StdRng, cols: usize, dead: bool) -> Vec<f32> {
    let sources = rng.random_range(1..6);
    let mix = normal::<f32>(rng, sources * cols, &[]);
    let own: Vec<f64> = (0..cols).map(|_| rng.random_range(0.01..2.0)).collect();
    let alive: Vec<f64> = (0..cols).map(|_| f64::from(u8::from(!(dead && rng.random_ratio(1, 9))))).collect();
    let product = |i: usize, j: usize| {
        let of_sources = (0..sources).map(|s| f64::from(mix[s * cols + i]) * f64::from(mix[s * cols + j]));
        alive[i] * alive[j] * (of_sources.sum::<f64>() + if i == j { own[i] } else { 0.0 })
    };
    (0..cols * cols).map(|at| product(at / cols, at % cols) as f32).collect()
}

impl<W: Float> SwapsCase<W> {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = rng(seed);
        // More than a block has threads, now and then.
        let groups = if rng.random_ratio(1, 24) { rng.random_range(250..300) } else { rng.random_range(1..40) };
        let shape = Shape::new(rng.random_range(1..7), 4 * groups);
        let mut case = Self::of_shape(&mut rng, shape);
        case.limit = [None, Some(rng.random_range(0..4)), Some(rng.random_range(0..40))][rng.random_range(0..3)];
        let which = rng.random_range(0..6);
        case.wants = std::array::from_fn(|want| want == which || rng.random());
        case
    }

    /// Any mask, which may have groups without one if weights may be special.
    pub(crate) fn of_shape(rng: &mut StdRng, shape: Shape) -> Self {
        let special = rng.random_ratio(1, 4);
        let weight = normal(rng, shape.weights(), if special { &SPECIAL } else { &[] });
        let dead = rng.random_ratio(1, 3);
        let hessian = hessian(rng, shape.cols, dead);
        let mut codes = vec![0; shape.packed_codes()];
        for g in 0..shape.groups() {
            let wild = special && rng.random_ratio(1, 40);
            let code = if wild { rng.random_range(0..16) } else { Pattern::ALL[rng.random_range(0..6)].code() };
            codes[g / 2] |= code << (4 * (g % 2));
        }
        Self { shape, weight, hessian, codes, limit: None, wants: [true; 6] }
    }

    /// A case of finite weights of which every group has a mask.
    pub(crate) fn tame(seed: u64, shape: Shape) -> Self {
        let mut rng = rng(seed);
        let mut case = Self::of_shape(&mut rng, shape);
        case.weight = normal(&mut rng, shape.weights(), &[]);
        let mut code = || Pattern::ALL[rng.random_range(0..6)].code();
        case.codes = (0..shape.packed_codes()).map(|_| code() | code() << 4).collect();
        if shape.groups() % 2 == 1 {
            *case.codes.last_mut().unwrap() &= 15;
        }
        case
    }

    /// Runs it, on outputs full of NaN.
    pub(crate) fn run<E: TestExecutor>(&self, on: &mut E) -> Swapped<W> {
        let (shape, [masked, patterns, codes, losses_before, losses, swaps]) = (self.shape, self.wants);
        let (weight, hessian) = (on.upload(&self.weight).unwrap(), on.upload(&self.hessian).unwrap());
        let before = on.upload(&self.codes).unwrap();
        let mut masked = masked.then(|| on.poisoned::<W>(shape.weights()));
        let mut patterns = patterns.then(|| on.poisoned::<u8>(shape.groups()));
        let mut codes = codes.then(|| on.poisoned::<u8>(shape.packed_codes()));
        let mut losses_before = losses_before.then(|| on.poisoned::<f64>(shape.rows));
        let mut losses = losses.then(|| on.poisoned::<f64>(shape.rows));
        let mut swaps = swaps.then(|| on.poisoned::<u32>(shape.rows));
        let mut workspace = on.poisoned::<u8>(Swaps::workspace_bytes(shape));
        let pass = Swaps::new(shape, E::input(&weight), E::input(&hessian), E::input(&before));
        let pass = given!(pass, masked: masked.as_mut().map(E::output), patterns: patterns.as_mut().map(E::output),
            codes: codes.as_mut().map(E::output), losses_before: losses_before.as_mut().map(E::output),
            losses: losses.as_mut().map(E::output), swaps: swaps.as_mut().map(E::output), limit: self.limit);
        on.run(pass.workspace(E::output(&mut workspace))).unwrap();
        Swapped {
            masked: on.read(masked.as_ref()),
            patterns: on.read(patterns.as_ref()),
            codes: on.read(codes.as_ref()),
            losses_before: on.read(losses_before.as_ref()),
            losses: on.read(losses.as_ref()),
            swaps: on.read(swaps.as_ref()),
        }
    }

    pub(crate) fn patterns(&self) -> Vec<Option<Pattern>> {
        (0..self.shape.groups()).map(|g| Pattern::from_code(oracle::code(&self.codes, g))).collect()
    }

    fn row(&self, row: usize) -> Row<'_> {
        let cols = self.shape.cols;
        let w = self.weight[row * cols..][..cols].iter().map(|w| w.to_f32()).collect();
        let patterns = self.patterns()[row * (cols / 4)..][..cols / 4].to_vec();
        Row { hessian: &self.hessian, w, patterns }
    }
}

pub(crate) fn contract(on: &mut impl TestExecutor, seed: &u64) {
    match seed % 3 {
        0 => check::<f32>(on, *seed),
        1 => check::<f16>(on, *seed),
        _ => check::<bf16>(on, *seed),
    }
}

/// Choices, losses and the number of swaps, to the bit.
fn check<W: Float>(on: &mut impl TestExecutor, seed: u64) {
    let case = SwapsCase::<W>::new(seed);
    compare(&case, &case.run(on), &format!("seed {seed}"));
}

pub(crate) fn compare<W: Float>(case: &SwapsCase<W>, got: &Swapped<W>, what: &str) {
    let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    for row in 0..case.shape.rows {
        let (mut expected, groups) = (case.row(row), case.shape.cols / 4);
        let limit = case.limit.unwrap_or(case.shape.cols as u32);
        let (before, after, count) = expected.run(limit);
        let what = format!("{what}, row {row}");
        assert_eq!(got.swaps.as_ref().map_or(count, |swaps| swaps[row]), count, "{what}");
        let losses = [(&got.losses_before, before), (&got.losses, after)];
        for (got, expected) in losses.map(|(got, expected)| (got.as_ref().map_or(expected, |got| got[row]), expected)) {
            assert!(same(got, expected), "{what}: loss {got:e} for {expected:e}");
        }
        for (g, pattern) in expected.patterns.iter().enumerate() {
            let at = row * groups + g;
            let index = pattern.map_or(Pattern::POISON, Pattern::index);
            assert_eq!(got.patterns.as_ref().map_or(index, |patterns| patterns[at]), index, "{what}, group {g}");
            let code = pattern.map_or(Pattern::POISON_CODE, Pattern::code);
            assert_eq!(got.codes.as_ref().map_or(code, |codes| oracle::code(codes, at)), code, "{what}, group {g}");
            if let Some(masked) = &got.masked {
                let range = 4 * at..4 * at + 4;
                all_same(&masked[range.clone()], &oracle::masked(*pattern, &case.weight[range]), &what);
            }
        }
    }
    if let (Some(codes), 1) = (&got.codes, case.shape.groups() % 2) {
        assert_eq!(codes.last().unwrap() >> 4, 0, "the last byte's unused half");
    }
}

#[test]
fn swaps_are_the_contracts() {
    for_all!(contract, COUNTS, any::<u64>());
}

/// Rows after their swaps: their losses in `f64` are those that are said, lower than before, and no swap is left that
/// would lower them by more than is asked for.
fn swaps_end_where_none_is_left(on: &mut impl TestExecutor) {
    let mut all = 0;
    for (seed, (rows, cols)) in [(9, 4), (7, 8), (5, 12), (3, 68), (2, 260), (1, 1040)].into_iter().enumerate() {
        let case = SwapsCase::<f32>::tame(seed as u64, Shape::new(rows, cols));
        let got = case.run(on);
        let [before, after] = [got.losses_before.unwrap(), got.losses.unwrap()];
        for row in 0..rows {
            let (first, mut last) = (case.row(row).exact(), case.row(row));
            last.patterns = got.patterns.as_ref().unwrap()[row * cols / 4..][..cols / 4]
                .iter()
                .map(|&index| Pattern::from_index(index))
                .collect();
            let exact = last.exact();
            for (got, exact) in [(before[row], first), (after[row], exact)] {
                assert!((got - 0.5 * exact).abs() <= 1e-5 * first, "{cols} columns, row {row}: {got} for {exact}");
            }
            let count = got.swaps.as_ref().unwrap()[row];
            assert!(if count == 0 { exact == first } else { exact < first }, "{cols} columns, row {row}");
            all += count;
            for pair in last.pairs() {
                last.swap(pair);
                assert!(last.exact() > exact - 1e-5 * first, "{cols} columns, row {row}, pair {pair:?}");
                last.swap(pair);
            }
        }
    }
    assert!(all > 100, "{all} swaps");
}

/// With a limit, a row has the first of the swaps that it would have without; each lowers its loss; none is none.
fn limits_take_the_first_swaps(on: &mut impl TestExecutor) {
    let mut case = SwapsCase::<f32>::tame(20, Shape::new(3, 72));
    let whole = case.run(on);
    let all = whole.swaps.unwrap();
    let mut last = whole.losses_before.clone().unwrap();
    for limit in 0..=*all.iter().max().unwrap() {
        case.limit = Some(limit);
        let got = case.run(on);
        assert_eq!(got.losses_before, whole.losses_before);
        assert_eq!(got.swaps.unwrap(), all.iter().map(|&swaps| swaps.min(limit)).collect::<Vec<_>>());
        let losses = got.losses.unwrap();
        for (row, (&now, &last)) in losses.iter().zip(&last).enumerate() {
            assert!(if limit > 0 && limit <= all[row] { now < last } else { now == last }, "{limit} swaps, row {row}");
        }
        last = losses;
        if limit == 0 {
            assert_eq!(got.codes.unwrap(), case.codes);
        }
    }
    assert_eq!(Some(last), whole.losses);
}

/// Of two swaps that lower the loss equally, the first; and codes know nothing of values.
fn ties_and_zeros_are_told_by_position(on: &mut impl TestExecutor) {
    let identity: Vec<f32> = (0..64).map(|at| f32::from(u8::from(at % 9 == 0))).collect();
    let mut one = |weight: [f32; 8], codes: [u8; 1], limit| {
        let (hessian, wants) = (identity.clone(), [true; 6]);
        let case = SwapsCase {
            shape: Shape::new(1, 8),
            weight: weight.to_vec(),
            hessian,
            codes: codes.to_vec(),
            limit,
            wants,
        };
        let got = case.run(on);
        (got.patterns.unwrap(), got.masked.unwrap(), got.swaps.unwrap()[0])
    };
    // Kept are the last two of each group, worth 1; dropped ones are worth 4.
    let weight = [2.0, -2.0, 1.0, -1.0, -2.0, 2.0, 1.0, 1.0];
    assert_eq!(one(weight, [0xee], Some(1)).0, [2, 5], "the first group's pair 0, 2");
    assert_eq!(one(weight, [0xee], Some(2)).0, [0, 5]);
    assert_eq!(one(weight, [0xee], None), (vec![0, 0], vec![2.0, -2.0, 0.0, 0.0, -2.0, 2.0, 0.0, 0.0], 4));
    // Zeros change nothing, whichever side they are on; one that is kept stays as it is.
    let (patterns, masked, swaps) = one([0.0, -0.0, 0.0, 0.0, 1.0, 0.0, -0.0, 0.0], [0x84], None);
    assert_eq!((patterns, swaps), (vec![0, 1], 0));
    assert_eq!(masked.iter().map(|w| w.to_bits()).collect::<Vec<_>>(), [0, 1 << 31, 0, 0, 0x3f80_0000, 0, 1 << 31, 0]);
    // One that is kept gives way.
    assert_eq!(one([0.0, 1.0, 1.0, -0.0, 1.0, 1.0, 0.0, 0.0], [0x4c], None).0, [3, 0]);
}

/// Groups without a mask and weights that are not finite: their rows stay as they are, unless an infinite or NaN
/// weight is kept, as it then is; other rows do not notice.
fn what_is_not_finite_stays_as_it_is(on: &mut impl TestExecutor) {
    let mut case = SwapsCase::<f32>::tame(30, Shape::new(6, 36));
    let tame = case.run(on);
    let Swapped { patterns: Some(expected), swaps: Some(counts), .. } = &tame else { panic!("all are wanted") };
    assert!(counts.iter().all(|&swaps| swaps > 0));
    // Rows 1 to 4: a group without a mask, a NaN and an infinity that are dropped, and a NaN that is kept.
    let kept = |g: usize| Pattern::from_code(oracle::code(&case.codes, g)).unwrap();
    let dropped = |g: usize| (0..4).find(|&j| !kept(g).keeps(j)).unwrap();
    let (second, third, fourth) =
        (2 * 36 + dropped(18), 3 * 36 + dropped(27), 4 * 36 + usize::from(kept(36).kept()[0]));
    let (of_second, of_fourth) = (kept(18), kept(36));
    (case.weight[second], case.weight[third], case.weight[fourth]) = (f32::NAN, f32::INFINITY, f32::NAN);
    case.codes[9 / 2] |= 0xf0;
    let got = case.run(on);
    compare(&case, &got, "not finite");
    let (patterns, swaps, losses) = (got.patterns.unwrap(), got.swaps.unwrap(), got.losses.unwrap());
    for row in [0, 5] {
        assert_eq!(patterns[row * 9..][..9], expected[row * 9..][..9], "row {row}");
        assert_eq!(losses[row], tame.losses.as_ref().unwrap()[row]);
    }
    assert_eq!((patterns[9], patterns[18]), (Pattern::POISON, of_second.index()));
    assert!(got.masked.unwrap()[36..40].iter().all(|w| w.is_nan()));
    assert_eq!([swaps[1], swaps[2], swaps[3]], [0; 3]);
    assert!(losses[1].is_nan() && losses[2].is_nan() && !losses[3].is_finite() && losses[4].is_finite());
    assert!(swaps[4] > 0 && Pattern::from_index(patterns[36]).unwrap().keeps(usize::from(of_fourth.kept()[0])));
}

fn nothing_to_swap(on: &mut impl TestExecutor) {
    for shape in [Shape::new(0, 8), Shape::new(3, 0)] {
        let hessian = vec![1.0; shape.cols * shape.cols];
        let case = SwapsCase::<bf16> { shape, weight: vec![], hessian, codes: vec![], limit: None, wants: [true; 6] };
        let got = case.run(on);
        assert_eq!(got.losses.unwrap(), vec![0.0; shape.rows], "{shape:?}");
        assert_eq!(got.losses_before.unwrap(), vec![0.0; shape.rows], "{shape:?}");
        assert_eq!(got.swaps.unwrap(), vec![0; shape.rows], "{shape:?}");
    }
}

/// Correlated activations, and Wanda's mask of a normal weight: swaps leave some 0.7 of its loss.
#[test]
fn swaps_lower_the_loss_of_wanda() {
    let (shape, tokens, mut rng) = (Shape::new(64, 256), 2048, rng(40));
    let cols = shape.cols;
    let spread: Vec<f32> = normal::<f32>(&mut rng, cols, &[]).into_iter().map(f32::exp).collect();
    let mix: Vec<f32> = (0..cols * cols)
        .map(|at| {
            0.15 * rng.sample::<f32, _>(StandardNormal) + if at % (cols + 1) == 0 { spread[at / cols] } else { 0.0 }
        })
        .collect();
    let mut x = vec![0.0_f32; tokens * cols];
    for x in x.chunks_mut(cols) {
        for mix in mix.chunks(cols) {
            let source = rng.sample::<f32, _>(StandardNormal);
            x.iter_mut().zip(mix).for_each(|(x, mix)| *x += source * mix);
        }
    }
    let weight: Vec<f32> = (0..shape.weights()).map(|_| rng.sample::<f32, _>(StandardNormal) / 16.0).collect();
    let (mut hessian, mut sums, mut norms) = (Hessian::zeros(cols).unwrap(), vec![0.0; cols], vec![0.0; cols]);
    Cpu.run(Hessian::new(tokens, cols, &x, 0, &mut hessian)).unwrap();
    Cpu.run(Squares::new(tokens, cols, &x, &mut sums).norms(&mut norms)).unwrap();
    let by = |by: By| {
        let case = ScoreCase { shape, by, weight: weight.clone(), wants: [false, false, true, false] };
        let codes = case.run(&mut Cpu).codes.unwrap();
        let case =
            SwapsCase { shape, weight: weight.clone(), hessian: hessian.clone(), codes, limit: None, wants: [true; 6] };
        let got = case.run(&mut Cpu);
        let [before, after] =
            [got.losses_before.unwrap(), got.losses.unwrap()].map(|losses| losses.iter().sum::<f64>());
        (before, after, f64::from(got.swaps.unwrap().iter().sum::<u32>()) / shape.rows as f64)
    };
    let (magnitude, from_magnitude, more) = by(By::Magnitude);
    let (wanda, from_wanda, fewer) = by(By::Scaled(norms));
    println!(
        "magnitude {magnitude:.2} to {from_magnitude:.2} by {more:.1} swaps a row, Wanda {wanda:.2} to {from_wanda:.2} by {fewer:.1}"
    );
    assert!((0.60..0.75).contains(&(from_wanda / wanda)), "{}", from_wanda / wanda);
    assert!(from_magnitude < 1.1 * from_wanda && from_magnitude < 0.75 * magnitude && fewer < more);
}
