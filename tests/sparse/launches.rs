//! Launches as plain data: what is refused, how blocks are counted, into how many shares K is cut.

use crate::common::emulator::launches;
use twofour::device::{Launch, Limits};
use twofour::space::{Raw, RawSlice};
use twofour::sparse::{Given, MAX_SMALL_TOKENS, Multiply, Plan, Problem, Route, Weight};
use twofour::{E4m3, Error, Factor, Libraries, Result, Shape, bf16, compress::Layout, f16};

const ROUTES: [Route; 2] = [Route::Small, Route::Tile];
const BIAS: Given = Given { bias: true, ..Given::WEIGHT };

/// Device addresses of the operands.
#[derive(Clone, Copy)]
struct At {
    x: u64,
    values: u64,
    metadata: u64,
    bias: u64,
    y: u64,
    workspace: u64,
}

const AT: At = At { x: 16, values: 32, metadata: 48, bias: 64, y: 80, workspace: 96 };

fn problem(tokens: usize, rows: usize, cols: usize) -> Problem {
    Problem::new(tokens, Shape::new(rows, cols))
}

fn plan<T: Factor>(route: Route, problem: Problem) -> Result<Plan<T>> {
    Plan::by(route, &Limits::H200, problem, BIAS, Libraries::NONE)
}

/// What a product gives a device to do: itself, and its sum if it is split.
fn queued<T: Factor>(route: Route, problem: Problem, splits: u32, at: At) -> Result<Vec<Launch>> {
    let plan = plan::<T>(route, problem)?.with_splits(splits)?;
    let (shape, layout) = (problem.shape, Layout::CutlassSm80);
    let sizes = layout.sizes(shape, T::DTYPE)?;
    let (values, metadata) = (RawSlice::new(at.values, sizes.values), RawSlice::new(at.metadata, sizes.metadata));
    let weight = Weight::<Raw, T>::new(shape, layout, values, metadata);
    let (x, y) = (RawSlice::new(at.x, problem.inputs()), RawSlice::new(at.y, problem.outputs()));
    let pass = Multiply::new(&weight, problem.tokens, x, y).bias(RawSlice::new(at.bias, shape.rows)).plan(&plan);
    launches(Limits::H200, pass.workspace(RawSlice::new(at.workspace, plan.workspace_bytes())))
}

fn grid(route: Route, problem: Problem, splits: u32) -> Result<[u32; 3]> {
    let launches = queued::<f16>(route, problem, splits, AT)?;
    assert_eq!(launches.len(), if splits > 1 { 2 } else { 1 });
    Ok(launches[0].grid)
}

#[test]
fn grids_cover_the_output() {
    // 32 rows a warp of its own, one, two or four of those a block; 64 tokens a block, and all blocks of tokens along x.
    assert_eq!(grid(Route::Small, problem(8, 65, 64), 1), Ok([3, 1, 1]));
    assert_eq!(grid(Route::Small, problem(9, 65, 64), 3), Ok([2, 3, 1]));
    assert_eq!(grid(Route::Small, problem(17, 129, 64), 1), Ok([2, 1, 1]));
    assert_eq!(grid(Route::Small, problem(65, 129, 64), 1), Ok([4, 1, 1]));
    assert_eq!(grid(Route::Tile, problem(129, 257, 64), 2), Ok([6, 2, 1]));
    for route in ROUTES {
        for (tokens, rows) in [(0, 5), (5, 0), (0, 0)] {
            assert_eq!(grid(route, problem(tokens, rows, 8), 1).map(|grid| grid[0]), Ok(0));
        }
    }
}

#[test]
fn shared_memory_is_what_stages_take() {
    fn of<T: Factor>(route: Route) -> u32 {
        queued::<T>(route, problem(4, 4, 4), 1, AT).unwrap()[0].shared_bytes
    }
    let each = |route| [of::<f16>(route), of::<bf16>(route), of::<i8>(route)];
    assert_eq!(each(Route::Small), [73_728, 73_728, 81_920]);
    assert_eq!(each(Route::Tile), [76_800, 76_800, 79_872]);
    // Two blocks fit the multiprocessors of both devices, 1 KiB of the system's included.
    for limits in [Limits::A100, Limits::H200] {
        assert!(2 * (81_920 + 1024) <= limits.shared_bytes_per_multiprocessor);
    }
}

