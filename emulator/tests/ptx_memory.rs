//! Loads and stores of every state space, atomics, asynchronous copies and `ldmatrix`; and what is caught there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ptx.rs"]
mod support;

use support::{fault, module, run};
use twofour_emulator::ptx::{Launch, Module};
use twofour_emulator::{Access, Args, Buffer, Fault, Near, Options, Schedule};

/// Bytes that differ, with all signs.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 37 + 129) as u8 ^ (i / 7) as u8).collect()
}

/// Forms, the registers that a value of theirs goes through, and the address of 16 bytes at `%d1` for global and
/// generic memory.
const LOADS: &[(&str, char)] = &[
    ("ld.global.u8", 'w'),
    ("ld.global.u8", 'h'),
    ("ld.global.s8", 'w'),
    ("ld.global.s8", 'h'),
    ("ld.global.u16", 'h'),
    ("ld.global.u16", 'w'),
    ("ld.global.s16", 'w'),
    ("ld.global.s16", 'd'),
    ("ld.global.u32", 'w'),
    ("ld.global.u32", 'd'),
    ("ld.global.u64", 'd'),
    ("ld.global.f32", 'f'),
    ("ld.global.f64", 'd'),
    ("ld.global.v2.u32", 'w'),
    ("ld.global.v4.u32", 'w'),
    ("ld.global.nc.u16", 'h'),
    ("ld.global.nc.u32", 'w'),
    ("ld.global.nc.v2.u32", 'w'),
    ("ld.global.nc.v4.u32", 'w'),
    ("ld.global.nc.L1::no_allocate.v2.u32", 'w'),
    ("ld.global.nc.L1::no_allocate.v4.u32", 'w'),
    ("ld.u32", 'w'),
    ("ld.shared.u8", 'w'),
    ("ld.shared.u16", 'h'),
    ("ld.shared.s16", 'w'),
    ("ld.shared.u32", 'w'),
    ("ld.shared.u64", 'd'),
    ("ld.shared.f32", 'f'),
    ("ld.shared.f64", 'd'),
    ("ld.shared.v2.u32", 'w'),
    ("ld.shared.v4.u32", 'w'),
];

const STORES: &[(&str, char)] = &[
    ("st.global.u8", 'w'),
    ("st.global.u8", 'h'),
    ("st.global.u16", 'h'),
    ("st.global.u16", 'w'),
    ("st.global.u32", 'w'),
    ("st.global.u64", 'd'),
    ("st.global.f32", 'f'),
    ("st.global.f64", 'd'),
    ("st.global.v2.u32", 'w'),
    ("st.global.v4.u32", 'w'),
    ("st.global.cs.v2.u32", 'w'),
    ("st.global.cs.v4.u32", 'w'),
    ("st.u32", 'w'),
    ("st.shared.u8", 'w'),
    ("st.shared.u16", 'h'),
    ("st.shared.u32", 'w'),
    ("st.shared.u64", 'd'),
    ("st.shared.f32", 'f'),
    ("st.shared.f64", 'd'),
    ("st.shared.v2.u32", 'w'),
    ("st.shared.v4.u32", 'w'),
];

/// Elements of a form, their bytes, and whether they have a sign.
fn shape(form: &str) -> (usize, usize, bool) {
    let count = if form.contains(".v2.") {
        2
    } else if form.contains(".v4.") {
        4
    } else {
        1
    };
    let of = form.rsplit_once('.').unwrap().1;
    (count, of[1..].parse::<usize>().unwrap() / 8, of.starts_with('s'))
}

