//! `sparse-24-bitmask`: against a naive decompression, and everything that such a file can have wrong.

use crate::any::{Wide, for_type, same, values};
use crate::make::{Tensor, file};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::compress::{Compressed, DTYPES, Sparsity};
use twofour::{Shape, bf16, f16};
use twofour_formats::{Encoding, Reader, TensorType, bitmask};

/// A dense weight, which of its values are kept, and both as the format has them.
struct Checkpoint<T> {
    dense: Vec<T>,
    kept: Vec<T>,
    bits: Vec<u8>,
}

impl<T: Wide> Checkpoint<T> {
    /// Each group keeps what `choose` says: a bit a position.
    fn new(shape: Shape, seed: u64, mut choose: impl FnMut(&mut StdRng) -> u8) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut dense = values::<T>(&mut rng, shape.weights());
        let row_bytes = shape.cols.div_ceil(8);
        // Bits beyond the last column are anything.
        let mut bits: Vec<u8> = vec![if shape.cols % 8 == 4 { 0xf0 } else { 0 }; shape.rows * row_bytes];
        let mut kept = Vec::new();
        for row in 0..shape.rows {
            (0..row_bytes.saturating_sub(1)).for_each(|byte| bits[row * row_bytes + byte] = 0);
            for group in 0..shape.cols / 4 {
                let mask = choose(&mut rng);
                for j in 0..4 {
                    let column = 4 * group + j;
                    let value = &mut dense[row * shape.cols + column];
                    if mask >> j & 1 == 1 {
                        bits[row * row_bytes + column / 8] |= 1 << (column % 8);
                        kept.push(*value);
                    } else {
                        *value = T::from_bits(0);
                    }
                }
            }
        }
        Self { dense, kept, bits }
    }

    fn tensors(&self, shape: Shape) -> [Tensor<'static>; 3] {
        let dims = [shape.rows as u64, shape.cols as u64];
        let [rows, cols] = dims;
        let dtype = TensorType::of_values(T::DTYPE).unwrap().name();
        let kept = bytemuck::cast_slice(&self.kept).to_vec();
        [
            ("m.compressed", dtype, vec![rows, cols / 2], kept),
            ("m.bitmask", "U8", vec![rows, cols.div_ceil(8)], self.bits.clone()),
            ("m.shape", "I64", vec![2, 1], dims.map(u64::to_le_bytes).concat()),
        ]
    }
}

/// A group that the format's writer makes: two of four; for `f32`, one of each half.
fn exact(sparsity: Sparsity) -> impl FnMut(&mut StdRng) -> u8 {
    move |rng| match sparsity {
        Sparsity::TwoFour => [0x3, 0x5, 0x9, 0x6, 0xa, 0xc][rng.random_range(0..6)],
        Sparsity::OneTwo => [0x5, 0x6, 0x9, 0xa][rng.random_range(0..4)],
    }
}

fn is_read<T: Wide>(shape: Shape, seed: u64) {
    let checkpoint = Checkpoint::<T>::new(shape, seed, exact(Sparsity::of(T::DTYPE)));
    let mut tensors = checkpoint.tensors(shape).to_vec();
    tensors.push(("m.weight_scale", "F32", vec![1], vec![1; 4]));
    let bytes = file(&tensors, &[("format", "pt")]);
    let reader = Reader::from_bytes(&bytes).unwrap();
    let info = reader.weight_info("m.weight").unwrap();
    assert_eq!((info.shape(), info.value_type(), info.encoding()), (shape, T::DTYPE, Encoding::Bitmask));
    let weight = reader.compressed::<T>("m.weight").unwrap();
    assert!(same(&weight.decompress(), &checkpoint.dense), "zeros that are kept keep their sign");
    assert!(same(weight.values(), &checkpoint.kept));
    assert_eq!(reader.tensors().map(|tensor| tensor.name()).collect::<Vec<_>>(), ["m.weight_scale"]);
    // A list of values, for groups that keep fewer.
    tensors[0].2 = vec![checkpoint.kept.len() as u64];
    let list = file(&tensors, &[]);
    assert!(same(Reader::from_bytes(&list).unwrap().compressed::<T>("m.weight").unwrap().values(), &checkpoint.kept));
    assert!(reader.view("m.weight").unwrap_err().to_string().contains("take a copy"));
}

