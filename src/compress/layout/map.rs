//! A layout's index map for one shape.

use super::tile::{Digit, Order, Tile};

/// Where a code lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Byte of the metadata.
    pub byte: usize,
    /// Lowest bit in it: 0 or 4.
    pub shift: u32,
}

/// Codes that lie together in a layout and in a row, wherever a row begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// Four groups of a row: a 16-bit word.
    Words,
    /// Eight groups of rows `r` and `r + 8`, woven into eight bytes: `r` in the low halves, groups in the order 0 4 1 5
    /// 2 6 3 7.
    Woven,
    /// Nothing.
    Codes,
}

/// The index map of a layout for one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    tile: Tile,
    /// Rows and groups of the weight.
    extent: [usize; 2],
    /// Tiles downwards and along a row.
    tiles: [usize; 2],
    /// Codes from a tile to the one below it, and to the one beside it.
    strides: [usize; 2],
    bytes: usize,
}

impl Map {
    /// `None` if the metadata does not fit the address space; it has at least `room` bytes.
    pub(super) fn new(tile: Tile, rows: usize, groups: usize, room: usize) -> Option<Self> {
        let [tile_rows, tile_groups] = tile.measures();
        let tiles = [rows.div_ceil(tile_rows), groups.div_ceil(tile_groups)];
        let area = tile_rows * tile_groups;
        let codes = tiles[0].checked_mul(tiles[1])?.checked_mul(area)?;
        let strides = match tile.order {
            Order::DownFirst => [area, area.checked_mul(tiles[0])?],
            Order::AlongRow => [area.checked_mul(tiles[1])?, area],
        };
        let bytes = codes.div_ceil(2).max(room);
        (bytes <= isize::MAX as usize).then_some(Self { tile, extent: [rows, groups], tiles, strides, bytes })
    }

    /// Where the code of `group` of `row` lies; `None` for those that neither the weight nor its padding has.
    #[must_use]
    pub fn place(&self, row: usize, group: usize) -> Option<Place> {
        let [rows, groups] = self.padded();
        (row < rows && group < groups).then(|| {
            let code = self.row_part(row) + self.group_part(group);
            Place { byte: code / 2, shift: 4 * (code % 2) as u32 }
        })
    }

    /// A row's part of the index of its codes, in codes; without meaning past the padding.
    #[must_use]
    pub fn row_part(&self, row: usize) -> usize {
        part(row, &self.tile.rows, self.strides[0])
    }

    /// A group's part of the index, in codes; without meaning past the padding.
    #[must_use]
    pub fn group_part(&self, group: usize) -> usize {
        part(group, &self.tile.groups, self.strides[1])
    }

    /// Digits of a row number, lowest first; the last one counts tiles.
    #[must_use]
    pub fn row_digits(&self) -> [Digit; 5] {
        let [a, b, c, d] = self.tile.rows;
        [a, b, c, d, Digit { size: self.tiles[0], stride: self.strides[0] }]
    }

    /// Digits of a group number, lowest first; the last one counts tiles.
    #[must_use]
    pub fn group_digits(&self) -> [Digit; 5] {
        let [a, b, c, d] = self.tile.groups;
        [a, b, c, d, Digit { size: self.tiles[1], stride: self.strides[1] }]
    }

    /// Bytes of metadata.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows and groups of the weight.
    #[must_use]
    pub fn extent(&self) -> [usize; 2] {
        self.extent
    }

    /// Rows and groups with padding to whole tiles.
    #[must_use]
    pub fn padded(&self) -> [usize; 2] {
        let [rows, groups] = self.tile.measures();
        [self.tiles[0] * rows, self.tiles[1] * groups]
    }

    /// Rows and groups of a tile.
    pub(crate) fn tile(&self) -> [usize; 2] {
        self.tile.measures()
    }

    /// Tiles downwards and along a row.
    pub(crate) fn tiles(&self) -> [usize; 2] {
        self.tiles
    }

    /// Whether tiles go down first.
    pub(crate) fn goes_down(&self) -> bool {
        self.tile.order == Order::DownFirst
    }

    /// Whether codes of two rows share their bytes, as [`Run::Woven`] says; elsewhere, but in the canonical form, four
    /// groups of a row lie together.
    pub(crate) fn is_woven(&self) -> bool {
        let digits = |digits: &[Digit]| [0, 1].map(|i| (digits[i].size, digits[i].stride));
        let (rows, groups) = (digits(&self.tile.rows), digits(&self.tile.groups));
        matches!((rows, groups), ([(8, _), (2, 1)], [(4, 4), (2, 2)]))
    }

    /// What can be moved in one piece.
    pub(crate) fn run(&self) -> Run {
        let groups = self.tile.groups.map(|digit| (digit.size, digit.stride));
        let fours = groups[0].0.is_multiple_of(4) && groups[0].1 == 1 && self.extent[1].is_multiple_of(4);
        let whole = self.extent[0].is_multiple_of(16) && self.extent[1].is_multiple_of(8);
        match () {
            () if self.is_woven() && whole => Run::Woven,
            () if fours => Run::Words,
            () => Run::Codes,
        }
    }
}

fn part(mut number: usize, digits: &[Digit], tiles: usize) -> usize {
    let mut index = 0;
    for digit in digits {
        index += number % digit.size * digit.stride;
        number /= digit.size;
    }
    number.saturating_mul(tiles).saturating_add(index)
}

#[cfg(test)]
mod tests {
    use crate::compress::DTYPES;
    use crate::compress::layout::Layout;
    use crate::shape::Shape;

    #[test]
    fn strides_of_every_layout_are_a_mixed_radix() {
        for (layout, value_type) in Layout::ALL.iter().flat_map(|l| DTYPES.map(|t| (*l, t))) {
            for shape in [Shape::new(128, 256), Shape::new(256, 512), Shape::new(384, 1024)] {
                let Ok(map) = layout.map(shape, value_type) else { continue };
                let mut digits = [map.row_digits(), map.group_digits()].concat();
                digits.retain(|digit| digit.size > 1);
                digits.sort_by_key(|digit| digit.stride);
                let mut stride = 1;
                for digit in digits {
                    assert_eq!(digit.stride, stride, "{layout} {value_type} {shape:?}");
                    stride *= digit.size;
                }
                assert_eq!(stride, map.padded().iter().product::<usize>());
                assert!(map.bytes() * 2 >= stride);
            }
        }
    }
}
