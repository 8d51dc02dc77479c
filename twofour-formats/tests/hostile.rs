//! The body of the fuzz targets (`fuzz/body.rs`) over mutations of good files: it never panics, and never allocates
//! more than a small multiple of what it was given. Alone in its program, so that the allocations it counts are its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/body.rs"]
mod body;
#[path = "../../tests/common/counted.rs"]
mod counted;
#[path = "hostile/mutate.rs"]
mod mutate;

use mutate::Mutator;
use std::path::Path;
use twofour_formats::{Manifest, Reader, TensorType, Writer};

/// Bytes of memory for a byte of a file, at most: a header of nothing but short entries takes 10.
const FILE: usize = 12;
/// For a byte of a bitmask in which nothing is kept: `f32` take 16 of values, 2 of codes and 32 of the dense weight.
const MASK: usize = 52;
/// What an error message and the like take.
const CONSTANT: usize = 1 << 16;

fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let golden = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut seeds = vec![golden("weights/version-1.safetensors"), golden("weights/bitmask.safetensors")];
    // Small ones, of which every byte is changed often.
    seeds.push(mutate::one_weight());
    seeds.push(mutate::one_bitmask());
    seeds.push(mutate::one_sparse_bitmask());
    seeds
}

/// Runs the body and checks what it allocated.
fn within_bounds<T>(factor: usize, bytes: &[u8], run: impl Fn(&[u8]) -> T) -> T {
    let (result, peak) = counted::peak(|| run(bytes));
    assert!(peak <= factor * bytes.len() + CONSTANT, "{peak} bytes allocated for {}", bytes.len());
    result
}

#[test]
fn nothing_panics_or_takes_much_memory() {
    // rayon's threads keep what they allocate when they start.
    rayon::broadcast(|_| ());
    let seeds = seeds();
    assert_eq!(
        seeds.iter().map(|seed| body::file(seed)).collect::<Vec<_>>(),
        [Some(7), Some(2), Some(1), Some(1), Some(1)]
    );
    mutated_files(&seeds);
    greedy_headers();
    an_empty_mask();
    a_model_need_not_fit_the_memory();
    masks();
    indices();
}

/// A mutation opens or not, is read or not; of each there are many, or this tests little.
fn mutated_files(seeds: &[Vec<u8>]) {
    let mut mutator = Mutator::new(1);
    let (mut refused, mut opened, mut read) = (0, 0, 0);
    for round in 0..400_000 {
        let bytes = mutator.file(seeds);
        let result = std::panic::catch_unwind(|| within_bounds(FILE, &bytes, body::file));
        match result.unwrap_or_else(|_| panic!("round {round}: {:?}", String::from_utf8_lossy(&bytes))) {
            None => refused += 1,
            Some(0) => opened += 1,
            Some(_) => read += 1,
        }
    }
    println!("400000 mutated files: {refused} refused, {opened} opened without a weight that can be read, {read} with");
    assert!(refused > 100_000 && opened > 2_000 && read > 10_000);
}

