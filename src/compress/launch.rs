//! The launches of the `compress` kernels. The structs mirror those of `cuda/compress.cu`, `cuda/compress_unpack.cu`
//! and `cuda/compress/patch.cuh`.

use super::layout::Layout;
use super::value::Sparsity;
use super::{Choice, Pack, Reorder, Unpack};
use crate::device::ALIGN;
use crate::device::{Launch, Limits, Symbol};
use crate::element::{DType, Element, Logit};
use crate::error::Result;
use crate::noise;
use crate::pass::{Binder, DeviceSpace, Queue};
use crate::sample::launch::SamplingArgs;
use crate::sample::{Kind, Sampling};
use crate::shape::Shard;
use patch::{Arrangement, PATCH_BITS, Patches, Rows, Steps, chunk, patches};

mod patch;

/// Threads of a block.
const THREADS: u32 = 256;
/// Shared memory for the codes of a patch: `kPatchWords`, a word more for each row.
const PATCH_CODES_BYTES: u32 = 4 * ((1 << PATCH_BITS) / 8 + 512);

/// Blocks with the noise table that a multiprocessor holds at once, by the groups of a chunk (`kBlocksSampled`) and by
/// its shared memory: more of them would only load it again.
fn sampled_blocks(chunk: u32, limits: &Limits) -> u32 {
    const BLOCK_BYTES: u32 = noise::TABLE_BYTES + PATCH_CODES_BYTES + Limits::SYSTEM_SHARED_BYTES;
    let by_registers = if chunk == 8 { 3 } else { 4 };
    (limits.shared_bytes_per_multiprocessor / BLOCK_BYTES).clamp(1, by_registers)
}

/// `CompressPackArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct PackArgs {
    dense: u64,
    logits: u64,
    given: u64,
    values: u64,
    metadata: u64,
    codes: u64,
    masked: u64,
    faults: u64,
    dense_pitch: u64,
    values_pitch: u64,
    first_group: u64,
    row_groups: u64,
    steps: Steps,
    patches: Patches,
    by: Arrangement,
    sampling: SamplingArgs,
    argmax: u32,
    magnitude: u32,
    poison: u32,
    dense_whole: u32,
    values_whole: u32,
    logits_whole: u32,
}
const _: () = assert!(size_of::<PackArgs>() == 400);

/// `CompressUnpackArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct UnpackArgs {
    values: u64,
    metadata: u64,
    dense: u64,
    faults: u64,
    dense_pitch: u64,
    values_pitch: u64,
    steps: Steps,
    patches: Patches,
    by: Arrangement,
    poison: u32,
    dense_whole: u32,
    values_whole: u32,
    unused: u32,
}
const _: () = assert!(size_of::<UnpackArgs>() == 240);

/// `CompressReorderArgs`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct ReorderArgs {
    from: u64,
    to: u64,
    faults: u64,
    steps: Steps,
    patches: Patches,
    from_by: Arrangement,
    to_by: Arrangement,
    two_of_four: u32,
    unused: u32,
}
const _: () = assert!(size_of::<ReorderArgs>() == 320);

/// A word of NaN; of zeros where there is none.
const fn poison(value_type: DType) -> u32 {
    match value_type {
        DType::F16 | DType::Bf16 => 0x7fff_7fff,
        DType::F32 => 0x7fff_ffff,
        DType::E4m3 | DType::E5m2 => 0x7f7f_7f7f,
        DType::I8 | DType::I32 => 0,
    }
}

/// What of a value is not its sign.
const fn magnitude(value_type: DType) -> u32 {
    match value_type {
        DType::F16 | DType::Bf16 => 0x7fff,
        DType::F32 => 0x7fff_ffff,
        DType::E4m3 | DType::E5m2 => 0x7f,
        DType::I8 => 0xff,
        DType::I32 => u32::MAX,
    }
}

/// Where groups without a code are counted: by words, unlike all else.
const COUNT_ALIGN: u64 = size_of::<u32>() as u64;

/// Stands where a kernel reads no sampling.
const NO_SAMPLING: Sampling = Sampling { seed: 0, draw: 0, kappa: 0.0, tau: 1.0 };

pub(super) fn pack<'g, S: DeviceSpace, T: Element, L: Logit>(
    pass: &'g mut Pack<'_, S, T, L>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (shape, layout) = (pass.shape, pass.layout);
    let symbol = pack_symbol(&pass.choice, T::DTYPE, L::DTYPE);
    let map = layout.map(shape, T::DTYPE)?;
    let whole = Shard::whole(shape.cols as u64);
    let (logits, sampling, kind, shard) = match &pass.choice {
        Choice::Logits(draw) => (Some(binder.input("logits", &draw.logits)?), draw.sampling, draw.kind, draw.shard),
        _ => (None, NO_SAMPLING, Kind::Hard, whole),
    };
    // Group numbers of a slice of columns jump where its rows end.
    let rows_matter = shard.global_cols != whole.global_cols;
    let patches = patches(shape, T::DTYPE, &[(layout, &map)], rows_matter)?;
    let one_row = layout == Layout::Plain && !rows_matter;
    let rows = Rows::new(shape, T::DTYPE, layout.sizes(shape, T::DTYPE)?.pitch, one_row);
    let logits_pitch = shape.cols / 4 * 6 * L::DTYPE.size();
    let args = PackArgs {
        dense: binder.input("dense", &pass.dense)?.address,
        logits: logits.map_or(0, |logits| logits.address),
        given: match &pass.choice {
            Choice::Codes(given) => binder.input("codes", given)?.address,
            _ => 0,
        },
        values: binder.output_if("values", &mut pass.values)?,
        metadata: binder.output_if("metadata", &mut pass.metadata)?,
        codes: binder.output_if("codes", &mut pass.codes)?,
        masked: binder.output_if("masked", &mut pass.masked)?,
        faults: binder.output_if_on("faults", &mut pass.faults, COUNT_ALIGN)?,
        dense_pitch: rows.dense_pitch,
        values_pitch: rows.values_pitch,
        first_group: shard.group(0, 0),
        row_groups: shard.global_cols / 4,
        steps: Steps::new(&patches, chunk(T::DTYPE), &rows),
        patches,
        by: Arrangement::new(layout, &map, &patches),
        sampling: SamplingArgs::new(&sampling),
        argmax: u32::from(kind == Kind::Argmax),
        magnitude: magnitude(T::DTYPE),
        poison: poison(T::DTYPE),
        dense_whole: rows.dense_whole,
        values_whole: rows.values_whole,
        logits_whole: u32::from(one_row || logits_pitch.is_multiple_of(ALIGN as usize)),
    };
    // The noise table is loaded once a block, so that as few blocks as fill the device walk over all patches.
    let blocks = queue.limits().blocks(sampled_blocks(chunk(T::DTYPE), queue.limits()));
    let grid = patches.grid(if logits.is_some() { blocks } else { u32::MAX });
    queue.launch(Launch::new(symbol, 0, THREADS, &args).grid(grid));
    Ok(())
}

