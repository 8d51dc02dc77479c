//! Every kernel on many random problems, on several schedules.

use crate::any::{same, values};
use crate::executor::{Executor, RUNS, SMALL, gpu};
use crate::properties::{Case, pairs, shapes};
use crate::suite::{By, check_pack, check_reorder, check_unpack};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::prelude::*;
use twofour::compress::{Compressed, DTYPES, Layout, cuda};
use twofour::device::Limits;
use twofour::{DType, Shape, bf16};
use twofour_emulator::{Kernel, Schedule};

/// As many problems as each kernel is to meet.
fn wanted() -> u64 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

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
fn emulator(number: u64) -> Executor {
    let schedule = [Schedule::RoundRobin, Schedule::Solo(number), Schedule::Random(number)][number as usize / 7 % 3];
    Executor::Emulator(schedule, [SMALL, Limits::H200][number as usize / 3 % 2])
}

#[derive(Debug, Clone, Copy)]
enum Problem {
    Pack(By),
    Unpack,
    Reorder,
}

fn check(executor: &Executor, problem: Problem, case: &Case) {
    match problem {
        Problem::Pack(by) => check_pack(executor, case, by),
        Problem::Unpack => check_unpack(executor, case),
        Problem::Reorder => check_reorder(executor, case),
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

#[test]
fn on_the_cpu() {
    problems(600).into_par_iter().for_each(|(problem, value_type, number)| {
        check(&Executor::Cpu, problem, &case(value_type, number));
    });
}

/// A few more than wanted, for empty weights are no problem for a kernel; some types of values share kernels, and these
/// meet the more.
#[test]
fn every_kernel_meets_many_problems() {
    problems(wanted() * 11 / 10).into_par_iter().for_each(|(problem, value_type, number)| {
        check(&emulator(number), problem, &case(value_type, number));
    });
    let runs = RUNS.lock().unwrap().clone();
    let names =
        twofour_emulator::kernels().iter().map(Kernel::name).filter(|name| name.starts_with("twofour_compress_"));
    let mut report: Vec<_> = names.map(|name| (runs.get(name.as_str()).copied().unwrap_or(0), name)).collect();
    report.sort_unstable();
    println!("{report:#?}");
    assert_eq!(report.len(), 18);
    assert!(report.first().is_some_and(|(least, _)| *least as u64 >= wanted()), "{:?}", report.first());
}

#[test]
fn on_a_gpu() {
    let Some(gpu) = gpu() else { return };
    for (problem, value_type, number) in problems(600) {
        check(&gpu, problem, &case(value_type, number));
    }
}

/// The device's form of a compressed weight is the host's, on every way to it and from it.
#[test]
fn the_form_of_a_device() {
    let Some(Executor::Gpu(stream)) = gpu() else { return };
    let shape = Shape::new(33, 52);
    let mut rng = StdRng::seed_from_u64(7);
    let dense = values::<bf16>(&mut rng, shape.weights());
    let host = Compressed::by_magnitude(shape, &dense).unwrap();
    let on_device = stream.clone_htod(&dense).unwrap();
    let chosen = cuda::Compressed::by_magnitude(&stream, shape, on_device.as_view()).unwrap();
    let same_bits = |other: &Compressed<bf16>| same(host.values(), other.values()) && host.codes() == other.codes();
    assert!(same_bits(&chosen.download(&stream).unwrap()));
    let uploaded = cuda::Compressed::upload(&stream, &host).unwrap();
    assert!(same_bits(&uploaded.download(&stream).unwrap()));
    let given = cuda::Compressed::with_codes(&stream, shape, on_device.as_view(), uploaded.codes()).unwrap();
    assert!(same_bits(&given.download(&stream).unwrap()));
    let layout = Layout::CutlassSm100;
    let metadata = stream.clone_dtoh(&given.metadata(&stream, layout).unwrap()).unwrap();
    let back = stream.clone_dtoh(&given.decompress(&stream).unwrap()).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(metadata, host.metadata(layout).unwrap());
    assert!(same(&back, &host.decompress()));
    let nothing = Compressed::<bf16>::by_magnitude(Shape::new(0, 8), &[]).unwrap();
    let empty = cuda::Compressed::upload(&stream, &nothing).unwrap();
    assert_eq!(empty.download(&stream).unwrap(), nothing);
}
