//! The emulator proves itself: every planted fault of `kernels/*faults.cu` is found, and every twin without it passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::{SEEDS, launch_with_shared};
use twofour_emulator::{Args, Buffer, Fault, Kernel, Launch, Near, Options, Schedule, Source, unwritten};

const TILES: usize = 3;
const SHARED_BYTES: u32 = 2 * 256 * 4;

/// One pair of kernels: their name, threads, input and what the right one makes of it.
struct Case {
    name: &'static str,
    threads: u32,
    tiles: usize,
    input: Vec<f32>,
    expected: Vec<f32>,
}

/// `out[tile][i] = 2 * in[tile][255 - i]`.
fn mirror(name: &'static str, tiles: usize) -> Case {
    let input: Vec<f32> = (0..tiles * 256).map(|i| i as f32 + 1.0).collect();
    let expected = input.chunks(256).flat_map(|tile| tile.iter().rev().map(|x| 2.0 * x)).collect();
    Case { name, threads: 256, tiles, input, expected }
}

/// A 16 x k matrix times a k x 8 one that is stored by columns; `column(row, i)` is where element i of a row stands in
/// k.
fn product(name: &'static str, k: usize, column: impl Fn(usize) -> usize) -> Case {
    let mut numbers = support::Numbers(7);
    let input: Vec<f32> = (0..256 + 8 * k).map(|_| numbers.small() as f32).collect();
    let (a, b) = input.split_at(256);
    let element = |row: usize, n: usize| (0..16).map(|i| a[row * 16 + i] * b[n * k + column(i)]).sum();
    let expected = (0..16 * 8).map(|i| element(i / 8, i % 8)).collect();
    Case { name, threads: 32, tiles: 1, input, expected }
}

fn dense(name: &'static str) -> Case {
    product(name, 16, |i| i)
}

/// Every group of four keeps its columns 1 and 3.
fn sparse(name: &'static str) -> Case {
    product(name, 32, |i| i / 2 * 4 + i % 2 * 2 + 1)
}

/// The output of one run, or the fault.
fn outcome(case: &Case, which: &str, schedule: Schedule) -> Result<Vec<f32>, Fault> {
    let input = Buffer::input("in", &case.input)?;
    let output = Buffer::output::<f32>("out", case.expected.len())?;
    let args = Args::new().pointer(&input).pointer(&output).value(case.tiles as u32).finish();
    let kernel = format!("twofour_{which}_{}", case.name);
    launch_with_shared(&kernel, 1, case.threads, SHARED_BYTES, &args, schedule)?;
    Ok(output.values())
}

fn right_passes(case: &Case) {
    for schedule in Schedule::several(SEEDS) {
        let output = outcome(case, "right", schedule).unwrap_or_else(|fault| panic!("{schedule:?}: {fault}"));
        assert!(output == case.expected, "{} under {schedule:?}: {output:?}", case.name);
    }
}

/// Every schedule ends in a fault of this kind.
fn caught_by(case: &Case, is_it: impl Fn(&Fault) -> bool) {
    right_passes(case);
    for schedule in Schedule::several(SEEDS) {
        let fault = outcome(case, "wrong", schedule).expect_err(case.name);
        println!("{}: {fault}", case.name);
        assert!(is_it(&fault), "{} under {schedule:?}: {fault:?}", case.name);
    }
}

/// No fault, but the numbers are wrong, under at least this many of the schedules.
fn seen_in_the_result(case: &Case, at_least: usize) {
    right_passes(case);
    let is_wrong = |schedule| outcome(case, "wrong", schedule).expect(case.name) != case.expected;
    let seen: Vec<Schedule> = Schedule::several(SEEDS).filter(|&schedule| is_wrong(schedule)).collect();
    println!("{}: wrong under {seen:?}", case.name);
    assert!(seen.len() >= at_least, "{}: only {seen:?}", case.name);
}

#[test]
fn missing_first_barrier() {
    seen_in_the_result(&mirror("missing_first_barrier", TILES), 1 + 2 * SEEDS as usize);
}

/// The one that `Solo` is there for: other orders may miss it.
#[test]
fn missing_second_barrier() {
    let case = mirror("missing_second_barrier", TILES);
    right_passes(&case);
    for seed in 0..SEEDS {
        assert!(outcome(&case, "wrong", Schedule::Solo(seed)).unwrap() != case.expected, "seed {seed}");
    }
}

