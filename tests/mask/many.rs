//! Sums over more blocks than there are threads to add them up, and more groups than the most blocks take in one step;
//! and that a grid decides nothing but how such sums are rounded.

use crate::case::{ForwardCase, Forwarded, Wants, frozen};
use crate::common::emulator::launches;
use crate::common::{Emulator, TestExecutor, everywhere_tests};
use crate::oracle;
use twofour::device::Limits;
use twofour::mask::{Forward, Kind, Sampling, Statistics};
use twofour::space::Raw;
use twofour::{Cpu, Executor, Float, Logit, Pattern, Shape, bf16, f16};
use twofour_emulator::Schedule;

const SAMPLING: Sampling = Sampling { seed: 5, draw: 6, kappa: 0.0, tau: 1.0 };

/// No patterns are moved in the first half of a weight, all are in the second; each weight is 1.
fn counted<E: TestExecutor, L: Logit, W: Float>(on: &mut E, groups: usize) -> Statistics {
    let shape = Shape::new(1, 4 * groups);
    let logits: Vec<L> = (0..groups).flat_map(|_| [1.0, 0.0, 0.0, 0.0, 0.0, 0.0].map(L::from_f32)).collect();
    let mut codes = vec![0x44; shape.packed_codes()];
    codes[groups / 4..].fill(0x88);
    let (logits, weight) = (on.upload(&logits).unwrap(), on.upload(&vec![W::from_f32(1.0); shape.weights()]).unwrap());
    let (codes, mut statistics) = (on.upload(&codes).unwrap(), on.poisoned::<Statistics>(Statistics::SLOTS));
    let pass = Forward::new(shape, Kind::Argmax, SAMPLING, E::input(&logits)).weight(E::input(&weight));
    on.run(pass.previous_codes(E::input(&codes)).statistics(E::output(&mut statistics))).unwrap();
    on.download(&statistics).unwrap()[0]
}

/// 258 blocks, whose shares one block of 256 threads adds up; and, of `f32`, a step more for the first of 1024 blocks.
fn sums_over_many_blocks_are_all_there<E: TestExecutor>(on: &mut E) {
    fn check<E: TestExecutor, L: Logit, W: Float>(on: &mut E, groups: usize) {
        let got = counted::<E, L, W>(on, groups);
        let moved = (groups - groups / 4 * 2) as u64;
        assert_eq!((got.groups, got.moved, got.kept_energy), (groups as u64, moved, 2.0 * groups as f64), "{on:?}");
        // One logit of 1 and five of 0, where kappa is 0: patterns are equal.
        assert!((got.confidence - 1.0 / 6.0).abs() < 1e-6, "{}", got.confidence);
    }
    check::<_, f32, f32>(on, 131_585);
    check::<_, f32, bf16>(on, 131_585);
    check::<_, f32, f16>(on, 131_585);
    check::<_, bf16, f32>(on, 263_171);
    check::<_, bf16, bf16>(on, 263_171);
    check::<_, bf16, f16>(on, 263_171);
}

everywhere_tests!(sums_over_many_blocks_are_all_there);

#[test]
fn the_first_of_1024_blocks_takes_a_second_step() {
    let groups = 1024 * 512 + 3 * 512 + 1;
    let got = counted::<_, f32, bf16>(&mut Emulator::new(Schedule::RoundRobin), groups);
    assert_eq!((got.groups, got.moved), (groups as u64, (groups - groups / 4 * 2) as u64));
    assert_eq!(got.kept_energy, 2.0 * groups as f64);
}