#[test]
fn unsound_launches_are_errors() {
    fn refused<T: Factor>(route: Route, problem: Problem, because: &str) {
        let refused = plan::<T>(route, problem);
        assert!(matches!(&refused, Err(Error::Unsupported { because: of, .. }) if of.contains(because)), "{refused:?}");
    }
    for route in ROUTES {
        let sound = problem(5, 20, 64);
        let with = |at, splits| queued::<i8>(route, sound, splits, at);
        assert!(with(AT, 1).is_ok());
        refused::<f32>(route, sound, "f16, bf16 and i8");
        refused::<E4m3>(route, sound, "f16, bf16 and i8");
        assert!(matches!(grid(route, problem(5, 20, 62), 1), Err(Error::NotGrouped { .. })));
        assert!(matches!(with(AT, 0), Err(Error::Scalar { what: "splits", .. })));
        assert!(matches!(with(AT, 65_536), Err(Error::Scalar { what: "splits", .. })));
        refused::<f16>(route, problem(1, 1 << 31, 4), "32 bits");
        refused::<f16>(route, problem(1, 4, 1 << 31), "32 bits");
        for (what, at) in [
            ("x", At { x: 8, ..AT }),
            ("values", At { values: 8, ..AT }),
            ("metadata", At { metadata: 4, ..AT }),
            ("bias", At { bias: 2, ..AT }),
            ("y", At { y: 8, ..AT }),
        ] {
            for splits in [1, 2] {
                let error = with(at, splits).unwrap_err();
                assert!(matches!(error, Error::Misaligned { what: of, .. } if of == what), "{error}");
            }
        }
        // A whole product has no workspace.
        assert!(with(At { workspace: 1, ..AT }, 1).is_ok());
        let error = with(At { workspace: 1, ..AT }, 2).unwrap_err();
        assert!(matches!(error, Error::Misaligned { what: "workspace", .. }), "{error}");
    }
    refused::<f16>(Route::Small, problem(MAX_SMALL_TOKENS + 1, 20, 64), "at most 128");
    refused::<f16>(Route::Small, problem(1, 20, 1 << 24), "32 bits");
    assert!(grid(Route::Small, problem(MAX_SMALL_TOKENS, 20, (1 << 24) - 4), 1).is_ok());
    assert!(plan::<i8>(Route::Small, problem(MAX_SMALL_TOKENS, 1, 4)).is_ok());
    assert!(plan::<i8>(Route::Small, problem(MAX_SMALL_TOKENS + 1, 1, 4)).is_err());
    assert!(plan::<i8>(Route::Tile, problem(MAX_SMALL_TOKENS + 1, 1, 4)).is_ok());
    refused::<f16>(Route::Tile, problem(1 << 24, 1 << 24, 4), "32 bits");
}

#[test]
fn libraries_are_not_split() {
    let plan = Plan::<bf16>::by(Route::Dense, &Limits::H200, problem(5, 20, 64), BIAS, Libraries::CUBLASLT).unwrap();
    assert!(matches!(plan.with_splits(2), Err(Error::Unsupported { .. })));
}

#[test]
fn sums_are_of_parts() {
    fn name<T: Factor>() -> String {
        let launches = queued::<T>(Route::Tile, problem(3, 7, 64), 2, AT).unwrap();
        launches[1].symbol.name().to_owned()
    }
    let names = [name::<f16>(), name::<bf16>(), name::<i8>()];
    assert_eq!(names, ["twofour_sparse_sum_f16", "twofour_sparse_sum_bf16", "twofour_sparse_sum_i32"]);
    let plan = plan::<i8>(Route::Tile, problem(3, 7, 64)).unwrap();
    let bytes = [1, 5].map(|splits| plan.with_splits(splits).unwrap().workspace_bytes());
    assert_eq!(bytes, [0, (3 * 7 * 5 * 4_usize).next_multiple_of(256)]);
}

