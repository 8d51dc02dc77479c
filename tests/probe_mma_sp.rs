//! Asks a device how its tensor cores add in `mma.sp`, which no one has published (`twofour_emulator::tensor` has the
//! rule of the dense `mma`, and assumes the same of the products that a sparse one keeps). One page; runs where there
//! is a GPU.
//!
//! How to read it (`--show-output`). The table is of one row with 16 kept products, in every order: 2^26 as the p-th,
//! -2^26 as the q-th, ones elsewhere. The two cancel, and the ones that are cut off beside either are missing from 16:
//!
//! - an entry 16 - n says that n places share a step with p, q or what lies between: equal entries in square blocks
//!   along the diagonal are steps, and a block with 16 - n has n places. Assumed: two blocks of 8 on Ampere and Ada,
//!   all of it 0 on Hopper and Blackwell;
//! - a block of other places than neighbours: kept products are not taken in order of k;
//! - entries that are not 16 less a sum of blocks: the ones are not cut off where F says; see the second table, in
//!   which 15 ones stand beside one 2^n: from which n on they are lost tells F.
//!
//! Then random instructions, dense and sparse, against `tensor`: how many results differ. The dense ones must not.
//! If the sparse ones do, mend `emulator/src/tensor/` by what the tables show.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::cudarc::driver::{CudaStream, LaunchConfig, PushKernelArg};
use twofour::cudarc::nvrtc::Ptx;
use twofour::device;
use twofour_emulator::tensor::{Arithmetic, Element, Registers, mma, mma_sp};

/// One instruction's registers. A dense one has the first two of B, and no metadata.
#[derive(Clone)]
struct Instruction {
    a: Registers<4>,
    b: Registers<4>,
    c: Registers<4>,
    metadata: [u32; 32],
}

fn ours(element: Element, arithmetic: Arithmetic, is_sparse: bool, of: &Instruction) -> Registers<4> {
    match is_sparse {
        true => mma_sp(element, arithmetic, &of.a, &of.b, &of.c, &of.metadata, 0).unwrap(),
        false => mma(element, arithmetic, &of.a, &of.b.map(|b| [b[0], b[1]]), &of.c),
    }
}

/// A kernel that executes one instruction for each block.
fn kernel(element: Element, is_sparse: bool) -> String {
    let (opcode, b, last) = match is_sparse {
        true => (element.mma_sp().unwrap(), "{%r5, %r6, %r7, %r8}", ", %r13, 0"),
        false => (element.mma(), "{%r5, %r6}", ""),
    };
    let load = |parameter: &str, first: u32| {
        let registers: Vec<String> = (first..first + 4).map(|i| format!("%r{i}")).collect();
        format!(
            "ld.param.u64 %rd1, [{parameter}]; add.s64 %rd1, %rd1, %rd0; ld.global.v4.u32 {{{}}}, [%rd1];\n",
            registers.join(", ")
        )
    };
    let (a, of_b, c) = (load("a", 1), load("b", 5), load("c", 9));
    format!(
        ".version 8.5\n.target sm_80\n.address_size 64\n\
         .visible .entry probe(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 e, .param .u64 d) {{\n\
         .reg .b32 %r<20>;\n.reg .b64 %rd<4>;\n\
         mov.u32 %r14, %ctaid.x; mov.u32 %r15, %tid.x; mad.lo.u32 %r14, %r14, 32, %r15; mul.wide.u32 %rd0, %r14, 16;\n\
         {a}{of_b}{c}\
         ld.param.u64 %rd1, [e]; mul.wide.u32 %rd2, %r14, 4; add.s64 %rd1, %rd1, %rd2; ld.global.u32 %r13, [%rd1];\n\
         {opcode} {{%r9, %r10, %r11, %r12}}, {{%r1, %r2, %r3, %r4}}, {b}, {{%r9, %r10, %r11, %r12}}{last};\n\
         ld.param.u64 %rd1, [d]; add.s64 %rd1, %rd1, %rd0; st.global.v4.u32 [%rd1], {{%r9, %r10, %r11, %r12}};\n\
         ret;\n}}\n"
    )
}

