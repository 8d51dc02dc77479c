//! How blocks share a weight, and a layout, as kernels read it: the host half of `cuda/compress/patch.cuh`.

use super::THREADS;
use crate::compress::layout::{Layout, Map};
use crate::compress::value::Sparsity;
use crate::device::ALIGN;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// Groups of a patch are two to this power.
pub(super) const PATCH_BITS: u32 = 12;
/// Groups of the longest chunk, so of the least row of a patch.
const CHUNK: u64 = 8;
/// How patches lie over a weight.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Patches {
    rows: u64,
    groups: u64,
    along: u32,
    count: u32,
    rows_log2: u32,
    groups_log2: u32,
}

impl Patches {
    /// Of a weight that is one long row: its codes are canonical, and rows do not matter.
    fn of_one_row(shape: Shape, groups: usize) -> Result<Self> {
        Self::new(shape, [1.min(groups as u64), groups as u64], [1.min(groups as u64), groups as u64], [1, 1])
    }

    /// Of rows by groups, with padding to tiles of all layouts at hand, of which these are the greatest.
    fn new(shape: Shape, extent: [u64; 2], padded: [u64; 2], tile: [u64; 2]) -> Result<Self> {
        // As wide as the tiles' height allows, for a row of a patch is what lies together, and no wider than the
        // weight; but not narrower than the widest tile, for a high one can be cut (`Arrangement::new`).
        let least = tile[1].max(CHUNK);
        let most = ((1 << PATCH_BITS) / tile[0].max(1)).max(least);
        let groups = padded[1].checked_next_power_of_two().unwrap_or(u64::MAX).clamp(least, most);
        let groups_log2 = groups.trailing_zeros();
        let rows_log2 = PATCH_BITS - groups_log2;
        let [down, along] = [padded[0].div_ceil(1 << rows_log2), padded[1].div_ceil(groups)];
        let count = down.checked_mul(along).filter(|&count| count < 1 << 31);
        let count =
            count.ok_or(Error::Overflow { what: "a launch", rows: shape.rows as u64, cols: shape.cols as u64 })?;
        let [rows, groups] = extent;
        Ok(Self { rows, groups, along: along.max(1) as u32, count: count as u32, rows_log2, groups_log2 })
    }

    /// A block a patch, or as many as there may be.
    pub(super) fn grid(&self, most: u32) -> [u32; 3] {
        [self.count.min(most), u32::from(self.count > 0), 1]
    }
}

/// From a thread's chunk to its next one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Steps {
    dense: u64,
    values: u64,
    groups: u64,
    row: u32,
    group: u32,
}

impl Steps {
    /// Where a chunk is so many groups: that many threads' worth of them, along rows of a patch.
    pub(super) fn new(patches: &Patches, chunk: u32, rows: &Rows) -> Self {
        let groups = THREADS * chunk;
        let (row, group) = (groups >> patches.groups_log2, groups & ((1 << patches.groups_log2) - 1));
        let bytes = |pitch: u64, of_group: u64| u64::from(row) * pitch + u64::from(group) * of_group;
        // A chunk's dense values are 32 bytes.
        let of_group = 32 / u64::from(chunk);
        Self {
            dense: bytes(rows.dense_pitch, of_group),
            values: bytes(rows.values_pitch, of_group / 2),
            groups: u64::from(row) * patches.groups + u64::from(group),
            row,
            group,
        }
    }
}

/// Groups of a chunk.
pub(super) const fn chunk(value_type: DType) -> u32 {
    if value_type.size() == 1 { 8 } else { 4 }
}

/// A layout as kernels read it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Arrangement {
    padded: [u64; 2],
    down: u64,
    beside: u64,
    codes: u64,
    bytes: u64,
    places: [u32; PATCH_BITS as usize],
    tile_log2: [u32; 2],
    order: u32,
    unused: u32,
}