#[test]
fn splits_fill_the_device_and_no_more() {
    let of = |route, tokens, rows, cols| plan::<bf16>(route, problem(tokens, rows, cols)).unwrap().splits();
    // Blocks of 32 rows: 128 of them, or 344, are enough for 132 multiprocessors; a launch more costs more than it gains.
    assert_eq!((of(Route::Small, 1, 4096, 4096), of(Route::Small, 1, 11_008, 4096)), (1, 1));
    // 32 blocks leave most with nothing to do.
    assert!((4..=8).contains(&of(Route::Small, 1, 1024, 8192)), "{}", of(Route::Small, 1, 1024, 8192));
    // Shares have a ring's steps for every warp: 2048 columns.
    assert_eq!((of(Route::Small, 1, 16, 64), of(Route::Small, 1, 16, 4092)), (1, 1));
    // 264 tiles at a time: 1024 are four waves; 128 are half a wave.
    assert_eq!((of(Route::Tile, 4096, 4096, 4096), of(Route::Tile, 512, 4096, 4096)), (1, 2));
    for route in ROUTES {
        assert_eq!((of(route, 0, 0, 0), of(route, 1, 1, 4), of(route, 128, 1 << 24, 1 << 10)), (1, 1, 1));
    }
}

/// No share is empty that need not be, and no number of them is out of a grid's reach.
#[test]
fn any_problem_has_splits() {
    fn check<T: Factor>(route: Route, problem: Problem, limits: &Limits) {
        let plan = Plan::<T>::by(route, limits, problem, BIAS, Libraries::NONE).unwrap();
        let (splits, cols) = (plan.splits(), problem.shape.cols);
        let launch = queued::<T>(route, problem, splits, AT).unwrap()[0];
        assert_eq!(launch.grid[1], splits);
        let share = u32::from_ne_bytes(launch.args.bytes()[60..64].try_into().unwrap()) as usize;
        assert!(share * (splits as usize - 1) < cols && share * splits as usize >= cols);
    }
    for route in ROUTES {
        for tokens in [1, 9, 17, 128] {
            for (rows, cols) in [(1, 1 << 20), (64, 16_384), (777, 5000), (28_672, 8192), (512, 5124), (4, 516)] {
                for limits in [Limits::A100, Limits::H200, Limits { multiprocessors: 0, ..Limits::A100 }] {
                    check::<f16>(route, problem(tokens, rows, cols), &limits);
                    check::<bf16>(route, problem(tokens, rows, cols), &limits);
                    check::<i8>(route, problem(tokens, rows, cols), &limits);
                }
            }
        }
    }
}

/// Kernels count in 32 bits with room for a tile beyond the end, and a grid has fewer than 2³¹ tiles.
#[test]
fn sizes_end_before_32_bits_do() {
    const BEYOND: usize = (1 << 31) - 256;
    let serves = |[tokens, rows, cols]: [usize; 3]| match plan::<i8>(Route::Tile, problem(tokens, rows, cols)) {
        Err(Error::Unsupported { because, .. }) if because.contains("32 bits") => false,
        other => other.map(|_| true).unwrap(),
    };
    for at in 0..3 {
        let sizes = |size| std::array::from_fn(|i| if i == at { size } else { 8 });
        assert!(!serves(sizes(BEYOND)) && serves(sizes(BEYOND - 4)), "{at}");
    }
    assert!(!serves([1 << 22, 1 << 23, 4]) && serves([1 << 22, (1 << 23) - 128, 4]) && serves([1, 1 << 30, 4]));
    let launch = grid(Route::Tile, problem(1 << 22, (1 << 23) - 128, 4), 1).unwrap();
    assert_eq!(launch, [(1 << 31) - (1 << 15), 1, 1]);
}
