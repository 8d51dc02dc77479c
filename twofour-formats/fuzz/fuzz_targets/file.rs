//! Whole files, of this crate's format or with bitmasks: `cargo +nightly fuzz run file`. Golden files are good seeds:
//! `cargo +nightly fuzz run file fuzz/corpus/file tests/data/weights`.

#![no_main]

#[allow(dead_code)]
#[path = "../body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    body::file(bytes);
});
