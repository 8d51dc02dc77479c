//! The launches of the `mask` kernels. The structs mirror those of `cuda/mask.cu`.

use super::{Backward, Forward, GradientOf, Kind};
use crate::device::{Launch, Limits, Symbol};
use crate::element::{DType, Float, Logit};
use crate::error::Result;
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::sample::launch::{Differentiation, SamplingArgs};
use crate::sample::walk::{self, THREADS, Walk};
use crate::sample::{Source, statistics};
use crate::shape::Shape;

/// Blocks a multiprocessor holds at once of the kernels that write the masked weight alone, and of the others with
/// `f32` logits; more would only load the noise table again.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 4;
/// The same of the others with `bf16` logits, of which a thread takes twice as many groups.
const BLOCKS_OF_BF16: u32 = 2;

/// `MaskForwardArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct ForwardArgs {
    logits: u64,
    weight: u64,
    masked: u64,
    mask: u64,
    patterns: u64,
    codes: u64,
    previous_codes: u64,
    statistics: u64,
    walk: Walk,
    sampling: SamplingArgs,
    kind: u32,
    unused: u32,
}
const _: () = assert!(size_of::<ForwardArgs>() == 216);

/// `MaskFrozenArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct FrozenArgs {
    weight: u64,
    codes: u64,
    masked: u64,
    groups: u64,
}
const _: () = assert!(size_of::<FrozenArgs>() == 32);

/// `MaskBackwardArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BackwardArgs {
    logits: u64,
    weight: u64,
    gradient: u64,
    logit_gradient: u64,
    weight_gradient: u64,
    walk: Walk,
    by: Differentiation,
    accumulate: u32,
    unused: u32,
}
const _: () = assert!(size_of::<BackwardArgs>() == 200);

/// Groups a thread takes at a time: those whose logits are 48 bytes.
const fn chunk(logits: DType) -> u64 {
    8 / logits.size() as u64
}

/// How many blocks walk over a weight on this device.
fn blocks(shape: Shape, logits: DType, is_lean: bool, limits: &Limits) -> u32 {
    let each = if is_lean || logits == DType::F32 { BLOCKS_PER_MULTIPROCESSOR } else { BLOCKS_OF_BF16 };
    walk::blocks(shape, chunk(logits), limits.blocks(each))
}

pub(super) fn forward<'g, S: DeviceSpace, L: Logit, W: Float>(
    pass: &'g mut Forward<'_, S, L, W>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (shape, types, only_masked) = (pass.shape, [L::DTYPE.name(), W::DTYPE.name()], pass.only_masked());
    let weight = binder.input_if("weight", &pass.weight)?;
    let masked = binder.output_if("masked", &mut pass.masked)?;
    let (kind, sampling, logits) = match &pass.source {
        Source::Sampled { kind, sampling, logits } => (*kind, sampling, binder.input("logits", logits)?.address),
        Source::Frozen { codes } => {
            let (codes, groups) = (binder.input("codes", codes)?.address, shape.groups() as u64);
            // A thread for each two groups, in at most the blocks a grid may have: the kernel steps by the grid.
            let blocks = groups.div_ceil(2).div_ceil(u64::from(THREADS)).min(1 << 20) as u32;
            let args = FrozenArgs { weight, codes, masked, groups };
            queue.launch(Launch::new(Symbol::new("mask_frozen", "frozen", &types[1..]), blocks, THREADS, &args));
            return Ok(());
        }
    };
    let counts = pass.statistics.is_some();
    let is_lean = only_masked && kind != Kind::Argmax;
    let blocks = match counts {
        true => walk::blocks(shape, chunk(L::DTYPE), statistics::MAX_BLOCKS),
        false => blocks(shape, L::DTYPE, is_lean, queue.limits()),
    };
    let shares = binder.output_if("statistics", &mut pass.statistics)?;
    let args = ForwardArgs {
        logits,
        weight,
        masked,
        mask: binder.output_if("mask", &mut pass.mask)?,
        patterns: binder.output_if("patterns", &mut pass.patterns)?,
        codes: binder.output_if("codes", &mut pass.codes)?,
        previous_codes: binder.input_if("previous_codes", &pass.previous_codes)?,
        statistics: shares,
        walk: Walk::new(shape, &pass.shard, chunk(L::DTYPE), u64::from(blocks) * u64::from(THREADS))?,
        sampling: SamplingArgs::new(sampling),
        kind: match kind {
            Kind::Soft => 0,
            Kind::Hard => 1,
            Kind::Argmax => 2,
        },
        unused: 0,
    };
    let variant = match kind {
        Kind::Soft if is_lean => "soft",
        Kind::Hard if is_lean => "hard",
        _ => "full",
    };
    queue.launch(Launch::new(Symbol::new("mask", variant, &types), blocks, THREADS, &args));
    if counts {
        queue.launch(statistics::add_up("mask", shares, blocks));
    }
    Ok(())
}

pub(super) fn backward<'g, S: DeviceSpace, L: Logit, W: Float, G: GradientOf<W>>(
    pass: &'g mut Backward<'_, S, L, W, G>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let blocks = blocks(pass.shape, L::DTYPE, false, queue.limits());
    let args = BackwardArgs {
        logits: binder.input("logits", &pass.logits)?.address,
        weight: binder.input("weight", &pass.weight)?.address,
        gradient: binder.input("gradient", &pass.gradient)?.address,
        logit_gradient: binder.output_if("logit_gradient", &mut pass.logit_gradient)?,
        weight_gradient: binder.output_if("weight_gradient", &mut pass.weight_gradient)?,
        walk: Walk::new(pass.shape, &pass.shard, chunk(L::DTYPE), u64::from(blocks) * u64::from(THREADS))?,
        by: Differentiation::new(&pass.sampling, pass.regulariser),
        accumulate: u32::from(pass.accumulate),
        unused: 0,
    };
    let variant = if pass.kind == Kind::Hard { "backward_hard" } else { "backward_soft" };
    let symbol = Symbol::new("mask", variant, &[L::DTYPE, W::DTYPE, G::DTYPE].map(DType::name));
    queue.launch(Launch::new(symbol, blocks, THREADS, &args));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        let cuda = Cuda::read("mask.cu");
        assert_eq!(u64::from(THREADS), cuda.constant("kThreads"));
        assert_eq!(u64::from(BLOCKS_PER_MULTIPROCESSOR), cuda.constant("kBlocksLean"));
        let others = [2, 4].map(|logits| cuda.constant_of("kBlocks", &[("sizeof(L)", logits)]));
        assert_eq!(others, [BLOCKS_OF_BF16, BLOCKS_PER_MULTIPROCESSOR].map(u64::from));
        assert_eq!(u64::from(THREADS), Cuda::read("mask_frozen.cu").bounds("twofour_mask_frozen_W")[0]);
    }
}
