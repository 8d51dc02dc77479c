//! The properties, for any executor.

use crate::case::{FusedCase, Moments, StartCase, Stepped, UpdateCase, all_same, close, rng};
use crate::memory::{Cpu, Memory};
use crate::ops;
use rand::Rng;
use twofour::learn::Statistics;
use twofour::mask::GradientOf;
use twofour::{Float, Logit};

const CASES: u64 = 120;

/// Sums of the same terms in another order.
const REORDERED: f64 = 1e-12;

/// Calls `$function::<.., L>($arguments)` for one of the types of logits.
macro_rules! of_logits {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 2 {
            0 => $function::<_, f32>($($argument),*),
            _ => $function::<_, twofour::bf16>($($argument),*),
        }
    };
}
pub(crate) use of_logits;

pub(crate) fn starts_are_the_cpus<M: Memory>(memory: &M) {
    (0..CASES).for_each(|seed| of_logits!(seed, check_initial(memory, seed)));
}

/// With illegal codes too, which a CPU refuses.
pub(crate) fn check_initial<M: Memory, L: Logit>(memory: &M, seed: u64) {
    let case = StartCase::<L>::new(seed, seed % 8 >= 6);
    compare_starts(&case, &ops::initial(memory, &case), |case| ops::initial(&Cpu, case), "initial logits");
}

pub(crate) fn priors_are_the_cpus<M: Memory>(memory: &M) {
    (0..CASES).for_each(|seed| of_logits!(seed, check_prior(memory, seed)));
}

pub(crate) fn check_prior<M: Memory, L: Logit>(memory: &M, seed: u64) {
    let case = StartCase::<L>::new(seed, seed % 8 >= 6);
    let Some(got) = ops::prior(memory, &case) else { return };
    compare_starts(&case, &got, |case| ops::prior(&Cpu, case).unwrap(), "logits with a prior");
}

fn compare_starts<L: Logit>(case: &StartCase<L>, got: &[L], expected: impl Fn(&StartCase<L>) -> Vec<L>, what: &str) {
    let mut legal = case.clone();
    let mut illegal = vec![false; case.shape.groups()];
    for (group, illegal) in illegal.iter_mut().enumerate() {
        let Some(codes) = &mut legal.codes else { break };
        let shift = 4 * (group % 2);
        if ![4, 8, 9, 0xc, 0xd, 0xe].contains(&(codes[group / 2] >> shift & 15)) {
            *illegal = true;
            codes[group / 2] = codes[group / 2] & !(15 << shift) | 4 << shift;
        }
    }
    let mut expected = expected(&legal);
    for (group, _) in illegal.iter().enumerate().filter(|(_, illegal)| **illegal) {
        expected[6 * group..6 * group + 6].fill(L::from_f32(f32::NAN));
    }
    all_same(got, &expected, what);
}

pub(crate) fn updates_are_the_cpus<M: Memory>(memory: &M) {
    (0..2 * CASES).for_each(|seed| of_logits!(seed / 2, check_update(memory, seed, seed % 2 == 1)));
}

pub(crate) fn check_update<M: Memory, L: Logit>(memory: &M, seed: u64, eight: bool) {
    let case = UpdateCase::<L>::new(seed, eight);
    compare_steps(&ops::update(memory, &case), &ops::update(&Cpu, &case), &format!("update {seed}"));
}

/// To the bit, but for sums.
pub(crate) fn compare_steps<L: Float>(got: &Stepped<L>, expected: &Stepped<L>, what: &str) {
    all_same(&got.logits, &expected.logits, &format!("{what}: logits"));
    all_same(&got.gradient, &expected.gradient, &format!("{what}: gradient"));
    match (&got.moments, &expected.moments) {
        (Moments::F32 { m, v }, Moments::F32 { m: expected_m, v: expected_v }) => {
            all_same(m, expected_m, &format!("{what}: m"));
            all_same(v, expected_v, &format!("{what}: v"));
        }
        (got, expected) => assert_eq!(got, expected, "{what}"),
    }
    if let (Some(got), Some(expected)) = (got.norm, expected.norm) {
        close(got, expected, REORDERED, &format!("{what}: running sum"));
    }
    if let (Some(got), Some(expected)) = (&got.statistics, &expected.statistics) {
        compare_statistics(got, expected, what);
    }
    assert_eq!(
        (got.norm.is_some(), got.statistics.is_some()),
        (expected.norm.is_some(), expected.statistics.is_some())
    );
}

