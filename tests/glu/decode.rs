//! Decode on every executor, against its formulas.

use crate::case::{numbers, rng};
use crate::common::emulator::{Array, launches};
use crate::common::runs::{each_kernel_has_met_many, wanted};
use crate::common::{Counts, Emulator, TestExecutor, everywhere_tests, for_all, same_on_every_path};
use crate::ffn::{Ffn, Weight};
use proptest::prelude::any;
use rayon::prelude::*;
use twofour::device::Limits;

use twofour::glu::{Activation, Axis, Decode, Factor, FeedForward, Neurons, Plan, Route, words};
use twofour::space::{Raw, RawSlice};
use twofour::{Cpu, Executor, Float, bf16, f16};
use twofour_emulator::Schedule;

const COUNTS: Counts = Counts { cpu: 1000, emulator: 400, gpu: 400 };

fn check<L: Float + Factor>(on: &mut impl TestExecutor, seed: u64, tall: bool) {
    let ffn = Ffn::<L>::new(seed, tall);
    ffn.compare(&ffn.decode(on));
}

fn feed_forward(on: &mut impl TestExecutor, seed: &u64) {
    let tall = seed.is_multiple_of(20);
    if seed.is_multiple_of(2) {
        check::<f16>(on, *seed, tall)
    } else {
        check::<bf16>(on, *seed, !tall && seed % 20 == 1)
    }
}

#[test]
fn feed_forwards_are_those_of_the_formulas() {
    for_all!(feed_forward, COUNTS, any::<u64>());
}

#[test]
fn those_of_f32_are_too() {
    for seed in 0..200 {
        check::<f32>(&mut Cpu, seed, seed.is_multiple_of(8));
    }
}

#[test]
fn every_path_gives_the_same_bits() {
    fn made<L: Float + Factor>(seed: u64) -> String {
        let made = Ffn::<L>::new(seed, seed.is_multiple_of(5)).decode(&mut Cpu);
        let y: Vec<_> =
            made.y.iter().map(|y| y.to_f32().to_bits() & if y.to_f32().is_nan() { 0x7f80_0000 } else { !0 }).collect();
        format!("{y:?} {:?} {:?} {:?}", made.mask, made.lost, made.rows)
    }
    same_on_every_path(|seed| match seed % 3 {
        0 => made::<f32>(seed),
        1 => made::<f16>(seed),
        _ => made::<bf16>(seed),
    });
}

/// However many blocks share the rows, and in whatever order they run.
#[test]
fn every_split_and_schedule_gives_the_same_bits() {
    for seed in 0..40 {
        let ffn = Ffn::<bf16>::new(seed, seed.is_multiple_of(4));
        let made: Vec<_> = Emulator::several().map(|mut on| ffn.decode(&mut on)).collect();
        let bits = |of: &[bf16]| of.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        for other in &made[1..] {
            assert_eq!((bits(&other.y), &other.mask), (bits(&made[0].y), &made[0].mask), "{ffn:?}");
            assert_eq!((&other.lost, &other.rows), (&made[0].lost, &made[0].rows));
        }
    }
}

everywhere_tests!(
    rows_of_neurons_that_are_off_are_not_read,
    what_is_dropped_does_not_count,
    no_neuron_is_on,
    every_neuron_is_on,
    a_given_mask_is_obeyed_and_bits_beyond_the_end_are_not_looked_at,
    a_token_that_is_no_number_harms_no_other,
    nothing_is_nothing_to_do,
);

/// One token and a weight of ones but for those named.
fn plain(neurons: usize, activation: Activation) -> Ffn<bf16> {
    let one = || Weight::dense(vec![bf16::ONE; 8 * neurons]);
    Ffn {
        tokens: 1,
        size: [8, neurons],
        activation,
        x: vec![bf16::ONE; 8],
        weights: [one(), one(), one()],
        before: None,
        given: None,
        route: Route::Skip,
    }
}

