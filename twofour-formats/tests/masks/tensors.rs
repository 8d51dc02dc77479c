//! Masks in safetensors files that are not what they say.

use twofour::{Shape, bf16, f16};
use twofour_formats::Error;
use twofour_formats::masks::{Fewer, Form, Manifest, Mask, Masks, Shapes};

/// A safetensors file: name, type, shape, bytes.
fn file(tensors: &[(&str, &str, Vec<usize>, Vec<u8>)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut fields = Vec::new();
    if !metadata.is_empty() {
        let entries: Vec<_> = metadata.iter().map(|(key, value)| format!("{key:?}:{value:?}")).collect();
        fields.push(format!("\"__metadata__\":{{{}}}", entries.join(",")));
    }
    for (name, dtype, shape, bytes) in tensors {
        let (begin, end) = (data.len(), data.len() + bytes.len());
        fields.push(format!(r#"{name:?}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#));
        data.extend_from_slice(bytes);
    }
    let header = format!("{{{}}}", fields.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[track_caller]
fn fails(bytes: &[u8], words: &str) {
    let error = Masks::from_bytes(bytes).and_then(|masks| masks.read("w")).unwrap_err().to_string();
    assert!(error.starts_with("safetensors bytes: ") && error.contains(words), "{error}");
}

#[test]
fn flags_that_are_neither() {
    let one = |dtype: &str, shape: Vec<usize>, bytes: Vec<u8>| file(&[("w.mask", dtype, shape, bytes)], &[]);
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let good = one("F32", vec![1, 4], floats(&[1.0, 0.0, -0.0, 1.0]));
    assert_eq!(Masks::from_bytes(&good).unwrap().read("w").unwrap().codes(), [0xc]);
    for value in [0.5, -1.0, 2.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE] {
        let values = [1.0, 0.0, 0.0, 1.0, 1.0, value, 0.0, 0.0];
        let what = if value.is_nan() { "NaN, as of logits that are NaN" } else { "neither 0 nor 1" };
        fails(&one("F32", vec![2, 4], floats(&values)), &format!("mask `w`: row 1, column 1 is {what}"));
    }
    let f16s = [1.0, 1.0, 0.5, 0.0].map(|value| f16::from_f32(value).to_le_bytes()).concat();
    fails(&one("F16", vec![1, 4], f16s), "row 0, column 2 is neither");
    let bf16s = [1.0, 1.0, 0.0, 1.5].map(|value| bf16::from_f32(value).to_le_bytes()).concat();
    fails(&one("BF16", vec![1, 4], bf16s), "row 0, column 3 is neither");
    for dtype in ["U8", "BOOL"] {
        fails(&one(dtype, vec![1, 4], vec![0, 255, 1, 0]), "row 0, column 1 is neither");
        fails(&one(dtype, vec![4], vec![0, 1, 1, 0]), "is of shape [4], and masks are [N, K]");
        fails(&one(dtype, vec![], vec![0]), "is of shape [], and masks are [N, K]");
        fails(&one(dtype, vec![2, 2], vec![0, 1, 1, 0]), "weight `w`: the weight is 2 columns wide");
    }
    fails(&one("F64", vec![0, 4], vec![]), "is of type F64, and masks are BOOL, integers, F16, BF16 or F32");
    let three = Masks::from_bytes(&good).unwrap();
    assert_eq!(three.form(), Form::Flags);
    let more = one("U8", vec![2, 4], vec![1, 1, 0, 0, 1, 1, 1, 0]);
    let Error::InWeight { name, error, .. } = Masks::from_bytes(&more).unwrap().read("w").unwrap_err() else {
        panic!()
    };
    assert_eq!(
        (name.as_str(), *error),
        ("w", Error::Core(twofour::Error::NotTwoFour { row: 1, group: 0, kept: 3, width: 4 }))
    );
    let fewer = one("U8", vec![1, 4], vec![0, 1, 0, 0]);
    let filled = Masks::from_bytes(&fewer).unwrap().fewer(Fewer::Fill).read("w").unwrap();
    // The highest free position is the last: 1 and 3.
    assert_eq!(filled.codes(), [0xd]);
    // Rows of nothing are nothing, however many.
    let none = one("U8", vec![1 << 60, 0], vec![]);
    assert_eq!(Masks::from_bytes(&none).unwrap().read("w").unwrap().shape(), Shape::new(1 << 60, 0));
}

/// Of every type of integers, under either name.
#[test]
fn integers() {
    let flags = [1u8, 0, 0, 1, 0, 1, 1, 0];
    for (dtype, size) in
        [("BOOL", 1), ("U8", 1), ("I8", 1), ("U16", 2), ("I16", 2), ("U32", 4), ("I32", 4), ("U64", 8), ("I64", 8)]
    {
        let bytes: Vec<u8> = flags.iter().flat_map(|&flag| [vec![flag], vec![0; size - 1]].concat()).collect();
        for name in ["w.mask", "w_mask"] {
            let one = |bytes: &[u8]| file(&[(name, dtype, vec![2, 4], bytes.to_vec())], &[]);
            assert_eq!(Masks::from_bytes(&one(&bytes)).unwrap().read("w").unwrap().codes(), [0x9c]);
            // Not 1, by its lowest and by its highest byte.
            for at in [5 * size, 6 * size - 1] {
                let mut other = bytes.clone();
                other[at] ^= 0x82;
                fails(&one(&other), "row 1, column 1 is neither 0 nor 1");
            }
        }
    }
    // As `torch.nn.utils.prune` has them; a vector of this name is none, and neither is a third name.
    let tensors = [
        ("a.weight_mask", "I32", vec![1, 4], vec![1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a.weight_orig", "U8", vec![1, 4], vec![9; 4]),
        ("attention_mask", "U8", vec![4], vec![1; 4]),
        ("unmask", "U8", vec![1, 4], vec![1; 4]),
    ];
    let bytes = file(&tensors, &[]);
    let masks = Masks::from_bytes(&bytes).unwrap();
    assert_eq!(masks.names().collect::<Vec<_>>(), ["a.weight"]);
    assert_eq!(masks.read("a.weight").unwrap().codes(), [4]);
    let two = file(&[("w.mask", "U8", vec![0, 4], vec![]), ("w_mask", "U8", vec![0, 4], vec![])], &[]);
    fails(&two, "there are two masks of `w`: `w.mask` and `w_mask`");
}

/// Masks that lie as their weights do.
#[test]
fn more_dimensions() {
    let codes: Vec<u8> = vec![0x48, 0xec, 0xd9, 0x84, 0x9d, 0xce];
    let mask = |rows, cols| Mask::new(Shape::new(rows, cols), codes.clone()).unwrap();
    // Experts, a convolution, and both with shapes given.
    let flags: Vec<u8> = mask(6, 8).flags().unwrap();
    let of = |shape: Vec<usize>| file(&[("w.mask", "U8", shape, flags.clone())], &[]);
    let read = |bytes: &[u8], shape: Option<Shape>| {
        let shapes: Shapes = shape.into_iter().map(|shape| ("w", shape)).collect();
        Masks::from_bytes(bytes).unwrap().with_shapes(shapes).read("w")
    };
    assert_eq!(read(&of(vec![2, 3, 8]), None).unwrap(), mask(6, 8));
    assert_eq!(read(&of(vec![2, 12, 2]), None).unwrap(), mask(2, 24));
    assert_eq!(read(&of(vec![2, 3, 2, 4]), Some(Shape::new(2, 24))).unwrap(), mask(2, 24));
    assert_eq!(read(&of(vec![2, 2, 2, 6]), None).unwrap(), mask(2, 24));
    let other = read(&of(vec![2, 3, 8]), Some(Shape::new(6, 12))).unwrap_err().to_string();
    assert!(other.contains("is of 6 x 8, and its weight of 6 x 12"), "{other}");

    // Across: the weight is [in, out], or experts of these; written and read.
    for (experts, rows, cols) in [(1, 12, 4), (1, 4, 12), (2, 2, 12), (3, 4, 4)] {
        let mask = mask(experts * rows, cols);
        let sizes = [&[experts][usize::from(experts == 1)..], &[cols, rows]].concat();
        let mut manifest = Manifest::new(Form::Flags);
        manifest.layer_as("w", mask.shape(), &sizes, true).unwrap();
        let bytes = manifest.to_bytes(|file| file.mask("w", &mask)).unwrap();
        assert_eq!(Masks::from_bytes(&bytes).unwrap().read("w").unwrap(), mask);
        let reader = twofour_formats::Reader::from_bytes(&bytes).unwrap();
        assert_eq!(reader.tensor_info("w.mask").unwrap().shape(), sizes);
        let (own, flags) = (reader.tensor("w.mask").unwrap(), mask.flags::<u8>().unwrap());
        for (i, &flag) in flags.iter().enumerate() {
            let (expert, row, column) = (i / (rows * cols), i / cols % rows, i % cols);
            assert_eq!(own[(expert * cols + column) * rows + row], flag);
        }
    }
    // Other forms hold rows, whatever the sizes; and sizes are compared.
    let (shape, experts) = (Shape::new(6, 8), mask(6, 8));
    for form in Form::ALL {
        let mut manifest = Manifest::new(form);
        manifest.layer_as("w", shape, &[2, 3, 8], false).unwrap();
        let bytes = manifest.to_bytes(|file| file.mask("w", &experts)).unwrap();
        assert_eq!(read(&bytes, Some(shape)).unwrap(), experts);
    }
    for (sizes, across) in [(&[6, 7][..], false), (&[48], false), (&[6, 8], true), (&[usize::MAX, 2, 8], false)] {
        let refused = Manifest::new(Form::Flags).layer_as("w", shape, sizes, across).unwrap_err().to_string();
        assert!(refused.contains("is not 6 rows of 8"), "{refused}");
    }
    let wrong = file(&[("w.mask", "U8", vec![8, 6], flags.clone())], &[("twofour_masks.axis.w", "0")]);
    fails(&wrong, "`twofour_masks.axis.w` is `0`, and -2 is the only one that is known");
}

/// Other tensors of the file are no masks.
#[test]
fn tensors_beside() {
    let tensors = [
        ("w", "U8", vec![1, 4], vec![9; 4]),
        ("w.mask", "U8", vec![1, 4], vec![1, 1, 0, 0]),
        ("x.base6", "U8", vec![1], vec![9]),
    ];
    let bytes = file(&tensors, &[("format", "pt")]);
    let masks = Masks::from_bytes(&bytes).unwrap();
    assert_eq!(masks.names().collect::<Vec<_>>(), ["w"]);
    assert_eq!(masks.read("w").unwrap().codes(), [4]);
}

#[test]
fn base_6_that_is_none() {
    const VERSION: (&str, &str) = ("twofour_masks.version", "1");
    let with = |version: &str, shape: &str, tensor: (&str, Vec<usize>, Vec<u8>)| {
        let entries = [("twofour_masks.version", version), ("twofour_masks.shape.w", shape)];
        file(&[("w.base6", tensor.0, tensor.1, tensor.2)], &entries)
    };
    let good = with("1", "[2,8]", ("U8", vec![2], vec![215, 5]));
    let masks = Masks::from_bytes(&good).unwrap();
    assert_eq!((masks.form(), masks.read("w").unwrap().codes()), (Form::Base6, &[0xee, 0xee][..]));
    fails(&with("1", "[2,8]", ("U8", vec![2], vec![216, 5])), "base-6 byte 0xd8, and only 0 to 215 are legal");
    fails(&with("1", "[2,8]", ("U8", vec![2], vec![215, 6])), "group 1 of row 1 has base-6 byte 0x6");
    fails(&with("1", "[1,20]", ("U8", vec![2], vec![0, 36])), "group 3 of row 0 has base-6 byte 0x24");
    fails(&with("2", "[2,8]", ("U8", vec![2], vec![215, 5])), "`twofour_masks.version` is `2`");
    fails(&with("1", "[2,8,1]", ("U8", vec![2], vec![215, 5])), "mask `w`: its shape is `[2,8,1]`");
    fails(&with("1", "[2,-8]", ("U8", vec![2], vec![215, 5])), "its shape is `[2,-8]`");
    fails(&with("1", "", ("U8", vec![2], vec![215, 5])), "its shape is ``");
    fails(&with("1", "[2,6]", ("U8", vec![2], vec![215, 5])), "not a multiple of 4");
    fails(&with("1", "[2,12]", ("U8", vec![3], vec![0; 3])), "`w.base6` is U8 [3], and U8 [2] is needed");
    fails(&with("1", "[2,8]", ("I8", vec![2], vec![215, 5])), "`w.base6` is I8 [2]");
    fails(&with("1", "[2,8]", ("U8", vec![1, 2], vec![215, 5])), "`w.base6` is U8 [1, 2]");
    fails(&with("1", "[18446744073709551615,8]", ("U8", vec![2], vec![0; 2])), "overflows");
    fails(&file(&[], &[VERSION, ("twofour_masks.shape.w", "[2,8]")]), "there is no tensor `w.base6`");
    fails(
        &file(&[("w.base6", "U8", vec![1], vec![0])], &[VERSION]),
        "no entry `twofour_masks.shape.…` for tensor `w.base6`",
    );
}