fn compare_statistics(got: &Statistics, expected: &Statistics, what: &str) {
    let counts = |of: &Statistics| [of.moved, of.skipped, of.groups];
    assert_eq!(counts(got), counts(expected), "{what}: moved, skipped, groups");
    close(got.gradient_squares, expected.gradient_squares, REORDERED, &format!("{what}: gradient_squares"));
    close(got.confidence, expected.confidence, 1e-5, &format!("{what}: confidence"));
    close(got.kept_energy, expected.kept_energy, 1e-5, &format!("{what}: kept_energy"));
}

/// Calls `$function::<.., L, W, G>($arguments)` for one of the ten triples of types.
macro_rules! of_types {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 10 {
            0 => $function::<_, f32, f32, f32>($($argument),*),
            1 => $function::<_, f32, twofour::f16, twofour::f16>($($argument),*),
            2 => $function::<_, f32, twofour::bf16, twofour::bf16>($($argument),*),
            3 => $function::<_, f32, twofour::f16, f32>($($argument),*),
            4 => $function::<_, f32, twofour::bf16, f32>($($argument),*),
            5 => $function::<_, twofour::bf16, f32, f32>($($argument),*),
            6 => $function::<_, twofour::bf16, twofour::f16, twofour::f16>($($argument),*),
            7 => $function::<_, twofour::bf16, twofour::bf16, twofour::bf16>($($argument),*),
            8 => $function::<_, twofour::bf16, twofour::f16, f32>($($argument),*),
            _ => $function::<_, twofour::bf16, twofour::bf16, f32>($($argument),*),
        }
    };
}
pub(crate) use of_types;

pub(crate) fn fused_steps_are_a_backward_pass_and_an_update<M: Memory>(memory: &M) {
    (0..2 * CASES).for_each(|seed| of_types!(seed / 2, check_fused(memory, seed, seed % 2 == 1)));
}

/// The gradient is that of the executor's own backward pass, which other tests compare with the CPU's; from it on every
/// bit is that of a step from memory. Means and energies are compared with the CPU's fused step.
pub(crate) fn check_fused<M, L, W, G>(memory: &M, seed: u64, eight: bool)
where
    M: Memory,
    L: Logit,
    W: Float,
    G: GradientOf<W>,
{
    let case = FusedCase::<L, W, G>::new(seed, eight);
    let got = ops::fused(memory, &case);
    let gradient = ops::backward(memory, &case);
    let update = UpdateCase { gradient, zero: false, ..case.update.clone() };
    let mut expected = ops::update(&Cpu, &update);
    expected.gradient = vec![];
    if let Some(statistics) = &mut expected.statistics {
        let of_cpu = ops::fused(&Cpu, &case).statistics.unwrap();
        // Where rounding decides whether a group is too large to be stepped, means are not comparable.
        let of_cpu = if of_cpu.skipped == statistics.skipped { of_cpu } else { got.statistics.unwrap() };
        (statistics.confidence, statistics.kept_energy) = (of_cpu.confidence, of_cpu.kept_energy);
    }
    compare_steps(&got, &expected, &format!("fused {seed}"));
    let (before, expected) = (0.5, ops::norm(&Cpu, &update, 0.5));
    close(ops::measure(memory, &case, before), expected, REORDERED, &format!("measured {seed}"));
}

pub(crate) fn norms_are_the_cpus<M: Memory>(memory: &M) {
    (0..CASES).for_each(|seed| check_norm(memory, seed));
}

pub(crate) fn check_norm<M: Memory>(memory: &M, seed: u64) {
    let case = UpdateCase::<f32>::new(seed, false);
    let before = case.norm.unwrap_or_default();
    close(ops::norm(memory, &case, before), ops::norm(&Cpu, &case, before), REORDERED, &format!("norm {seed}"));
}

pub(crate) fn factors_are_the_cpus<M: Memory>(memory: &M) {
    (0..CASES).for_each(|seed| check_clip(memory, seed));
}

pub(crate) fn check_clip<M: Memory>(memory: &M, seed: u64) {
    let mut rng = rng(seed);
    let special = [0.0, f64::NAN, f64::INFINITY, 1.0, 1e-300, 1e300, 5e-324, -1.0];
    let sum = special.get(seed as usize % 16).copied().unwrap_or_else(|| 10f64.powf(rng.random_range(-12.0..12.0)));
    let max_norm = [1.0, 0.01, 3.5e4][rng.random_range(0..3)];
    let ((factor, norm), expected) = (ops::clip(memory, max_norm, sum), ops::clip(&Cpu, max_norm, sum));
    all_same(&[factor, norm], &[expected.0, expected.1], &format!("clip {seed} of {sum}: factor, norm"));
}

pub(crate) use crate::edges::edge_cases;
