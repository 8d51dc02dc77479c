//! Files of this crate's format of which one thing is wrong.

use crate::make::{Tensor, entry, file, one_weight};
use twofour::f16;
use twofour_formats::{Error, Reader};

const VERSION: (&str, &str) = ("twofour.version", "1");

#[track_caller]
fn refuses(bytes: &[u8], words: &[&str]) {
    let error = Reader::from_bytes(bytes).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}

/// The tensors of an f16 weight of 2 x 8, and this entry.
fn with_entry(text: &str) -> Vec<u8> {
    let tensors = [("w.values", "F16", vec![2, 4], vec![0; 16]), ("w.codes", "U8", vec![2], vec![0x44; 2])];
    file(&tensors, &[VERSION, ("twofour.weight.w", text)])
}

#[test]
fn another_version() {
    let good = entry(2, 8, "f16", "2:4");
    assert!(Reader::from_bytes(&with_entry(&good)).is_ok());
    let version = |entries: &[(&str, &str)]| {
        let tensors = [("w.values", "F16", vec![2, 4], vec![0; 16]), ("w.codes", "U8", vec![2], vec![0x44; 2])];
        file(&tensors, &[&[("twofour.weight.w", good.as_str())], entries].concat())
    };
    refuses(&version(&[("twofour.version", "2")]), &["version 2", "reads version 1", "use a newer one"]);
    refuses(&version(&[("twofour.version", "4294967295")]), &["version 4294967295"]);
    for text in ["0", "", "1.0", "one", "99999999999999999999"] {
        refuses(&version(&[("twofour.version", text)]), &[&format!("`twofour.version` is `{text}`")]);
    }
    refuses(&version(&[]), &["has entries `twofour.weight.…` but no `twofour.version`"]);
    // Entries for later releases do not disturb.
    assert!(Reader::from_bytes(&version(&[VERSION, ("twofour.tool", "x")])).is_ok());
}

#[test]
fn entries_that_are_not_one() {
    for text in ["", "{}", "[]", "null", "{\"shape\":[2,8]}", "{\"shape\":[2],\"dtype\":\"f16\"}"] {
        refuses(&with_entry(text), &["weight `w`: its entry is"]);
    }
    let longer = entry(2, 8, "f16", "2:4").replace('}', ",\"scale\":1}");
    refuses(&with_entry(&longer), &["unknown field `scale`"]);
    refuses(&with_entry(&entry(2, 8, "f16", "2:4").replace("[2,8]", "[2,8,1]")), &["its entry is"]);
    refuses(&with_entry(&entry(2, 8, "f16", "2:4").replace("[2,8]", "[2,-8]")), &["its entry is"]);
    refuses(&with_entry(&entry(2, 8, "f17", "2:4")), &["no values of type `f17`"]);
    refuses(&with_entry(&entry(2, 8, "f16", "1:2")), &["f16 values are kept 2:4, not `1:2`"]);
    refuses(&with_entry(&entry(2, 8, "f32", "2:4")), &["f32 values are kept 1:2, not `2:4`"]);
    let columns = entry(2, 8, "f16", "2:4").replace("\"axis\":1", "\"axis\":0");
    refuses(&with_entry(&columns), &["along axis 0"]);
}

#[test]
fn entries_that_are_not_the_tensors() {
    refuses(&with_entry(&entry(2, 8, "bf16", "2:4")), &["`w.values` is F16 [2, 4], and BF16 [2, 4] is needed"]);
    refuses(&with_entry(&entry(2, 12, "f16", "2:4")), &["`w.values` is F16 [2, 4], and F16 [2, 6] is needed"]);
    refuses(&with_entry(&entry(4, 4, "f16", "2:4")), &["F16 [4, 2] is needed"]);
    refuses(&with_entry(&entry(u64::MAX, 8, "f16", "2:4")), &["F16 [18446744073709551615, 4] is needed"]);
    refuses(&with_entry(&entry(u64::MAX, u64::MAX, "f16", "2:4")), &["is needed"]);
    refuses(&one_weight([2, 8], 16, &[0x44]), &["`w.codes` is U8 [1], and U8 [2] is needed"]);
    refuses(&one_weight([2, 8], 16, &[0x44; 3]), &["`w.codes` is U8 [3]"]);
    // Not a multiple of 4, and tensors that would fit.
    refuses(&one_weight([2, 6], 12, &[0x44]), &["weight `w`", "6 columns wide, which is not a multiple of 4"]);
    // Rows of nothing are nothing, however many.
    let bytes = one_weight([1 << 60, 0], 0, &[]);
    let weight = Reader::from_bytes(&bytes).unwrap().weight("w").unwrap();
    assert_eq!((weight.shape().rows, weight.decompress_bytes().len()), (1 << 60, 0));
}

#[test]
fn tensors_that_are_not_there() {
    let good = entry(2, 8, "f16", "2:4");
    let with = |tensors: &[Tensor<'_>]| file(tensors, &[VERSION, ("twofour.weight.w", &good)]);
    let values = ("w.values", "F16", vec![2, 4], vec![0; 16]);
    let codes = ("w.codes", "U8", vec![2], vec![0x44; 2]);
    refuses(&with(&[]), &["there is no tensor `w.values`"]);
    refuses(&with(std::slice::from_ref(&values)), &["there is no tensor `w.codes`"]);
    refuses(&with(std::slice::from_ref(&codes)), &["there is no tensor `w.values`"]);
    let dense = ("w", "F16", vec![2, 8], vec![0; 32]);
    refuses(&with(&[values.clone(), codes.clone(), dense]), &["weight `w` is there twice"]);
    // Without an entry they are tensors like others.
    let bytes = file(&[values, codes], &[VERSION]);
    let reader = Reader::from_bytes(&bytes).unwrap();
    assert_eq!((reader.weights().len(), reader.tensors().count()), (0, 2));
}

#[test]
fn codes_that_are_not_legal() {
    // Row 1 has groups 2 and 3 of the weight: group 3 is in the upper half of the second byte.
    let bytes = one_weight([2, 8], 16, &[0x44, 0x74]);
    let reader = Reader::from_bytes(&bytes).unwrap();
    for error in [reader.weight("w").unwrap_err(), reader.view("w").unwrap_err()] {
        let Error::InWeight { name, error, .. } = error else { panic!("{error}") };
        assert_eq!(name, "w");
        assert!(
            matches!(*error, Error::Core(twofour::Error::IllegalCode { row: 1, group: 1, value: 7, .. })),
            "{error}"
        );
    }
    let message = reader.compressed::<f16>("w").unwrap_err().to_string();
    assert!(message.starts_with("safetensors bytes: weight `w`: group 1 of row 1 has code 0x7"), "{message}");
    // Three groups: the last half byte is unused.
    let odd = |last: u8| {
        let bytes = one_weight([3, 4], 12, &[0x44, last]);
        Reader::from_bytes(&bytes).unwrap().weight("w").map_err(|error| error.to_string())
    };
    assert!(odd(0x04).is_ok());
    assert!(odd(0x44).unwrap_err().contains("the unused half of the last byte of its codes is not 0"));
    assert!(odd(0x40).is_err());
}
