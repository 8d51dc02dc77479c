//! Masks in safetensors files that are not what they say.

use twofour::{Shape, bf16, f16};
use twofour_formats::Error;
use twofour_formats::masks::{Fewer, Form, Masks};

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
        fails(&one("F32", vec![2, 4], floats(&values)), "mask `w`: row 1, column 1 is neither 0 nor 1");
    }
    let f16s = [1.0, 1.0, 0.5, 0.0].map(|value| f16::from_f32(value).to_le_bytes()).concat();
    fails(&one("F16", vec![1, 4], f16s), "row 0, column 2 is neither");
    let bf16s = [1.0, 1.0, 0.0, 1.5].map(|value| bf16::from_f32(value).to_le_bytes()).concat();
    fails(&one("BF16", vec![1, 4], bf16s), "row 0, column 3 is neither");
    for dtype in ["U8", "BOOL"] {
        fails(&one(dtype, vec![1, 4], vec![0, 255, 1, 0]), "row 0, column 1 is neither");
        fails(&one(dtype, vec![4], vec![0, 1, 1, 0]), "is of shape [4], and masks are [N, K]");
        fails(&one(dtype, vec![1, 2, 2], vec![0, 1, 1, 0]), "is of shape [1, 2, 2]");
        fails(&one(dtype, vec![2, 2], vec![0, 1, 1, 0]), "weight `w`: the weight is 2 columns wide");
    }
    fails(&one("I64", vec![0, 4], vec![]), "is of type I64, and masks are BOOL, U8, F16, BF16 or F32");
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