fn set(weight: &mut Weight<bf16>, neuron: usize, value: f32) {
    weight.values[8 * neuron..8 * (neuron + 1)].fill(bf16::from_f32(value));
}

/// A NaN there does not reach y.
fn rows_of_neurons_that_are_off_are_not_read(on: &mut impl TestExecutor) {
    let mut ffn = plain(70, Activation::DRelu);
    for off in [0, 31, 32, 69] {
        set(&mut ffn.weights[0], off, -1.0);
        set(&mut ffn.weights[1], off, f32::NAN);
        set(&mut ffn.weights[2], off, f32::NAN);
    }
    set(&mut ffn.weights[1], 5, -1.0);
    set(&mut ffn.weights[2], 5, f32::NAN);
    let made = ffn.decode(on);
    assert_eq!(made.y, [bf16::from_f32(65.0 * 64.0); 8], "{on:?}");
    assert_eq!((made.rows, made.lost), (vec![70, 66, 65], vec![0]));
    assert_eq!(made.mask, [!(1 | 1 << 31 | 1 << 5), !1, 0x1f]);
    ffn.route = Route::Whole;
    let made = ffn.decode(on);
    assert!(made.y.iter().all(|y| y.is_nan()));
    assert_eq!(made.rows, [70; 3]);
}

fn what_is_dropped_does_not_count(on: &mut impl TestExecutor) {
    // An infinite activation where both are dropped, and an infinite h.
    let mut ffn = plain(2, Activation::ReGlu);
    let kept = || Weight::kept(vec![bf16::ONE; 8], &[0x4, 0xe, 0x4, 0xe]);
    ffn.weights = [kept(), kept(), kept()];
    ffn.x[3] = bf16::INFINITY;
    assert_eq!(ffn.decode(on).y, [32.0, 32.0, 0.0, 0.0, 0.0, 0.0, 32.0, 32.0].map(bf16::from_f32), "{on:?}");
    ffn.x[3] = bf16::ZERO;
    ffn.x[0] = bf16::MAX;
    ffn.x[1] = bf16::MAX;
    let y = ffn.decode(on).y;
    let [inf, zero] = [bf16::INFINITY, bf16::ZERO];
    assert_eq!(y, [inf, inf, zero, zero, zero, zero, inf, inf], "{on:?}");
}

fn no_neuron_is_on(on: &mut impl TestExecutor) {
    let mut ffn = plain(40, Activation::DRelu);
    (0..40).for_each(|neuron| set(&mut ffn.weights[0], neuron, -1.0));
    let made = ffn.decode(on);
    assert_eq!((made.y, made.rows, made.mask), (vec![bf16::ZERO; 8], vec![40, 0, 0], vec![0, 0]), "{on:?}");
    ffn.before = Some(vec![bf16::from_f32(3.0); 8]);
    assert_eq!(ffn.decode(on).y, [bf16::from_f32(3.0); 8]);
    ffn.given = Some(vec![0, 0]);
    assert_eq!(ffn.decode(on).rows, [0; 3]);
}

fn every_neuron_is_on(on: &mut impl TestExecutor) {
    for neurons in [1, 31, 32, 33, 5000] {
        let ffn = plain(neurons, Activation::ReGlu);
        let made = ffn.decode(on);
        assert_eq!(made.y, [bf16::from_f32(64.0 * neurons as f32); 8], "{on:?}");
        assert_eq!(made.rows, [neurons as u32; 3]);
    }
}

fn a_given_mask_is_obeyed_and_bits_beyond_the_end_are_not_looked_at(on: &mut impl TestExecutor) {
    let mut ffn = plain(33, Activation::ReGlu);
    ffn.given = Some(vec![0b101, !0]);
    // Gates of others are not read.
    set(&mut ffn.weights[0], 1, f32::NAN);
    set(&mut ffn.weights[0], 2, -1.0);
    let made = ffn.decode(on);
    assert_eq!(made.y, [bf16::from_f32(128.0); 8], "{on:?}");
    assert_eq!((made.rows, made.mask, made.lost), (vec![3, 2, 2], vec![0b1, 0b1], vec![0]));
}

