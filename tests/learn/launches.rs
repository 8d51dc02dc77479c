//! Launches: grids, errors, and addresses that no 32 bits hold.

use crate::common::emulator::launches;
use twofour::device::Limits;
use twofour::learn::{AdamW, Clip, Fused, Measure, Moments, NORM_SLOTS, Norm, Prior, Rounding, Statistics};
use twofour::learn::{Step, Update};
use twofour::mask::{Kind, Sampling};
use twofour::pass::Pass;
use twofour::space::{Raw, RawSlice};
use twofour::{Error, Shape, Shard, bf16};

const BY: AdamW = AdamW { rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 1 };
const SAMPLING: Sampling = Sampling { seed: 1, draw: 2, kappa: 100.0, tau: 4.0 };

fn at<T>(address: u64, elements: usize) -> RawSlice<T> {
    RawSlice::new(address, elements)
}

fn eight(shape: Shape) -> Step<'static, Raw> {
    let (logits, scales) = (shape.logits(), Moments::scales(shape));
    Step::new(BY, Moments::eight(at(1 << 50, logits), at(1 << 51, logits), at(1 << 52, scales)))
}

fn fused(shape: Shape) -> Fused<'static, Raw, bf16, bf16, bf16> {
    let (weight, gradient) = (at(1 << 41, shape.weights()), at(1 << 42, shape.weights()));
    Fused::new(shape, Kind::Soft, SAMPLING, at(1 << 40, shape.logits()), weight, gradient, eight(shape))
}

/// The blocks of each launch.
fn blocks(limits: Limits, pass: impl Pass<Raw>) -> Vec<u32> {
    launches(limits, pass).unwrap().iter().map(|launch| launch.grid[0]).collect()
}

#[test]
fn grids_fit_the_device() {
    let shape = Shape::new(32_768, 32_768);
    let lean = launches(Limits::H200, fused(shape)).unwrap();
    assert_eq!((lean.len(), lean[0].grid, lean[0].threads), (1, [132 * 2, 1, 1], 256));
    assert_eq!(lean[0].symbol.name(), "twofour_learn_fused_bf16_u8_bf16_bf16");
    let counted = |limits| launches(limits, fused(shape).statistics(at(1 << 60, Statistics::SLOTS))).unwrap();
    let [h200, a100] = [Limits::H200, Limits::A100].map(counted);
    assert_eq!(h200, a100, "sums come out the same on every device");
    let grids: Vec<_> = h200.iter().map(|launch| launch.grid).collect();
    assert_eq!(grids, [[Statistics::SLOTS as u32 - 1, 1, 1], [1, 1, 1]]);
    let measured = Measure::new(
        shape,
        Kind::Hard,
        SAMPLING,
        at::<f32>(1 << 40, shape.logits()),
        at::<bf16>(1 << 41, shape.weights()),
        at::<f32>(1 << 42, shape.weights()),
        at(1 << 43, NORM_SLOTS),
    );
    assert_eq!(blocks(Limits::H200, measured), [NORM_SLOTS as u32 - 1, 1]);
    assert_eq!(blocks(Limits::H200, fused(Shape::new(1, 4 * 513))), [2], "512 groups a block");
    assert_eq!(blocks(Limits::H200, fused(Shape::new(0, 8))), [1]);
}

#[test]
fn misaligned_addresses_are_refused() {
    fn error(pass: impl Pass<Raw>) -> Error {
        launches(Limits::A100, pass).unwrap_err()
    }
    let shape = Shape::new(2, 8);
    for offset in [1, 2, 4, 8] {
        let misaligned = |what| Error::Misaligned { what, address: 1024 + offset, align: 16 };
        fn bad<T>(offset: u64, elements: usize) -> RawSlice<T> {
            at(1024 + offset, elements)
        }
        let update = |gradient, logits: RawSlice<bf16>, step| {
            Update::new(shape, gradient, logits, step).rounding(Rounding { seed: 0, draw: 0 })
        };
        let step = |moments| update(at(64, 24), at(128, 24), Step::new(BY, moments));
        let good = || update(at(64, 24), at(128, 24), eight(shape));
        assert_eq!(error(update(bad(offset, 24), at(128, 24), eight(shape))), misaligned("gradient"));
        assert_eq!(error(update(at(64, 24), bad(offset, 24), eight(shape))), misaligned("logits"));
        assert_eq!(error(step(Moments::eight(at(64, 24), bad(offset, 24), at(64, 2)))), misaligned("v"));
        assert_eq!(error(step(Moments::eight(at(64, 24), at(64, 24), bad(offset, 2)))), misaligned("scales"));
        assert_eq!(error(step(Moments::f32(bad(offset, 24), at(64, 24)))), misaligned("m"));
        let factored = update(at(64, 24), at(128, 24), eight(shape).factor(bad(offset, 1)));
        assert_eq!(error(factored), misaligned("factor"));
        assert_eq!(error(good().norm_squares(bad(offset, NORM_SLOTS))), misaligned("norm_squares"));
        assert_eq!(error(good().statistics(bad(offset, Statistics::SLOTS))), misaligned("statistics"));
        assert!(launches(Limits::A100, good()).is_ok());
        assert_eq!(error(Prior::new(shape, bad(offset, 2), 1.0, at::<f32>(64, 24))), misaligned("codes"));
        assert_eq!(error(Norm::new(shape, bad(offset, 24), at(64, NORM_SLOTS))), misaligned("gradient"));
        let clip = Clip::new(1.0, at(64, NORM_SLOTS), at(64, 1)).norm(bad(offset, 1));
        assert_eq!(error(clip), misaligned("norm"));
    }
}

#[test]
fn rows_that_cannot_be_counted_are_refused() {
    let shape = Shape::new(1, 1 << 33);
    let part = Shard { row_offset: 0, col_offset: 0, global_cols: 1 << 34 };
    let expected = Error::Overflow { what: "a row", rows: 1, cols: 1 << 33 };
    assert_eq!(launches(Limits::A100, fused(shape).shard(part)), Err(expected));
    assert!(launches(Limits::A100, fused(shape)).is_ok());
}