#[test]
fn missing_warp_barrier() {
    seen_in_the_result(&mirror("missing_warp_barrier", TILES), 1 + 2 * SEEDS as usize);
}

#[test]
fn missing_copy_wait() {
    seen_in_the_result(&mirror("missing_copy_wait", TILES), 1 + 2 * SEEDS as usize);
}

#[test]
fn wrong_wait_count() {
    seen_in_the_result(&mirror("wrong_wait_count", TILES), 1 + 2 * SEEDS as usize);
}

#[test]
fn copy_into_memory_in_use() {
    seen_in_the_result(&mirror("copy_into_use", 6), SEEDS as usize);
}

#[test]
fn divergent_barrier() {
    caught_by(&mirror("divergent_barrier", 1), |fault| matches!(fault, Fault::BarrierDivergence { .. }));
}

/// The thread that a fault names, and the file of its line.
fn thread_of(fault: &Fault) -> ([u32; 3], String) {
    let place = fault.place().expect("a fault of a thread");
    let file = match &place.source {
        Source::Line(file, _) => file.clone(),
        Source::Code(_) | Source::Unknown => String::new(),
    };
    (place.thread, file)
}

#[test]
fn two_barriers() {
    caught_by(&mirror("two_barriers", 1), |fault| {
        matches!(fault, Fault::BarrierMismatch { .. }) && thread_of(fault).1 == "faults.cu"
    });
}

#[test]
fn early_return() {
    caught_by(&mirror("early_return", 1), |fault| {
        matches!(fault, Fault::BarrierDivergence { .. }) && thread_of(fault).0 == [100, 0, 0]
    });
}

/// An access of this many bytes (none: not known) of this thread, just past the end of a buffer.
fn is_off_by_one(fault: &Fault, buffer: &str, size: Option<u32>, thread: u32) -> bool {
    let Fault::OutOfBounds { near: Near::Buffer { name, bytes: length, offset }, bytes, .. } = fault else {
        return false;
    };
    name == buffer && *length as i64 == *offset && *bytes == size && thread_of(fault).0 == [thread, 0, 0]
}

#[test]
fn load_off_by_one() {
    caught_by(&mirror("load_off_by_one", 1), |fault| is_off_by_one(fault, "in", Some(4), 0));
}

#[test]
fn raw_load_off_by_one() {
    caught_by(&mirror("raw_load_off_by_one", 1), |fault| is_off_by_one(fault, "in", None, 0));
}

#[test]
fn store_off_by_one() {
    caught_by(&mirror("store_off_by_one", 1), |fault| is_off_by_one(fault, "out", Some(4), 7));
}

#[test]
fn raw_store_off_by_one() {
    caught_by(&mirror("raw_store_off_by_one", 1), |fault| is_off_by_one(fault, "out", None, 7));
}

#[test]
fn raw_store_in_front_of_a_buffer() {
    caught_by(&mirror("raw_store_in_front", 1), |fault| {
        let Fault::Overwritten { near: Near::Buffer { name, offset: -4, .. }, .. } = fault else {
            return false;
        };
        name == "out"
    });
}

#[test]
fn store_to_input() {
    for name in ["store_to_input", "raw_store_to_input"] {
        caught_by(&mirror(name, 1), |fault| {
            let Fault::ReadOnly { near: Near::Buffer { name, offset: 36, .. }, .. } = fault else {
                return false;
            };
            name == "in"
        });
    }
}

#[test]
fn null_pointer() {
    caught_by(&mirror("null_pointer", 1), |fault| matches!(fault, Fault::OutOfBounds { near: Near::Nothing, .. }));
}

