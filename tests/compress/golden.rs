//! The golden files of `tests/data/layouts`, bit for bit.

use crate::any::{Wide, same};
use crate::case::{Choice, Dense, reorder, unpack};
use crate::common::{Emulator, TestExecutor, gpu};
use safetensors::SafeTensors;
use twofour::compress::{Compressed, Layout, MinTileK, Sparsity, convert, first_violation};
use twofour::{Cpu, Shape, bf16, f16};
use twofour_emulator::Schedule;

/// A golden file in memory.
struct Golden {
    name: String,
    bytes: Vec<u8>,
}

impl Golden {
    fn read(name: &str) -> Self {
        // Cargo runs tests in the package's folder; elsewhere the data lie beside the programs.
        let path = format!("tests/data/layouts/{name}.safetensors");
        Self { name: name.to_owned(), bytes: std::fs::read(path).unwrap() }
    }

    /// An array's bytes, if the file has it.
    fn array(&self, array: &str) -> Option<Vec<u8>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.tensor(array).ok().map(|tensor| tensor.data().to_vec())
    }

    fn values<T: Wide>(&self, array: &str) -> Vec<T> {
        let bytes = self.array(array).unwrap();
        bytes.chunks(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    fn shape(&self) -> Shape {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let &[rows, cols] = file.tensor("dense").unwrap().shape() else { panic!("{}", self.name) };
        Shape::new(rows, cols)
    }

    /// The codes, canonical.
    fn codes(&self) -> Vec<u8> {
        self.array("codes").unwrap().chunks(2).map(|pair| pair[0] | pair[1] << 4).collect()
    }
}

/// Which layout an array holds.
const ARRAYS: [(&str, Layout); 9] = [
    ("meta_plain", Layout::Plain),
    ("meta_cutlass_sm80", Layout::CutlassSm80),
    ("derived_cslt_mma16", Layout::CusparseltMma),
    ("derived_cslt_sm90_16", Layout::CusparseltSm90),
    ("derived_cslt_sm86_i8", Layout::CusparseltSm86Int8),
    ("derived_cutlass_sm90_k64", Layout::CutlassSm90(MinTileK::K64)),
    ("derived_cutlass_sm90_k128", Layout::CutlassSm90(MinTileK::K128)),
    ("derived_cutlass_sm90_8bit", Layout::CutlassSm90(MinTileK::K128)),
    ("derived_cutlass_sm100_16", Layout::CutlassSm100),
];

/// Everything in a file follows from its dense weight; how many arrays of metadata it has.
fn reproduce<T: Wide>(name: &str) -> usize {
    let golden = Golden::read(name);
    reproduce_on::<T>(&mut Cpu, &golden);
    reproduce_on::<T>(&mut Emulator::new(Schedule::Solo(1)), &golden);
    if let Some(mut gpu) = gpu() {
        reproduce_on::<T>(&mut gpu, &golden);
    }
    let (shape, dense) = (golden.shape(), golden.values::<T>("dense"));
    let codes = golden.codes();
    for compressed in [
        Compressed::with_codes(shape, &dense, &codes).unwrap(),
        Compressed::from_sparse(shape, &dense).unwrap(),
        Compressed::by_magnitude(shape, &dense).unwrap(),
    ] {
        assert!(same(compressed.values(), &golden.values::<T>("values")), "{name}: values");
        assert_eq!(compressed.codes(), codes, "{name}: codes");
        assert!(same(&compressed.decompress(), &dense), "{name}: dense");
    }
    let pattern = golden.array("pattern").unwrap();
    if Sparsity::of(T::DTYPE) == Sparsity::TwoFour {
        assert_eq!(convert::patterns_from_codes(shape, &codes).unwrap(), pattern, "{name}: patterns");
        assert_eq!(convert::codes_from_patterns(shape, &pattern).unwrap(), codes, "{name}: patterns");
    } else {
        let mask: Vec<bool> = pattern.iter().flat_map(|&kept| [kept == 0, kept == 1]).collect();
        assert_eq!(convert::codes_from_mask(Sparsity::OneTwo, shape, &mask).unwrap(), codes, "{name}: mask");
    }
    let held = ARRAYS.iter().filter_map(|(array, layout)| Some((array, layout, golden.array(array)?)));
    let checked = held.map(|(array, &layout, expected)| {
        let compressed = Compressed::with_codes(shape, &dense, &codes).unwrap();
        assert_eq!(compressed.metadata(layout).unwrap(), expected, "{name}: {array}");
        let back = Compressed::<T>::from_layout(shape, layout, compressed.values(), &expected).unwrap();
        assert!(same(&back.decompress(), &dense), "{name}: {array}, unpacked");
    });
    checked.count()
}

/// Every layout of a file from its dense weight on an executor, however codes are chosen, and back.
fn reproduce_on<T: Wide>(on: &mut impl TestExecutor, golden: &Golden) {
    let (shape, dense, codes) = (golden.shape(), golden.values::<T>("dense"), golden.codes());
    for (array, layout) in ARRAYS {
        let Some(expected) = golden.array(array) else { continue };
        let case = Dense { shape, layout, dense: dense.clone(), wants: [true; 4] };
        for choice in [Choice::Codes(codes.clone()), Choice::Magnitude, Choice::NonZeros] {
            let got = case.pack(on, &choice).unwrap();
            assert!(got.metadata == expected && got.codes == codes, "{}: {array} on {on:?}", golden.name);
            assert!(same(&got.masked, &dense) && got.faults == 0, "{}: {array} on {on:?}", golden.name);
            let (back, faults) = unpack(on, shape, layout, &got.values, &expected).unwrap();
            assert!(same(&back, &dense) && faults == 0, "{}: {array} unpacked on {on:?}", golden.name);
        }
        let plain = (Layout::Plain, codes.as_slice());
        assert_eq!(reorder(on, shape, T::DTYPE, plain, layout).unwrap(), (expected, 0), "{}", golden.name);
    }
}

#[test]
fn f16_files() {
    let counts = ["fp16_64x128", "fp16_128x256", "fp16_256x256"].map(reproduce::<f16>);
    assert_eq!(counts, [6, 7, 7]);
}

#[test]
fn bf16_files() {
    let counts = ["bf16_32x64", "bf16_128x128", "bf16_256x128"].map(reproduce::<bf16>);
    assert_eq!(counts, [3, 7, 7]);
}

#[test]
fn f32_files() {
    assert_eq!(["fp32_32x32", "fp32_128x128"].map(reproduce::<f32>), [2, 2]);
}

#[test]
fn i8_files() {
    assert_eq!(["int8_16x128", "int8_64x128", "int8_256x512"].map(reproduce::<i8>), [3, 4, 3]);
}

/// PyTorch's choices for groups that are not exactly 2:4, given as codes, make its values and metadata.
#[test]
fn edge_file_with_its_codes() {
    let golden = Golden::read("edge_bf16_32x64");
    let (shape, codes) = (golden.shape(), golden.codes());
    let compressed = Compressed::with_codes(shape, &golden.values::<bf16>("dense"), &codes).unwrap();
    assert!(same(compressed.values(), &golden.values::<bf16>("values")));
    assert_eq!(compressed.metadata(Layout::CutlassSm80).unwrap(), golden.array("meta_cutlass_sm80").unwrap());
}

/// Compressed as it is, each row of the edge file is what PyTorch makes of it, or what the documentation says, or an
/// error.
#[test]
fn edge_file_as_it_is() {
    let golden = Golden::read("edge_bf16_32x64");
    let dense = golden.values::<bf16>("dense");
    let theirs = golden.array("codes").unwrap();
    let names = {
        let (_, header) = SafeTensors::read_metadata(&golden.bytes).unwrap();
        header.metadata().as_ref().unwrap()["names"].clone()
    };
    let row_shape = Shape::new(1, 64);
    for (row, name) in names.split(',').enumerate() {
        let weight = &dense[64 * row..64 * (row + 1)];
        let group: Vec<bool> = weight[..4].iter().map(|value| value.to_f32() != 0.0).collect();
        let kept = group.iter().filter(|&&kept| kept).count();
        let compressed = match Compressed::from_sparse(row_shape, weight) {
            Ok(compressed) => compressed,
            Err(error) => {
                assert!(kept > 2, "{name}: {error}");
                let violation = first_violation(row_shape, weight).unwrap().unwrap();
                assert_eq!((violation.row, violation.group, violation.kept), (0, 0, kept as u32), "{name}");
                continue;
            }
        };
        let code = compressed.code(0, 0).unwrap();
        match name {
            "mask_x000" => assert_eq!((code, theirs[16 * row]), (0xc, 0x8)),
            "mask_0x00" => assert_eq!((code, theirs[16 * row]), (0xd, 0x9)),
            _ if kept == 2 || name.starts_with("mask") => assert_eq!(code, theirs[16 * row], "{name}"),
            _ => {}
        }
        assert!(kept <= 2, "{name}");
        let back = compressed.decompress();
        assert!(back.iter().zip(weight).all(|(a, b)| a.to_bits() == b.to_bits() || b.to_f32() == 0.0), "{name}");
    }
}
