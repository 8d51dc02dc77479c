//! What a watched launch finds, though the result be right: races within a warp, a block and a grid. Each planted fault
//! has a twin without it that passes. `ptx_watch_copies.rs` has the other faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/watch.rs"]
mod support;

use support::Is::Race;
use support::{Planted, assert_found, module, module_in, run, run_with, zeros};
use twofour_emulator::{Access, Fault, Near, Options, Schedule, Source};

const fn race(name: &'static str, [blocks, threads]: [u32; 2], wrong: &'static str, right: &'static str) -> Planted {
    Planted { name, blocks, threads, is: Race, wrong, right }
}

#[test]
fn races_of_a_warp() {
    let planted = [
        race(
            "a neighbour's word without bar.warp.sync",
            [1, 32],
            "st.shared.u32 [%w11], 1; ld.shared.u32 %w0, [%w12];",
            "st.shared.u32 [%w11], 1; bar.warp.sync 0xffffffff; ld.shared.u32 %w0, [%w12];",
        ),
        race(
            "a shuffle orders no memory",
            [1, 32],
            "st.shared.u32 [%w11], 1; shfl.sync.bfly.b32 %w0, %lane, 1, 31, 0xffffffff; ld.shared.u32 %w1, [%w12];",
            "st.shared.u32 [%w11], 1; shfl.sync.bfly.b32 %w0, %lane, 1, 31, 0xffffffff; bar.warp.sync 0xffffffff;
            ld.shared.u32 %w1, [%w12];",
        ),
        race(
            "nor does a vote",
            [1, 32],
            "st.shared.u32 [%w11], 1; vote.sync.ballot.b32 %w0, %p10, 0xffffffff; ld.shared.u32 %w1, [%w12];",
            "vote.sync.ballot.b32 %w0, %p10, 0xffffffff; st.shared.u32 [%w11], 1; ld.shared.u32 %w1, [%w11];",
        ),
        race(
            "half of the warp meets",
            [1, 32],
            "setp.lt.u32 %p0, %lane, 16; selp.u32 %w2, 0xffff, 0xffff0000, %p0; st.shared.u32 [%w11], 1;
            bar.warp.sync %w2; xor.b32 %w3, %lane, 16; shl.b32 %w3, %w3, 2; add.s32 %w3, %w3, %w10;
            ld.shared.u32 %w0, [%w3];",
            "setp.lt.u32 %p0, %lane, 16; selp.u32 %w2, 0xffff, 0xffff0000, %p0; st.shared.u32 [%w11], 1;
            bar.warp.sync %w2; ld.shared.u32 %w0, [%w12];",
        ),
        race(
            "two sides of a branch",
            [1, 32],
            "and.b32 %w2, %lane, 1; setp.eq.s32 %p0, %w2, 0; @%p0 bra EVEN; ld.shared.u32 %w0, [%w12]; bra JOIN;
            EVEN: st.shared.u32 [%w11], 5; JOIN:",
            "and.b32 %w2, %lane, 1; setp.eq.s32 %p0, %w2, 0; @%p0 bra EVEN; ld.shared.u32 %w0, [%w11]; bra JOIN;
            EVEN: st.shared.u32 [%w11], 5; JOIN:",
        ),
        race(
            "two lanes store equal values by one instruction",
            [1, 32],
            "st.shared.u32 [%w10], 7;",
            "@%p10 st.shared.u32 [%w10], 7;",
        ),
        race(
            "stores of two bytes that overlap",
            [1, 32],
            "add.s32 %w2, %w10, %lane; and.b32 %w2, %w2, -2; st.shared.u16 [%w2], %w0;",
            "add.s32 %w2, %w10, %lane; st.shared.u8 [%w2], %w0;",
        ),
        race(
            "ldmatrix of what other lanes have just stored",
            [1, 32],
            "shl.b32 %w2, %lane, 4; add.s32 %w2, %w2, %w10; st.shared.v4.u32 [%w2], {%w10, %w10, %w10, %w10};
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4, %w5, %w6, %w7}, [%w2];",
            "shl.b32 %w2, %lane, 4; add.s32 %w2, %w2, %w10; st.shared.v4.u32 [%w2], {%w10, %w10, %w10, %w10};
            bar.warp.sync 0xffffffff; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4, %w5, %w6, %w7}, [%w2];",
        ),
        race(
            "a store into rows that ldmatrix has just loaded",
            [1, 32],
            "shl.b32 %w2, %lane, 4; and.b32 %w2, %w2, 127; add.s32 %w2, %w2, %w10;
            ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%w2]; st.shared.u32 [%w11], 1;",
            "shl.b32 %w2, %lane, 4; and.b32 %w2, %w2, 127; add.s32 %w2, %w2, %w10;
            ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%w2]; bar.warp.sync 0xffffffff; st.shared.u32 [%w11], 1;",
        ),
        race(
            "a lane's word of global memory",
            [1, 32],
            "st.global.u32 [%d10], 1; xor.b32 %w2, %lane, 1; mul.wide.u32 %d2, %w2, 4; add.s64 %d2, %d2, %to;
            ld.global.u32 %w0, [%d2];",
            "st.global.u32 [%d10], 1; xor.b32 %w2, %lane, 1; mul.wide.u32 %d2, %w2, 4; add.s64 %d2, %d2, %to;
            bar.warp.sync 0xffffffff; ld.global.u32 %w0, [%d2];",
        ),
    ];
    assert_found(&planted, zeros);
}

