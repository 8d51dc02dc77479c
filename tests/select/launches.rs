//! The launches, as plain data.

use crate::common::emulator::launches;
use twofour::device::{Launch, Limits};
use twofour::select::{ByScore, Squares, Statistics, Swaps, Sweep};
use twofour::space::RawSlice;
use twofour::{Error, Shape, bf16, f16};

fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
    RawSlice::new(address, elements)
}

#[test]
fn grids_fit_the_device() {
    let shape = Shape::new(32_768, 32_768);
    let by_magnitude = || ByScore::magnitude(shape, at::<bf16>(1 << 40, shape.weights()));
    let lean = launches(Limits::H200, by_magnitude().codes(at(1 << 50, shape.packed_codes()))).unwrap();
    assert_eq!(lean.iter().map(|launch| launch.grid).collect::<Vec<_>>(), [[132 * 8, 1, 1]]);
    let counted = |limits| launches(limits, by_magnitude().statistics(at(1 << 50, Statistics::SLOTS))).unwrap();
    let [h200, a100] = [Limits::H200, Limits::A100].map(counted);
    assert_eq!(h200, a100, "sums come out the same on every device");
    let grids: Vec<_> = h200.iter().map(|launch| launch.grid).collect();
    assert_eq!(grids, [[Statistics::SLOTS as u32 - 1, 1, 1], [1, 1, 1]]);
}

fn names(launches: &[Launch]) -> Vec<&str> {
    launches.iter().map(|launch| &launch.symbol.name()["twofour_select_".len()..]).collect()
}

#[test]
fn a_sweep_is_so_many_launches() {
    let shape = Shape::new(1000, 300);
    let sweep = |workspace| {
        let (upper, scale) = (at(1 << 30, 90_000), at(1 << 40, 300));
        let pass = Sweep::new(shape, at::<f16>(1 << 20, shape.weights()), upper, scale);
        launches(Limits::A100, pass.patterns(at(1 << 45, shape.groups())).workspace(at(1 << 50, workspace)))
    };
    let needed = Sweep::workspace_bytes(shape);
    assert_eq!(needed, 4 * (300_000 + 128_000 + 18_750));
    let steps = sweep(needed).unwrap();
    assert_eq!(names(&steps), ["widen_f16", "sweep", "make_up", "sweep", "make_up", "sweep", "finish_f16"]);
    let grids: Vec<u32> = steps.iter().map(|step| step.grid[0]).collect();
    assert_eq!(grids, [147, 125, 16, 125, 8, 125, 147]);
    assert!(steps.iter().all(|step| step.shared_bytes <= Limits::A100.max_shared_bytes));
    assert_eq!(sweep(needed - 1), Err(Error::Workspace { needed: needed as u64, got: needed as u64 - 1 }));
}

#[test]
fn swaps_are_so_many_launches() {
    let shape = Shape::new(3000, 300);
    let swaps = |workspace| {
        let (hessian, codes) = (at(1 << 30, 90_000), at(1 << 40, shape.packed_codes()));
        Swaps::new(shape, at::<f16>(1 << 20, shape.weights()), hessian, codes).workspace(at(1 << 50, workspace))
    };
    let needed = Swaps::workspace_bytes(shape);
    assert_eq!(needed, 4 * 900_000 + 75 * 48 + 225_000);
    let steps = launches(Limits::A100, swaps(needed).codes(at(1 << 45, shape.packed_codes()))).unwrap();
    assert_eq!(names(&steps), ["swap_groups", "swap_product_f16", "swap_f16", "swap_finish_f16"]);
    assert_eq!(steps.iter().map(|step| step.grid[0]).collect::<Vec<_>>(), [1, 24 * 3, 108 * 8, 440]);
    let lean = launches(Limits::A100, swaps(needed).patterns(at(1 << 45, shape.groups()))).unwrap();
    assert_eq!(names(&lean), names(&steps)[..3]);
    let short = launches(Limits::A100, swaps(needed - 1).patterns(at(1 << 45, shape.groups())));
    assert_eq!(short, Err(Error::Workspace { needed: needed as u64, got: needed as u64 - 1 }));
}

/// 2³¹ blocks are more than a grid has, one less is as many as it has.
#[test]
fn grids_that_are_too_large_are_refused() {
    let squares = |tokens: usize| {
        let cols = 128 << 10;
        let pass = Squares::new(tokens, cols, at::<f32>(64, tokens * cols), at(128, cols));
        launches(Limits::A100, pass.workspace(at(256, Squares::workspace_bytes(tokens, cols))))
    };
    assert!(matches!(squares(128 << 21), Err(Error::Overflow { what: "x", .. })));
    assert_eq!(squares((128 << 21) - 128).unwrap()[0].grid, [(1 << 31) - (1 << 10), 1, 1]);
    let sweep = |rows: usize| {
        let shape = Shape::new(rows, 256);
        let pass = Sweep::new(shape, at::<f16>(64, shape.weights()), at(64, 256 * 256), at(64, 256));
        launches(
            Limits::A100,
            pass.codes(at(64, shape.packed_codes())).workspace(at(64, Sweep::workspace_bytes(shape))),
        )
    };
    assert!(matches!(sweep(128 << 31), Err(Error::Overflow { what: "the weight", .. })));
    assert_eq!(sweep((128 << 31) - 128).unwrap()[2].grid, [i32::MAX as u32, 1, 1]);
}
