//! What is written is read, of every type and shape; and the `safetensors` crate reads and writes the same files.

use crate::any::{Wide, for_type, same};
use crate::make;
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::borrow::Cow;
use twofour::compress::{Compressed, DTYPES};
use twofour::{Shape, bf16, f16};
use twofour_formats::{Encoding, Error, Manifest, Reader, TensorType};

fn shapes() -> impl Strategy<Value = Shape> {
    let rows = prop_oneof![1 => Just(0usize), 8 => 1..=9usize, 1 => 100..=140usize];
    let groups = prop_oneof![1 => Just(0usize), 8 => 1..=9usize, 1 => 100..=140usize];
    (rows, groups).prop_map(|(rows, groups)| Shape::new(rows, 4 * groups))
}

/// A file with a weight and a tensor, in memory and on disk.
fn write<T: Wide>(weight: &Compressed<T>, bias: &[u8]) -> Vec<u8> {
    let mut manifest = Manifest::new();
    manifest.weight("w", weight.value_type(), weight.shape()).unwrap();
    manifest.tensor("bias", TensorType::U8, &[bias.len()]).unwrap();
    let path = make::path(&format!("roundtrip-{}.safetensors", T::DTYPE));
    let mut written = Vec::new();
    let saved = manifest.save(&path, |file| {
        file.tensor("bias", bias)?;
        file.weight("w", weight)
    });
    assert_eq!(saved, Ok(()));
    let bytes = manifest.to_bytes::<Error>(|file| {
        file.weight("w", weight)?;
        file.tensor("bias", bias)
    });
    written.extend(bytes.unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), written, "order does not matter");
    written
}

fn is_read<T: Wide>(reader: &Reader<'_>, weight: &Compressed<T>, bias: &[u8]) {
    let read = reader.compressed::<T>("w").unwrap();
    assert_eq!((read.shape(), read.codes()), (weight.shape(), weight.codes()));
    assert!(same(read.values(), weight.values()));
    let any = reader.weight("w").unwrap();
    assert_eq!((any.shape(), any.value_type(), any.codes()), (weight.shape(), T::DTYPE, weight.codes()));
    assert_eq!(any.value_bytes(), bytemuck::cast_slice::<T, u8>(weight.values()));
    assert_eq!(any.decompress_bytes(), bytemuck::cast_slice::<T, u8>(&weight.decompress()));
    let view = reader.view("w").unwrap();
    assert_eq!((view.shape(), view.value_type(), view.codes()), (weight.shape(), T::DTYPE, weight.codes()));
    assert!(same(view.to_compressed::<T>().unwrap().values(), weight.values()));
    assert_eq!(*reader.tensor("bias").unwrap(), *bias);
}

fn round_trip<T: Wide>(shape: Shape, seed: u64) {
    let weight = make::random::<T>(shape, seed);
    let bias = seed.to_le_bytes();
    let bytes = write(&weight, &bias);
    is_read(&Reader::from_bytes(&bytes).unwrap(), &weight, &bias);
    // Where bytes lie in memory does not matter.
    let shifted = [&[0], bytes.as_slice()].concat();
    is_read(&Reader::from_bytes(&shifted[1..]).unwrap(), &weight, &bias);
    let path = make::path(&format!("read-{}.safetensors", T::DTYPE));
    std::fs::write(&path, &bytes).unwrap();
    is_read(&Reader::open(&path).unwrap(), &weight, &bias);
    agrees_with_the_crate(&bytes);
}