#[test]
fn races_of_a_block() {
    let planted = [
        race(
            "a load without a barrier after the store",
            [1, 64],
            "st.shared.u32 [%w11], 1; ld.shared.u32 %w0, [%w13];",
            "st.shared.u32 [%w11], 1; barrier.sync.aligned 0; ld.shared.u32 %w0, [%w13];",
        ),
        race(
            "a store without a barrier after the load",
            [1, 64],
            "ld.shared.u32 %w0, [%w13]; st.shared.u32 [%w11], 1;",
            "ld.shared.u32 %w0, [%w13]; barrier.sync.aligned 0; st.shared.u32 [%w11], 1;",
        ),
        race(
            "the second barrier of a loop",
            [1, 64],
            "mov.u32 %w2, 0; LOOP: st.shared.u32 [%w11], %w2; barrier.sync.aligned 0; ld.shared.u32 %w0, [%w13];
            add.s32 %w2, %w2, 1; setp.lt.u32 %p0, %w2, 3; @%p0 bra LOOP;",
            "mov.u32 %w2, 0; LOOP: st.shared.u32 [%w11], %w2; barrier.sync.aligned 0; ld.shared.u32 %w0, [%w13];
            barrier.sync.aligned 0; add.s32 %w2, %w2, 1; setp.lt.u32 %p0, %w2, 3; @%p0 bra LOOP;",
        ),
        race(
            "two warps store to the same words",
            [1, 64],
            "and.b32 %w2, %lane, 31; shl.b32 %w2, %w2, 2; add.s32 %w2, %w2, %w10; st.shared.u32 [%w2], 1;",
            "and.b32 %w2, %lane, 31; shl.b32 %w2, %w2, 2; add.s32 %w2, %w2, %w10; @%p11 st.shared.u32 [%w2], 1;
            barrier.sync.aligned 0; @!%p11 st.shared.u32 [%w2], 1;",
        ),
        race(
            "a bar.warp.sync where a barrier is needed",
            [1, 64],
            "st.shared.u32 [%w11], 1; bar.warp.sync 0xffffffff; ld.shared.u32 %w0, [%w13];",
            "st.shared.u32 [%w11], 1; bar.warp.sync 0xffffffff; ld.shared.u32 %w0, [%w12];",
        ),
        race(
            "a barrier of two warps of three",
            [1, 96],
            "setp.ge.u32 %p0, %lane, 64; @!%p0 st.shared.u32 [%w11], 1; @!%p0 bar.sync 1, 64;
            @%p0 ld.shared.u32 %w0, [%w10];",
            "setp.ge.u32 %p0, %lane, 64; @!%p0 st.shared.u32 [%w11], 1; @!%p0 bar.sync 1, 64;
            @!%p0 ld.shared.u32 %w0, [%w13];",
        ),
        race(
            "a vector over another thread's word",
            [1, 64],
            "@%p10 st.shared.v4.u32 [%w10+128], {%w0, %w0, %w0, %w0}; @!%p11 st.shared.u32 [%w11], 1;",
            "@%p10 st.shared.v4.u32 [%w10+112], {%w0, %w0, %w0, %w0}; @!%p11 st.shared.u32 [%w11], 1;",
        ),
        race(
            "a load beside atomics",
            [1, 64],
            "atom.shared.add.u32 %w0, [%w10], 1; ld.shared.u32 %w1, [%w10];",
            "atom.shared.add.u32 %w0, [%w10], 1; barrier.sync.aligned 0; ld.shared.u32 %w1, [%w10];",
        ),
        race(
            "zero, and atomics at once",
            [1, 64],
            "@%p10 st.shared.u32 [%w10], 0; atom.shared.add.u32 %w0, [%w10], 1;",
            "@%p10 st.shared.u32 [%w10], 0; barrier.sync.aligned 0; atom.shared.add.u32 %w0, [%w10], 1;",
        ),
        race(
            "a sum that is not atomic",
            [1, 64],
            "ld.shared.u32 %w0, [%w10]; add.s32 %w0, %w0, 1; st.shared.u32 [%w10], %w0;",
            "atom.shared.add.u32 %w0, [%w10], 1;",
        ),
        race(
            "generic addresses",
            [1, 64],
            "mov.u64 %d2, box; cvta.shared.u64 %d2, %d2; @%p10 st.u32 [%d2], %w0; ld.shared.u32 %w1, [%w10];",
            "mov.u64 %d2, box; cvta.shared.u64 %d2, %d2; @%p10 st.u32 [%d2], %w0; barrier.sync.aligned 0;
            ld.u32 %w1, [%d2];",
        ),
        race(
            "a thread that ended did not come to the barrier",
            [1, 64],
            "@%p11 st.shared.u32 [%w11], 1; @%p11 ret; barrier.sync 0; ld.shared.u32 %w0, [%w13];",
            "@%p11 st.shared.u32 [%w11], 1; barrier.sync 0; @%p11 ret; ld.shared.u32 %w0, [%w13];",
        ),
    ];
    assert_found(&planted, zeros);
}