pub(super) fn unpack<'g, S: DeviceSpace, T: Element>(
    pass: &'g mut Unpack<'_, S, T>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (shape, layout) = (pass.shape, pass.layout);
    let map = layout.map(shape, T::DTYPE)?;
    let patches = patches(shape, T::DTYPE, &[(layout, &map)], false)?;
    let pitch = layout.sizes(shape, T::DTYPE)?.pitch;
    let rows = Rows::new(shape, T::DTYPE, pitch, layout == Layout::Plain);
    let args = UnpackArgs {
        values: binder.input("values", &pass.values)?.address,
        metadata: binder.input("metadata", &pass.metadata)?.address,
        dense: binder.output("dense", &mut pass.dense)?.address,
        faults: binder.output_if_on("faults", &mut pass.faults, COUNT_ALIGN)?,
        dense_pitch: rows.dense_pitch,
        values_pitch: rows.values_pitch,
        steps: Steps::new(&patches, chunk(T::DTYPE), &rows),
        patches,
        by: Arrangement::new(layout, &map, &patches),
        poison: poison(T::DTYPE),
        dense_whole: rows.dense_whole,
        values_whole: rows.values_whole,
        unused: 0,
    };
    let symbol = Symbol::new("compress_unpack", "unpack", &[width(T::DTYPE)]);
    queue.launch(Launch::new(symbol, 0, THREADS, &args).grid(patches.grid(u32::MAX)));
    Ok(())
}

pub(super) fn reorder<'g, S: DeviceSpace>(
    pass: &'g mut Reorder<'_, S>,
    binder: &mut Binder<'g, S>,
    queue: &mut Queue,
) -> Result<()> {
    let (shape, value_type) = (pass.shape, pass.value_type);
    let [from, to] = [pass.from.0, pass.to.0];
    let [from_map, to_map] = [from.map(shape, value_type)?, to.map(shape, value_type)?];
    let patches = patches(shape, value_type, &[(from, &from_map), (to, &to_map)], false)?;
    let args = ReorderArgs {
        from: binder.input("metadata (from)", &pass.from.1)?.address,
        to: binder.output("metadata (to)", &mut pass.to.1)?.address,
        faults: binder.output_if_on("faults", &mut pass.faults, COUNT_ALIGN)?,
        steps: Steps::new(&patches, 8, &Rows::NONE),
        patches,
        from_by: Arrangement::new(from, &from_map, &patches),
        to_by: Arrangement::new(to, &to_map, &patches),
        two_of_four: u32::from(Sparsity::of(value_type) == Sparsity::TwoFour),
        unused: 0,
    };
    let symbol = Symbol::new("compress_unpack", "reorder", &[]);
    queue.launch(Launch::new(symbol, 0, THREADS, &args).grid(patches.grid(u32::MAX)));
    Ok(())
}

/// The type of kernels that do not look at what values are.
fn width(value_type: DType) -> &'static str {
    match value_type.size() {
        1 => "b8",
        2 => "b16",
        _ => "b32",
    }
}

fn pack_symbol<C, L>(choice: &Choice<C, L>, value_type: DType, logits: DType) -> Symbol {
    let symbol = |variant, types: &[&str]| Symbol::new("compress", variant, types);
    let width = width(value_type);
    match choice {
        Choice::Codes(_) => symbol("codes", &[width]),
        // Of two's complement the sign is no bit of its own.
        Choice::Magnitude if value_type == DType::I8 => symbol("magnitude", &[value_type.name()]),
        Choice::Magnitude => symbol("magnitude", &[width]),
        Choice::NonZeros => symbol("sparse", &[width]),
        Choice::Logits(_) => symbol("sampled", &[logits.name(), width]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::constants::Cuda;

    #[test]
    fn constants_are_those_of_the_kernels() {
        for file in ["compress.cu", "compress_unpack.cu"] {
            let cuda = Cuda::read(file);
            assert_eq!(u64::from(THREADS), cuda.constant("kPatchThreads"));
            assert_eq!(u64::from(PATCH_BITS), cuda.constant("kPatchBits"));
            assert_eq!(u64::from(PATCH_CODES_BYTES), 4 * cuda.constant("kPatchWords"));
        }
        let cuda = Cuda::read("compress.cu");
        for groups in [4, 8] {
            let blocks = cuda.constant_of("kBlocksSampled", &[("V::groups", groups)]);
            assert_eq!(u64::from(sampled_blocks(groups as u32, &Limits::H200)), blocks);
        }
    }
}