/// From the smallest device to one with a block for every step: the same masks and choices, and the same sums.
#[test]
fn the_grid_decides_nothing() {
    let of = |multiprocessors| Limits { multiprocessors, ..Limits::A100 };
    let (shape, kinds) = (Shape::new(1, 4 * 5001), [Kind::Soft, Kind::Hard, Kind::Argmax]);
    for kind in kinds {
        for statistics in [false, true] {
            let logits = (0..shape.logits()).map(|i| (i * 37 % 101) as f32 * 0.001).collect::<Vec<_>>();
            let weight = (0..shape.weights()).map(|i| (i % 17) as f32 - 8.0).collect::<Vec<_>>();
            let sampling = Sampling { kappa: 100.0, ..SAMPLING };
            let mut case = ForwardCase::<f32, bf16>::new(shape, kind, sampling, &logits, &weight);
            case.wants = Wants { statistics, ..Wants::ALL };
            let run = |limits| case.run(&mut Emulator::new(Schedule::RoundRobin).limits(limits));
            let smallest = run(of(0));
            for other in [run(of(2)), run(Limits::H200)] {
                same(&smallest, &other);
            }
        }
    }
}

/// Frozen masks step by the grid that they find, which only enormous weights make shorter than they are.
#[test]
fn frozen_masks_are_the_same_on_one_block() {
    let (shape, on) = (Shape::new(1, 4 * 5001), Emulator::new(Schedule::RoundRobin));
    let codes: Vec<u8> = (0..shape.packed_codes()).map(|i| [0x84, 0x9c, 0xed, 0xe4, 0x48][i % 5]).collect();
    let weight: Vec<f32> = (1..=shape.weights()).map(|i| i as f32).collect();
    let expected = frozen(&mut Cpu, shape, &codes, &weight);
    let (codes, weight) = (on.upload(&codes).unwrap(), on.upload(&weight).unwrap());
    for blocks in [1, 3] {
        let mut masked = on.poisoned::<f32>(shape.weights());
        let pass = Forward::<Raw, f32, f32>::frozen(shape, &codes, &weight).masked(&mut masked);
        on.launch(&launches(on.limits, pass).unwrap()[0].grid([blocks, 1, 1]));
        assert_eq!(masked.read(), expected);
    }
}

fn same(a: &Forwarded<bf16>, b: &Forwarded<bf16>) {
    assert_eq!((&a.masked, &a.mask), (&b.masked, &b.mask));
    assert_eq!((&a.patterns, &a.codes, a.statistics), (&b.patterns, &b.codes, b.statistics));
}

/// The numbers of patterns and codes, by themselves: everything else calls them.
#[test]
fn patterns_are_what_the_hardware_says() {
    let table = [(0, 4, 0b0011), (1, 8, 0b0101), (2, 12, 0b1001), (3, 9, 0b0110), (4, 13, 0b1010), (5, 14, 0b1100)];
    for ((index, code, bits), pattern) in table.into_iter().zip(Pattern::ALL) {
        assert_eq!((pattern.index(), pattern.code(), pattern.bits()), (index, code, bits));
        assert_eq!(pattern.kept().map(usize::from), oracle::KEPT[usize::from(index)]);
        assert_eq!(
            [Pattern::from_index(index), Pattern::from_code(code), Pattern::from_bits(bits)],
            [Some(pattern); 3]
        );
        assert!((0..8).all(|j| pattern.keeps(j) == (j < 4 && bits >> j & 1 == 1)));
    }
    let legal = |of: fn(u8) -> Option<Pattern>| (0..=255).filter(|&value| of(value).is_some()).count();
    assert_eq!([legal(Pattern::from_index), legal(Pattern::from_code), legal(Pattern::from_bits)], [6; 3]);
    assert_eq!((Pattern::POISON, Pattern::POISON_CODE), (0xff, 0));
}

/// Where each sum lies in memory, for those who read it from there.
#[test]
fn statistics_lie_as_they_are_declared() {
    let statistics = Statistics { kept_energy: 1.0, confidence: 2.0, moved: 3, groups: 4 };
    let expected: Vec<u8> =
        [1.0f64.to_le_bytes(), 2.0f64.to_le_bytes(), 3u64.to_le_bytes(), 4u64.to_le_bytes()].concat();
    assert_eq!(bytemuck::bytes_of(&statistics), expected);
}
