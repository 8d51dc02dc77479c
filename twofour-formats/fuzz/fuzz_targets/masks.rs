//! Files of masks, of all forms: `cargo +nightly fuzz run masks`. Golden files are good seeds:
//! `cargo +nightly fuzz run masks fuzz/corpus/masks tests/data/masks`.

#![no_main]

#[allow(dead_code)]
#[path = "../masks.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    body::file(bytes);
});
