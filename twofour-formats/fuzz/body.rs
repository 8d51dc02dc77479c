//! What is done with a hostile file: everything that can be. Shared by the fuzz targets and `tests/hostile.rs`.
//!
//! Nothing here may panic, whatever the bytes; what can be read must agree with what the file says of it.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use twofour::compress::Sparsity;
use twofour::{E4m3, E5m2, Element, Shape, bf16, f16};
use twofour_formats::{Encoding, Index, Reader, Weight, bitmask};

/// Opens a file and reads all of it. Whether it is one, and how many weights could be read.
pub(crate) fn file(bytes: &[u8]) -> Option<usize> {
    let reader = Reader::from_bytes(bytes).ok()?;
    for tensor in reader.all_tensors() {
        let data = reader.tensor(tensor.name()).expect("opening has checked that it is there");
        assert!(matches!(data, Cow::Borrowed(_)) && data.len() as u64 == tensor.bytes());
        assert_eq!(tensor.dtype().bytes(tensor.shape()), Some(tensor.bytes()));
    }
    let mut read = 0;
    for info in reader.weights() {
        assert!(reader.tensors().all(|tensor| tensor.name() != info.name()));
        let digest = |dense: Vec<u8>| {
            assert_eq!(dense.len(), info.shape().weights() * info.value_type().size());
            let mut hasher = DefaultHasher::new();
            dense.hash(&mut hasher);
            hasher.finish()
        };
        let dense = reader.dense(info.name()).map(digest);
        let weight = match reader.weight(info.name()) {
            Ok(weight) => weight,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        read += 1;
        assert_eq!(dense, Ok(digest(weight.decompress_bytes())));
        assert_eq!((weight.shape(), weight.value_type()), (info.shape(), info.value_type()));
        agrees(&weight);
        if info.encoding() == Encoding::Codes {
            let view = reader.view(info.name()).expect("the copy was made from it");
            assert!(view.codes() == weight.codes() && view.value_bytes() == &*weight.value_bytes());
        }
    }
    Some(read)
}

/// A weight's parts fit each other.
fn agrees(weight: &Weight) {
    let (shape, value_type) = (weight.shape(), weight.value_type());
    let values = weight.value_bytes();
    assert_eq!(values.len(), shape.weights() / 2 * value_type.size());
    assert_eq!(weight.codes().len(), Sparsity::of(value_type).packed_codes(shape));
    assert_eq!(weight.decompress_bytes().len(), shape.weights() * value_type.size());
}

/// Takes the bytes as a type, a shape, a bitmask and values, and compresses them. Whether it could be done.
pub(crate) fn parts(bytes: &[u8]) -> Option<bool> {
    let (&[kind, rows, groups, cut], rest) = bytes.split_first_chunk()?;
    let shape = Shape::new(usize::from(rows), 4 * usize::from(groups));
    let mask = (shape.rows * shape.cols.div_ceil(8)).saturating_sub(usize::from(cut == 0xff));
    let (mask, values) = rest.split_at_checked(mask)?;
    Some(match kind % 6 {
        0 => masked::<f16>(shape, mask, values),
        1 => masked::<bf16>(shape, mask, values),
        2 => masked::<f32>(shape, mask, values),
        3 => masked::<i8>(shape, mask, values),
        4 => masked::<E4m3>(shape, mask, values),
        _ => masked::<E5m2>(shape, mask, values),
    })
}

fn masked<T: Element>(shape: Shape, mask: &[u8], bytes: &[u8]) -> bool {
    let values: Vec<T> = bytes.chunks_exact(T::DTYPE.size()).map(bytemuck::pod_read_unaligned).collect();
    let Ok(weight) = bitmask::from_parts(shape, &values, mask) else { return false };
    let dense = weight.decompress();
    // Position by position, by the format's description.
    let mut next = values.iter();
    for row in 0..shape.rows {
        for column in 0..shape.cols {
            let bit = mask[row * shape.cols.div_ceil(8) + column / 8] >> (column % 8) & 1;
            let expected = if bit == 1 {
                next.next().copied().expect("a value a bit")
            } else {
                <T as bytemuck::Zeroable>::zeroed()
            };
            let found = dense[row * shape.cols + column];
            assert!(bytemuck::bytes_of(&found) == bytemuck::bytes_of(&expected), "row {row}, column {column}");
        }
    }
    assert!(next.next().is_none());
    let groups = Sparsity::of(weight.value_type()).row_groups(shape.cols);
    let legal = |code: Option<u8>| code.is_some_and(|code| Sparsity::of(weight.value_type()).is_legal(code));
    assert!((0..shape.rows).all(|row| (0..groups).all(|group| legal(weight.code(row, group)))));
    true
}

/// An index of shards: what can be parsed names files of its own folder alone.
pub(crate) fn index(bytes: &[u8]) -> bool {
    let Ok(index) = Index::from_bytes(bytes) else { return false };
    for file in index.files() {
        assert!(!["", ".", ".."].contains(&file) && !file.contains(['/', '\\', ':', '\0']), "{file:?}");
    }
    true
}
