//! Launches: what is refused, what a thread knows of its place, and running parts of large grids.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use twofour_emulator::{Args, Buffer, Fault, Kernel, Launch, MAX_SHARED_BYTES, Options, Schedule, kernels, run};

fn index_kernel() -> Kernel {
    Kernel::find("twofour_test_index").unwrap()
}

#[test]
fn kernels_are_listed_once_each() {
    let names: Vec<String> = kernels().iter().map(Kernel::name).collect();
    assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    let kernel = index_kernel();
    assert_eq!((kernel.args_size(), kernel.max_threads()), (8, 1024));
    let fault = Kernel::find("twofour_test_indexes").unwrap_err();
    assert!(fault.to_string().starts_with("no kernel `twofour_test_indexes`: compiled in are "), "{fault}");
    assert!(fault.to_string().contains("twofour_test_index,"), "{fault}");
}

#[test]
fn a_launch_that_cuda_would_refuse_is_refused() {
    let args = Args::new().null().finish();
    let good = Launch { kernel: index_kernel(), grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, args: &args };
    let refused = |launch: Launch| run(&launch, &Options::default()).unwrap_err();
    assert!(matches!(refused(Launch { args: &args[..4], ..good }), Fault::ArgsSize { expected: 8, got: 4, .. }));
    for grid in [[0, 1, 1], [1, 0, 1], [1, 65_536, 1], [1, 1, 65_536], [1 << 31, 1, 1]] {
        assert!(matches!(refused(Launch { grid, ..good }), Fault::Grid { .. }), "{grid:?}");
    }
    for block in [[0, 1, 1], [1025, 1, 1], [1, 1, 65], [32, 33, 1], [1 << 31, 1 << 31, 1 << 31]] {
        assert!(matches!(refused(Launch { block, ..good }), Fault::BlockSize { max: 1024, .. }), "{block:?}");
    }
    let narrow = Launch { kernel: Kernel::find("twofour_test_ldmatrix").unwrap(), block: [64, 1, 1], ..good };
    let two = Args::new().null().null().finish();
    assert!(matches!(refused(Launch { args: &two, ..narrow }), Fault::BlockSize { max: 32, .. }));
    let large = Launch { shared_bytes: MAX_SHARED_BYTES + 1, ..good };
    assert!(matches!(refused(large), Fault::SharedBytes { .. }));
    // And what is allowed runs up to the null pointer.
    assert!(matches!(refused(good), Fault::OutOfBounds { .. }));
}

#[test]
fn a_thread_knows_its_place() {
    let (grid, block) = ([3u32, 2, 4], [32u32, 3, 2]);
    let (blocks, threads) = (24, 192);
    for workers in [1, 3] {
        let output = Buffer::output::<u32>("out", blocks * threads * 15).unwrap();
        let args = Args::new().pointer(&output).finish();
        let launch = Launch { kernel: index_kernel(), grid, block, shared_bytes: 0, args: &args };
        let report = run(&launch, &Options { workers, ..Options::default() }).unwrap();
        assert_eq!((report.blocks, report.switches), (24, 24 * 192));
        for (i, values) in output.values::<u32>().chunks(15).enumerate() {
            let (b, t) = ((i / threads) as u32, (i % threads) as u32);
            let [x, y, z] = [t % 32, t / 32 % 3, t / 96];
            let expected = [x, y, z, b % 3, b / 3 % 2, b / 6, 32, 3, 2, 3, 2, 4, x, 0, t];
            assert_eq!(values, expected);
        }
    }
}

#[test]
fn counts_are_exact() {
    let input = Buffer::input("in", &[1f32; 512]).unwrap();
    let output = Buffer::output::<f32>("out", 512).unwrap();
    let args = Args::new().pointer(&input).pointer(&output).value(2u32).finish();
    for schedule in Schedule::several(2) {
        let report = support::launch("twofour_right_missing_second_barrier", 1, 256, &args, schedule).unwrap();
        // Two tiles, two barriers each; the last thread at a barrier goes on without a switch.
        assert_eq!((report.barriers, report.collectives, report.switches), (4, 0, 256 + 4 * 255));
    }
}

