//! The contiguous tile that a layout repeats.

/// A digit of a row or group number: it counts to `size`, and each count moves the code by `stride` codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digit {
    /// The digit's base.
    pub size: usize,
    /// Codes (half bytes) from one count to the next.
    pub stride: usize,
}

/// Which tile follows a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The one below it; after the last row, the next column of tiles.
    DownFirst,
    /// The one beside it; after the last column, the next row of tiles.
    AlongRow,
}

/// Digits of row and group number inside a tile, lowest first. Digits that a layout does not have count to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) order: Order,
    pub(crate) rows: [Digit; 4],
    pub(crate) groups: [Digit; 4],
}

impl Tile {
    pub(crate) fn new<const R: usize, const G: usize>(
        order: Order,
        rows: [(usize, usize); R],
        groups: [(usize, usize); G],
    ) -> Self {
        Self { order, rows: digits(&rows), groups: digits(&groups) }
    }

    /// Rows and groups of the tile.
    pub(crate) fn measures(&self) -> [usize; 2] {
        [&self.rows, &self.groups].map(|digits| digits.iter().map(|digit| digit.size).product())
    }
}

fn digits(given: &[(usize, usize)]) -> [Digit; 4] {
    let mut digits = [Digit { size: 1, stride: 0 }; 4];
    for (digit, &(size, stride)) in digits.iter_mut().zip(given) {
        *digit = Digit { size, stride };
    }
    digits
}
