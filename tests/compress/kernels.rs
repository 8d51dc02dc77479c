//! Every kernel on many random problems, on several schedules.

use crate::any::{same, values};
use crate::common::runs::{each_kernel_has_met_many, wanted};
use crate::common::{Emulator, SMALL, TestExecutor, everywhere_tests, gpu};
use crate::properties::{Case, pairs, shapes};
use crate::suite::{By, check_pack, check_reorder, check_unpack};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::prelude::*;
use twofour::compress::{Compressed, DTYPES, Layout, Packed};
use twofour::device::Limits;
use twofour::mask::{Kind, Sampling};
use twofour::{Cpu, DType, Shape, bf16};
use twofour_emulator::Schedule;

/// A case of its own for each number: all layouts that hold values of the type, in turn. One in eight may be large; the
/// others have at most two patches' groups, if the layout has shapes as small.
fn case(value_type: DType, number: u64) -> Case {
    let layouts: Vec<_> = pairs().into_iter().filter(|(_, held)| *held == value_type).collect();
    let (layout, _) = layouts[number as usize % layouts.len()];
    let mut seed = [number as u8; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed[8] = value_type as u8;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let (strategy, mut runner) = (shapes(layout), TestRunner::new_with_rng(Config::default(), rng));
    let mut some = (0..16).map(|_| strategy.new_tree(&mut runner).unwrap().current());
    let first = some.next().unwrap();
    let small = |shape: &Shape| shape.weights() <= 4 * 2 * 4096;
    let shape = if number.is_multiple_of(8) || small(&first) { first } else { some.find(small).unwrap_or(first) };
    Case { layout, value_type, shape, data: number }
}

/// Any of several schedules; devices on which a block takes one patch, or all.
fn emulator(number: u64) -> Emulator {
    let schedule = [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize / 7 % 3];
    Emulator::new(schedule).random().limits([SMALL, Limits::H200][number as usize / 3 % 2])
}

#[derive(Debug, Clone, Copy)]
enum Problem {
    Pack(By),
    Unpack,
    Reorder,
}

fn check(on: &mut impl TestExecutor, problem: Problem, case: &Case) {
    match problem {
        Problem::Pack(by) => check_pack(on, case, by),
        Problem::Unpack => check_unpack(on, case),
        Problem::Reorder => check_reorder(on, case),
    }
}

/// So many numbers for each kernel, shared by the types of values that it is for.
fn problems(each: u64) -> Vec<(Problem, DType, u64)> {
    let all = By::ALL.map(Problem::Pack).into_iter().chain([Problem::Unpack, Problem::Reorder]);
    let all: Vec<_> = all.flat_map(|problem| DTYPES.map(|value_type| (problem, value_type))).collect();
    let share = |(problem, value_type): (Problem, DType)| {
        let types = match (problem, value_type) {
            (Problem::Reorder, _) => 12,
            (Problem::Pack(By::Magnitude), DType::I8) | (_, DType::F32) => 1,
            (Problem::Pack(By::Magnitude), _) | (_, DType::F16 | DType::Bf16) => 2,
            _ => 3,
        };
        (0..each.div_ceil(types)).map(move |number| (problem, value_type, number))
    };
    all.into_iter().flat_map(share).collect()
}

/// In the emulator a few more than wanted, for empty weights are no problem for a kernel; some types of values share
/// kernels, and these meet the more.
#[test]
fn every_kernel_meets_many_problems() {
    problems(600).into_par_iter().for_each(|(problem, value_type, number)| {
        check(&mut Cpu, problem, &case(value_type, number));
    });
    problems(wanted() * 11 / 10).into_par_iter().for_each(|(problem, value_type, number)| {
        check(&mut emulator(number), problem, &case(value_type, number));
    });
    each_kernel_has_met_many("twofour_compress_", 18);
    if let Some(mut gpu) = gpu() {
        for (problem, value_type, number) in problems(600) {
            check(&mut gpu, problem, &case(value_type, number));
        }
    }
}

/// An executor's form of a compressed weight is the host's, on every way to it and from it.
fn the_form_of_an_executor<E: TestExecutor>(on: &mut E) {
    let shape = Shape::new(33, 52);
    let mut rng = StdRng::seed_from_u64(7);
    let dense = values::<bf16>(&mut rng, shape.weights());
    let host = Compressed::by_magnitude(shape, &dense).unwrap();
    let held = on.upload(&dense).unwrap();
    let chosen = Packed::by_magnitude(on, shape, E::input(&held)).unwrap();
    let same_bits = |other: &Compressed<bf16>| same(host.values(), other.values()) && host.codes() == other.codes();
    assert!(same_bits(&chosen.download(on).unwrap()));
    let uploaded = Packed::upload(on, &host).unwrap();
    assert!(same_bits(&uploaded.download(on).unwrap()));
    let given = Packed::with_codes(on, shape, E::input(&held), uploaded.codes()).unwrap();
    assert!(same_bits(&given.download(on).unwrap()));
    let layout = Layout::CutlassSm100;
    let (metadata, back) = (given.metadata(on, layout).unwrap(), given.decompress(on).unwrap());
    assert_eq!(on.download(&metadata).unwrap(), host.metadata(layout).unwrap());
    assert!(same(&on.download(&back).unwrap(), &host.decompress()));
    let nothing = Compressed::<bf16>::by_magnitude(Shape::new(0, 8), &[]).unwrap();
    let empty = Packed::upload(on, &nothing).unwrap();
    assert_eq!(empty.download(on).unwrap(), nothing);
}

/// And so is what the mask of logits keeps.
fn the_form_from_logits<E: TestExecutor>(on: &mut E) {
    let (shape, sampling) = (Shape::new(9, 20), Sampling { seed: 3, draw: 4, kappa: 1.0, tau: 1.0 });
    let dense = values::<bf16>(&mut StdRng::seed_from_u64(8), shape.weights());
    let logits: Vec<f32> = (0..shape.logits()).map(|i| (i * 37 % 101) as f32 * 0.01).collect();
    let host = Compressed::from_logits(shape, Kind::Hard, sampling, &logits, &dense).unwrap();
    let (logits, dense) = (on.upload(&logits).unwrap(), on.upload(&dense).unwrap());
    let packed = Packed::from_logits(on, shape, Kind::Hard, sampling, E::input(&logits), E::input(&dense)).unwrap();
    let packed = packed.download(on).unwrap();
    assert!(same(host.values(), packed.values()) && host.codes() == packed.codes());
}

everywhere_tests!(the_form_of_an_executor, the_form_from_logits);
