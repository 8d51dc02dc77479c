//! Checks of what comes without a file, with the errors of `twofour`.

use twofour::compress::Sparsity;
use twofour::{Error, Result, Shape};

/// Checks how many elements a slice has.
pub(crate) fn length(what: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { what, expected: expected as u64, got: got as u64 }) }
}

/// The error of a group, by its number in the whole weight, that keeps another number of values than its sparsity
/// allows.
pub(crate) fn not_two_four(sparsity: Sparsity, shape: Shape, group: usize, kept: u32) -> Error {
    let row_groups = sparsity.row_groups(shape.cols).max(1);
    let [row, group] = [group / row_groups, group % row_groups].map(|at| at as u64);
    Error::NotTwoFour { row, group, kept, width: sparsity.width() as u32 }
}

/// So many zeros; an error where there is no memory for them, for how many it is a file may have said.
pub(crate) fn zeros<T: bytemuck::Zeroable + Clone>(what: &'static str, elements: usize) -> Result<Vec<T>> {
    let mut zeros = Vec::new();
    let bytes = (elements as u64).saturating_mul(size_of::<T>() as u64);
    zeros.try_reserve_exact(elements).map_err(|_| Error::Memory { what, bytes })?;
    zeros.resize(elements, T::zeroed());
    Ok(zeros)
}
