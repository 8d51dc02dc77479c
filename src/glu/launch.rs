//! The launches of the `glu` kernels. The structs mirror those of `cuda/glu.cu` and `cuda/glu/neuron.cuh`.

use super::bounds::Bounds;
use super::{Activation, Backward, Forward, Joined, backward, forward, words};
use crate::device::{Launch, Symbol};
use crate::element::Float;
use crate::error::Result;
use crate::pass::{Binder, DeviceSpace, Queue};

mod decode;

pub use decode::MAX_NEURONS;
pub(super) use decode::{decode, workspace_bytes};

/// Threads of a block, which takes a row at a time.
const THREADS: u32 = 256;
/// Such blocks that a multiprocessor holds.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 5;

/// `GluArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct GluArgs {
    gate: u64,
    up: u64,
    dh: u64,
    to_gate: u64,
    to_up: u64,
    mask: u64,
    active: u64,
    lost: u64,
    rows: u64,
    stride: u64,
    to_stride: u64,
    neurons: u32,
    words: u32,
    bounds: BoundsArgs,
    l1: f32,
}
const _: () = assert!(size_of::<GluArgs>() == 120);

/// `Bounds` of `cuda/glu/neuron.cuh`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BoundsArgs {
    from: f32,
    low: f32,
    high: f32,
    both: u32,
    smooth: u32,
}
const _: () = assert!(size_of::<BoundsArgs>() == 20);

impl BoundsArgs {
    fn of(activation: Activation) -> Self {
        let Bounds { from, low, high, both, smooth } = Bounds::new(activation);
        Self { from, low, high, both: both.into(), smooth: smooth.into() }
    }
}

/// Where two arrays of rows are: addresses, and elements from a row to the next.
struct Places {
    gate: u64,
    up: u64,
    stride: usize,
    are_pairs: bool,
}

impl Places {
    const fn apart(gate: u64, up: u64, neurons: usize) -> Self {
        Self { gate, up, stride: neurons, are_pairs: false }
    }

    const fn joined(by: Joined, both: u64, neurons: usize, size: usize) -> Self {
        let (up, are_pairs) = match by {
            Joined::Halves => (both + (neurons * size) as u64, false),
            Joined::Pairs => (both, true),
        };
        Self { gate: both, up, stride: 2 * neurons, are_pairs }
    }
}

fn args(rows: usize, neurons: usize, activation: Activation, from: &Places) -> GluArgs {
    GluArgs {
        gate: from.gate,
        up: from.up,
        dh: 0,
        to_gate: 0,
        to_up: 0,
        mask: 0,
        active: 0,
        lost: 0,
        rows: rows as u64,
        stride: from.stride as u64,
        to_stride: 0,
        neurons: neurons as u32,
        words: words(neurons) as u32,
        bounds: BoundsArgs::of(activation),
        l1: 0.0,
    }
}

fn launch<L: Float>(queue: &mut Queue, variant: &'static str, args: &GluArgs) {
    // Rows of nothing may be more than a device would come to an end of.
    if args.neurons == 0 && args.active == 0 && args.lost == 0 {
        return;
    }
    let blocks = args.rows.min(queue.limits().blocks(BLOCKS_PER_MULTIPROCESSOR).into()) as u32;
    queue.launch(Launch::new(Symbol::new("glu", variant, &[L::DTYPE.name()]), blocks, THREADS, args));
}

/// One kernel.
pub(super) fn forward<'g, S: DeviceSpace, L: Float>(
    pass: &'g mut Forward<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (neurons, size) = (pass.neurons, L::DTYPE.size());
    let (from, h) = match &mut pass.operands {
        forward::Operands::Apart { gate, up, h } => {
            let (gate, up) = (binder.input("gate", gate)?.address, binder.input("up", up)?.address);
            (Places::apart(gate, up, neurons), binder.output("h", h)?.address)
        }
        forward::Operands::OverUp { gate, up } => {
            let (gate, up) = (binder.input("gate", gate)?.address, binder.output("up", up)?.address);
            (Places::apart(gate, up, neurons), up)
        }
        forward::Operands::Joined { by, both, h } => {
            let both = binder.input("gate and up", both)?.address;
            (Places::joined(*by, both, neurons, size), binder.output("h", h)?.address)
        }
    };
    let args = GluArgs {
        to_up: h,
        to_stride: neurons as u64,
        mask: binder.output_if("mask", &mut pass.mask)?,
        active: binder.output_if("active", &mut pass.active)?,
        lost: binder.output_if("lost", &mut pass.lost)?,
        ..args(pass.tokens, neurons, pass.activation, &from)
    };
    launch::<L>(queue, if from.are_pairs { "forward_pairs" } else { "forward" }, &args);
    Ok(())
}

/// One kernel.
pub(super) fn backward<'g, S: DeviceSpace, L: Float>(
    pass: &'g mut Backward<'_, S, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (neurons, size) = (pass.neurons, L::DTYPE.size());
    let (from, to) = match &mut pass.operands {
        backward::Operands::Apart { gate, up, dgate, dup } => {
            let (gate, up) = (binder.input("gate", gate)?.address, binder.input("up", up)?.address);
            let (dgate, dup) = (binder.output("dgate", dgate)?.address, binder.output("dup", dup)?.address);
            (Places::apart(gate, up, neurons), Places::apart(dgate, dup, neurons))
        }
        backward::Operands::Over { gate, up } => {
            let (gate, up) = (binder.output("gate", gate)?.address, binder.output("up", up)?.address);
            (Places::apart(gate, up, neurons), Places::apart(gate, up, neurons))
        }
        backward::Operands::Joined { by, both, gradient } => {
            let (both, to) = (binder.input("gate and up", both)?.address, binder.output("gradient", gradient)?.address);
            (Places::joined(*by, both, neurons, size), Places::joined(*by, to, neurons, size))
        }
        backward::Operands::OverJoined { by, both } => {
            let both = binder.output("gate and up", both)?.address;
            (Places::joined(*by, both, neurons, size), Places::joined(*by, both, neurons, size))
        }
    };
    let args = GluArgs {
        dh: binder.input("dh", &pass.dh)?.address,
        to_gate: to.gate,
        to_up: to.up,
        to_stride: to.stride as u64,
        mask: binder.input_if("mask", &pass.mask)?,
        l1: pass.l1,
        ..args(pass.tokens, neurons, pass.activation, &from)
    };
    launch::<L>(queue, if from.are_pairs { "backward_pairs" } else { "backward" }, &args);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("glu.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        for variant in ["forward", "forward_pairs", "backward", "backward_pairs"] {
            let bounds = cuda.bounds(&format!("twofour_glu_{variant}_T"));
            assert_eq!(bounds, [THREADS, BLOCKS_PER_MULTIPROCESSOR].map(u64::from), "{variant}");
        }
    }
}
