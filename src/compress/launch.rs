//! The launches of the `compress` kernels as plain data: from checked arguments in bare addresses to symbol, grid and
//! argument struct. The CUDA executor launches them, and so does the emulator in the tests. The structs are those of
//! `cuda/compress.cu`, `cuda/compress_unpack.cu` and `cuda/compress/patch.cuh`.

use super::layout::Layout;
use super::value::{Sparsity, Value, ValueType};
use super::{Choice, Pack, Reorder, Unpack};
use crate::device::Limits;
use crate::device::launch::{ALIGN, Launch, Symbol, address, aligned};
use crate::element::{DType, Logit};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::sample::launch::SamplingArgs;
use crate::sample::{Kind, Sampling};
use crate::shape::Shard;
use crate::space::{Raw, RawSlice};
use patch::{Arrangement, Patches, Rows, Steps, chunk, patches};

mod patch;

/// Threads of a block.
const THREADS: u32 = 256;
/// Shared memory of a block that samples: the lines of the noise table, and the codes of a patch (`kPatchWords`).
const NOISE_TABLE_BYTES: u32 = 2688 * 8;
const PATCH_CODES_BYTES: u32 = 4096;
/// What the system takes of shared memory for each block.
const SYSTEM_SHARED_BYTES: u32 = 1024;

/// Blocks with the noise table that a multiprocessor holds at once, by the groups of a chunk (`kBlocksSampled`) and by its
/// shared memory: more of them would only load it again.
fn sampled_blocks(chunk: u32, limits: &Limits) -> u32 {
    const BLOCK_BYTES: u32 = NOISE_TABLE_BYTES + PATCH_CODES_BYTES + SYSTEM_SHARED_BYTES;
    let by_registers = if chunk == 8 { 3 } else { 4 };
    (limits.shared_bytes_per_multiprocessor / BLOCK_BYTES).clamp(1, by_registers)
}

/// `CompressPackArgs`.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PackArgs {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct UnpackArgs {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ReorderArgs {
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
const fn poison(value_type: ValueType) -> u32 {
    match value_type {
        ValueType::F16 | ValueType::Bf16 => 0x7fff_7fff,
        ValueType::F32 => 0x7fff_ffff,
        ValueType::E4m3 | ValueType::E5m2 => 0x7f7f_7f7f,
        ValueType::I8 => 0,
    }
}

/// What of a value is not its sign.
const fn magnitude(value_type: ValueType) -> u32 {
    match value_type {
        ValueType::F16 | ValueType::Bf16 => 0x7fff,
        ValueType::F32 => 0x7fff_ffff,
        ValueType::E4m3 | ValueType::E5m2 => 0x7f,
        ValueType::I8 => 0xff,
    }
}

/// Where groups without a code are counted: by words, unlike all else.
fn count(faults: Option<RawSlice>) -> Result<u64> {
    aligned("faults", faults.map_or(0, |faults| faults.address), size_of::<u32>() as u64)
}

/// Stands where a kernel reads no sampling.
const NO_SAMPLING: Sampling = Sampling { seed: 0, draw: 0, kappa: 0.0, tau: 1.0 };

impl<T: Value, L: Logit> Pack<'_, Raw, T, L> {
    /// The launch of this compression on a device with these limits. A grid without blocks is nothing to do.
    ///
    /// # Errors
    /// What [`Pack::check`] finds, [`Error::Misaligned`], and [`Error::Overflow`] for 2³¹ patches of 4096 groups.
    pub fn launch(&self, limits: &Limits) -> Result<Launch<PackArgs>> {
        self.check()?;
        let Self { shape, layout, .. } = *self;
        let map = layout.map(shape, T::TYPE)?;
        let whole = Shard::whole(shape.cols as u64);
        let (logits, sampling, kind, shard) = match &self.choice {
            Choice::Logits(draw) => (Some(draw.logits), draw.sampling, draw.kind, draw.shard),
            _ => (None, NO_SAMPLING, Kind::Hard, whole),
        };
        // Group numbers of a slice of columns jump where its rows end.
        let rows_matter = shard.global_cols != whole.global_cols;
        let patches = patches(shape, T::TYPE, &[(layout, &map)], rows_matter)?;
        let one_row = layout == Layout::Plain && !rows_matter;
        let rows = Rows::new(shape, T::TYPE, layout.sizes(shape, T::TYPE)?.pitch, one_row);
        let logits_pitch = shape.cols / 4 * 6 * L::DTYPE.size();
        let [metadata, codes] = [address("metadata", self.metadata)?, address("codes", self.codes)?];
        let args = PackArgs {
            dense: address("dense", Some(self.dense))?,
            logits: address("logits", logits)?,
            given: match self.choice {
                Choice::Codes(given) => address("codes", Some(given))?,
                _ => 0,
            },
            values: address("values", self.values)?,
            metadata,
            codes,
            masked: address("masked", self.masked)?,
            faults: count(self.faults)?,
            dense_pitch: rows.dense_pitch,
            values_pitch: rows.values_pitch,
            first_group: shard.group(0, 0),
            row_groups: shard.global_cols / 4,
            steps: Steps::new(&patches, chunk(T::TYPE), &rows),
            patches,
            by: Arrangement::new(layout, &map, &patches),
            sampling: SamplingArgs::new(&sampling),
            argmax: u32::from(kind == Kind::Argmax),
            magnitude: magnitude(T::TYPE),
            poison: poison(T::TYPE),
            dense_whole: rows.dense_whole,
            values_whole: rows.values_whole,
            logits_whole: u32::from(one_row || logits_pitch.is_multiple_of(ALIGN as usize)),
        };
        // The noise table is loaded once a block, so that as few blocks as fill the device walk over all patches.
        let blocks = limits.multiprocessors.max(1).saturating_mul(sampled_blocks(chunk(T::TYPE), limits));
        let grid = patches.grid(if logits.is_some() { blocks } else { u32::MAX });
        Ok(launch("compress", pack_symbol(&self.choice, T::TYPE, L::DTYPE), grid, args))
    }
}

