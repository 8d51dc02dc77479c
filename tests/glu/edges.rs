//! Cases by name, on every executor.

use crate::case::{Case, Lie, Made, activation, numbers, rng};
use crate::common::{TestExecutor, everywhere_tests};
use crate::suite::compare;
use twofour::bf16;
use twofour::glu::{Activation, Joined, words};

everywhere_tests!(
    zeros_are_not_above_zero,
    thresholds_are_kept_from_there_on,
    what_is_no_number_is_off_and_counted,
    gradients_that_are_no_numbers_stay_where_they_are,
    bits_beyond_the_end_are_not_looked_at,
    a_mask_of_ones_own_is_taken,
    all_on_and_all_off,
    any_number_of_neurons_is_right,
    many_rows_are_all_there,
    nothing_is_nothing_to_do,
);

fn row(activation: Activation, gate: &[f32], up: &[f32]) -> Case<f32> {
    let (gate, up, dh) = (gate.to_vec(), up.to_vec(), vec![1.0; gate.len()]);
    Case { tokens: 1, neurons: gate.len(), activation, lie: Lie::Apart, gate, up, dh, masked: false, l1: 0.0 }
}

fn bits(of: &[f32]) -> Vec<u32> {
    of.iter().map(|x| x.to_bits()).collect()
}

fn zeros_are_not_above_zero(on: &mut impl TestExecutor) {
    let least = f32::from_bits(1);
    let gate = [0.0, -0.0, least, -least, 1.0, 1.0, 1.0];
    let up = [1.0, 1.0, 1.0, 1.0, 0.0, -0.0, -1.0];
    let d = row(Activation::DRelu, &gate, &up).forward(on);
    assert_eq!((bits(&d.h), d.mask), (bits(&[0.0, 0.0, least, 0.0, 0.0, 0.0, 0.0]), vec![0b000_0100]), "{on:?}");
    let one = row(Activation::ReGlu, &gate, &up).forward(on);
    // A zero of a neuron that is on has the product's sign.
    assert_eq!((bits(&one.h), one.mask), (bits(&[0.0, 0.0, least, 0.0, 0.0, -0.0, -1.0]), vec![0b111_0100]));
    assert_eq!((d.active, one.active), (vec![1], vec![4]));
}

fn thresholds_are_kept_from_there_on(on: &mut impl TestExecutor) {
    let threshold = 0.7f32;
    let gate = [threshold, threshold.next_down(), 2.0, -1.0];
    let made = row(Activation::FatRelu(threshold), &gate, &[2.0; 4]).forward(on);
    assert_eq!((made.h, made.mask), (vec![1.4, 0.0, 4.0, 0.0], vec![0b101]));
    // SiLU of both ends of what is negative, and the gates next to them.
    let silu = |g: f64| (g / (1.0 + (-g).exp())).abs();
    let gates: Vec<f32> = (0..4000).map(|i| (i as f32 - 3000.0) * 0.002).collect();
    let made = row(Activation::Cats(0.2), &gates, &vec![1.0; 4000]).forward(on);
    for (i, gate) in gates.iter().enumerate() {
        let expected = silu(f64::from(*gate)) > f64::from(0.2f32);
        assert_eq!(made.mask[i / 32] >> (i % 32) & 1 == 1, expected, "{on:?} {gate}");
    }
    assert!((500..2500).contains(&made.active[0]));
    // The very gates on both sides of the three edges.
    for [mut off, mut on_side] in [[-9.0f32, -1.28], [-1e-3, -1.27], [1e-3, 9.0]] {
        let above = |gate: f32| silu(f64::from(gate)) > f64::from(0.2f32);
        while off.to_bits().abs_diff(on_side.to_bits()) > 1 {
            let middle =
                f32::from_bits(off.to_bits().min(on_side.to_bits()) + off.to_bits().abs_diff(on_side.to_bits()) / 2);
            *if above(middle) { &mut on_side } else { &mut off } = middle;
        }
        let made = row(Activation::Cats(0.2), &[off, on_side], &[1.0; 2]).forward(on);
        assert_eq!(made.mask, [0b10], "{on:?} {off} {on_side}");
    }
}

fn what_is_no_number_is_off_and_counted(on: &mut impl TestExecutor) {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let (gate, up) = ([nan, 1.0, inf, 0.0, inf, -inf, 1.0, 2.0], [1.0, nan, 0.0, inf, 1.0, 1.0, inf, 3.0]);
    for number in 0..8 {
        let case = row(activation(number), &gate, &up);
        let made = case.forward(on);
        assert_eq!(made.lost, [4], "{on:?} {:?}", case.activation);
        assert_eq!(made.mask[0] & 0b1111, 0);
        assert_eq!(bits(&made.h[..4]), [0; 4]);
        compare(&case, &made, &case.backward(on, None));
        compare(&case, &made, &case.backward(on, Some(&made.mask)));
    }
}

