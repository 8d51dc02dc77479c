//! Indices of shards: `cargo +nightly fuzz run index`.

#![no_main]

#[allow(dead_code)]
#[path = "../body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    body::index(bytes);
});
