//! Instructions of tensor cores: what PTX makes of them is what `tensor` does with the same registers, and what the
//! twins of the emulator do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/nvcc.rs"]
mod nvcc;
#[path = "support/ptx.rs"]
mod ptx;
mod support;

use ptx::{fault, module, try_module};
use support::Numbers;
use support::fragments::{Fragments, PRODUCTS};
use twofour_emulator::ptx::{Launch, Module};
use twofour_emulator::tensor::{Arithmetic, Registers};
use twofour_emulator::{Args, Buffer, Fault, Options, Schedule, run};

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
const B: &str = "{%w4, %w5, %w6, %w7}";
const C: &str = "{%w8, %w9, %w10, %w11}";
const D: &str = "{%f0, %f1, %f2, %f3}";

/// Every lane's a, b, c and metadata, 64 bytes a lane, and the 16 bytes of d; the product itself goes in between.
fn around(product: &str, d: &str) -> Module {
    module(
        "",
        &format!(
            "mul.wide.u32 %d0, %lane, 64; add.s64 %d0, %from, %d0;
            ld.global.v4.u32 {A}, [%d0]; ld.global.v4.u32 {B}, [%d0+16]; ld.global.v4.u32 {C}, [%d0+32];
            ld.global.u32 %w12, [%d0+48];
            {product}
            mul.wide.u32 %d1, %lane, 16; add.s64 %d1, %to, %d1;
            st.global.v4.u32 [%d1], {d};"
        ),
    )
}

fn execute(module: &Module, cut: &Fragments, options: &Options) -> Registers<4> {
    let of_lane = |lane: usize| [cut.a[lane], cut.b[lane], cut.c[lane], [cut.metadata[lane], 0, 0, 0]];
    let from: Vec<_> = (0..32).flat_map(of_lane).collect();
    let from = Buffer::input("from", from.as_flattened()).unwrap();
    let to = Buffer::output::<u32>("to", 4 * 32).unwrap();
    let args = Args::new().pointer(&from).pointer(&to).finish();
    let launch = Launch { kernel: "k", grid: [1; 3], block: [32, 1, 1], shared_bytes: 0, args: &args };
    module.run(&launch, options).unwrap();
    let d = to.values::<u32>();
    std::array::from_fn(|lane| std::array::from_fn(|i| d[4 * lane + i]))
}

/// One worker, each arithmetic under each of some schedules.
fn options() -> impl Iterator<Item = Options> {
    let both = |arithmetic| Schedule::several(3).map(move |schedule| (arithmetic, schedule));
    let of = |(arithmetic, schedule)| Options { schedule, arithmetic, workers: 1, ..Options::default() };
    Arithmetic::ALL.into_iter().flat_map(both).map(of)
}

/// Every form with every selector, into registers of its own and into those of c.
#[test]
fn each_form_is_what_tensor_says() {
    let mut numbers = Numbers(3);
    let mut met = Vec::new();
    for (name, of, k, selector) in PRODUCTS {
        let form = if selector.is_none() { Some(of.element.mma()) } else { of.element.mma_sp() }.unwrap();
        met.push(form);
        for d in [D, C] {
            let product = match selector {
                None => format!("{form} {d}, {A}, {{%w4, %w5}}, {C};"),
                Some(selector) => format!("{form} {d}, {A}, {B}, {C}, %w12, {selector};"),
            };
            let module = around(&product, d);
            for options in options() {
                for _ in 0..10 {
                    let cut = Fragments::random(of, k, selector, &mut numbers);
                    let expected = cut.product(of.element, options.arithmetic, selector);
                    assert_eq!(execute(&module, &cut, &options), expected, "{name} {options:?}");
                }
            }
        }
    }
    assert!(DENSE.iter().chain(&SPARSE).all(|form| met.contains(form)), "{met:?}");
}

/// The wrappers of `ptx.cuh` as nvcc compiles them, beside their twins.
#[test]
fn wrappers_are_what_their_twins_are() {
    let Some(compiler) = nvcc::compiler() else { return };
    let source = nvcc::root().join("emulator/kernels/wrappers.cu");
    let module = Module::new(&nvcc::ptx(&compiler, &source)).unwrap();
    let mut numbers = Numbers(4);
    for (kernel, of, k, selector) in PRODUCTS {
        for options in options() {
            for _ in 0..10 {
                let cut = Fragments::random(of, k, selector, &mut numbers);
                let twin = cut.through(kernel, |launch| run(launch, &options));
                let own = cut.through(kernel, |launch| module.run_as(launch, &options));
                assert_eq!(own, twin, "{kernel} {options:?}");
            }
        }
    }
}

/// Metadata that is not ordered, in a lane that the selector reads, and a selector that the form does not have.
#[test]
fn what_the_isa_leaves_undefined_is_a_fault() {
    let found = |form: &str, metadata: &str, selector: u32, thread: u32, what: &str| {
        let fault = fault("", &format!("{metadata} {form} {D}, {A}, {B}, {C}, %w12, {selector};"), 32);
        assert!(matches!(fault, Fault::UndefinedPtx { .. }), "{fault}");
        let text = fault.to_string();
        assert!(text.contains(form) && text.contains(what), "{text}");
        assert_eq!(fault.place().unwrap().thread, [thread, 0, 0], "{text}");
    };
    let in_lane_6 = "setp.eq.u32 %p0, %lane, 6; selp.b32 %w12, 0x44444440, 0x44444444, %p0;";
    found(SPARSE[0], in_lane_6, 1, 6, "metadata 0x44444440");
    found(SPARSE[1], in_lane_6, 1, 6, "metadata 0x44444440");
    found(SPARSE[2], in_lane_6, 0, 6, "metadata 0x44444440");
    found(SPARSE[0], "mov.b32 %w12, 0x44444444;", 2, 0, "selector 2");
    found(SPARSE[2], "mov.b32 %w12, 0x44444444;", 1, 0, "selector 1");
    // Lanes 4 and 5 have the metadata of selector 0.
    ptx::values(&format!("{in_lane_6} {} {D}, {A}, {B}, {C}, %w12, 0;", SPARSE[0]), 32);
}

#[test]
fn products_with_other_operands_are_not_read() {
    for body in [
        format!("{} {D}, {A}, {B}, {C};", DENSE[0]),
        format!("{} {D}, {A}, {{%w4, %w5}}, %w0;", DENSE[1]),
        format!("{} {D}, {A}, {B}, {C};", SPARSE[0]),
        format!("{} {D}, {A}, {B}, {C}, %w12, 4;", SPARSE[1]),
    ] {
        let fault = try_module("", &body).unwrap_err().to_string();
        assert!(fault.contains("mma"), "{fault}");
    }
}
