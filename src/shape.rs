//! What a weight measures, and where a slice of it lies in the whole.

use crate::error::{Error, Result};

/// The shape `[N, K]` of a row-major weight: `rows` = N out features, `cols` = K in features, the dimension groups of
/// four run along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// N.
    pub rows: usize,
    /// K, a multiple of 4.
    pub cols: usize,
}

impl Shape {
    /// `[rows, cols]`.
    #[must_use]
    pub const fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols }
    }

    /// Weights: N · K, saturating.
    #[must_use]
    pub const fn weights(&self) -> usize {
        self.rows.saturating_mul(self.cols)
    }

    /// Groups of four weights: N · K / 4, saturating.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.rows.saturating_mul(self.cols / 4)
    }

    /// Logits: six a group.
    #[must_use]
    pub const fn logits(&self) -> usize {
        self.groups().saturating_mul(6)
    }

    /// Bytes of packed codes: two groups a byte.
    #[must_use]
    pub const fn packed_codes(&self) -> usize {
        self.groups().div_ceil(2)
    }

    /// Checks that the columns fall into groups and that sizes in bytes fit the address space.
    ///
    /// # Errors
    /// [`Error::NotGrouped`] unless `cols` is a multiple of 4, [`Error::Overflow`] if the logits would not fit.
    pub fn check(&self) -> Result<()> {
        if !self.cols.is_multiple_of(4) {
            return Err(Error::NotGrouped { what: "the weight", cols: self.cols as u64 });
        }
        match self.rows.checked_mul(self.cols).and_then(|weights| weights.checked_mul(8)) {
            Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
            _ => Err(Error::Overflow { what: "logits", rows: self.rows as u64, cols: self.cols as u64 }),
        }
    }
}

/// Where a slice of a weight lies in the whole, so that its groups see the noise of the whole (tensor or data
/// parallelism does not change a mask).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shard {
    /// Rows of the whole weight before the slice.
    pub row_offset: u64,
    /// Columns of the whole weight before the slice; a multiple of 4.
    pub col_offset: u64,
    /// Columns of the whole weight; a multiple of 4.
    pub global_cols: u64,
}

impl Shard {
    /// The whole weight as its own only shard.
    #[must_use]
    pub const fn whole(cols: u64) -> Self {
        Self { row_offset: 0, col_offset: 0, global_cols: cols }
    }

    /// The global number of the group at `group` of row `row` of the slice.
    #[inline]
    #[must_use]
    pub const fn group(&self, row: u64, group: u64) -> u64 {
        (self.row_offset + row) * (self.global_cols / 4) + self.col_offset / 4 + group
    }

    /// Checks that a slice of `[rows, cols]` lies on group boundaries inside the whole.
    ///
    /// # Errors
    /// [`Error::Shard`] if it does not, or if a global group number would not fit 64 bits.
    pub fn check(&self, rows: u64, cols: u64) -> Result<()> {
        let fits = || {
            let end = self.col_offset.checked_add(cols)?;
            let last = self.row_offset.checked_add(rows)?.checked_mul(self.global_cols / 4)?;
            let grouped = self.col_offset.is_multiple_of(4) && self.global_cols.is_multiple_of(4);
            (grouped && end <= self.global_cols && last < 1 << 62).then_some(())
        };
        fits().ok_or(Error::Shard {
            row_offset: self.row_offset,
            col_offset: self.col_offset,
            col_end: self.col_offset.saturating_add(cols),
            global_cols: self.global_cols,
        })
    }
}