fn on_device(stream: &Arc<CudaStream>, element: Element, is_sparse: bool, all: &[Instruction]) -> Vec<Registers<4>> {
    let module = stream.context().load_module(Ptx::from_src(kernel(element, is_sparse))).unwrap();
    let function = module.load_function("probe").unwrap();
    let flat = |of: fn(&Instruction) -> &[u32]| {
        let words: Vec<u32> = all.iter().flat_map(|one| of(one).iter().copied()).collect();
        stream.clone_htod(&words).unwrap()
    };
    let [a, b, c] =
        [flat(|one| one.a.as_flattened()), flat(|one| one.b.as_flattened()), flat(|one| one.c.as_flattened())];
    let (metadata, mut d) = (flat(|one| &one.metadata), stream.alloc_zeros::<u32>(128 * all.len()).unwrap());
    let shape = LaunchConfig { grid_dim: (all.len() as u32, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    let mut launch = stream.launch_builder(&function);
    launch.arg(&a).arg(&b).arg(&c).arg(&metadata).arg(&mut d);
    // SAFETY: the kernel above takes five pointers; thread t of block i reads 16 bytes at 16 (32 i + t) of the first
    // three, 4 bytes of the fourth, and writes 16 bytes of the last: all of it is there.
    unsafe { launch.launch(shape) }.unwrap();
    let words = stream.clone_dtoh(&d).unwrap();
    let lanes: Vec<[u32; 4]> = words.chunks_exact(4).map(|lane| lane.try_into().unwrap()).collect();
    lanes.chunks_exact(32).map(|warp| warp.try_into().unwrap()).collect()
}

/// Every row of A has these 16 kept products, of the first two in each four; B is 2^13 throughout. (No half is 2^26.)
fn of_products(element: Element, products: [f32; 16]) -> Instruction {
    let bits = |x: f32| match element {
        Element::F16 => u32::from(half::f16::from_f32(x).to_bits()),
        _ => x.to_bits() >> 16,
    };
    let factor = 2f32.powi(13);
    let pair = |i: usize| bits(products[i] / factor) | bits(products[i + 1] / factor) << 16;
    let a = std::array::from_fn(|lane| std::array::from_fn(|i| pair(lane % 4 * 2 + i / 2 * 8)));
    Instruction { a, b: [[bits(factor) * 0x1_0001; 4]; 32], c: [[0; 4]; 32], metadata: [0x4444_4444; 32] }
}

/// 2^26 as the p-th product, -2^26 as the q-th, for all p < q.
fn pairs(element: Element) -> Vec<(usize, usize, Instruction)> {
    let of = |(p, q)| {
        let mut products = [1.0; 16];
        (products[p], products[q]) = (2f32.powi(26), -2f32.powi(26));
        (p, q, of_products(element, products))
    };
    (0..16).flat_map(|p| (p + 1..16).map(move |q| (p, q))).map(of).collect()
}

fn first(d: &Registers<4>) -> f32 {
    f32::from_bits(d[0][0])
}

/// Numbers near one in every place, so that most sums are cut off.
fn random(element: Element, seed: u64, count: usize) -> Vec<Instruction> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut number = |bias: u32, fraction: u32| {
        (random.random_range(0..2u32) << 15)
            | (bias - random.random_range(0..6)) << fraction
            | random.random_range(0..1 << fraction)
    };
    let (bias, fraction) = if element == Element::F16 { (15, 10) } else { (127, 7) };
    let mut registers =
        || std::array::from_fn(|_| std::array::from_fn(|_| number(bias, fraction) | number(bias, fraction) << 16));
    let matrices: Vec<[Registers<4>; 3]> = (0..count).map(|_| [registers(), registers(), registers()]).collect();
    let mut code = || [4, 8, 9, 12, 13, 14][random.random_range(0..6)];
    let mut metadata = || std::array::from_fn(|_| (0..8).fold(0, |word, _| word << 4 | code()));
    // A sum is what two 16-bit numbers make of an f32: of a size like theirs, in bf16's half.
    let sum = |x: u32| (x & 0x8000_ffff) | 0x3f80_0000;
    let of = |[a, b, c]: [Registers<4>; 3]| Instruction { a, b, c: c.map(|c| c.map(sum)), metadata: metadata() };
    matrices.into_iter().map(of).collect()
}

/// What the first table will be if it is as assumed.
#[test]
fn the_table_shows_the_steps() {
    for (arithmetic, step) in [(Arithmetic::Ampere, 8), (Arithmetic::Hopper, 16)] {
        for (element, (p, q, instruction)) in [Element::F16, Element::Bf16]
            .into_iter()
            .flat_map(|element| pairs(element).into_iter().map(move |of| (element, of)))
        {
            let cut_off = (q / step - p / step + 1) * step;
            assert_eq!(first(&ours(element, arithmetic, true, &instruction)), (16 - cut_off) as f32, "{p} {q}");
        }
    }
}

#[test]
fn random_instructions_tell_one_arithmetic_from_another() {
    for (element, is_sparse) in
        [(Element::F16, false), (Element::F16, true), (Element::Bf16, false), (Element::Bf16, true)]
    {
        let instructions = random(element, 1, 20);
        let of =
            |arithmetic| instructions.iter().map(|one| ours(element, arithmetic, is_sparse, one)).collect::<Vec<_>>();
        let [order, ampere, hopper] = Arithmetic::ALL.map(of);
        assert!(order != ampere && ampere != hopper && order != hopper, "{element:?} {is_sparse}");
    }
}

#[test]
fn a_real_device_adds_as_assumed() {
    let stream = match device::context(0) {
        Ok(context) => context.default_stream(),
        Err(error) => {
            assert!(std::env::var_os("TWOFOUR_REQUIRE_GPU").is_none(), "{error}");
            println!("skipped: no CUDA device ({error})");
            return;
        }
    };
    let (major, minor) = stream.context().compute_capability().unwrap();
    let Some(arithmetic) = Arithmetic::of_capability(major as u32, minor as u32) else {
        println!("skipped: nothing is assumed of compute capability {major}.{minor}");
        return;
    };
    let mut differing = Vec::new();
    for element in [Element::F16, Element::Bf16] {
        println!(
            "{element:?} on compute capability {major}.{minor}, mma.sp: 2^26 as product p (down), -2^26 as q (across)"
        );
        let pairs = pairs(element);
        let instructions: Vec<Instruction> = pairs.iter().map(|(.., one)| one.clone()).collect();
        let sums = on_device(&stream, element, true, &instructions);
        for p in 0..15 {
            let row =
                pairs.iter().zip(&sums).filter(|((of, ..), _)| *of == p).map(|(_, sum)| format!("{:3}", first(sum)));
            println!("{p:2} {}{}", "    ".repeat(p), row.collect::<Vec<_>>().join(" "));
        }
        println!("2^n beside 15 ones, n from 20 to 28, the sum less 2^n:");
        let beside = |n: i32| of_products(element, std::array::from_fn(|i| if i == 0 { 2f32.powi(n) } else { 1.0 }));
        let sums = on_device(&stream, element, true, &(20..29).map(beside).collect::<Vec<_>>());
        println!("{:?}", sums.iter().zip(20..).map(|(sum, n)| first(sum) - 2f32.powi(n)).collect::<Vec<_>>());
        for is_sparse in [false, true] {
            let instructions = random(element, 16, 4000);
            let sums = on_device(&stream, element, is_sparse, &instructions);
            for assumed in Arithmetic::ALL {
                let pairs =
                    instructions.iter().zip(&sums).map(|(one, sum)| (ours(element, assumed, is_sparse, one), sum));
                let differ = |(a, b): (Registers<4>, &Registers<4>)| {
                    a.as_flattened().iter().zip(b.as_flattened()).filter(|(a, b)| a != b).count()
                };
                let count: usize = pairs.map(differ).sum();
                let form = if is_sparse { element.mma_sp().unwrap() } else { element.mma() };
                println!("{count:6} of {} results of {form} differ from {assumed:?}", 128 * instructions.len());
                differing.extend((assumed == arithmetic && count > 0).then_some((form, count)));
            }
        }
    }
    assert!(
        differing.is_empty(),
        "{arithmetic:?} is not what this device does: {differing:?}; this file's first page says what to read"
    );
}