fn vector(count: usize, register: char) -> String {
    let names: Vec<_> = (2..2 + count).map(|i| format!("%{register}{i}")).collect();
    if count == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Widths of registers in bits.
fn width(register: char) -> u32 {
    match register {
        'h' => 16,
        'd' => 64,
        _ => 32,
    }
}

/// The module's shared memory is filled from `from` first; each lane uses 16 bytes of its own.
const BOX: &str = ".shared .align 16 .b8 box[512];";
const FILL: &str = "shl.b32 %w10, %lane, 4; mov.u32 %w11, box; add.s32 %w11, %w11, %w10; cvt.u64.u32 %d10, %w10;
    add.s64 %d1, %from, %d10; ld.global.nc.v4.u32 {%w12, %w13, %w14, %w15}, [%d1];
    st.shared.v4.u32 [%w11], {%w12, %w13, %w14, %w15}; shl.b64 %d10, %d10, 1; add.s64 %d11, %to, %d10;";

#[test]
fn loads_give_the_bytes_of_memory() {
    let from = pattern(512);
    for &(form, register) in LOADS {
        let (count, bytes, signed) = shape(form);
        let at = if form.contains(".shared") { "[%w11]" } else { "[%d1]" };
        let widen = |i: usize| match register {
            'h' => format!("cvt.u64.u16 %d12, %h{i};"),
            'w' => format!("cvt.u64.u32 %d12, %w{i};"),
            'f' => format!("mov.b32 %w12, %f{i}; cvt.u64.u32 %d12, %w12;"),
            _ => format!("mov.u64 %d12, %d{i};"),
        };
        let stores: String =
            (0..count).map(|i| format!("{} st.global.u64 [%d11+{}], %d12;\n", widen(i + 2), 8 * i)).collect();
        let body = format!("{FILL} {form} {}, {at}; {stores}", vector(count, register));
        let (_, got) = run_wide(&module(BOX, &body), &from);
        for lane in 0..32 {
            for i in 0..count {
                let raw = little(&from[16 * lane + i * bytes..][..bytes]);
                let shift = 64 - 8 * bytes as u32;
                let whole = if signed { ((raw << shift) as i64 >> shift) as u64 } else { raw };
                let expected = whole & (u64::MAX >> (64 - width(register)));
                assert_eq!(got[4 * lane + i], expected, "{form} {register} lane {lane} element {i}");
            }
        }
    }
}

/// Each lane has 32 bytes of `to`.
fn run_wide(module: &Module, from: &[u8]) -> (u64, Vec<u64>) {
    let (from, to) = (Buffer::input("from", from).unwrap(), Buffer::in_place("to", &[0u64; 128]).unwrap());
    let args = Args::new().pointer(&from).pointer(&to).finish();
    let launch = Launch { kernel: "k", grid: [1; 3], block: [32, 1, 1], shared_bytes: 64, args: &args };
    let report = module.run(&launch, &Options::default()).unwrap_or_else(|fault| panic!("{fault}"));
    (report.copies, to.values())
}

#[test]
fn stores_change_their_bytes_alone() {
    let from = pattern(512);
    for &(form, register) in STORES {
        let (count, bytes, _) = shape(form);
        let load = match register {
            'h' => "ld.global.u16 %h2, [%d1];",
            'd' => "ld.global.u64 %d2, [%d1];",
            'f' => "ld.global.f32 %f2, [%d1];",
            _ => "ld.global.v4.u32 {%w2, %w3, %w4, %w5}, [%d1];",
        };
        let shared = form.contains(".shared");
        let at = if shared { "[%w11+4]" } else { "[%d11+8]" };
        // Vectors are aligned to all of their bytes.
        let at = if count * bytes > 4 && shared { "[%w11]" } else { at };
        let at = if count * bytes > 8 && !shared { "[%d11]" } else { at };
        let back = if shared {
            "ld.shared.v2.u32 {%w6, %w7}, [%w11]; st.global.v2.u32 [%d11], {%w6, %w7};
            ld.shared.v2.u32 {%w6, %w7}, [%w11+8]; st.global.v2.u32 [%d11+8], {%w6, %w7};"
        } else {
            ""
        };
        let clear = "mov.u32 %w6, 0; st.shared.v4.u32 [%w11], {%w6, %w6, %w6, %w6};";
        let body = format!("{FILL} {clear} {load} {form} {at}, {}; {back}", vector(count, register));
        let (_, got) = run_wide(&module(BOX, &body), &from);
        let start = at.split('+').nth(1).map_or(0, |offset| offset.trim_end_matches(']').parse::<usize>().unwrap());
        for lane in 0..32 {
            let mut expected = [0u8; 32];
            expected[start..start + count * bytes].copy_from_slice(&from[16 * lane..][..count * bytes]);
            let expected: Vec<u64> = expected.chunks(8).map(little).collect();
            assert_eq!(got[4 * lane..][..4], expected, "{form} {register} lane {lane}");
        }
    }
}

/// `ld.param.u8`, `ld.param.u32`, `ld.param.u64`, `ld.param.f32`, `ld.param.f64`, `ld.param.v2.u32`, `ld.param.v2.f32`,
/// by name and by address; and `ld.const.u32` of a variable with values.
#[test]
fn parameters_and_constants_are_read() {
    let text = ".version 9.0\n.target sm_80\n.address_size 64
        .const .align 4 .u32 table[3] = {7, 0xdeadbeef, 9};
        .global .align 8 .b8 bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        .visible .entry k(.param .u64 to, .param .align 8 .b8 all[32]) {
        .reg .b32 %w<8>; .reg .b64 %d<8>; .reg .b16 %h<2>; .reg .f32 %f<4>; .reg .f64 %g<2>;
        ld.param.u64 %d0, [to]; mov.b64 %d1, all; add.s64 %d2, %d1, 16;
        ld.param.u8 %h0, [all+1]; cvt.u64.u16 %d3, %h0; st.global.u64 [%d0], %d3;
        ld.param.u32 %w0, [%d2+-12]; cvt.u64.u32 %d3, %w0; st.global.u64 [%d0+8], %d3;
        ld.param.v2.u32 {%w0, %w1}, [%d2]; mov.b64 %d3, {%w1, %w0}; st.global.u64 [%d0+16], %d3;
        ld.param.v2.f32 {%f0, %f1}, [all+24]; st.global.f32 [%d0+24], %f1; st.global.f32 [%d0+28], %f0;
        ld.param.f32 %f2, [all+8]; st.global.f32 [%d0+32], %f2;
        ld.param.f64 %g0, [all+8]; st.global.f64 [%d0+40], %g0;
        mov.u64 %d4, table; ld.const.u32 %w2, [%d4+4]; ld.const.u32 %w3, [table+8]; mov.b64 %d3, {%w2, %w3};
        st.global.u64 [%d0+48], %d3;
        ld.global.u64 %d5, [bytes]; st.global.u64 [%d0+56], %d5; ret; }";
    let module = Module::new(text).unwrap();
    let (all, to) = (pattern(32), Buffer::in_place("to", &[0u64; 8]).unwrap());
    let mut args = Args::new().pointer(&to).finish();
    args.extend_from_slice(&all);
    let launch = Launch { kernel: "k", grid: [1; 3], block: [1, 1, 1], shared_bytes: 0, args: &args };
    module.run(&launch, &Options::default()).unwrap();
    let word = |at: usize| little(&all[at..at + 4]);
    let expected = [
        all[1].into(),
        word(4),
        word(16) << 32 | word(20),
        word(24) << 32 | word(28),
        word(8),
        little(&all[8..16]),
        9 << 32 | 0xdead_beef,
        0x0807_0605_0403_0201,
    ];
    assert_eq!(to.values::<u64>(), expected);
}

/// `cvta.shared.u64`, `cvta.to.shared.u64`: a generic address reaches shared memory.
#[test]
fn generic_addresses_reach_shared_memory() {
    let body = "mov.u64 %d0, box; cvta.shared.u64 %d1, %d0; cvta.to.shared.u64 %d2, %d1; sub.s64 %d3, %d2, %d0;
        mul.wide.u32 %d4, %lane, 4; add.s64 %d1, %d1, %d4; add.s64 %d2, %d2, %d4; st.u32 [%d1], %lane;
        ld.shared.u32 %w1, [%d2]; ld.u32 %w2, [%d1]; add.s32 %w1, %w1, %w2; cvt.u64.u32 %d5, %w1;
        add.s64 %d5, %d5, %d3; st.global.u64 [%own], %d5;";
    let (_, values) = run(&module(BOX, body), &[0; 8], 32, 0, Schedule::RoundRobin).unwrap();
    assert_eq!(values, (0..32).map(|lane| 2 * lane).collect::<Vec<u64>>());
}

#[test]
fn atomics_change_memory_at_once() {
    // The operation on `to[0]`, from a start; what is left, and the sum of what the lanes were given.
    let cases: &[(&str, &str, u64, u64, Option<u64>)] = &[
        ("atom.relaxed.gpu.global.add.u32", "%w0, [%to], %lane;", 5, 5 + 496, None),
        ("atom.relaxed.gpu.global.add.u64", "%d0, [%to], 0x100000000;", 5, 5 + (32 << 32), None),
        ("atom.global.max.s32", "%w0, [%to], %lane;", 0xffff_fffe, 31, None),
        ("atom.global.min.u32", "%w0, [%to], %lane;", 0xffff_fffe, 0, None),
        ("atom.global.exch.b32", "%w0, [%to], 9;", 4, 9, Some(4 + 31 * 9)),
        ("atom.global.cas.b32", "%w0, [%to], 4, 77;", 4, 77, Some(4 + 31 * 77)),
        ("red.global.add.u32", "[%to], 3;", 1, 97, None),
        ("red.global.add.f32", "[%to], 0f3F000000;", 0, 0x4180_0000, None),
    ];
    for &(form, operands, start, left, given) in cases {
        let body = format!(
            "setp.eq.s32 %p0, %lane, 0; @%p0 st.global.u64 [%to], {start}; bar.warp.sync 0xffffffff; mov.u32 %w0, 0;
            {form} {operands} add.s64 %d1, %to, 8; bar.warp.sync 0xffffffff; red.global.add.u32 [%d1], %w0;"
        );
        let module = module("", &body);
        for schedule in Schedule::several(3) {
            let (_, values) = run(&module, &[0; 8], 32, 0, schedule).unwrap();
            assert_eq!(values[0], left, "{form}");
            assert!(given.is_none_or(|given| values[1] == given), "{form}: {}", values[1]);
        }
    }
    let body = "mov.u32 %w0, box; st.shared.u32 [box], 0; barrier.sync.aligned 0; atom.shared.add.u32 %w1, [%w0], 2;
        barrier.sync.aligned 0; ld.shared.u32 %w2, [box]; cvt.u64.u32 %d0, %w2; st.global.u64 [%own], %d0;";
    assert_eq!(run(&module(BOX, body), &[0; 8], 96, 0, Schedule::Random(3)).unwrap().1, [192; 96]);
}

/// `cp.async.ca.shared.global`, `cp.async.cg.shared.global.L2::128B`, `cp.async.commit_group`, `cp.async.wait_group`
/// and
/// `cp.async.wait_all`: what is not read of the source is zero, and nothing is there for certain before its wait.
#[test]
fn copies_land_by_their_wait_and_fill_with_zeros() {
    let from = pattern(512);
    for (copy, bytes, valid) in [
        ("cp.async.cg.shared.global.L2::128B [%w11], [%d1], 16;", 16, 16),
        ("cp.async.cg.shared.global.L2::128B [%w11], [%d1], 16, %w9;", 16, 5),
        ("cp.async.cg.shared.global.L2::128B [%w11], [%d1], 16, %w9;", 16, 0),
        ("cp.async.ca.shared.global [%w11], [%d1], 8;", 8, 8),
        ("cp.async.ca.shared.global [%w11], [%d1], 4, %w9;", 4, 3),
    ] {
        for wait in ["cp.async.commit_group; cp.async.wait_group 0;", "cp.async.wait_all;"] {
            let body = format!(
                "{FILL} mov.u32 %w6, -1; st.shared.v4.u32 [%w11], {{%w6, %w6, %w6, %w6}}; mov.u32 %w9, {valid};
                {copy} {wait} ld.shared.u64 %d2, [%w11]; ld.shared.u64 %d3, [%w11+8];
                st.global.u64 [%d11], %d2; st.global.u64 [%d11+8], %d3;"
            );
            let (copies, got) = run_wide(&module(BOX, &body), &from);
            assert_eq!(copies, 32);
            for lane in 0..32 {
                let mut expected = [0xffu8; 16];
                expected[..bytes].fill(0);
                expected[..valid].copy_from_slice(&from[16 * lane..][..valid]);
                assert_eq!(got[4 * lane..][..2], [little(&expected[..8]), little(&expected[8..])], "{copy}");
            }
        }
    }
    // The older group is there after `wait_group 1`, the newer one late in order, and by chance under other schedules.
    let body = format!(
        "{FILL} mov.u32 %w6, 0; st.shared.v4.u32 [%w11], {{%w6, %w6, %w6, %w6}};
        cp.async.ca.shared.global [%w11], [%d1], 4; cp.async.commit_group;
        cp.async.ca.shared.global [%w11+8], [%d1+8], 4; cp.async.commit_group; cp.async.wait_group 1;
        ld.shared.u64 %d2, [%w11]; ld.shared.u64 %d3, [%w11+8]; add.s64 %d2, %d2, %d3; st.global.u64 [%own], %d2;"
    );
    let module = module(BOX, &body);
    let newer = |schedule| {
        let values = run(&module, &from, 32, 0, schedule).unwrap().1;
        let word = |lane: usize, at: usize| little(&from[16 * lane + at..][..4]);
        (0..32)
            .filter(|&lane| {
                let both = word(lane, 0) + word(lane, 8);
                assert!(values[lane] == both || values[lane] == word(lane, 0));
                values[lane] == both
            })
            .count()
    };
    assert_eq!(newer(Schedule::RoundRobin), 0);
    assert!((1..32).contains(&newer(Schedule::Random(1))));
}

#[test]
fn ldmatrix_gives_rows_or_columns() {
    // `ldmatrix.sync.aligned.m8n8.x1.shared.b16`, `ldmatrix.sync.aligned.m8n8.x2.shared.b16`,
    // `ldmatrix.sync.aligned.m8n8.x4.shared.b16`, `ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16`,
    // `ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16`, `ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16`.
    let from = pattern(512);
    for count in [1usize, 2, 4] {
        for trans in ["", ".trans"] {
            // The lanes' addresses go backwards: row r of the matrices is at row 31 - r of the memory.
            let stores: String = (0..count)
                .map(|i| format!("cvt.u64.u32 %d12, %w{}; st.global.u64 [%d11+{}], %d12;", i + 2, 8 * i))
                .collect();
            let body = format!(
                "{FILL} bar.warp.sync 0xffffffff; sub.s32 %w9, 496, %w10; mov.u32 %w8, box; add.s32 %w9, %w9, %w8;
                ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {}, [%w9]; {stores}",
                if count == 1 { "{%w2}".to_owned() } else { vector(count, 'w') }
            );
            let (_, got) = run_wide(&module(BOX, &body), &from);
            for lane in 0..32 {
                for matrix in 0..count {
                    let element =
                        |row: usize, column: usize| little(&from[16 * (31 - 8 * matrix - row) + 2 * column..][..2]);
                    let (line, first) = (lane / 4, lane % 4 * 2);
                    let expected = if trans.is_empty() {
                        element(line, first) | element(line, first + 1) << 16
                    } else {
                        element(first, line) | element(first + 1, line) << 16
                    };
                    assert_eq!(got[4 * lane + matrix], expected, "x{count}{trans} lane {lane} matrix {matrix}");
                }
            }
        }
    }
}

#[test]
fn accesses_out_of_bounds_are_faults() {
    let beyond = fault("", "ld.global.u32 %w0, [%from+64];", 32);
    assert!(
        matches!(&beyond, Fault::OutOfBounds { near: Near::Buffer { name, offset: 64, .. }, .. } if name == "from"),
        "{beyond}"
    );
    assert_eq!(beyond.place().unwrap().kernel, "k");
    let null = fault("", "mov.u64 %d0, 0; ld.global.u8 %w0, [%d0];", 32);
    assert!(matches!(null, Fault::OutOfBounds { near: Near::Nothing, .. }), "{null}");
    let input = fault("", "st.global.u8 [%from], %lane;", 32);
    assert!(matches!(input, Fault::ReadOnly { access: Access::StoreGlobal, .. }), "{input}");
    let odd = fault("", "ld.global.v2.u32 {%w0, %w1}, [%from+4];", 32);
    assert!(matches!(odd, Fault::Misaligned { align: 8, .. }), "{odd}");
    // One past a variable is not the next variable, though there is one.
    let two = ".shared .align 4 .b8 first[8]; .shared .align 4 .b8 second[8];";
    let past = fault(two, "st.shared.u32 [first+8], %lane; ld.shared.u32 %w0, [second];", 32);
    assert!(
        matches!(&past, Fault::OutOfBounds { near: Near::Shared { name, offset: 8, .. }, .. } if name == "first"),
        "{past}"
    );
    let dynamic = ".extern .shared .align 16 .b8 all[];";
    assert!(run(&module(dynamic, "st.shared.u8 [all+63], %w0;"), &[0; 8], 32, 64, Schedule::RoundRobin).is_ok());
    let past = fault(dynamic, "st.shared.u8 [all+64], %w0;", 32);
    assert!(matches!(past, Fault::OutOfBounds { .. }), "{past}");
    // Spaces are not mixed up.
    let global = fault("", "ld.shared.u32 %w0, [%from];", 32);
    assert!(matches!(global, Fault::OutOfBounds { .. }), "{global}");
    let shared = fault(BOX, "mov.u64 %d0, box; ld.global.u32 %w0, [%d0];", 32);
    assert!(matches!(shared, Fault::OutOfBounds { .. }), "{shared}");
    let param = fault("", "mov.u64 %d0, k_to; ld.param.u64 %d1, [%d0+8];", 32);
    assert!(matches!(param, Fault::OutOfBounds { .. }), "{param}");
    let copy = fault("", "cp.async.ca.shared.global [%lane], [%from], 4;", 1);
    assert!(matches!(copy, Fault::NotShared { .. }), "{copy}");
    let source = fault(BOX, "cp.async.ca.shared.global [box], [%from+64], 4;", 1);
    assert!(matches!(source, Fault::OutOfBounds { access: Access::CopySource, .. }), "{source}");
    let size = fault(BOX, "cp.async.ca.shared.global [box], [%from], 4, 5;", 1);
    assert!(matches!(size, Fault::UndefinedPtx { .. }), "{size}");
}

#[test]
fn fresh_shared_memory_is_full_of_nans() {
    let body = "mul.wide.u32 %d0, %lane, 8; mov.u64 %d1, box; add.s64 %d0, %d0, %d1; ld.shared.u64 %d2, [%d0];
        st.shared.u64 [%d0], 1; st.global.u64 [%own], %d2;";
    assert_eq!(run(&module(BOX, body), &[0; 8], 64, 0, Schedule::RoundRobin).unwrap().1, [u64::MAX; 64]);
}
