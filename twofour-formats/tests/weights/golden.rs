//! The golden files of `tests/data/weights`, which `make.py` there wrote from the description of the formats alone.

use crate::any::{Wide, for_type, same};
use crate::make;
use twofour::compress::{Compressed, Sparsity};
use twofour::{Pattern, Shape};
use twofour_formats::{Encoding, Error, Manifest, Reader, TensorType, Writer};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/weights/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The weight that `make.py` makes of a type and shape.
fn made<T: Wide>(shape: Shape) -> Compressed<T> {
    let modulus = 1u64 << (8 * size_of::<T>() - 1);
    let dense: Vec<T> =
        (0..shape.weights() as u64).map(|i| T::from_bits(((i * 40503 + 12345) % modulus) as u32)).collect();
    let sparsity = Sparsity::of(T::DTYPE);
    let code = |group: usize| match sparsity {
        Sparsity::OneTwo => [0x4, 0xe][group * 7 / 3 % 2],
        Sparsity::TwoFour => Pattern::from_index(((group * 5 + 1) % 6) as u8).unwrap().code(),
    };
    let mut codes = vec![0; sparsity.packed_codes(shape)];
    (0..sparsity.groups(shape)).for_each(|group| codes[group / 2] |= code(group) << (4 * (group % 2)));
    Compressed::with_codes(shape, &dense, &codes).unwrap()
}

const WEIGHTS: [(&str, &str, Shape); 7] = [
    ("a.weight", "f16", Shape::new(3, 12)),
    ("b.weight", "bf16", Shape::new(2, 8)),
    ("c.weight", "f32", Shape::new(3, 4)),
    ("d.weight", "i8", Shape::new(5, 4)),
    ("e.weight", "e4m3", Shape::new(1, 20)),
    ("f.weight", "e5m2", Shape::new(4, 4)),
    ("g.weight", "f16", Shape::new(0, 8)),
];

fn reads<T: Wide>(reader: &Reader<'_>, name: &str, shape: Shape) {
    let info = reader.weight_info(name).unwrap();
    assert_eq!((info.name(), info.shape(), info.value_type()), (name, shape, T::DTYPE));
    let (read, made) = (reader.compressed::<T>(name).unwrap(), made::<T>(shape));
    assert!(same(read.values(), made.values()), "{name}");
    assert_eq!((read.codes(), read.shape()), (made.codes(), made.shape()), "{name}");
}

fn writes<T: Wide>(file: &mut Writer<'_>, name: &str, shape: Shape) {
    file.weight(name, &made::<T>(shape)).unwrap();
}

#[test]
fn version_1_is_read() {
    let bytes = golden("version-1");
    let reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.weights().len(), WEIGHTS.len());
    assert!(reader.weights().all(|info| info.encoding() == Encoding::Codes));
    for ((name, dtype, shape), info) in WEIGHTS.into_iter().zip(reader.weights()) {
        assert_eq!(info.value_type().name(), dtype);
        for_type!(info.value_type(), reads(&reader, name, shape));
    }
    let names: Vec<_> = reader.tensors().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["a.bias", "flag", "ids", "nothing"]);
    assert_eq!(*reader.tensor("a.bias").unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(reader.metadata().collect::<Vec<_>>(), [("format", "pt"), ("quote", "a \"ü\" \\ b\n")]);
}

/// The format is a promise: the same weights make the same bytes.
#[test]
fn version_1_is_written() {
    let bytes = golden("version-1");
    let value_type = |name| Reader::from_bytes(&bytes).unwrap().weight_info(name).unwrap().value_type();
    let mut manifest = Manifest::new();
    manifest.metadata("quote", "a \"ü\" \\ b\n").unwrap();
    manifest.metadata("format", "pt").unwrap();
    manifest.tensor("nothing", TensorType::F32, &[0, 7]).unwrap();
    manifest.tensor("flag", TensorType::U8, &[]).unwrap();
    manifest.tensor("ids", TensorType::I64, &[2, 1]).unwrap();
    manifest.tensor("a.bias", TensorType::F16, &[3]).unwrap();
    for (name, _, shape) in WEIGHTS {
        manifest.weight(name, value_type(name), shape).unwrap();
    }
    let path = make::path("golden.safetensors");
    let result = manifest.save(&path, |file| {
        for (name, _, shape) in WEIGHTS.into_iter().rev() {
            for_type!(value_type(name), writes(file, name, shape));
        }
        file.tensor("flag", &[1])?;
        file.tensor("ids", &(0..16).collect::<Vec<u8>>())?;
        file.tensor("a.bias", &[0, 1, 2, 3, 4, 5])?;
        file.tensor("nothing", &[])
    });
    assert_eq!(result, Ok(()));
    assert!(std::fs::read(path).unwrap() == bytes);
}

/// Every byte of the file that means something is looked at: changed, it is an error, or changes what is read.
#[test]
fn every_byte_counts() {
    let bytes = golden("version-1");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let read = |bytes: &[u8]| -> Result<_, Error> {
        let reader = Reader::from_bytes(bytes)?;
        let mut all = format!("{:?} {:?}", reader.metadata().collect::<Vec<_>>(), reader.weights().collect::<Vec<_>>());
        for tensor in reader.tensors() {
            all += &format!("{} {} {:?}", tensor.name(), tensor.dtype(), tensor.shape());
            all += &format!("{:?}", reader.tensor(tensor.name())?);
        }
        for info in reader.weights() {
            let weight = reader.weight(info.name())?;
            all += &format!("{:?} {:?}", weight.codes(), weight.value_bytes());
        }
        Ok(all)
    };
    let original = read(&bytes).unwrap();
    let padding = bytes[..header].iter().rev().take_while(|&&byte| byte == b' ').count();
    for at in (0..bytes.len()).filter(|at| !(header - padding..header).contains(at)) {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert_ne!(read(&changed).as_ref(), Ok(&original), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_bitmask_checkpoint_is_read() {
    let bytes = golden("bitmask");
    let reader = Reader::from_bytes(&bytes).unwrap();
    let (down, up) = ("model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight");
    let names: Vec<_> = reader.weights().map(|info| (info.name(), info.encoding())).collect();
    assert_eq!(names, [(down, Encoding::Bitmask), (up, Encoding::Bitmask)]);
    let tensors: Vec<_> = reader.tensors().map(|tensor| tensor.name()).collect();
    assert_eq!(tensors, ["model.layers.0.mlp.down_proj.weight_scale"]);
    reads::<twofour::bf16>(&reader, up, Shape::new(3, 12));
    reads::<twofour::E4m3>(&reader, down, Shape::new(3, 12));
}