#[test]
fn unwritten_output() {
    let case = mirror("unwritten_output", 1);
    seen_in_the_result(&case, 1 + 2 * SEEDS as usize);
    let input = Buffer::input("in", &case.input).unwrap();
    let output = Buffer::output::<f32>("out", 256).unwrap();
    let args = Args::new().pointer(&input).pointer(&output).value(1u32).finish();
    let parts = |kernel: &str| {
        let kernel = Kernel::find(kernel).unwrap();
        let launch = Launch { kernel, grid: [1, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
        unwritten(&launch, &Options::default(), &output).unwrap()
    };
    let last_float = 255 * 4..256 * 4;
    assert_eq!(parts("twofour_wrong_unwritten_output").as_slice(), std::slice::from_ref(&last_float));
    assert_eq!(parts("twofour_right_unwritten_output"), []);
}

#[test]
fn misaligned_load() {
    caught_by(&mirror("misaligned_load", 1), |fault| matches!(fault, Fault::Misaligned { align: 16, .. }));
}

#[test]
fn raw_misaligned_load() {
    caught_by(&mirror("raw_misaligned_load", 1), |fault| matches!(fault, Fault::Undefined { .. }));
}

#[test]
fn misaligned_copy() {
    caught_by(&mirror("misaligned_copy", 1), |fault| matches!(fault, Fault::Misaligned { align: 16, .. }));
}

#[test]
fn shared_overrun() {
    for name in ["shared_overrun", "raw_shared_overrun"] {
        caught_by(&mirror(name, 1), |fault| {
            matches!(fault, Fault::OutOfBounds { near: Near::DynamicShared { bytes: 2048, offset: 2048.. }, .. })
        });
    }
}

#[test]
fn static_shared_overrun() {
    caught_by(&mirror("static_overrun", 1), |fault| matches!(fault, Fault::Undefined { .. }));
}

#[test]
fn uninitialised_shared() {
    seen_in_the_result(&mirror("uninitialised_shared", 1), 1 + 2 * SEEDS as usize);
    seen_in_the_result(&mirror("uninitialised_static", 1), 1 + 2 * SEEDS as usize);
}

#[test]
fn stack_overflow() {
    caught_by(&mirror("stack_overflow", 1), |fault| matches!(fault, Fault::StackOverflow { .. }));
}

#[test]
fn wide_shift() {
    caught_by(&mirror("wide_shift", 1), |fault| matches!(fault, Fault::Undefined { .. }));
}

/// Is it about lanes missing in a collective, one of them as described?
fn is_missing(fault: &Fault, collective: &str, lane: &str) -> bool {
    let Fault::CollectiveDivergence { what, missing, .. } = fault else {
        return false;
    };
    what == collective && missing.starts_with(lane)
}

#[test]
fn divergent_collective() {
    caught_by(&mirror("divergent_collective", 1), |fault| {
        is_missing(fault, "shuffle_xor", "lane 16 has ended") && thread_of(fault).1 == "warp_faults.cu"
    });
}

#[test]
fn mismatched_collective() {
    caught_by(&mirror("mismatched_collective", 1), |fault| matches!(fault, Fault::CollectiveMismatch { .. }));
}

#[test]
fn barrier_against_collective() {
    caught_by(&mirror("barrier_against_collective", 1), |fault| {
        is_missing(fault, "shuffle_xor", "lane 0 waits at sync_threads (warp_faults.cu:")
    });
}

/// A right kernel in a block that is not whole warps.
#[test]
fn lanes_that_do_not_exist() {
    let case = Case { threads: 48, ..mirror("divergent_collective", 1) };
    let fault = outcome(&case, "right", Schedule::RoundRobin).unwrap_err();
    assert!(fault.to_string().contains("lane 16 does not exist: the block has 48 threads"), "{fault}");
}

#[test]
fn wrong_fragment_lane() {
    seen_in_the_result(&dense("wrong_fragment_lane"), 1 + 2 * SEEDS as usize);
}

#[test]
fn wrong_transpose() {
    seen_in_the_result(&dense("wrong_transpose"), 1 + 2 * SEEDS as usize);
}

#[test]
fn misaligned_ldmatrix() {
    caught_by(
        &dense("misaligned_ldmatrix"),
        |fault| matches!(fault, Fault::Misaligned { what, align: 16, .. } if what == "ldmatrix"),
    );
}

#[test]
fn unordered_metadata() {
    caught_by(&sparse("unordered_metadata"), |fault| {
        matches!(fault, Fault::UnorderedMetadata { metadata: 0xdddd_7ddd, .. })
    });
}

#[test]
fn wrong_metadata_lane() {
    seen_in_the_result(&sparse("wrong_metadata_lane"), 1 + 2 * SEEDS as usize);
}