impl Arrangement {
    pub(super) fn new(layout: Layout, map: &Map, patches: &Patches) -> Self {
        let mut this: Self = bytemuck::Zeroable::zeroed();
        if layout == Layout::Plain {
            return this;
        }
        let [rows, groups] = [map.row_digits(), map.group_digits()];
        let (tile, strides) = (map.tile(), [rows[4].stride, groups[4].stride]);
        this.padded = map.padded().map(|count| count as u64);
        [this.down, this.beside] = strides.map(|codes| codes as u64 / 2);
        this.codes = (map.padded()[0] * map.padded()[1]) as u64 / 2;
        this.bytes = map.bytes() as u64;
        this.tile_log2 = tile.map(|count| count.trailing_zeros());
        this.order = if map.is_woven() { 2 } else { 1 };
        // Digits are powers of two, so that each bit of a code's number in the tile is one of a row's or a group's.
        for (digits, unit) in [(&rows[..4], 1 << 16), (&groups[..4], 1)] {
            let mut low = 0;
            for digit in digits {
                for bit in 0..digit.size.trailing_zeros() {
                    this.places[(digit.stride.trailing_zeros() + bit) as usize] = unit << (low + bit);
                }
                low += digit.size.trailing_zeros();
            }
        }
        // A tile that is higher than a patch is cut into several, one below the other: the highest bits of a number are
        // those of the row, and so they go on from tile to tile. Of all pairs of layouts, one needs it.
        let cut = this.tile_log2[0].saturating_sub(patches.rows_log2);
        this.tile_log2[0] -= cut;
        this.down >>= cut;
        // The bits above say which tile of the patch it is, in the order in which tiles follow one another.
        let down = (this.tile_log2[0]..patches.rows_log2).map(|bit| 1 << (16 + bit));
        let beside = (this.tile_log2[1]..patches.groups_log2).map(|bit| 1 << bit);
        let tiles: Vec<u32> = if map.goes_down() { down.chain(beside).collect() } else { beside.chain(down).collect() };
        let in_tile = (this.tile_log2[0] + this.tile_log2[1]) as usize;
        this.places[in_tile..].copy_from_slice(&tiles);
        this
    }
}

/// How a weight's rows lie in memory, in bytes, and whether they can be had 16 bytes at a time.
pub(super) struct Rows {
    pub(super) dense_pitch: u64,
    pub(super) values_pitch: u64,
    pub(super) dense_whole: u32,
    pub(super) values_whole: u32,
}

impl Rows {
    /// Where there are codes alone.
    pub(super) const NONE: Self = Self { dense_pitch: 0, values_pitch: 0, dense_whole: 0, values_whole: 0 };

    pub(super) fn new(shape: Shape, value_type: DType, pitch: usize, one_row: bool) -> Self {
        let [dense_pitch, values_pitch] = [shape.cols, pitch].map(|values| (values * value_type.size()) as u64);
        let whole = |bytes: u64| one_row || bytes.is_multiple_of(ALIGN);
        let padded = pitch > shape.cols / 2;
        Self {
            dense_pitch,
            values_pitch,
            dense_whole: u32::from(whole(dense_pitch)),
            values_whole: u32::from(whole(values_pitch)) * if padded { 2 } else { 1 },
        }
    }
}

/// The patches of a weight whose codes are in these layouts; one long row if nothing stands against it.
pub(super) fn patches(
    shape: Shape,
    value_type: DType,
    layouts: &[(Layout, &Map)],
    rows_matter: bool,
) -> Result<Patches> {
    let groups = Sparsity::of(value_type).row_groups(shape.cols);
    if !rows_matter && layouts.iter().all(|(layout, _)| *layout == Layout::Plain) {
        return Patches::of_one_row(shape, Sparsity::of(value_type).groups(shape));
    }
    let extent = [shape.rows, groups].map(|count| count as u64);
    let greatest = |of: fn(&Map) -> [usize; 2], least: [u64; 2]| {
        layouts.iter().fold(least, |most, (_, map)| {
            let [rows, groups] = of(map);
            [most[0].max(rows as u64), most[1].max(groups as u64)]
        })
    };
    Patches::new(shape, extent, greatest(Map::padded, extent), greatest(Map::tile, [1, 1]))
}