/// Each block stores a word, and the last of four that come adds them all up.
const LAST_BLOCK: [&str; 5] = [
    "st.global.u32 [%d10+1024], 3; barrier.sync.aligned 0;",
    "fence.acq_rel.gpu;",
    "mov.u32 %w0, 0; @%p10 atom.relaxed.gpu.global.add.u32 %w0, [%to], 1; setp.eq.s32 %p0, %w0, 3;
    shfl.sync.idx.b32 %w0, %w0, 0, 31, 0xffffffff; setp.eq.s32 %p0, %w0, 3; @!%p0 ret;",
    "fence.acq_rel.gpu;",
    "bar.warp.sync 0xffffffff; mul.wide.u32 %d2, %lane, 4; add.s64 %d2, %d2, %to; ld.global.u32 %w1, [%d2+1024];
    ld.global.u32 %w2, [%d2+1408];",
];

#[test]
fn races_between_blocks() {
    let planted = [
        race("equal values", [3, 32], "@%p10 st.global.u32 [%to], 7;", "@%p10 st.global.u32 [%d10], 7;"),
        race(
            "a load of what another block stores",
            [2, 32],
            "@%p12 st.global.u32 [%d10], 7; @!%p12 ld.global.u32 %w0, [%to];",
            "@%p12 st.global.u32 [%d10], 7; @!%p12 ld.global.u32 %w0, [%d10];",
        ),
        race(
            "a barrier orders one block alone",
            [2, 64],
            "st.global.u32 [%d10], 7; barrier.sync.aligned 0; ld.global.u32 %w0, [%to];",
            "st.global.u32 [%d10], 7; barrier.sync.aligned 0; @%p12 ld.global.u32 %w0, [%to];",
        ),
        race(
            "a fence alone orders nothing",
            [2, 32],
            "fence.acq_rel.gpu; @%p10 st.global.u32 [%to], 7; fence.acq_rel.gpu;",
            "fence.acq_rel.gpu; @%p10 red.global.add.u32 [%to], 7; fence.acq_rel.gpu;",
        ),
        race(
            "an atomic beside a load",
            [2, 32],
            "@%p12 red.global.add.u32 [%to], 1; @!%p12 ld.global.u32 %w0, [%to];",
            "@%p12 red.global.add.u32 [%to], 1; @!%p12 atom.relaxed.gpu.global.add.u32 %w0, [%to], 0;",
        ),
        race(
            "a count that is not atomic",
            [2, 32],
            "@%p10 ld.global.u32 %w0, [%to]; add.s32 %w0, %w0, 1; @%p10 st.global.u32 [%to], %w0;",
            "@%p10 atom.relaxed.gpu.global.add.u32 %w0, [%to], 1;",
        ),
        race(
            "blocks that overlap by one word",
            [3, 32],
            "st.global.u32 [%d10], 1; @%p10 st.global.u32 [%d10+128], 1;",
            "st.global.u32 [%d10], 1; @%p10 st.global.u32 [%d10+1024], 1;",
        ),
        race(
            "two bytes where one is the block's",
            [2, 1],
            "cvt.u64.u32 %d2, %w14; add.s64 %d2, %to, %d2; and.b64 %d2, %d2, -2; st.global.u16 [%d2], %w0;",
            "cvt.u64.u32 %d2, %w14; add.s64 %d2, %to, %d2; st.global.u8 [%d2], %w0;",
        ),
    ];
    assert_found(&planted, zeros);
}