/// The `safetensors` crate finds the same tensors, and writes them at the same places.
fn agrees_with_the_crate(bytes: &[u8]) {
    let theirs = SafeTensors::deserialize(bytes).unwrap();
    let ours = Reader::from_bytes(bytes).unwrap();
    assert_eq!(theirs.len(), ours.all_tensors().len());
    for tensor in ours.all_tensors() {
        let their = theirs.tensor(tensor.name()).unwrap();
        assert_eq!((format!("{:?}", their.dtype()).as_str(), their.shape()), (tensor.dtype().name(), tensor.shape()));
        assert_eq!(their.data(), &*ours.tensor(tensor.name()).unwrap());
    }
    let data = |bytes: &[u8]| bytes[8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize..].to_vec();
    let written = safetensors::serialize(theirs.tensors(), None).unwrap();
    assert_eq!(data(&written), data(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read(kind in 0..6usize, shape in shapes(), seed in any::<u64>()) {
        for_type!(DTYPES[kind], round_trip(shape, seed));
    }
}

#[test]
fn bytes_are_borrowed() {
    let weight = make::random::<f16>(Shape::new(5, 12), 1);
    let bytes = write(&weight, &[7; 3]);
    let reader = Reader::from_bytes(&bytes).unwrap();
    let inside = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr());
    assert!(matches!(reader.tensor("bias").unwrap(), Cow::Borrowed(bias) if inside(bias)));
    let view = reader.view("w").unwrap();
    assert!(inside(view.codes()) && inside(view.value_bytes()));
    // Values are at the front of the data, which is aligned in the file.
    let aligned = bytes.as_ptr().align_offset(2) == 0;
    assert_eq!(view.values::<f16>().is_some_and(|values| same(values, weight.values())), aligned);
    assert!(view.values::<bf16>().is_none() && view.values::<u8_of_f16>().is_none());
    let from_disk = make::path("borrowed.safetensors");
    std::fs::write(&from_disk, &bytes).unwrap();
    assert!(matches!(Reader::open(&from_disk).unwrap().tensor("bias").unwrap(), Cow::Owned(_)));
}

/// A type of the right size for bytes, and not of the weight.
#[allow(non_camel_case_types)]
type u8_of_f16 = i8;

/// A file that another library wrote, without any weights.
#[test]
fn any_safetensors_file_is_read() {
    let data: Vec<u8> = (0..48).collect();
    let view = |dtype, shape: &[usize]| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), &data).unwrap();
    let tensors = [
        ("a", view(safetensors::Dtype::F32, &[3, 4])),
        ("b", view(safetensors::Dtype::F4, &[96])),
        ("c", view(safetensors::Dtype::F6_E2M3, &[8, 8])),
        ("d", view(safetensors::Dtype::C64, &[6])),
    ];
    let bytes = safetensors::serialize(tensors, Some([("format".into(), "pt".into())].into())).unwrap();
    let reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.weights().len(), 0);
    let tensors: Vec<_> = reader.tensors().map(|tensor| (tensor.name(), tensor.dtype(), tensor.bytes())).collect();
    let types = [TensorType::F32, TensorType::F4, TensorType::F6E2m3, TensorType::C64];
    let expected: Vec<_> = ["a", "b", "c", "d"].into_iter().zip(types).map(|(name, dtype)| (name, dtype, 48)).collect();
    assert_eq!(tensors, expected);
    let expected: Vec<f32> = data.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert!(same(&reader.elements::<f32>("a").unwrap(), &expected));
    let error = reader.elements::<bf16>("a").unwrap_err().to_string();
    assert_eq!(error, "safetensors bytes: tensor `a` is of type F32, and bf16 was asked for");
    assert_eq!(Manifest::new().to_bytes::<Error>(|_| Ok(())).unwrap(), *b"\x08\0\0\0\0\0\0\0{}      ");
}

/// Every type the `safetensors` crate knows has its name and size here.
#[test]
fn types_are_those_of_the_crate() {
    for dtype in TensorType::ALL {
        let theirs: safetensors::Dtype = serde_json::from_str(&format!("\"{dtype}\"")).unwrap();
        assert_eq!(theirs.bitsize(), dtype.bits(), "{dtype}");
        assert_eq!(TensorType::from_name(dtype.name()), Some(*dtype));
        assert!(dtype.value_type().is_none_or(|value_type| TensorType::of_values(value_type) == Some(*dtype)));
    }
    let in_order = TensorType::ALL.windows(2).all(|pair| {
        let [a, b] = [pair[0], pair[1]].map(|dtype| serde_json::from_str(&format!("\"{dtype}\"")).unwrap());
        safetensors::Dtype::cmp(&a, &b) == std::cmp::Ordering::Less
    });
    assert!(in_order);
    assert_eq!(TensorType::ALL.iter().filter(|dtype| dtype.value_type().is_some()).count(), DTYPES.len());
}

/// What one asks for and is not there.
#[test]
fn what_is_not_there() {
    let weight = make::random::<f16>(Shape::new(5, 12), 1);
    let bytes = write(&weight, &[7; 3]);
    let reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.weight_info("w").unwrap().encoding(), Encoding::Codes);
    let message = |error: Error| error.to_string();
    assert_eq!(message(reader.tensor("x").unwrap_err()), "safetensors bytes: there is no tensor `x`");
    assert_eq!(message(reader.weight("x").unwrap_err()), "safetensors bytes: there is no compressed weight `x`");
    let dense = "safetensors bytes: there is no compressed weight `bias`: the tensor of this name is dense";
    assert_eq!(message(reader.weight("bias").unwrap_err()), dense);
    let error = reader.compressed::<bf16>("w").unwrap_err();
    assert!(matches!(&error, Error::InWeight { error, .. } if matches!(**error, Error::DType { .. })), "{error}");
    let expected = "safetensors bytes: weight `w`: its values are f16, and bf16 was asked for: ask for f16";
    assert_eq!(message(error), expected);
    assert_eq!(message(Reader::open("/no/such/file").unwrap_err()).split(": ").next(), Some("/no/such/file"));
    assert!(message(Reader::open(env!("CARGO_TARGET_TMPDIR")).unwrap_err()).contains("is not a file"));
}
