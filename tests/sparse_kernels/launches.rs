//! Launches as plain data: what is refused, how blocks are counted, into how many shares K is cut.

use twofour::device::Limits;
use twofour::matmul::Problem;
use twofour::sparse::launch::{Kernel, MAX_SMALL_TOKENS, Operands, partial_bytes, product, splits, sum, takes};
use twofour::{DType, Error, Shape};

const AT: Operands = Operands { x: 16, values: 32, metadata: 48, bias: Some(64), y: 80, partial: 96 };
const TYPES: [DType; 3] = [DType::F16, DType::Bf16, DType::I8];

fn problem(tokens: usize, rows: usize, cols: usize) -> Problem {
    Problem::new(tokens, Shape::new(rows, cols))
}

fn grid(kernel: Kernel, problem: Problem, splits: u32) -> twofour::Result<[u32; 3]> {
    product(kernel, problem, DType::F16, &AT, splits).map(|launch| launch.grid)
}

#[test]
fn grids_cover_the_output() {
    // 32 rows a warp of its own, one, two or four of those a block; 64 tokens a block, and all blocks of tokens along x.
    assert_eq!(grid(Kernel::Small, problem(8, 65, 64), 1), Ok([3, 1, 1]));
    assert_eq!(grid(Kernel::Small, problem(9, 65, 64), 3), Ok([2, 3, 1]));
    assert_eq!(grid(Kernel::Small, problem(17, 129, 64), 1), Ok([2, 1, 1]));
    assert_eq!(grid(Kernel::Small, problem(65, 129, 64), 1), Ok([4, 1, 1]));
    assert_eq!(grid(Kernel::Tile, problem(129, 257, 64), 2), Ok([6, 2, 1]));
    for kernel in [Kernel::Small, Kernel::Tile] {
        for (tokens, rows) in [(0, 5), (5, 0), (0, 0)] {
            assert_eq!(grid(kernel, problem(tokens, rows, 8), 1).map(|grid| grid[0]), Ok(0));
        }
    }
}

#[test]
fn shared_memory_is_what_stages_take() {
    let of = |kernel, values| product(kernel, problem(4, 4, 4), values, &AT, 1).unwrap().shared_bytes;
    assert_eq!(TYPES.map(|values| of(Kernel::Small, values)), [73_728, 73_728, 81_920]);
    assert_eq!(TYPES.map(|values| of(Kernel::Tile, values)), [76_800, 76_800, 79_872]);
    // Two blocks fit the multiprocessors of both devices, 1 KiB of the system's included.
    for limits in [Limits::A100, Limits::H200] {
        assert!(2 * (81_920 + 1024) <= limits.shared_bytes_per_multiprocessor);
    }
}

#[test]
fn unsound_launches_are_errors() {
    for kernel in [Kernel::Small, Kernel::Tile] {
        let sound = problem(5, 20, 64);
        let with = |at: &Operands, splits| product(kernel, sound, DType::I8, at, splits);
        assert!(with(&AT, 1).is_ok());
        for values in [DType::F32, DType::E4m3, DType::E5m2] {
            assert!(matches!(product(kernel, sound, values, &AT, 1), Err(Error::Path { .. })));
            assert!(!takes(kernel, sound, values));
        }
        assert!(matches!(grid(kernel, problem(5, 20, 62), 1), Err(Error::NotGrouped { .. })));
        assert!(matches!(with(&AT, 0), Err(Error::Scalar { what: "splits", .. })));
        assert!(matches!(with(&AT, 65_536), Err(Error::Scalar { what: "splits", .. })));
        assert!(matches!(grid(kernel, problem(1, 1 << 31, 4), 1), Err(Error::Overflow { .. })));
        assert!(matches!(grid(kernel, problem(1, 4, 1 << 31), 1), Err(Error::Overflow { .. })));
        for (what, at) in [
            ("x", Operands { x: 8, ..AT }),
            ("values", Operands { values: 8, ..AT }),
            ("metadata", Operands { metadata: 4, ..AT }),
            ("bias", Operands { bias: Some(2), ..AT }),
            ("y", Operands { y: 8, ..AT }),
        ] {
            let error = with(&at, 1).unwrap_err();
            assert!(matches!(error, Error::Misaligned { what: of, .. } if of == what), "{error}");
        }
        // Of a split product `y` and the bias are the sum's, and `partial` is not that of a whole one.
        assert!(with(&Operands { y: 1, bias: Some(1), ..AT }, 2).is_ok());
        assert!(with(&Operands { partial: 1, ..AT }, 1).is_ok());
        assert!(matches!(with(&Operands { partial: 1, ..AT }, 2), Err(Error::Misaligned { what: "partial", .. })));
    }
    let small = |tokens, cols| grid(Kernel::Small, problem(tokens, 20, cols), 1);
    assert!(matches!(small(MAX_SMALL_TOKENS + 1, 64), Err(Error::Scalar { what: "tokens", .. })));
    assert!(matches!(small(1, 1 << 24), Err(Error::Overflow { what: "a row of the weight", .. })));
    assert!(small(MAX_SMALL_TOKENS, (1 << 24) - 4).is_ok());
    assert!(takes(Kernel::Small, problem(MAX_SMALL_TOKENS, 1, 4), DType::I8));
    assert!(!takes(Kernel::Small, problem(MAX_SMALL_TOKENS + 1, 1, 4), DType::I8));
    assert!(takes(Kernel::Tile, problem(MAX_SMALL_TOKENS + 1, 1, 4), DType::I8));
    assert!(!takes(Kernel::Tile, problem(1 << 24, 1 << 24, 4), DType::F16));
}

