//! The launches, as plain data, and offsets that 32 bits do not hold.

use crate::case::{Case, Lie, join, numbers, part, rng};
use crate::common::emulator::{Array, launches};
use crate::common::{Emulator, SMALL};
use twofour::device::{Launch, Limits};
use twofour::glu::{Activation, Backward, Forward, Joined, words};
use twofour::space::{Raw, RawSlice};
use twofour::{Float, bf16, f16};
use twofour_emulator::Schedule;

fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
    RawSlice::new(address, elements)
}

fn only(launches: Vec<Launch>) -> Launch {
    match launches[..] {
        [launch] => launch,
        _ => panic!("one launch"),
    }
}

#[test]
fn a_block_takes_a_row() {
    let by = Activation::ReGlu;
    let of = |limits, rows: usize| {
        let n = rows * 64;
        only(launches(limits, Forward::<Raw, bf16>::new([rows, 64], by, at(64, n), at(128, n), at(256, n))).unwrap())
    };
    assert_eq!(of(Limits::H200, 5).symbol.name(), "twofour_glu_forward_bf16");
    assert_eq!(of(Limits::H200, 5).grid, [5, 1, 1]);
    assert_eq!(of(Limits::H200, 4096).grid, [660, 1, 1]);
    assert_eq!(of(Limits::H200, 0).grid, [0, 1, 1]);
    for (joined, variant) in [(Joined::Halves, "backward_f16"), (Joined::Pairs, "backward_pairs_f16")] {
        let pass = Backward::<Raw, f16>::over_joined([2, 8], by, joined, at(64, 16), at(128, 32));
        assert_eq!(only(launches(SMALL, pass).unwrap()).symbol.name(), format!("twofour_glu_{variant}"));
    }
}

/// However many rows: none are gone over unless something is written of each.
#[test]
fn rows_without_neurons_are_nothing_to_do() {
    let (by, rows) = (Activation::DRelu, usize::MAX);
    let forward = || Forward::<Raw, f32>::new([rows, 0], by, at(64, 0), at(64, 0), at(64, 0));
    assert_eq!(launches(SMALL, forward()).unwrap(), []);
    assert_eq!(launches(SMALL, forward().active(at(64, rows))).unwrap().len(), 1);
    let backward = Backward::<Raw, f32>::over([rows, 0], by, at(64, 0), at(64, 0), at(64, 0));
    assert_eq!(launches(SMALL, backward).unwrap(), []);
}

/// Rows so many that 32 bits do not hold the number of a neuron, nor that of a word of their masks.
const FAR: [usize; 2] = [(1 << 27) + 3, 1032];

/// The last row, beside the same one alone.
fn far<L: Float>(lie: Lie) {
    let [rows, neurons] = FAR;
    assert!(rows * words(neurons) > 1 << 32);
    let on = &mut Emulator::new(Schedule::RoundRobin);
    let [gate, up, dh] = [1, 2, 3].map(|seed| numbers::<L>(&mut rng(seed), neurons, false));
    let activation = Activation::DRelu;
    let case = Case { tokens: 1, neurons, activation, lie, gate, up, dh, masked: true, l1: 0.5 };
    let expected = case.forward(on);
    let gradients = case.backward(on, Some(&expected.mask));

    let all = rows * neurons;
    let [gate, up, dh] = [&case.gate, &case.up, &case.dh].map(|of| Array::ending(all, of));
    let (mut h, mut mask) = (Array::<L>::reserved(all), Array::<u32>::reserved(rows * words(neurons)));
    let [mut active, mut lost] = [0, 1].map(|_| Array::<u32>::reserved(rows));
    let Lie::Joined(by) = lie else {
        let pass = Forward::<Raw, L>::new(FAR, activation, &gate, &up, &mut h).mask(&mut mask);
        let pass = pass.active(&mut active).lost(&mut lost);
        on.launch_last(&only(launches(SMALL, pass).unwrap()), rows);
        let [mut dgate, mut dup] = [0, 1].map(|_| Array::<L>::reserved(all));
        let pass = Backward::<Raw, L>::new(FAR, activation, &dh, &gate, &up, &mut dgate, &mut dup);
        on.launch_last(&only(launches(SMALL, pass.mask(&mask).l1(0.5)).unwrap()), rows);
        assert_eq!([dgate.read_end(neurons), dup.read_end(neurons)], gradients);
        assert_eq!((h.read_end(neurons), active.read_end(1)), (expected.h, expected.active));
        assert_eq!((mask.read_end(words(neurons)), lost.read_end(1)), (expected.mask, expected.lost));
        return;
    };
    let both = Array::ending(2 * all, &join(by, neurons, &case.gate, &case.up));
    let pass = Forward::<Raw, L>::joined(FAR, activation, by, &both, &mut h).mask(&mut mask);
    on.launch_last(&only(launches(SMALL, pass).unwrap()), rows);
    let mut to = Array::<L>::reserved(2 * all);
    let pass = Backward::<Raw, L>::joined(FAR, activation, by, &dh, &both, &mut to);
    on.launch_last(&only(launches(SMALL, pass.mask(&mask).l1(0.5)).unwrap()), rows);
    assert_eq!(part(by, neurons, &to.read_end(2 * neurons)), gradients);
    assert_eq!((h.read_end(neurons), mask.read_end(words(neurons))), (expected.h, expected.mask));
}

#[test]
fn rows_beyond_32_bits_are_right() {
    fn of<L: Float>() {
        far::<L>(Lie::Apart);
        far::<L>(Lie::Joined(Joined::Halves));
        far::<L>(Lie::Joined(Joined::Pairs));
    }
    of::<f32>();
    of::<f16>();
    of::<bf16>();
}
