//! A corner of a matrix that no memory holds.

use super::Array;
use twofour::space::Plain;

/// The corner of a matrix `[rows, cols]`: its last `high` rows, and of those the last `wide` numbers.
#[derive(Debug, Clone, Copy)]
pub struct Corner {
    pub of: [usize; 2],
    pub high: usize,
    pub wide: usize,
}

impl Corner {
    /// Where a row of the corner begins.
    pub fn row(&self, row: usize) -> usize {
        let [rows, cols] = self.of;
        (rows - self.high + row) * cols + cols - self.wide
    }

    /// Overwrites it.
    pub fn write<T: Plain>(&self, to: &Array<T>, values: &[T]) {
        assert_eq!(values.len(), self.high * self.wide);
        values.chunks(self.wide).enumerate().for_each(|(row, values)| to.write_at(self.row(row), values));
    }

    /// The matrix, in memory at its corner alone.
    pub fn array<T: Plain>(&self, values: &[T]) -> Array<T> {
        let array = Array::reserved(self.of[0] * self.of[1]);
        self.write(&array, values);
        array
    }

    pub fn read<T: Plain>(&self, from: &Array<T>) -> Vec<T> {
        (0..self.high).flat_map(|row| from.read_at(self.row(row), self.wide)).collect()
    }

    /// Codes of a matrix of weights whose corner this is, given one a byte.
    pub fn codes(&self, codes: &[u8]) -> Array<u8> {
        let array = Array::reserved((self.of[0] * self.of[1]).div_ceil(8));
        for (i, code) in codes.iter().enumerate() {
            let group = self.row(i / (self.wide / 4)) / 4 + i % (self.wide / 4);
            array.put_code(group / 2, 4 * (group % 2), *code);
        }
        array
    }
}

impl Array<u8> {
    /// Puts a code into a byte whose half is zero.
    pub fn put_code(&self, byte: usize, shift: usize, code: u8) {
        self.write_at(byte, &[self.read_at(byte, 1)[0] | code << shift]);
    }
}