#[test]
fn the_last_block_needs_both_fences() {
    let of = |parts: &[usize]| module(&parts.iter().map(|&part| LAST_BLOCK[part]).collect::<Vec<_>>().join("\n"));
    let (right, first, second, neither) = (of(&[0, 1, 2, 3, 4]), of(&[0, 2, 3, 4]), of(&[0, 1, 2, 4]), of(&[0, 2, 4]));
    for schedule in Schedule::several(4) {
        run(&right, &zeros(), 4, 32, schedule).unwrap_or_else(|fault| panic!("{schedule:?}: {fault}"));
        for wrong in [&first, &second, &neither] {
            let fault = run(wrong, &zeros(), 4, 32, schedule).unwrap_err();
            assert!(matches!(fault, Fault::Race { .. }), "{schedule:?}: {fault}");
        }
    }
    // The other threads' words go with thread 0's fence only if it has waited for them.
    let alone = LAST_BLOCK.join("\n").replacen("barrier.sync.aligned 0;", "", 1);
    let fault = run(&module(&alone), &zeros(), 4, 32, Schedule::RoundRobin).unwrap_err();
    assert!(matches!(fault, Fault::Race { .. }), "{fault}");
}

#[test]
fn launches_are_in_order() {
    let (store, load) = (module("st.global.u32 [%d10], 1;"), module("ld.global.u32 %w0, [%to+64];"));
    let to = zeros();
    for module in [&store, &load, &store] {
        run(module, &to, 2, 32, Schedule::RoundRobin).unwrap();
    }
}

#[test]
fn a_race_names_both_accesses() {
    // The second line is that of a call of a function in `ptx.cuh` (file 2).
    let text = "st.shared.u32 [%w11+128], 1; barrier.sync.aligned 0;
        .loc 1 40 3
        @%p10 st.shared.u32 [%w10+132], 1;
        .loc 2 30 3, function_name $info, inlined_at 1 41 9
        @!%p11 ld.shared.u32 %w0, [%w10+132];";
    let files = ".file 1 \"/a/sums.cu\"\n.file 2 \"/a/common/ptx.cuh\"\n";
    let fault = run(&module_in(files, text), &zeros(), 1, 64, Schedule::RoundRobin).unwrap_err();
    let Fault::Race { place, access, bytes, near, other, other_access, .. } = &fault else { panic!("{fault}") };
    assert_eq!((place.thread, other.thread), ([32, 0, 0], [0; 3]));
    assert_eq!((*access, *other_access, *bytes), (Access::Load, Access::Store, 4));
    assert_eq!(*near, Near::Shared { name: "box".to_owned(), bytes: 4096, offset: 132 });
    let line = |line| Source::Line("sums.cu".to_owned(), line);
    assert_eq!((&place.source, &other.source), (&line(41), &line(40)));
    let message = fault.to_string();
    assert!(message.contains("races with the store by block (0, 0, 0), thread (0, 0, 0), sums.cu:40"), "{message}");
    assert!(message.contains("barrier of the block"), "{message}");
}

#[test]
fn nothing_is_watched_unless_asked_for() {
    let race = module("st.shared.u32 [%w10], 7;");
    run_with(&race, &zeros(), 1, 64, &Options::default()).unwrap();
    assert!(run_with(&race, &zeros(), 1, 64, &Options { watch: true, workers: 4, ..Options::default() }).is_err());
}
