//! Launches: grids, errors, and addresses that no 32 bits hold.

use twofour::device::Limits;
use twofour::learn::{
    AdamW, Clip, Fused, Gradient, Initial, Measure, NORM_SLOTS, Norm, Prior, Rounding, State, Statistics,
};
use twofour::learn::{Step, Update};
use twofour::mask::{Kind, Sampling};
use twofour::space::{Raw, RawSlice};
use twofour::{Error, Shape, Shard, bf16};
use twofour_emulator::{Buffer, Kernel, Options};

const BY: AdamW = AdamW { rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 1 };
const SAMPLING: Sampling = Sampling { seed: 1, draw: 2, kappa: 100.0, tau: 4.0 };

fn at(address: u64, elements: usize) -> RawSlice {
    RawSlice { address, elements }
}

fn eight(shape: Shape) -> Step<'static, Raw> {
    let (logits, scales) = (shape.logits(), State::<Raw>::scales(shape));
    Step::new(BY, State::eight(at(1 << 50, logits), at(1 << 51, logits), at(1 << 52, scales)))
}

fn fused(shape: Shape) -> Fused<'static, Raw, bf16, bf16, bf16> {
    let operands = [at(1 << 40, shape.logits()), at(1 << 41, shape.weights()), at(1 << 42, shape.weights())];
    Fused::new(shape, Kind::Soft, SAMPLING, operands[0], operands[1], operands[2], eight(shape))
}

#[test]
fn grids_fit_the_device() {
    let shape = Shape::new(32_768, 32_768);
    let lean = fused(shape).launch(&Limits::H200).unwrap();
    assert_eq!((lean.pass.grid, lean.pass.block, lean.finish), ([132 * 2, 1, 1], [256, 1, 1], None));
    assert_eq!(lean.pass.symbol.name, "twofour_learn_fused_bf16_u8_bf16_bf16");
    let counted = || fused(shape).statistics(at(1 << 60, Statistics::SLOTS));
    let [h200, a100] = [Limits::H200, Limits::A100].map(|limits| counted().launch(&limits).unwrap());
    assert_eq!(h200, a100, "sums come out the same on every device");
    assert_eq!((h200.pass.grid[0] as usize + 1, h200.finish.unwrap().grid), (Statistics::SLOTS, [1, 1, 1]));
    let measured = Measure::<Raw, f32, bf16, f32>::new(
        shape,
        Kind::Hard,
        SAMPLING,
        at(1 << 40, shape.logits()),
        at(1 << 41, shape.weights()),
        at(1 << 42, shape.weights()),
        at(1 << 43, NORM_SLOTS),
    );
    let measured = measured.launch(&Limits::H200).unwrap();
    assert_eq!((measured.pass.grid[0] as usize + 1, measured.finish.is_some()), (NORM_SLOTS, true));
    let small = fused(Shape::new(1, 4 * 513)).launch(&Limits::H200).unwrap();
    assert_eq!(small.pass.grid, [2, 1, 1], "512 groups a block");
    let none = fused(Shape::new(0, 8)).launch(&Limits::H200).unwrap();
    assert_eq!(none.pass.grid, [1, 1, 1]);
}