/// Groups that keep fewer are filled up as a bare dense weight is.
fn is_filled<T: Wide>(shape: Shape, seed: u64) {
    let mut kept = exact(Sparsity::of(T::DTYPE));
    let checkpoint = Checkpoint::<T>::new(shape, seed, |rng| kept(rng) & rng.random_range(0..16));
    let weight = bitmask::from_parts(shape, &checkpoint.kept, &checkpoint.bits).unwrap();
    assert!(same(&weight.decompress(), &checkpoint.dense));
    // The same choice as of non-zeros, which here stand for bits.
    let row_bytes = shape.cols.div_ceil(8);
    let bit = |i: usize| checkpoint.bits[i / shape.cols * row_bytes + i % shape.cols / 8] >> (i % shape.cols % 8) & 1;
    let ones: Vec<T> = (0..shape.weights()).map(|i| T::from_bits(u32::from(bit(i)))).collect();
    assert_eq!(weight.codes(), Compressed::from_sparse(shape, &ones).unwrap().codes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn checkpoints_are_read(kind in 0..6usize, rows in 0..8usize, groups in 0..20usize, seed in any::<u64>()) {
        let shape = Shape::new(rows, 4 * groups);
        for_type!(DTYPES[kind], is_read(shape, seed));
        for_type!(DTYPES[kind], is_filled(shape, seed));
    }
}

#[test]
fn a_group_that_keeps_too_many_is_named() {
    let shape = Shape::new(2, 12);
    // Row 1, group 2: its four bits are the lower half of the second byte.
    let error = bitmask::from_parts(shape, &[f16::ONE; 12], &[0x33, 0x3, 0x33, 0x7]).unwrap_err();
    assert_eq!(error, twofour::Error::NotTwoFour { row: 1, group: 2, kept: 3, width: 4 });
    // f32 keeps one of two.
    let error = bitmask::from_parts(Shape::new(1, 8), &[1.0f32; 4], &[0x35]).unwrap_err();
    assert_eq!(error, twofour::Error::NotTwoFour { row: 0, group: 2, kept: 2, width: 2 });
    let sparse = Checkpoint::<f16> { dense: vec![], kept: vec![f16::ONE; 4], bits: vec![0x17] };
    let bytes = file(&sparse.tensors(Shape::new(1, 8)), &[]);
    let error = Reader::from_bytes(&bytes).unwrap().compressed::<f16>("m.weight").unwrap_err();
    assert!(error.to_string().starts_with("safetensors bytes: weight `m.weight`: group 0 of row 0 keeps 3 of 4"));
}

#[test]
fn lengths_that_do_not_agree() {
    let shape = Shape::new(2, 8);
    let lengths = |values: usize, bits: &[u8]| bitmask::from_parts(shape, &vec![bf16::ONE; values], bits).unwrap_err();
    assert_eq!(lengths(8, &[0x33]), twofour::Error::Length { what: "bitmask", expected: 2, got: 1 });
    assert_eq!(lengths(7, &[0x33, 0x33]), twofour::Error::Length { what: "values", expected: 8, got: 7 });
    assert_eq!(lengths(9, &[0x33, 0x33]), twofour::Error::Length { what: "values", expected: 8, got: 9 });
    assert_eq!(lengths(8, &[0x33, 0x13]), twofour::Error::Length { what: "values", expected: 7, got: 8 });
    let overflow = bitmask::from_parts(Shape::new(usize::MAX, 4), &[bf16::ONE; 0], &[]).unwrap_err();
    assert!(matches!(overflow, twofour::Error::Overflow { .. }), "{overflow}");
    // Rows without columns are no work, however many.
    let none = bitmask::from_parts(Shape::new(usize::MAX, 0), &[bf16::ONE; 0], &[]).unwrap();
    assert!(none.values().is_empty());
    assert!(matches!(
        bitmask::from_parts(Shape::new(1, 6), &[bf16::ONE; 3], &[0]),
        Err(twofour::Error::NotGrouped { .. })
    ));
}

#[test]
fn tensors_that_do_not_agree() {
    let shape = Shape::new(2, 12);
    let good = Checkpoint::<bf16>::new(shape, 3, exact(Sparsity::TwoFour)).tensors(shape);
    assert!(Reader::from_bytes(&file(&good, &[])).unwrap().weight("m.weight").is_ok());
    let fails = |change: &dyn Fn(&mut [Tensor<'_>; 3]), words: &str| {
        let mut tensors = good.clone();
        change(&mut tensors);
        let bytes = file(&tensors, &[]);
        let error = Reader::from_bytes(&bytes).and_then(|reader| reader.weight("m.weight")).unwrap_err().to_string();
        assert!(error.starts_with("safetensors bytes: ") && error.contains(words), "{error}");
    };
    let sizes = |sizes: [i64; 2]| sizes.map(i64::to_le_bytes).concat();
    fails(&|t| t[2].3 = sizes([2, -12]), "negative");
    fails(&|t| t[2].3 = sizes([2, 20]), "`m.bitmask` is U8 [2, 2], which is no bitmask of 2 x 20");
    // 16 columns take as many bytes as 12.
    fails(&|t| t[2].3 = sizes([2, 16]), "`m.compressed` is [2, 6], and 2 x 16 keeps [2, 8]");
    fails(&|t| t[2].3 = sizes([3, 12]), "no bitmask of 3 x 12");
    fails(&|t| t[2].3 = sizes([2, 11]), "not a multiple of 4");
    fails(&|t| t[2].3 = sizes([1 << 62, 1 << 62]), "overflows");
    fails(&|t| t[2].3 = sizes([i64::MAX, 4]), "overflows");
    fails(&|t| (t[2].1, t[2].2) = ("I32", vec![4]), "not two I64");
    fails(&|t| (t[2].2, t[2].3) = (vec![3, 1], vec![0; 24]), "not two I64");
    fails(&|t| t[1].1 = "I8", "is I8");
    fails(&|t| t[1].2 = vec![4], "no bitmask of 2 x 12");
    fails(&|t| (t[0].1, t[0].2) = ("U16", vec![12]), "values of type U16");
    fails(&|t| (t[0].2, t[0].3) = (vec![2, 5], vec![0; 20]), "`m.compressed` is [2, 5]");
    fails(&|t| t[0].2 = vec![3, 4], "`m.compressed` is [3, 4]");
    fails(&|t| (t[0].2, t[0].3) = (vec![10], vec![0; 20]), "`values` holds 10 elements, but the shape needs 12");
    fails(&|t| t[1].3[0] ^= 1 << t[1].3[0].trailing_zeros(), "`values` holds 12 elements, but the shape needs 11");
    fails(&|t| t[0].0 = "m.weight", "there is no compressed weight");
}

/// `sparse-bitmask`: any number of values a group, any length of rows, and where rows begin.
fn older<T: Wide>(shape: Shape, seed: u64) -> (Vec<T>, [Tensor<'static>; 4]) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut dense = values::<T>(&mut rng, shape.rows * shape.cols);
    let (mut kept, mut offsets) = (Vec::new(), Vec::new());
    let mut bits = vec![0; shape.rows * shape.cols.div_ceil(8)];
    for (i, value) in dense.iter_mut().enumerate() {
        let (row, column) = (i / shape.cols, i % shape.cols);
        if column == 0 {
            offsets.extend((kept.len() as u64).to_le_bytes());
        }
        if rng.random() {
            bits[row * shape.cols.div_ceil(8) + column / 8] |= 1 << (column % 8);
            kept.push(*value);
        } else {
            *value = T::from_bits(0);
        }
    }
    let dims = [shape.rows as u64, shape.cols as u64];
    let dtype = TensorType::of_values(T::DTYPE).unwrap().name();
    let tensors = [
        ("m.compressed", dtype, vec![kept.len() as u64], bytemuck::cast_slice(&kept).to_vec()),
        ("m.bitmask", "U8", vec![dims[0], dims[1].div_ceil(8)], bits),
        ("m.shape", "I64", vec![2], dims.map(u64::to_le_bytes).concat()),
        ("m.row_offsets", "I64", vec![dims[0]], offsets),
    ];
    (dense, tensors)
}

fn is_dense<T: Wide>(shape: Shape, seed: u64) {
    let (dense, tensors) = older::<T>(shape, seed);
    let bytes = file(&tensors, &[]);
    let reader = Reader::from_bytes(&bytes).unwrap();
    let info = reader.weight_info("m.weight").unwrap();
    assert_eq!((info.shape(), info.encoding()), (shape, Encoding::SparseBitmask));
    assert_eq!(reader.tensors().count(), 0);
    assert_eq!(reader.dense("m.weight").unwrap(), bytemuck::cast_slice::<T, u8>(&dense));
    // Every other format's weights too.
    let shape = Shape::new(shape.rows, shape.cols.next_multiple_of(4));
    let checkpoint = Checkpoint::<T>::new(shape, seed, |rng| rng.random_range(0..16));
    let mut tensors = checkpoint.tensors(shape);
    tensors[0].2 = vec![checkpoint.kept.len() as u64];
    let bytes = file(&tensors, &[]);
    let dense = Reader::from_bytes(&bytes).unwrap().dense("m.weight").unwrap();
    assert_eq!(dense, bytemuck::cast_slice::<T, u8>(&checkpoint.dense));
}

#[test]
fn older_checkpoints_are_read() {
    for seed in 0..60 {
        let shape = Shape::new(1 + seed as usize % 4, 1 + seed as usize * 7 % 23);
        for_type!(DTYPES[seed as usize % 6], is_dense(shape, seed));
    }
    let (_, good) = older::<bf16>(Shape::new(3, 12), 1);
    let fails = |change: &dyn Fn(&mut [Tensor<'_>; 4]), words: &str| {
        let mut tensors = good.clone();
        change(&mut tensors);
        let bytes = file(&tensors, &[]);
        let error = Reader::from_bytes(&bytes).and_then(|reader| reader.dense("m.weight")).unwrap_err().to_string();
        assert!(error.starts_with("safetensors bytes: weight `m.weight`: ") && error.contains(words), "{error}");
    };
    // Where rows begin is not looked at.
    let mut other = good.clone();
    other[3].3.fill(7);
    let dense = |tensors: &[Tensor<'_>]| Reader::from_bytes(&file(tensors, &[])).unwrap().dense("m.weight").unwrap();
    assert_eq!(dense(&other), dense(&good));
    fails(&|t| t[2].3 = [3i64, 20].map(i64::to_le_bytes).concat(), "no bitmask of 3 x 20");
    fails(&|t| t[2].3 = [i64::MAX, 12].map(i64::to_le_bytes).concat(), "overflows");
    fails(&|t| (t[0].2[0], t[0].3) = (t[0].2[0] + 1, [&t[0].3[..], &[0, 0]].concat()), "`values` holds");
    fails(&|t| t[0].2.push(1), "is [");
    // What is 2:4 by chance is a compressed weight too; what is not is named.
    let mut exact = older::<bf16>(Shape::new(1, 8), 1).1;
    (exact[0].2, exact[0].3, exact[1].3) = (vec![4], vec![1; 8], vec![0x35]);
    let weight = |tensors: &[Tensor<'_>]| Reader::from_bytes(&file(tensors, &[])).unwrap().weight("m.weight");
    assert!(weight(&exact).is_ok());
    exact[1].3[0] = 0x17;
    assert!(weight(&exact).unwrap_err().to_string().contains("group 0 of row 0 keeps 3 of 4"));
}

/// Two of four of `f32`: dense it can be read, and the error of the compressed one says so.
#[test]
fn two_of_four_of_f32() {
    let shape = Shape::new(2, 12);
    let mut groups = [0x5, 0x6, 0x9, 0x3, 0x5, 0x6].into_iter();
    let checkpoint = Checkpoint::<f32>::new(shape, 3, |_| groups.next().unwrap());
    let bytes = file(&checkpoint.tensors(shape), &[]);
    let reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!(reader.dense("m.weight").unwrap(), bytemuck::cast_slice::<f32, u8>(&checkpoint.dense));
    let error = reader.compressed::<f32>("m.weight").unwrap_err().to_string();
    assert!(error.contains("group 0 of row 1 keeps 2 of 2") && error.contains("bf16 or f16"), "{error}");
}

/// Names can be no module's.
#[test]
fn what_only_looks_like_it() {
    let shape = Shape::new(2, 12);
    let good = Checkpoint::<bf16>::new(shape, 3, exact(Sparsity::TwoFour)).tensors(shape);
    let none = |tensors: &[Tensor<'_>]| {
        let bytes = file(tensors, &[]);
        let reader = Reader::from_bytes(&bytes).unwrap();
        assert_eq!((reader.weights().len(), reader.tensors().count()), (0, tensors.len()));
    };
    none(&good[..2]);
    let mut other = good.clone();
    (other[0].0, other[1].0, other[2].0) = ("compressed", "mbitmask", "shape");
    none(&other);
    // A model that is one layer has names without a module.
    (other[0].0, other[1].0, other[2].0) = ("compressed", "bitmask", "shape");
    let bytes = file(&other, &[]);
    assert!(Reader::from_bytes(&bytes).unwrap().weight("weight").is_ok());
    // The dense weight beside the compressed one: which is it?
    let twice = file(&[&good[..], &[("m.weight", "BF16", vec![2, 12], vec![0; 48])]].concat(), &[]);
    assert!(Reader::from_bytes(&twice).unwrap_err().to_string().contains("`m.weight` is there twice"));
}
