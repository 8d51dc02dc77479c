//! The launches of a decode: the gate's rows, up's rows, and down's. The structs mirror those of `cuda/glu_rows.cu`,
//! `cuda/glu_down.cu` and `cuda/glu/active.cuh`.
//!
//! Kernels leave for each other, in the workspace, gates and h `[f, padded tokens]`, and of each neuron three bytes: for
//! which tokens its gate is on, for which it is on, for which it is no number. Each goes over the neurons that the one
//! before it has left a bit of, and writes all bytes; nothing is read back, and nothing need be cleared.

use super::super::neurons::{Form, Neurons};
use super::super::{Decode, Route, words};
use super::BoundsArgs;
use crate::device::{Launch, Symbol};
use crate::element::{DType, Factor, Float};
use crate::error::{Error, Result, unsupported};
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::space::Array;

/// The most neurons of a decode on a device.
pub const MAX_NEURONS: usize = 1 << 16;

/// `twofour_glu_rows_*`: threads of a block.
const ROWS_THREADS: u32 = 256;
/// `twofour_glu_down_*`: threads of a block, its columns, and neurons that it lists at a time.
const DOWN_THREADS: u32 = 384;
const DOWN_COLUMNS: usize = 32;
const DOWN_LISTED: usize = 4096;

/// `Which`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct WhichArgs {
    given: u64,
    on: u64,
    tokens: u32,
    neurons: u32,
    words: u32,
    whole: u32,
}
const _: () = assert!(size_of::<WhichArgs>() == 32);

/// `GluRowsArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct RowsArgs {
    x: u64,
    weight: u64,
    codes: u64,
    which: WhichArgs,
    gate: u64,
    h: u64,
    on: u64,
    lost: u64,
    width: u32,
    bounds: BoundsArgs,
}
const _: () = assert!(size_of::<RowsArgs>() == 112);

/// `GluDownArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct DownArgs {
    weight: u64,
    codes: u64,
    h: u64,
    by_gate: u64,
    of_lost: u64,
    y: u64,
    mask: u64,
    lost: u64,
    rows: u64,
    which: WhichArgs,
    width: u32,
    accumulate: u32,
}
const _: () = assert!(size_of::<DownArgs>() == 112);

/// Tokens that a kernel is made for.
const fn padded(tokens: usize) -> usize {
    match tokens {
        0 | 1 => 1,
        2..=4 => 4,
        _ => 8,
    }
}

/// Blocks of `twofour_glu_rows_*` that a multiprocessor holds.
const fn rows_blocks(tokens: usize) -> u32 {
    if padded(tokens) == 1 { 3 } else { 2 }
}

/// Where what is in the workspace begins: gates, h, and the three bytes; and where it ends.
const fn places(tokens: usize, neurons: usize) -> [usize; 6] {
    let floats = (neurons * padded(tokens) * size_of::<f32>()).next_multiple_of(16);
    let bytes = 32 * words(neurons);
    let flags = 2 * floats;
    [0, floats, flags, flags + bytes, flags + 2 * bytes, flags + 3 * bytes]
}

pub(in super::super) const fn workspace_bytes(tokens: usize, neurons: usize) -> usize {
    places(tokens, neurons)[5]
}

/// A weight's addresses, and what kernels that read it are called after.
struct Bound {
    weight: u64,
    codes: u64,
    is_kept: bool,
}

impl Bound {
    fn new<'g, S: DeviceSpace, L: Float>(
        weight: &'g Neurons<'_, S, L>,
        name: &'static str,
        binder: &mut Binder<'g, S>,
    ) -> Result<Self> {
        Ok(match &weight.form {
            Form::Dense(weight) => Self { weight: binder.input(name, weight)?.address, codes: 0, is_kept: false },
            Form::Kept { values, codes, .. } => {
                let (weight, codes) = (binder.input(name, values)?.address, binder.input("codes", codes)?.address);
                Self { weight, codes, is_kept: true }
            }
        })
    }

    fn symbol<L: Float>(&self, file: &'static str, variants: [&'static str; 2], tokens: usize) -> Symbol {
        let count = match padded(tokens) {
            1 => "1",
            4 => "4",
            _ => "8",
        };
        Symbol::new(file, variants[usize::from(self.is_kept)], &[L::DTYPE.name(), count])
    }
}