fn gradients_that_are_no_numbers_stay_where_they_are(on: &mut impl TestExecutor) {
    let mut case = row(Activation::ReGlu, &[1.0, 2.0, -1.0, 3.0], &[1.0; 4]);
    case.dh = vec![1.0, f32::NAN, f32::NAN, 2.0];
    let [dgate, dup] = case.backward(on, None);
    assert!(dgate[1].is_nan() && dup[1].is_nan());
    assert_eq!([dgate[0], dgate[2], dgate[3]], [1.0, 0.0, 2.0]);
    assert_eq!([dup[0], dup[2], dup[3]], [1.0, 0.0, 6.0]);
}

fn bits_beyond_the_end_are_not_looked_at(on: &mut impl TestExecutor) {
    for neurons in [3, 8, 31, 33, 100] {
        let mut case = Case::<bf16>::new(1, false);
        let rng = &mut rng(neurons as u64);
        (case.tokens, case.neurons, case.activation, case.lie) = (2, neurons, Activation::DRelu, Lie::Apart);
        [case.gate, case.up, case.dh] = [0, 1, 2].map(|_| numbers(rng, 2 * neurons, false));
        let mut made = case.forward(on);
        let expected = case.backward(on, Some(&made.mask));
        compare(&case, &made, &expected);
        let beyond = neurons % 32;
        if beyond > 0 {
            let words = words(neurons);
            made.mask.chunks_mut(words).for_each(|row| row[words - 1] |= u32::MAX << beyond);
        }
        assert_eq!(case.backward(on, Some(&made.mask)), expected, "{on:?} {neurons}");
    }
}

/// Neither gate nor up is asked where there is a mask.
fn a_mask_of_ones_own_is_taken(on: &mut impl TestExecutor) {
    let case = row(Activation::DRelu, &[1.0, -2.0, 3.0], &[1.0, 2.0, -3.0]);
    let [dgate, dup] = case.backward(on, Some(&vec![0b110]));
    assert_eq!((dgate, dup), (vec![0.0, 2.0, -3.0], vec![0.0, -2.0, 3.0]));
}

fn all_on_and_all_off(on: &mut impl TestExecutor) {
    for neurons in [64, 77] {
        let case = row(Activation::ReGlu, &vec![2.0; neurons], &vec![-3.0; neurons]);
        let Made { h, active, mask, .. } = case.forward(on);
        assert!(h.iter().all(|h| *h == -6.0) && active == [neurons as u32], "{on:?}");
        assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), neurons as u32);
        let case = row(Activation::DRelu, &vec![2.0; neurons], &vec![-3.0; neurons]);
        let Made { h, active, mask, lost } = case.forward(on);
        assert!(bits(&h).iter().all(|bits| *bits == 0) && mask.iter().all(|word| *word == 0));
        assert_eq!((active, lost), (vec![0], vec![0]));
    }
}

fn any_number_of_neurons_is_right(on: &mut impl TestExecutor) {
    for neurons in (1..70).chain([255, 256, 257, 2047, 2048, 2049, 4096 + 40]) {
        let lie = Lie::ALL[neurons % 6];
        let (rng, activation) = (&mut rng(neurons as u64), activation(neurons as u64 / 6));
        let [gate, up, dh] = [0, 1, 2].map(|_| numbers::<bf16>(rng, 2 * neurons, false));
        let case = Case { tokens: 2, neurons, activation, lie, gate, up, dh, masked: false, l1: 0.5 };
        let made = case.forward(on);
        compare(&case, &made, &case.backward(on, None));
    }
}

/// More than the blocks of a device.
fn many_rows_are_all_there(on: &mut impl TestExecutor) {
    let (tokens, neurons) = (700, 9);
    let [gate, up, dh] = [1, 2, 3].map(|seed| numbers::<f32>(&mut rng(seed), tokens * neurons, false));
    for lie in [Lie::Over, Lie::Joined(Joined::Pairs)] {
        let (gate, up, dh) = (gate.clone(), up.clone(), dh.clone());
        let case = Case { tokens, neurons, activation: Activation::DRelu, lie, gate, up, dh, masked: false, l1: 0.0 };
        let made = case.forward(on);
        compare(&case, &made, &case.backward(on, None));
    }
}

fn nothing_is_nothing_to_do(on: &mut impl TestExecutor) {
    for lie in Lie::ALL {
        for (tokens, neurons) in [(0, 5), (3, 0), (0, 0)] {
            let (gate, up, dh) = (vec![], vec![], vec![]);
            let activation = Activation::SwiGlu;
            let case = Case::<f32> { tokens, neurons, activation, lie, gate, up, dh, masked: true, l1: 0.0 };
            let made = case.forward(on);
            assert_eq!((made.h, made.mask.len(), made.active), (vec![], 0, vec![0; tokens]), "{on:?} {lie:?}");
            assert_eq!(case.backward(on, Some(&vec![])), [vec![], vec![]]);
        }
    }
}
