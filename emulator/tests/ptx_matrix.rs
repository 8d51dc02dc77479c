//! Instructions of tensor cores: read and checked; executing them is a fault that names the form.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ptx.rs"]
mod support;

use support::{fault, try_module};
use twofour_emulator::Fault;

const DENSE: [&str; 4] = [
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
];
const SPARSE: [&str; 3] = [
    "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",
    "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32",
    "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32",
];
const A: &str = "{%w0, %w1, %w2, %w3}";
const D: &str = "{%w8, %w9, %w10, %w11}";

#[test]
fn products_are_read_and_not_executed() {
    let dense = DENSE.map(|form| (form, format!("{form} {D}, {A}, {{%w4, %w5}}, {D};")));
    let sparse = SPARSE.map(|form| (form, format!("{form} {D}, {A}, {{%w4, %w5, %w6, %w7}}, {D}, %w12, 0;")));
    for (form, body) in dense.iter().chain(&sparse) {
        let fault = fault("", body, 32);
        assert!(matches!(&fault, Fault::NotExecuted { form: named, .. } if named == form), "{fault}");
    }
}

#[test]
fn products_with_other_operands_are_not_read() {
    for body in [
        format!("{} {D}, {A}, {{%w4, %w5, %w6, %w7}}, {D};", DENSE[0]),
        format!("{} {D}, {A}, {{%w4, %w5}}, %w0;", DENSE[1]),
        format!("{} {D}, {A}, {{%w4, %w5, %w6, %w7}}, {D};", SPARSE[0]),
        format!("{} {D}, {A}, {{%w4, %w5, %w6, %w7}}, {D}, %w12, 4;", SPARSE[1]),
    ] {
        let fault = try_module("", &body).unwrap_err().to_string();
        assert!(fault.contains("mma"), "{fault}");
    }
}