#[test]
fn misaligned_addresses_are_refused() {
    let shape = Shape::new(2, 8);
    let misaligned = |what, address| Error::Misaligned { what, address, align: 16 };
    let operands = [at(64, 24), at(128, 24)];
    for offset in [1, 2, 4, 8] {
        let bad = |elements| at(1024 + offset, elements);
        let update = |gradient, logits, step| {
            let args = Update::<Raw, bf16>::new(shape, Gradient::Read(gradient), logits, step);
            args.rounding(Rounding { seed: 0, draw: 0 })
        };
        let error = |args: Update<'_, Raw, bf16>| args.launch(&Limits::A100).unwrap_err();
        let good = || update(operands[0], operands[1], eight(shape));
        assert_eq!(error(update(bad(24), operands[1], eight(shape))), misaligned("gradient", 1024 + offset));
        assert_eq!(error(update(operands[0], bad(24), eight(shape))), misaligned("logits", 1024 + offset));
        let state = State::eight(at(64, 24), bad(24), at(64, 2));
        assert_eq!(error(update(operands[0], operands[1], Step::new(BY, state))), misaligned("v", 1024 + offset));
        let state = State::eight(at(64, 24), at(64, 24), bad(2));
        assert_eq!(error(update(operands[0], operands[1], Step::new(BY, state))), misaligned("scales", 1024 + offset));
        let state = State::f32(bad(24), at(64, 24));
        assert_eq!(error(update(operands[0], operands[1], Step::new(BY, state))), misaligned("m", 1024 + offset));
        let factored = update(operands[0], operands[1], eight(shape).factor(bad(1)));
        assert_eq!(error(factored), misaligned("factor", 1024 + offset));
        assert_eq!(error(good().norm_squares(bad(NORM_SLOTS))), misaligned("norm_squares", 1024 + offset));
        assert_eq!(error(good().statistics(bad(Statistics::SLOTS))), misaligned("statistics", 1024 + offset));
        assert!(good().launch(&Limits::A100).is_ok());
        let codes = Prior::<Raw, f32>::new(shape, bad(2), 1.0, operands[0]).launch(&Limits::A100);
        assert_eq!(codes, Err(misaligned("codes", 1024 + offset)));
        let norm = Norm::<Raw>::new(shape, bad(24), at(64, NORM_SLOTS)).launch(&Limits::A100);
        assert_eq!(norm, Err(misaligned("gradient", 1024 + offset)));
        let clip = Clip::<Raw>::new(1.0, at(64, NORM_SLOTS), at(64, 1)).norm(bad(1)).launch();
        assert_eq!(clip, Err(misaligned("norm", 1024 + offset)));
    }
}

#[test]
fn rows_that_cannot_be_counted_are_refused() {
    let shape = Shape::new(1, 1 << 33);
    let part = Shard { row_offset: 0, col_offset: 0, global_cols: 1 << 34 };
    let expected = Error::Overflow { what: "a row", rows: 1, cols: 1 << 33 };
    assert_eq!(fused(shape).shard(part).launch(&Limits::A100), Err(expected));
    assert!(fused(shape).launch(&Limits::A100).is_ok());
}

/// A weight of 2³³ elements: the last block's logits are those of the rows that it has, made alone.
#[test]
fn addresses_beyond_32_bits_are_right() {
    let shape = Shape::new(1 << 17, 1 << 16);
    let logits = Buffer::reserve("logits", shape.logits() * 2).unwrap();
    // A device of so many processors that each thread takes one chunk.
    let wide = Limits { multiprocessors: 1 << 23, ..Limits::H200 };
    let plan = Initial::<Raw, bf16>::new(shape, 9, 1.0, at(logits.address(), shape.logits())).launch(&wide).unwrap();
    assert_eq!(u64::from(plan.grid[0]) * 256 * 2, shape.groups() as u64);
    let launch = twofour_emulator::Launch {
        kernel: Kernel::find(plan.symbol.name).unwrap(),
        grid: plan.grid,
        block: plan.block,
        shared_bytes: plan.shared_bytes,
        args: bytemuck::bytes_of(&plan.args),
    };
    let last = u64::from(plan.grid[0] - 1);
    twofour_emulator::run(&launch, &Options { blocks: Some(last..last + 1), ..Options::default() }).unwrap();
    let row = Shape::new(1, shape.cols);
    let shard = Shard { row_offset: shape.rows as u64 - 1, ..Shard::whole(shape.cols as u64) };
    let mut expected = vec![bf16::ZERO; row.logits()];
    let args = twofour::learn::cpu::Initial::new(row, 9, 1.0, &mut expected).shard(shard);
    twofour::learn::cpu::initial_into(args).unwrap();
    let of_block = 6 * 512;
    let end = expected.len() - of_block;
    let expected: Vec<u16> = expected[end..].iter().map(|logit| logit.to_bits()).collect();
    assert_eq!(logits.values_at::<u16>((shape.logits() - of_block) * 2, of_block), expected);
    assert_eq!(logits.values_at::<u16>((shape.logits() - of_block - 8) * 2, 8), [0; 8], "the block before has not run");
}
