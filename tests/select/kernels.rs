//! What concerns the kernels alone: each of them on many random problems, and their launches.

use crate::executor::{Executor, RUNS};
use crate::suite::{check_score, check_squares, check_sweep, of_type};
use rayon::prelude::*;
use twofour::device::Limits;
use twofour::select::{self, Kept};
use twofour::space::{Raw, RawSlice};
use twofour::{Error, Shape, bf16, f16};
use twofour_emulator::{Buffer, Kernel, Options};

/// As many problems as each kernel is to meet.
fn wanted() -> u64 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

#[test]
fn every_kernel_meets_many_problems() {
    // A few more, for those without tokens have no slabs.
    (0..3 * wanted() * 11 / 10).into_par_iter().for_each(|round| {
        let executor = Executor::emulator(round / 3);
        of_type!(round, check_score(&executor, round));
        of_type!(round, check_squares(&executor, round));
        of_type!(round, check_sweep(&executor, round, round % 30 < 11));
    });
    let runs = RUNS.lock().unwrap().clone();
    let kernels = twofour_emulator::kernels();
    let names = kernels.iter().map(Kernel::name).filter(|name| name.starts_with("twofour_select_"));
    let mut report: Vec<_> = names.map(|name| (runs.get(name.as_str()).copied().unwrap_or(0), name)).collect();
    report.sort_unstable();
    println!("{report:#?}");
    assert_eq!(report.len(), 16);
    assert!(report.first().is_some_and(|(least, _)| *least as u64 >= wanted()), "{:?}", report.first());
}

fn at(address: u64, elements: usize) -> RawSlice {
    RawSlice { address, elements }
}

#[test]
fn grids_fit_the_device() {
    let shape = Shape::new(32_768, 32_768);
    let weight = at(1 << 40, shape.weights());
    let lean = select::ByScore::<Raw, bf16>::magnitude(shape, weight).codes(at(1 << 50, shape.packed_codes()));
    let plan = lean.launch(&Limits::H200).unwrap();
    assert_eq!((plan.pass.grid, plan.kept), ([132 * 8, 1, 1], None));
    let counted = select::ByScore::<Raw, bf16>::magnitude(shape, weight).kept(at(1 << 50, Kept::SLOTS));
    let [h200, a100] = [Limits::H200, Limits::A100].map(|limits| counted.launch(&limits).unwrap());
    assert_eq!(h200, a100, "sums come out the same on every device");
    let kept = h200.kept.unwrap();
    assert_eq!((h200.pass.grid[0] as usize + 1, kept.grid), (Kept::SLOTS, [1, 1, 1]));
}

#[test]
fn a_sweep_is_so_many_launches() {
    let shape = Shape::new(1000, 300);
    let sweep = |workspace| {
        select::Sweep::<Raw, f16>::new(shape, at(1 << 20, shape.weights()), at(1 << 30, 90_000), at(1 << 40, 300))
            .patterns(at(1 << 45, shape.groups()))
            .workspace(at(1 << 50, workspace))
            .launches(&Limits::A100)
    };
    let needed = select::Sweep::<Raw, f16>::workspace_len(shape);
    assert_eq!(needed, 300_000 + 128_000 + 18_750);
    let steps = sweep(needed).unwrap();
    let names: Vec<&str> = steps.iter().map(|step| &step.symbol.name["twofour_select_".len()..]).collect();
    assert_eq!(names, ["widen_f16", "sweep", "make_up", "sweep", "make_up", "sweep", "finish_f16"]);
    let grids: Vec<u32> = steps.iter().map(|step| step.grid[0]).collect();
    assert_eq!(grids, [147, 125, 16, 125, 8, 125, 147]);
    assert!(steps.iter().all(|step| step.shared_bytes <= Limits::A100.max_shared_bytes));
    assert_eq!(sweep(needed - 1), Err(Error::Workspace { needed: 4 * needed as u64, got: 4 * needed as u64 - 4 }));
}

/// A weight of 2³³ elements: the last block reads zeros and writes codes beyond 32-bit offsets.
#[test]
fn addresses_beyond_32_bits_are_right() {
    let shape = Shape::new(1 << 17, 1 << 16);
    let weight = Buffer::reserve("weight", shape.weights() * 2).unwrap();
    let codes = Buffer::reserve("codes", shape.packed_codes()).unwrap();
    // A device of so many processors that each thread takes one chunk.
    let wide = Limits { multiprocessors: 1 << 23, ..Limits::H200 };
    let args = select::ByScore::<Raw, bf16>::magnitude(shape, at(weight.address(), shape.weights()));
    let plan = args.codes(at(codes.address(), shape.packed_codes())).launch(&wide).unwrap().pass;
    assert_eq!(u64::from(plan.grid[0]) * 256 * 4, shape.groups() as u64);
    let launch = twofour_emulator::Launch {
        kernel: Kernel::find(plan.symbol.name).unwrap(),
        grid: plan.grid,
        block: plan.block,
        shared_bytes: plan.shared_bytes,
        args: bytemuck::bytes_of(&plan.args),
    };
    let last = u64::from(plan.grid[0] - 1);
    twofour_emulator::run(&launch, &Options { blocks: Some(last..last + 1), ..Options::default() }).unwrap();
    let bytes = shape.packed_codes();
    assert_eq!(codes.values_at::<u8>(bytes - 512, 512), [0x44; 512], "equal scores keep the first two");
    assert_eq!(codes.values_at::<u8>(bytes - 516, 4), [0; 4], "the block before has not run");
}
