//! Safetensors files made by hand, right or wrong, and weights to put into them.

use crate::any::{Wide, values};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;
use twofour::Shape;
use twofour::compress::{Compressed, Sparsity};

/// A tensor: name, type, shape, bytes.
pub(crate) type Tensor<'a> = (&'a str, &'a str, Vec<u64>, Vec<u8>);

/// Length, header, data, whatever they are.
pub(crate) fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file with these tensors in this order, and entries of `__metadata__`.
pub(crate) fn file(tensors: &[Tensor<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
    let string = |text: &str| serde_json::to_string(text).unwrap();
    let mut data = Vec::new();
    let mut fields = Vec::new();
    if !metadata.is_empty() {
        let entries: Vec<_> =
            metadata.iter().map(|(key, value)| format!("{}:{}", string(key), string(value))).collect();
        fields.push(format!("\"__metadata__\":{{{}}}", entries.join(",")));
    }
    for (name, dtype, shape, bytes) in tensors {
        let (begin, end) = (data.len(), data.len() + bytes.len());
        let entry = format!(r#"{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#);
        fields.push(format!("{}:{entry}", string(name)));
        data.extend_from_slice(bytes);
    }
    raw(&format!("{{{}}}", fields.join(",")), &data)
}

/// The entry of a weight.
pub(crate) fn entry(rows: u64, cols: u64, dtype: &str, sparsity: &str) -> String {
    format!(r#"{{"shape":[{rows},{cols}],"dtype":"{dtype}","sparsity":"{sparsity}","axis":1}}"#)
}

/// A file with the one weight `w`: f16, as many values and codes as one wants.
pub(crate) fn one_weight(shape: [u64; 2], values: usize, codes: &[u8]) -> Vec<u8> {
    let tensors = [
        ("w.values", "F16", vec![shape[0], shape[1] / 2], vec![0; values]),
        ("w.codes", "U8", vec![codes.len() as u64], codes.to_vec()),
    ];
    let entry = entry(shape[0], shape[1], "f16", "2:4");
    file(&tensors, &[("twofour.version", "1"), ("twofour.weight.w", &entry)])
}

/// Random bits under random codes.
pub(crate) fn random<T: Wide>(shape: Shape, seed: u64) -> Compressed<T> {
    let mut rng = StdRng::seed_from_u64(seed);
    let dense = values::<T>(&mut rng, shape.weights());
    let codes = codes(Sparsity::of(T::DTYPE), shape, &mut rng);
    Compressed::with_codes(shape, &dense, &codes).unwrap()
}

pub(crate) fn codes(sparsity: Sparsity, shape: Shape, rng: &mut StdRng) -> Vec<u8> {
    let legal: &[u8] = if sparsity == Sparsity::OneTwo { &[0x4, 0xe] } else { &[0x4, 0x8, 0xc, 0x9, 0xd, 0xe] };
    let mut codes = vec![0; sparsity.packed_codes(shape)];
    for group in 0..sparsity.groups(shape) {
        codes[group / 2] |= legal[rng.random_range(0..legal.len())] << (4 * (group % 2));
    }
    codes
}

/// A path for a test, under its own name so that tests do not meet; nothing is there.
pub(crate) fn path(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("formats-{name}"));
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_dir_all(&path);
    path
}