/// Up to three kernels.
pub(in super::super) fn decode<'g, S: DeviceSpace, L: Float + Factor>(
    pass: &'g mut Decode<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let missing = Error::Missing { what: "a decode on a device", missing: "no plan was given" };
    let (plan, tokens, [width, neurons]) = (pass.plan.ok_or(missing)?, pass.tokens, pass.weights.size);
    if L::DTYPE == DType::F32 {
        return Err(unsupported("decode of f32 on a device", "its kernels read f16 and bf16"));
    }
    if neurons > MAX_NEURONS {
        return Err(Error::Overflow { what: "neurons of a decode", rows: neurons as u64, cols: width as u64 });
    }
    let (needed, got) = (plan.workspace_bytes(), pass.workspace.as_ref().map_or(0, Array::elements));
    if got < needed {
        return Err(Error::Workspace { needed: needed as u64, got: got as u64 });
    }
    let gate = Bound::new(&pass.weights.gate, "gate", binder)?;
    let up = Bound::new(&pass.weights.up, "up", binder)?;
    let down = Bound::new(&pass.weights.down, "down", binder)?;
    let x = binder.input("x", &pass.x)?.address;
    let y = binder.output("y", &mut pass.y)?.address;
    let given = binder.input_if("given", &pass.given)?;
    let mask = binder.output_if("mask", &mut pass.mask)?;
    let lost = binder.output_if("lost", &mut pass.lost)?;
    let rows = binder.output_if("rows", &mut pass.rows)?;
    let workspace = binder.output_if("workspace", &mut pass.workspace)?;
    if tokens == 0 {
        return Ok(());
    }
    let [gates, h, gate_on, on, of_lost, _] = places(tokens, neurons).map(|place| workspace + place as u64);
    let which = |on| WhichArgs {
        given,
        on,
        tokens: tokens as u32,
        neurons: neurons as u32,
        words: words(neurons) as u32,
        whole: u32::from(plan.route() == Route::Whole),
    };
    let of_rows = |weight: &Bound, before, h, on| RowsArgs {
        x,
        weight: weight.weight,
        codes: weight.codes,
        which: which(before),
        gate: gates,
        h,
        on,
        lost: of_lost,
        width: width as u32,
        bounds: BoundsArgs::of(pass.activation),
    };
    // Of each 32 neurons their bits, and how many there are before.
    let words_bytes = (8 * words(neurons)) as u32;
    // A warp takes a row at least.
    let warps = ROWS_THREADS / 32;
    let blocks = queue.limits().blocks(rows_blocks(tokens)).min((neurons as u32).div_ceil(warps));
    for (weight, args) in [(&gate, of_rows(&gate, 0, 0, gate_on)), (&up, of_rows(&up, gate_on, h, on))] {
        let symbol = weight.symbol::<L>("glu_rows", ["rows", "rows_kept"], tokens);
        queue.launch(Launch::new(symbol, blocks, ROWS_THREADS, &args).shared_bytes(words_bytes));
    }
    let args = DownArgs {
        weight: down.weight,
        codes: down.codes,
        h,
        by_gate: gate_on,
        of_lost,
        y,
        mask,
        lost,
        rows,
        which: which(on),
        width: width as u32,
        accumulate: pass.accumulate.into(),
    };
    let symbol = down.symbol::<L>("glu_down", ["down", "down_kept"], tokens);
    // One that says what was done, be there no column.
    let blocks = width.div_ceil(DOWN_COLUMNS).max(1) as u32;
    let sums_bytes = DOWN_THREADS as usize / 32 * padded(tokens) * DOWN_COLUMNS * size_of::<f32>();
    let shared_bytes = words_bytes + (sums_bytes + DOWN_LISTED * size_of::<u16>()) as u32;
    queue.launch(Launch::new(symbol, blocks, DOWN_THREADS, &args).shared_bytes(shared_bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let (rows, down, active) = (Cuda::read("glu_rows.cu"), Cuda::read("glu_down.cu"), Cuda::read("glu/active.cuh"));
        assert_eq!(rows.constant("kThreads"), u64::from(ROWS_THREADS));
        assert_eq!(
            ["kBlocksOfOne", "kBlocksOfMore"].map(|name| rows.constant(name)),
            [1, 2].map(|n| rows_blocks(n).into())
        );
        assert_eq!(down.constant("kThreads"), u64::from(DOWN_THREADS));
        assert_eq!(down.constant("kColumns"), DOWN_COLUMNS as u64);
        assert_eq!(down.constant("kListed"), DOWN_LISTED as u64);
        assert_eq!(active.constant("kMaxNeurons"), MAX_NEURONS as u64);
    }
}
