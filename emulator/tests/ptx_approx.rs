//! `ex2.approx.ftz.f32` and `rcp.approx.ftz.f32`: within the bounds that the PTX ISA gives, and its special cases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ptx.rs"]
mod support;

use support::{module, run};
use twofour_emulator::Schedule;

/// What a form makes of these numbers.
fn values(form: &str, inputs: &[f32]) -> Vec<f32> {
    let body = format!(
        "mul.wide.u32 %d0, %lane, 4; add.s64 %d0, %from, %d0; ld.global.f32 %f0, [%d0]; {form} %f1, %f0;
        mov.b32 %w0, %f1; cvt.u64.u32 %d1, %w0; st.global.u64 [%own], %d1;"
    );
    let module = module("", &body);
    let of = |inputs: &[f32]| {
        let bytes: Vec<u8> = inputs.iter().flat_map(|input| input.to_ne_bytes()).collect();
        run(&module, &bytes, inputs.len() as u32, 0, Schedule::RoundRobin).unwrap().1
    };
    inputs.chunks(1024).flat_map(of).map(|bits| f32::from_bits(bits as u32)).collect()
}

/// The distance from what is exact, in units of the last place of the result.
fn ulps(got: f32, exact: f64) -> f64 {
    let unit = f64::from(f32::from_bits(got.to_bits() + 1)) - f64::from(got);
    ((f64::from(got) - exact) / unit).abs()
}

#[test]
fn powers_of_two_are_within_the_bound() {
    let inputs: Vec<f32> = (0..16_384).map(|i| (i as f32 - 8_192.0) * 0.015_3).collect();
    for (input, got) in inputs.iter().zip(values("ex2.approx.ftz.f32", &inputs)) {
        assert!(ulps(got, f64::from(*input).exp2()) <= 2.0, "{input}: {got}");
    }
    let special = [-0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 1e-40, -126.5, 200.0, 3.0];
    let got = values("ex2.approx.ftz.f32", &special);
    assert_eq!(
        (got[0], got[1], got[2], got[4], got[5], got[6], got[7]),
        (1.0, 0.0, f32::INFINITY, 1.0, 0.0, f32::INFINITY, 8.0)
    );
    assert_eq!(got[3].to_bits(), 0x7FFF_FFFF);
}

#[test]
fn reciprocals_are_within_the_bound() {
    let inputs: Vec<f32> = (0..16_384u32).map(|i| f32::from_bits(0x0100_0000 + i * 120_001)).collect();
    for (input, got) in inputs.iter().zip(values("rcp.approx.ftz.f32", &inputs)) {
        if got != 0.0 {
            assert!(ulps(got, 1.0 / f64::from(*input)) <= 1.0, "{input}: {got}");
        }
    }
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-40, 2e38, -2e38, 0.25];
    let got: Vec<u32> = values("rcp.approx.ftz.f32", &special).into_iter().map(f32::to_bits).collect();
    let (infinity, sign) = (0x7F80_0000, 0x8000_0000u32);
    assert_eq!(got, [infinity, infinity | sign, 0, sign, infinity, infinity | sign, 0, sign, 0x4080_0000]);
    assert_eq!(values("rcp.approx.ftz.f32", &[f32::NAN])[0].to_bits(), 0x7FFF_FFFF);
}
