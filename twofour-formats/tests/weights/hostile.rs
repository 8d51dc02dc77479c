//! Files that are not safetensors, each wrong in one way: an error that says which. Mutations of good files are in
//! `tests/hostile.rs`.

use crate::make::{file, path, raw};
use twofour_formats::Reader;

#[track_caller]
fn refuses(bytes: &[u8], words: &[&str]) {
    let from_memory = Reader::from_bytes(bytes).unwrap_err().to_string();
    let place = path(&format!("hostile-{}.safetensors", std::panic::Location::caller().line()));
    std::fs::write(&place, bytes).unwrap();
    let from_disk = Reader::open(&place).unwrap_err().to_string();
    assert_eq!(from_disk, from_memory.replacen("safetensors bytes", &place.display().to_string(), 1));
    for word in words {
        assert!(from_memory.contains(word), "no `{word}` in: {from_memory}");
    }
}

/// A tensor's entry.
fn tensor(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn a_length_that_is_no_length() {
    for bytes in [&b""[..], b"1234567"] {
        refuses(bytes, &["are no safetensors file", &bytes.len().to_string()]);
    }
    let with_length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    refuses(&with_length(3), &["the header is 3 bytes and 2 are there", "cut short"]);
    refuses(&with_length(99_999_999), &["99999999 bytes and 2 are there"]);
    refuses(&with_length(100_000_001), &["the header would be 100000001 bytes"]);
    refuses(&with_length(u64::MAX), &["18446744073709551615"]);
    refuses(&with_length(u64::MAX - 7), &["not a safetensors file"]);
    refuses(b"this is no safetensors file, whatever its name says", &["not a safetensors file"]);
}

#[test]
fn a_header_that_is_no_header() {
    refuses(&[&1u64.to_le_bytes()[..], b"\xff"].concat(), &["not UTF-8"]);
    for json in ["", "null", "[]", "{", "{}}", "{\"a\":1}", "{\"a\":{}}", "{\"a\":null}", "{} {}"] {
        refuses(&raw(json, b""), &["the header is not that of a safetensors file"]);
    }
    refuses(&raw(&"[".repeat(100_000), b""), &["the header is not"]);
    let deep = format!(r#"{{"a":{{"x":{}"#, "[".repeat(100_000));
    refuses(&raw(&deep, b""), &["the header is not"]);
    refuses(&raw(r#"{"a":{"dtype":"F16","shape":[1]}}"#, b"ab"), &["data_offsets"]);
    let twice = r#"{"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    refuses(&raw(twice, b"ab"), &["duplicate field `dtype`"]);
    refuses(&raw(&format!("{{{}}}", tensor("a", "F17", "[1]", 0, 2)), b"ab"), &["no type of tensors `F17`"]);
    for shape in ["[-1]", "[1.5]", "[18446744073709551616]", "[null]", "3", "[[1]]"] {
        refuses(&raw(&format!("{{{}}}", tensor("a", "U8", shape, 0, 2)), b"ab"), &["the header is not"]);
    }
    let dimensions = format!("[{}1]", "1,".repeat(64));
    refuses(&raw(&format!("{{{}}}", tensor("a", "U8", &dimensions, 0, 1)), b"a"), &["more than 64 dimensions"]);
    let dimensions = format!("[{}1]", "1,".repeat(63));
    assert!(Reader::from_bytes(&raw(&format!("{{{}}}", tensor("a", "U8", &dimensions, 0, 1)), b"a")).is_ok());
}

#[test]
fn metadata_that_is_no_metadata() {
    for json in [r#"{"__metadata__":1}"#, r#"{"__metadata__":{"a":1}}"#, r#"{"__metadata__":{"a":null}}"#] {
        refuses(&raw(json, b""), &["the header is not"]);
    }
    refuses(&raw(r#"{"__metadata__":{"a":"1","a":"1"}}"#, b""), &["two entries `a`"]);
    refuses(&raw(r#"{"__metadata__":{},"__metadata__":{}}"#, b""), &["two entries `__metadata__`"]);
    // The library reads this, so people may have written it.
    assert!(Reader::from_bytes(&raw(r#"{"__metadata__":null}"#, b"")).is_ok());
}

#[test]
fn offsets_that_are_not_the_tensors() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        format!("{{{},{}}}", tensor("a", "U8", "[4]", a[0], a[1]), tensor("b", "U8", "[4]", b[0], b[1]))
    };
    assert!(Reader::from_bytes(&raw(&two([4, 8], [0, 4]), &[0; 8])).is_ok(), "in any order");
    refuses(&raw(&two([0, 4], [2, 6]), &[0; 6]), &["`b` begins at 2", "ends at 4"]);
    refuses(&raw(&two([0, 4], [0, 4]), &[0; 4]), &["begins at 0", "ends at 4"]);
    refuses(&raw(&two([0, 4], [5, 9]), &[0; 9]), &["`b` begins at 5"]);
    refuses(&raw(&two([1, 5], [5, 9]), &[0; 9]), &["`a` begins at 1", "ends at 0"]);
    refuses(&raw(&two([0, 4], [4, 8]), &[0; 7]), &["`b` lies at 4..8 of 7 bytes", "cut short"]);
    refuses(&raw(&two([0, 4], [4, 8]), &[0; 9]), &["the tensors are 8 bytes and 9 follow"]);
    refuses(&raw(&two([0, 4], [4, 7]), &[0; 7]), &["`b` is 3 bytes, but U8 [4] takes 4"]);
    refuses(&raw(&two([0, 4], [4, 9]), &[0; 9]), &["`b` is 5 bytes, but U8 [4] takes 4"]);
    refuses(&raw(&two([0, 4], [8, 4]), &[0; 8]), &["`b` lies at 8..4"]);
    refuses(&raw(&two([0, 4], [4, u64::MAX]), &[0; 8]), &["18446744073709551615 of 8 bytes"]);
    refuses(&raw(&two([u64::MAX, u64::MAX], [0, 4]), &[0; 4]), &["of 4 bytes"]);
    refuses(&raw("{}", b"x"), &["the tensors are 0 bytes and 1 follow"]);
}

#[test]
fn sizes_that_overflow() {
    let one = |dtype: &str, shape: &str| raw(&format!("{{{}}}", tensor("a", dtype, shape, 0, 8)), &[0; 8]);
    refuses(&one("U8", "[4294967296,4294967296]"), &["is no number of bytes"]);
    refuses(&one("F64", "[2305843009213693952]"), &["is no number of bytes"]);
    refuses(&one("F16", "[9223372036854775807]"), &["is no number of bytes"]);
    refuses(&one("U8", "[1000000000000]"), &["`a` is 8 bytes, but U8 [1000000000000] takes 1000000000000"]);
    refuses(&one("F4", "[15]"), &["is no number of bytes"]);
    refuses(&one("F6_E3M2", "[11]"), &["is no number of bytes"]);
    assert!(Reader::from_bytes(&raw(&format!("{{{}}}", tensor("a", "U8", "[0,99999999]", 0, 0)), b"")).is_ok());
}

#[test]
fn a_name_that_comes_twice() {
    let same = format!("{{{},{}}}", tensor("a", "U8", "[2]", 0, 2), tensor("a", "U8", "[2]", 2, 4));
    refuses(&raw(&same, &[0; 4]), &["two tensors named `a`"]);
    // The `safetensors` crate takes the last of these.
    let empty = format!("{{{},{}}}", tensor("a", "U8", "[0]", 0, 0), tensor("a", "F32", "[0]", 0, 0));
    refuses(&raw(&empty, b""), &["two tensors named `a`"]);
    let escaped = format!("{{{},{}}}", tensor("a", "U8", "[2]", 0, 2), tensor("\\u0061", "U8", "[2]", 2, 4));
    refuses(&raw(&escaped, &[0; 4]), &["two tensors named `a`"]);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = file(&[("a", "U8", vec![4], vec![1; 4]), ("b", "F32", vec![2], vec![2; 8])], &[("k", "v")]);
    assert!(Reader::from_bytes(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(Reader::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
}

/// A tensor of a file that was cut after it was opened.
#[test]
fn a_file_that_shrinks() {
    let place = path("shrinks.safetensors");
    std::fs::write(&place, file(&[("a", "U8", vec![4], vec![1; 4])], &[])).unwrap();
    let reader = Reader::open(&place).unwrap();
    assert_eq!(*reader.tensor("a").unwrap(), [1; 4]);
    let whole = std::fs::metadata(&place).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&place).unwrap().set_len(whole - 1).unwrap();
    assert!(reader.tensor("a").unwrap_err().to_string().contains("cannot be read"));
}

/// A sparse file says, truly, that it is longer than any memory.
#[cfg(target_os = "linux")]
#[test]
fn a_file_of_holes() {
    const LENGTH: u64 = 1 << 43;
    let place = path("holes.safetensors");
    let header = format!("{{{}}}", tensor("a", "U8", &format!("[{LENGTH}]"), 0, LENGTH));
    std::fs::write(&place, raw(&header, b"")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&place).unwrap();
    if file.set_len(8 + header.len() as u64 + LENGTH).is_err() {
        println!("skipped: this file system has no files of 8 TiB");
        return;
    }
    let reader = Reader::open(&place).unwrap();
    assert_eq!(reader.tensor_info("a").unwrap().bytes(), LENGTH);
    std::fs::remove_file(place).unwrap();
}