#[test]
fn sums_are_of_parts() {
    let of = |values, splits, at: &Operands| sum(problem(3, 7, 64), values, at, splits);
    let names = TYPES.map(|values| of(values, 2, &AT).unwrap().symbol.name);
    assert_eq!(names, ["twofour_sparse_sum_f16", "twofour_sparse_sum_bf16", "twofour_sparse_sum_i32"]);
    assert!(matches!(of(DType::F16, 1, &AT), Err(Error::Scalar { what: "splits", .. })));
    assert!(matches!(of(DType::F32, 2, &AT), Err(Error::Path { .. })));
    assert!(matches!(of(DType::I8, 2, &Operands { bias: Some(8), ..AT }), Err(Error::Misaligned { what: "bias", .. })));
    assert_eq!((partial_bytes(problem(3, 7, 64), 1), partial_bytes(problem(3, 7, 64), 5)), (0, 3 * 7 * 5 * 4));
}

#[test]
fn splits_fill_the_device_and_no_more() {
    let of = |kernel, tokens, rows, cols| splits(kernel, problem(tokens, rows, cols), DType::Bf16, &Limits::H200);
    // Blocks of 32 rows: 128 of them, or 344, are enough for 132 multiprocessors; a launch more costs more than it gains.
    assert_eq!((of(Kernel::Small, 1, 4096, 4096), of(Kernel::Small, 1, 11_008, 4096)), (1, 1));
    // 32 blocks leave most with nothing to do.
    assert!((4..=8).contains(&of(Kernel::Small, 1, 1024, 8192)), "{}", of(Kernel::Small, 1, 1024, 8192));
    // Shares have a ring's steps for every warp: 2048 columns.
    assert_eq!((of(Kernel::Small, 1, 16, 64), of(Kernel::Small, 1, 16, 4095)), (1, 1));
    // 264 tiles at a time: 1024 are four waves; 128 are half a wave.
    assert_eq!((of(Kernel::Tile, 4096, 4096, 4096), of(Kernel::Tile, 512, 4096, 4096)), (1, 2));
    for kernel in [Kernel::Small, Kernel::Tile] {
        assert_eq!((of(kernel, 0, 0, 0), of(kernel, 1, 1, 4), of(kernel, 128, 1 << 24, 1 << 10)), (1, 1, 1));
    }
}

/// No share is empty that need not be, and no number of them is out of a grid's reach.
#[test]
fn any_problem_has_splits() {
    for kernel in [Kernel::Small, Kernel::Tile] {
        for values in TYPES {
            for tokens in [1, 9, 17, 128] {
                for (rows, cols) in [(1, 1 << 20), (64, 16_384), (777, 5000), (28_672, 8192), (512, 5124), (4, 516)] {
                    for limits in [Limits::A100, Limits::H200, Limits { multiprocessors: 0, ..Limits::A100 }] {
                        let problem = problem(tokens, rows, cols);
                        let splits = splits(kernel, problem, values, &limits);
                        let launch = product(kernel, problem, values, &AT, splits).unwrap();
                        assert_eq!(launch.grid[1], splits);
                        let bytes = bytemuck::bytes_of(&launch.args);
                        let share = u32::from_ne_bytes(bytes[60..64].try_into().unwrap()) as usize;
                        assert!(share * (splits as usize - 1) < cols && share * splits as usize >= cols);
                    }
                }
            }
        }
    }
}