impl<T: Value> Unpack<'_, Raw, T> {
    /// The launch of this decompression on a device with these limits. A grid without blocks is nothing to do.
    ///
    /// # Errors
    /// What [`Unpack::check`] finds, and as [`Pack::launch`].
    pub fn launch(&self, _limits: &Limits) -> Result<Launch<UnpackArgs>> {
        self.check()?;
        let Self { shape, layout, .. } = *self;
        let map = layout.map(shape, T::TYPE)?;
        let patches = patches(shape, T::TYPE, &[(layout, &map)], false)?;
        let pitch = layout.sizes(shape, T::TYPE)?.pitch;
        let rows = Rows::new(shape, T::TYPE, pitch, layout == Layout::Plain);
        let args = UnpackArgs {
            values: address("values", Some(self.values))?,
            metadata: address("metadata", Some(self.metadata))?,
            dense: address("dense", Some(self.dense))?,
            faults: count(self.faults)?,
            dense_pitch: rows.dense_pitch,
            values_pitch: rows.values_pitch,
            steps: Steps::new(&patches, chunk(T::TYPE), &rows),
            patches,
            by: Arrangement::new(layout, &map, &patches),
            poison: poison(T::TYPE),
            dense_whole: rows.dense_whole,
            values_whole: rows.values_whole,
            unused: 0,
        };
        let name = match T::TYPE.size() {
            1 => "twofour_compress_unpack_b8",
            2 => "twofour_compress_unpack_b16",
            _ => "twofour_compress_unpack_b32",
        };
        Ok(launch("compress_unpack", name, patches.grid(u32::MAX), args))
    }
}

impl Reorder<'_, Raw> {
    /// The launch of this change of layout on a device with these limits. A grid without blocks is nothing to do.
    ///
    /// # Errors
    /// What [`Reorder::check`] finds, and as [`Pack::launch`].
    pub fn launch(&self, _limits: &Limits) -> Result<Launch<ReorderArgs>> {
        self.check()?;
        let Self { shape, value_type, .. } = *self;
        let [from, to] = [self.from.0, self.to.0];
        let [from_map, to_map] = [from.map(shape, value_type)?, to.map(shape, value_type)?];
        let patches = patches(shape, value_type, &[(from, &from_map), (to, &to_map)], false)?;
        let args = ReorderArgs {
            from: address("metadata (from)", Some(self.from.1))?,
            to: address("metadata (to)", Some(self.to.1))?,
            faults: count(self.faults)?,
            steps: Steps::new(&patches, 8, &Rows::NONE),
            patches,
            from_by: Arrangement::new(from, &from_map, &patches),
            to_by: Arrangement::new(to, &to_map, &patches),
            two_of_four: u32::from(value_type.sparsity() == Sparsity::TwoFour),
            unused: 0,
        };
        Ok(launch("compress_unpack", "twofour_compress_reorder", patches.grid(u32::MAX), args))
    }
}

fn launch<A>(module: &'static str, name: &'static str, grid: [u32; 3], args: A) -> Launch<A> {
    Launch { symbol: Symbol { module, name }, grid, block: [THREADS, 1, 1], shared_bytes: 0, args }
}

fn pack_symbol<C, L>(choice: &Choice<C, L>, value_type: ValueType, logits: DType) -> &'static str {
    /// `$prefix` followed by the width of values.
    macro_rules! by_width {
        ($prefix:literal) => {
            match value_type.size() {
                1 => concat!($prefix, "_b8"),
                2 => concat!($prefix, "_b16"),
                _ => concat!($prefix, "_b32"),
            }
        };
    }
    match (choice, logits) {
        (Choice::Codes(_), _) => by_width!("twofour_compress_codes"),
        (Choice::Magnitude, _) if value_type == ValueType::I8 => "twofour_compress_magnitude_i8",
        (Choice::Magnitude, _) => by_width!("twofour_compress_magnitude"),
        (Choice::NonZeros, _) => by_width!("twofour_compress_sparse"),
        // Groups of two have no logits.
        (Choice::Logits(_), DType::Bf16) if value_type.size() == 1 => "twofour_compress_sampled_bf16_b8",
        (Choice::Logits(_), DType::Bf16) => "twofour_compress_sampled_bf16_b16",
        (Choice::Logits(_), _) if value_type.size() == 1 => "twofour_compress_sampled_f32_b8",
        (Choice::Logits(_), _) => "twofour_compress_sampled_f32_b16",
    }
}