/// A tensor of 12 GiB that is never in memory: two blocks at its very end.
#[test]
fn a_few_blocks_of_a_tensor_larger_than_memory() {
    let bytes: u64 = 12 << 30;
    let input = Buffer::reserve("in", bytes as usize).unwrap();
    let output = Buffer::reserve("out", bytes as usize).unwrap();
    let args = Args::new().pointer(&input).pointer(&output).value(bytes).finish();
    let blocks = (bytes / (64 * 256)) as u32;
    let kernel = Kernel::find("twofour_test_copy").unwrap();
    let launch = Launch { kernel, grid: [blocks, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
    let last_two = u64::from(blocks) - 2..u64::from(blocks);
    let options = Options { blocks: Some(last_two), ..Options::default() };
    assert_eq!(run(&launch, &options).unwrap().blocks, 2);
    assert_eq!(output.values_at::<u64>(bytes as usize - 16, 2), [0, 0]);

    // The same with one block too many: the grid is a block larger than the tensor, and so is its bound.
    let args = Args::new().pointer(&input).pointer(&output).value(bytes + 64).finish();
    let launch = Launch { grid: [blocks + 1, 1, 1], args: &args, ..launch };
    let options = Options { blocks: Some(u64::from(blocks)..u64::from(blocks) + 1), ..Options::default() };
    let fault = run(&launch, &options).unwrap_err();
    assert!(fault.to_string().contains("offset 12884901888 of buffer `in`, which has 12884901888 bytes"), "{fault}");
}

#[test]
fn an_empty_buffer_may_not_be_touched() {
    let empty = Buffer::input::<f32>("nothing", &[]).unwrap();
    let output = Buffer::output::<f32>("out", 256).unwrap();
    let args = Args::new().pointer(&empty).pointer(&output).value(1u32).finish();
    for kernel in ["twofour_right_load_off_by_one", "twofour_right_raw_load_off_by_one"] {
        let fault = support::launch(kernel, 1, 256, &args, Schedule::RoundRobin).unwrap_err();
        assert!(fault.to_string().contains("of buffer `nothing`, which has 0 bytes"), "{fault}");
    }
}

#[test]
fn a_dropped_buffer_may_not_be_touched() {
    let input = Buffer::input("gone", &[1f32; 256]).unwrap();
    let output = Buffer::output::<f32>("out", 256).unwrap();
    let args = Args::new().pointer(&input).pointer(&output).value(1u32).finish();
    drop(input);
    let fault = support::launch("twofour_right_load_off_by_one", 1, 256, &args, Schedule::RoundRobin).unwrap_err();
    assert!(matches!(fault, Fault::OutOfBounds { .. }), "{fault}");
}

/// Faults in one launch leave nothing behind for the next: threads, stacks, shared memory, signal handlers.
#[test]
fn after_a_fault_everything_works() {
    let input = Buffer::input("in", &[1f32; 256]).unwrap();
    for round in 0..50 {
        for (kernel, is_right) in [
            ("twofour_wrong_raw_load_off_by_one", false),
            ("twofour_wrong_divergent_collective", false),
            ("twofour_right_early_return", true),
        ] {
            let output = Buffer::output::<f32>("out", 256).unwrap();
            let args = Args::new().pointer(&input).pointer(&output).value(1u32).finish();
            let kernel = Kernel::find(kernel).unwrap();
            let launch = Launch { kernel, grid: [4, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
            let options =
                Options { schedule: Schedule::Random(round), workers: 1 + round as usize % 3, ..Options::default() };
            assert_eq!(run(&launch, &options).is_ok(), is_right);
        }
    }
}

#[test]
fn the_largest_dynamic_shared_memory_is_there() {
    let bytes: Vec<u8> = vec![7; 64 * 256];
    let input = Buffer::input("in", &bytes).unwrap();
    let output = Buffer::output::<u8>("out", bytes.len()).unwrap();
    let args = Args::new().pointer(&input).pointer(&output).value(16u32).finish();
    support::launch_with_shared("twofour_test_async", 1, 256, MAX_SHARED_BYTES, &args, Schedule::RoundRobin).unwrap();
}