/// Headers that are nothing but the smallest of what takes memory.
fn greedy_headers() {
    let repeat = |unit: &dyn Fn(usize) -> String, close: &str| {
        let entries: Vec<_> = (0..20_000).map(unit).collect();
        mutate::with_header(&format!("{{{}{close}", entries.join(",")), b"")
    };
    let tensor = |i| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let greedy = [
        repeat(&tensor, "}"),
        repeat(&tensor, ""),
        repeat(&|_| String::from(r#""a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#), "}"),
        repeat(&|i| format!(r#""{i:x}":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,0]}}"#, "1,".repeat(70)), "}"),
        repeat(&|i| format!(r#""{i:x}":{{"dtype":"U8","shape":[0{}],"data_offsets":[0,0]}}"#, ",1".repeat(63)), "}"),
        repeat(&|i| if i == 0 { r#""__metadata__":{"":"""#.into() } else { format!(r#""{i:x}":"""#) }, "}}"),
        repeat(&|i| if i == 0 { r#""a":{"x":[0"#.into() } else { "0".into() }, "]}}"),
        repeat(&|i| if i == 0 { r#""a":{"x":[[]"#.into() } else { "[]".into() }, "]}}"),
        mutate::with_header(&"[".repeat(100_000), b""),
        mutate::with_header(&"\"\\u0000".repeat(10_000), b""),
        mutate::many_weights(3_000),
    ];
    let results: Vec<_> = greedy.iter().map(|bytes| within_bounds(FILE, bytes, body::file)).collect();
    let some: Vec<_> = (0..results.len()).filter(|&i| results[i].is_some()).collect();
    assert_eq!(some, [0, 4, 5, 10], "{results:?}");
    // A claim of much data, with none behind it.
    for claim in ["[1000000000000]", "[4294967296,4294967295]", "[0,18446744073709551615]"] {
        for end in [0, 8, 1_000_000_000_000, u64::MAX] {
            let header = format!(r#"{{"a":{{"dtype":"U8","shape":{claim},"data_offsets":[0,{end}]}}}}"#);
            within_bounds(FILE, &mutate::with_header(&header, &[0; 8]), body::file);
        }
    }
    for length in [100_000_000u64, 99_999_999, 1 << 40, u64::MAX] {
        assert_eq!(within_bounds(FILE, &length.to_le_bytes(), body::file), None);
    }
}

/// The most that a small file can ask for: no values, and a bit for each that there is not.
fn an_empty_mask() {
    let (rows, cols) = (1000u64, 8000u64);
    let values = r#""compressed":{"dtype":"F32","shape":[0],"data_offsets":[16,16]}"#;
    let mask = format!(
        r#""bitmask":{{"dtype":"U8","shape":[{rows},{}],"data_offsets":[16,{}]}}"#,
        cols / 8,
        16 + rows * cols / 8
    );
    let shape = r#""shape":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}"#;
    let data = [&rows.to_le_bytes()[..], &cols.to_le_bytes(), &vec![0; (rows * cols / 8) as usize]].concat();
    let bytes = mutate::with_header(&format!("{{{shape},{values},{mask}}}"), &data);
    assert_eq!(within_bounds(MASK, &bytes, body::file), Some(1));
}

/// Writing and opening take the memory of a buffer, reading that of a tensor.
fn a_model_need_not_fit_the_memory() {
    const TENSORS: usize = 40;
    const BYTES: usize = 1 << 20;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("formats-large.safetensors");
    let mut manifest = Manifest::new();
    for i in 0..TENSORS {
        manifest.tensor(&i.to_string(), TensorType::U8, &[BYTES]).unwrap();
    }
    let data = vec![7; BYTES];
    let fill = |file: &mut Writer<'_>| (0..TENSORS).try_for_each(|i| file.tensor(&i.to_string(), &data));
    let (saved, peak) = counted::peak(|| manifest.save(&path, fill));
    assert_eq!(saved, Ok(()));
    assert!(peak < BYTES + BYTES / 4, "{peak} bytes to write");
    let (reader, peak) = counted::peak(|| Reader::open(&path).unwrap());
    assert!(peak < BYTES / 8, "{peak} bytes to open");
    let read = || (0..TENSORS).all(|i| *reader.tensor(&i.to_string()).unwrap() == *data);
    let (read, peak) = counted::peak(read);
    assert!(read && peak < BYTES + BYTES / 4, "{peak} bytes to read");
}

/// Bitmasks of every kind: too many values, too few, rows of nothing.
fn masks() {
    let mut mutator = Mutator::new(2);
    let (mut compressed, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let bytes = mutator.parts();
        match within_bounds(MASK, &bytes, body::parts) {
            Some(true) => compressed += 1,
            _ => refused += 1,
        }
    }
    println!("100000 bitmasks: {compressed} compressed, {refused} refused");
    assert!(compressed > 20_000 && refused > 20_000);
}

fn indices() {
    let good = br#"{"metadata":{"total_size":12},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#.to_vec();
    assert!(body::index(&good));
    let mut mutator = Mutator::new(3);
    let accepted = (0..10_000).filter(|_| within_bounds(FILE, &mutator.bytes(&good), body::index)).count();
    assert!((500..9_500).contains(&accepted), "{accepted}");
}