fn a_token_that_is_no_number_harms_no_other(on: &mut impl TestExecutor) {
    let mut ffn = plain(9, Activation::DRelu);
    (ffn.tokens, ffn.x) = (3, vec![bf16::ONE; 24]);
    ffn.x[11] = bf16::NAN;
    let made = ffn.decode(on);
    assert_eq!(made.y[..8], [bf16::from_f32(9.0 * 64.0); 8], "{on:?}");
    assert_eq!((&made.y[8..16], &made.y[16..]), (&[bf16::ZERO; 8][..], &made.y[..8]));
    assert_eq!((made.lost, made.mask), (vec![0, 9, 0], vec![0x1ff, 0, 0x1ff]));
}

fn nothing_is_nothing_to_do(on: &mut impl TestExecutor) {
    let empty = |size: [usize; 2], tokens: usize, x: usize| Ffn {
        tokens,
        size,
        activation: Activation::DRelu,
        x: vec![bf16::ONE; x],
        weights: [0; 3].map(|_| Weight::dense(vec![bf16::ONE; size[0] * size[1]])),
        before: None,
        given: None,
        route: Route::Skip,
    };
    let made = empty([8, 0], 2, 16).decode(on);
    assert_eq!((made.y, made.rows, made.lost), (vec![bf16::ZERO; 16], vec![0; 3], vec![0; 2]), "{on:?}");
    let made = empty([0, 5], 1, 0).decode(on);
    assert_eq!((made.mask, made.rows), (vec![0], vec![5, 0, 0]));
    assert_eq!(empty([8, 5], 0, 0).decode(on).y, []);
}

#[test]
fn every_kernel_meets_many_problems() {
    // Two types, three numbers of tokens, two forms.
    (0..12 * wanted()).into_par_iter().for_each(|seed| {
        let (on, tall) = (&mut Emulator::numbered(seed / 2), seed.is_multiple_of(99));
        if seed.is_multiple_of(2) { check::<f16>(on, seed, tall) } else { check::<bf16>(on, seed, tall) }
    });
    each_kernel_has_met_many("twofour_glu_rows_", 12);
    each_kernel_has_met_many("twofour_glu_down_", 12);
}

fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
    RawSlice::new(address, elements)
}

#[test]
fn a_warp_takes_a_row_at_least() {
    let of = |limits, tokens: usize, [width, neurons]: [usize; 2]| {
        let plan = Plan::<f16>::new(tokens, [width, neurons], Activation::DRelu).unwrap();
        let dense = || Neurons::<Raw, f16>::dense(at(64, width * neurons));
        let kept = Neurons::kept(Axis::Width, at(64, width * neurons / 2), at(64, width * neurons / 8));
        let weights = FeedForward::new([width, neurons], dense(), kept, dense());
        let x = at(64, tokens * width);
        let pass = Decode::new(&weights, tokens, Activation::DRelu, x, x).plan(plan);
        launches(limits, pass.workspace(at(256, plan.workspace_bytes()))).unwrap()
    };
    let all = of(Limits::H200, 3, [4096, 11008]);
    let names: Vec<_> = all.iter().map(|launch| launch.symbol.name().to_owned()).collect();
    assert_eq!(names, ["twofour_glu_rows_f16_4", "twofour_glu_rows_kept_f16_4", "twofour_glu_down_f16_4"]);
    assert_eq!([0, 1, 2].map(|i| all[i].grid[0]), [264, 264, 128]);
    assert_eq!(of(Limits::H200, 1, [40, 17]).iter().map(|launch| launch.grid[0]).collect::<Vec<_>>(), [3, 3, 2]);
    assert_eq!(of(Limits::H200, 0, [40, 17]), []);
}

