//! Values under a bitmask, without a file around them: `cargo +nightly fuzz run bitmask`.

#![no_main]

#[allow(dead_code)]
#[path = "../body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    body::parts(bytes);
});