/// Rows that 32 bits do not address: the last neurons of so many, and columns behind 256 blocks'.
#[test]
fn rows_beyond_32_bits_are_right() {
    fn far<L: Float + Factor>(tokens: usize, is_kept: bool) {
        let (size, some) = ([if is_kept { 80_000 } else { 40_000usize }, 60_000usize], 3);
        let [width, neurons] = size;
        let parts: [Vec<L>; 3] =
            [1, 2, 3].map(|seed| numbers(&mut rng(seed), some * if is_kept { width / 2 } else { width }, false));
        let codes = [0x4d_u8, 0xe9, 0x8c].repeat(some * width / 24)[..some * width / 8].to_vec();
        let x = numbers::<L>(&mut rng(4), tokens * width, false);
        let of = |values: Vec<L>| match is_kept {
            true => Weight::kept(values, &codes.iter().flat_map(|two| [two & 15, two >> 4]).collect::<Vec<_>>()),
            false => Weight::dense(values),
        };
        let alone = Ffn {
            tokens,
            size: [width, some],
            activation: Activation::FatRelu(f32::MIN),
            x: x.clone(),
            weights: parts.clone().map(of),
            before: None,
            given: None,
            route: Route::Skip,
        };
        let on = &mut Emulator::new(Schedule::RoundRobin).limits(Limits::H200);
        let expected = alone.decode(on);
        let last = |values: &[L]| Array::ending(neurons * if is_kept { width / 2 } else { width }, values);
        let all = parts.each_ref().map(|part| last(part));
        let all_codes = Array::ending(neurons * width / 8, &codes);
        let [gate, up, down] = all.each_ref().map(|values| match is_kept {
            true => Neurons::<Raw, L>::kept(Axis::Width, values, &all_codes),
            false => Neurons::dense(values),
        });
        let weights = FeedForward::new(size, gate, up, down);
        let plan = Plan::<L>::new(tokens, size, alone.activation).unwrap().with_route(Route::Skip);
        let mut given = vec![0u32; words(neurons)];
        given[(neurons - some) / 32] = !0 << ((neurons - some) % 32);
        let (given, x) = (on.upload(&given.repeat(tokens)).unwrap(), on.upload(&x).unwrap());
        let (mut y, mut scratch) = (on.poisoned::<L>(tokens * width), on.scratch(&plan).unwrap());
        let pass = plan.decode(&weights, alone.activation, &x, &mut y, &mut scratch);
        on.run(pass.given(&given)).unwrap();
        assert_eq!(on.download(&y).unwrap(), expected.y);
    }
    for tokens in [1, 3, 6] {
        for is_kept in [false, true] {
            far::<f16>(tokens, is_kept);
            far::<bf16>(tokens, is_kept);
        }
    }
}

#[test]
fn plans_say_why() {
    let plan = |tokens, activation| Plan::<bf16>::new(tokens, [64, 100], activation).unwrap();
    assert_eq!(plan(1, Activation::DRelu).route(), Route::Skip);
    assert_eq!(plan(7, Activation::Cats(0.2)).route(), Route::Skip);
    assert_eq!(plan(8, Activation::DRelu).route(), Route::Whole);
    assert_eq!(plan(1, Activation::SwiGlu).to_string(), "1 tokens, [64, 100]: Whole, SwiGLU is on everywhere");
    assert_eq!(plan(1, Activation::SwiGlu).with_route(Route::Skip).why(), "asked for");
    let bytes = FeedForward::new(
        [64, 100],
        Neurons::dense(&[bf16::ONE][..]),
        Neurons::kept(Axis::Width, &[bf16::ONE], &[0]),
        Neurons::dense(&[bf16::ONE]),
    );
    assert_eq!(bytes.bytes([100, 10, 5]), 100 * 128 + 10 * (64 + 8) + 5 * 128);
}
