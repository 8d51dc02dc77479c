//! What a watched launch finds besides races of loads and stores: asynchronous copies used too early, or never; loads
//! through the read-only path of what the launch writes; and loads of what was never written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/watch.rs"]
mod support;

use support::Is::{NeverWaited, Race, Stale, UnderWay, Unwritten};
use support::{BYTES, Is, Planted, assert_found, module, run, run_with, zeros};
use twofour_emulator::{Access, Buffer, Fault, Options, Schedule, written};

const fn planted(
    name: &'static str,
    is: Is,
    [blocks, threads]: [u32; 2],
    wrong: &'static str,
    right: &'static str,
) -> Planted {
    Planted { name, blocks, threads, is, wrong, right }
}

#[test]
fn copies() {
    let planted = [
        planted(
            "a load before the wait",
            UnderWay,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group; ld.shared.u32 %w0, [%w11];
            cp.async.wait_group 0;",
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group; cp.async.wait_group 0;
            ld.shared.u32 %w0, [%w11];",
        ),
        planted(
            "a wait for the older group alone",
            UnderWay,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group;
            cp.async.ca.shared.global [%w11+512], [%from], 4; cp.async.commit_group;
            cp.async.wait_group 1; ld.shared.u32 %w0, [%w11+512]; cp.async.wait_all;",
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group;
            cp.async.ca.shared.global [%w11+512], [%from], 4; cp.async.commit_group;
            cp.async.wait_group 1; ld.shared.u32 %w0, [%w11]; cp.async.wait_all;",
        ),
        planted(
            "no commit before the wait for groups",
            UnderWay,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_group 0; ld.shared.u32 %w0, [%w11];
            cp.async.wait_all;",
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all; ld.shared.u32 %w0, [%w11];",
        ),
        planted(
            "a wait, but no barrier for the others",
            Race,
            [1, 64],
            "@%p11 cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all; @!%p11 ld.shared.u32 %w0, [%w13];",
            "@%p11 cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all; barrier.sync.aligned 0;
            @!%p11 ld.shared.u32 %w0, [%w13];",
        ),
        planted(
            "a barrier before the wait",
            UnderWay,
            [1, 64],
            "@%p11 cp.async.ca.shared.global [%w11], [%from], 4; barrier.sync.aligned 0;
            @!%p11 ld.shared.u32 %w0, [%w13]; barrier.sync.aligned 0; cp.async.wait_all;",
            "@%p11 cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all; barrier.sync.aligned 0;
            @!%p11 ld.shared.u32 %w0, [%w13]; barrier.sync.aligned 0;",
        ),
        planted(
            "no barrier before the copy into what others load",
            Race,
            [1, 64],
            "@!%p11 ld.shared.u32 %w0, [%w13]; bar.warp.sync 0xffffffff;
            @%p11 cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all; barrier.sync.aligned 0;",
            "@!%p11 ld.shared.u32 %w0, [%w13]; barrier.sync.aligned 0;
            @%p11 cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all;",
        ),
        planted(
            "a store where a copy lands",
            UnderWay,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%from], 4; st.shared.u32 [%w11], 1; cp.async.wait_all;",
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all; st.shared.u32 [%w11], 1;",
        ),
        planted(
            "a store to what is copied",
            UnderWay,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%d10], 4; st.global.u32 [%d10], 1; cp.async.wait_all;",
            "cp.async.ca.shared.global [%w11], [%d10], 4; cp.async.wait_all; st.global.u32 [%d10], 1;",
        ),
        planted(
            "a store to the source after the wait for the first of two turns of a loop",
            UnderWay,
            [1, 32],
            "mov.u32 %w2, %w11; mov.u32 %w3, 0; AGAIN: cp.async.ca.shared.global [%w2], [%d10], 4;
            cp.async.commit_group; add.s32 %w2, %w2, 512; add.s32 %w3, %w3, 1; setp.lt.u32 %p0, %w3, 2;
            @%p0 bra AGAIN; cp.async.wait_group 1; st.global.u32 [%d10], 1; cp.async.wait_all;",
            "mov.u32 %w2, %w11; mov.u32 %w3, 0; AGAIN: cp.async.ca.shared.global [%w2], [%d10], 4;
            cp.async.commit_group; add.s32 %w2, %w2, 512; add.s32 %w3, %w3, 1; setp.lt.u32 %p0, %w3, 2;
            @%p0 bra AGAIN; cp.async.wait_group 0; st.global.u32 [%d10], 1;",
        ),
        planted(
            "a source that another thread has just stored",
            Race,
            [1, 64],
            "@%p11 st.global.u32 [%d10], 1; @!%p11 cp.async.ca.shared.global [%w11], [%d10+-128], 4;
            cp.async.wait_all;",
            "@%p11 st.global.u32 [%d10], 1; barrier.sync.aligned 0;
            @!%p11 cp.async.ca.shared.global [%w11], [%d10+-128], 4; cp.async.wait_all;",
        ),
        planted(
            "two copies to one place",
            UnderWay,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.ca.shared.global [%w11], [%from+4], 4;
            cp.async.wait_all;",
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.wait_all;
            cp.async.ca.shared.global [%w11], [%from+4], 4; cp.async.wait_all;",
        ),
        planted(
            "zeros of a copy that reads nothing",
            UnderWay,
            [1, 1],
            "mov.u32 %w2, 0; cp.async.cg.shared.global.L2::128B [%w10+64], [%from], 16, %w2;
            ld.shared.u32 %w0, [%w10+76]; cp.async.wait_all;",
            "mov.u32 %w2, 0; cp.async.cg.shared.global.L2::128B [%w10+64], [%from], 16, %w2; cp.async.wait_all;
            ld.shared.u32 %w0, [%w10+76];",
        ),
        planted(
            "ldmatrix before the wait",
            UnderWay,
            [1, 32],
            "shl.b32 %w2, %lane, 4; add.s32 %w2, %w2, %w10; cp.async.cg.shared.global.L2::128B [%w2], [%from], 16;
            cp.async.commit_group; bar.warp.sync 0xffffffff;
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4, %w5, %w6, %w7}, [%w2]; cp.async.wait_group 0;",
            "shl.b32 %w2, %lane, 4; add.s32 %w2, %w2, %w10; cp.async.cg.shared.global.L2::128B [%w2], [%from], 16;
            cp.async.commit_group; cp.async.wait_group 0; bar.warp.sync 0xffffffff;
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4, %w5, %w6, %w7}, [%w2];",
        ),
        planted(
            "a copy that nobody waits for",
            NeverWaited,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group;",
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group; cp.async.wait_group 0;",
        ),
        planted(
            "the last of two groups",
            NeverWaited,
            [1, 32],
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group;
            cp.async.ca.shared.global [%w11+512], [%from], 4; cp.async.commit_group; cp.async.wait_group 1;",
            "cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group;
            cp.async.ca.shared.global [%w11+512], [%from], 4; cp.async.commit_group; cp.async.wait_group 0;",
        ),
    ];
    assert_found(&planted, zeros);
}

/// The barrier comes before the wait, so that it says nothing of the copy; which fault it is depends on who is first.
#[test]
fn a_wait_after_the_barrier_is_too_late_for_the_others() {
    let wrong = module(
        "@%p11 cp.async.ca.shared.global [%w11], [%from], 4; barrier.sync.aligned 0; @%p11 cp.async.wait_all;
        @!%p11 ld.shared.u32 %w0, [%w13];",
    );
    let found = |schedule| match run(&wrong, &zeros(), 1, 64, schedule).unwrap_err() {
        Fault::Race { other_access: Access::CopyTarget, .. } => Race,
        Fault::CopyUnderWay { .. } => UnderWay,
        other => panic!("{schedule:?}: {other}"),
    };
    let found: Vec<Is> = Schedule::several(8).map(found).collect();
    assert!(found.contains(&Race) && found.contains(&UnderWay), "{found:?}");
}

#[test]
fn the_read_only_path() {
    let planted = [
        planted(
            "a load of the thread's own store",
            Stale,
            [1, 32],
            "st.global.u32 [%d10], 1; ld.global.nc.u32 %w0, [%d10];",
            "st.global.u32 [%d10], 1; ld.global.u32 %w0, [%d10];",
        ),
        planted(
            "a store to what was loaded, in place",
            Stale,
            [1, 32],
            "ld.global.nc.u32 %w0, [%d10]; st.global.u32 [%d10], %w0;",
            "ld.global.u32 %w0, [%d10]; st.global.u32 [%d10], %w0;",
        ),
        planted(
            "after a barrier",
            Stale,
            [1, 64],
            "@%p11 st.global.u32 [%d10], 1; barrier.sync.aligned 0; @!%p11 ld.global.nc.u32 %w0, [%d10+-128];",
            "@%p11 st.global.u32 [%d10], 1; barrier.sync.aligned 0; @!%p11 ld.global.u32 %w0, [%d10+-128];",
        ),
        planted(
            "of another block's word",
            Stale,
            [2, 32],
            "@%p12 st.global.u32 [%d10], 1; @!%p12 ld.global.nc.u32 %w0, [%d10+-128];",
            "@%p12 st.global.u32 [%d10], 1; @!%p12 ld.global.nc.u32 %w0, [%d10];",
        ),
        planted(
            "of a counter",
            Stale,
            [1, 32],
            "@%p10 red.global.add.u32 [%d10], 1; bar.warp.sync 0xffffffff; ld.global.nc.u32 %w0, [%to];",
            "@%p10 red.global.add.u32 [%d10], 1; bar.warp.sync 0xffffffff; ld.global.u32 %w0, [%to];",
        ),
        planted(
            "a vector over one stored byte",
            Stale,
            [1, 1],
            "ld.global.nc.v4.u32 {%w0, %w1, %w2, %w3}, [%to]; st.global.u8 [%to+15], %w0;",
            "ld.global.nc.v4.u32 {%w0, %w1, %w2, %w3}, [%to]; st.global.u8 [%to+16], %w0;",
        ),
    ];
    assert_found(&planted, zeros);
}

#[test]
fn what_was_never_written() {
    let planted = [
        planted(
            "shared memory",
            Unwritten,
            [1, 32],
            "ld.shared.u32 %w0, [%w10+2048];",
            "@%p10 st.shared.u32 [%w10+2048], 1; bar.warp.sync 0xffffffff; ld.shared.u32 %w0, [%w10+2048];",
        ),
        planted(
            "half of a word",
            Unwritten,
            [1, 1],
            "st.shared.u16 [%w10+2048], %w0; ld.shared.u32 %w0, [%w10+2048];",
            "st.shared.u16 [%w10+2048], %w0; st.shared.u16 [%w10+2050], %w0; ld.shared.u32 %w0, [%w10+2048];",
        ),
        planted(
            "shared memory that another block wrote",
            Unwritten,
            [2, 32],
            "setp.eq.s32 %p0, %w14, 0; @%p0 st.shared.u32 [%w11+2048], 1; @!%p0 ld.shared.u32 %w0, [%w11+2048];",
            "st.shared.u32 [%w11+2048], 1; ld.shared.u32 %w0, [%w11+2048];",
        ),
        planted(
            "an output",
            Unwritten,
            [1, 32],
            "ld.global.u32 %w0, [%d10];",
            "st.global.u32 [%d10], 1; ld.global.u32 %w0, [%d10];",
        ),
        planted(
            "the last byte of a vector",
            Unwritten,
            [1, 1],
            "st.global.u32 [%to], 1; st.global.u16 [%to+4], %w0; st.global.u8 [%to+6], %w0;
            ld.global.v2.u32 {%w0, %w1}, [%to];",
            "st.global.u32 [%to], 1; st.global.u16 [%to+4], %w0; st.global.u8 [%to+6], %w0;
            st.global.u8 [%to+7], %w0; ld.global.v2.u32 {%w0, %w1}, [%to];",
        ),
        planted(
            "a counter",
            Unwritten,
            [1, 1],
            "red.global.add.u32 [%to], 1;",
            "st.global.u32 [%to], 0; red.global.add.u32 [%to], 1;",
        ),
        planted(
            "an output through the read-only path",
            Unwritten,
            [1, 32],
            "ld.global.nc.u32 %w0, [%d10];",
            "ld.global.nc.u32 %w0, [%from];",
        ),
        planted(
            "the source of a copy",
            Unwritten,
            [1, 1],
            "st.global.u32 [%to], 1; cp.async.ca.shared.global [%w11], [%to], 8; cp.async.wait_all;",
            "st.global.u32 [%to], 1; mov.u32 %w2, 4; cp.async.ca.shared.global [%w10+8], [%to], 8, %w2;
            cp.async.wait_all; ld.shared.u32 %w0, [%w10+12];",
        ),
        planted(
            "a row of ldmatrix",
            Unwritten,
            [1, 32],
            "shl.b32 %w2, %lane, 4; and.b32 %w2, %w2, 127; add.s32 %w2, %w2, %w10; bar.warp.sync 0xffffffff;
            ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%w2+16];",
            "shl.b32 %w2, %lane, 4; and.b32 %w2, %w2, 127; add.s32 %w2, %w2, %w10; bar.warp.sync 0xffffffff;
            ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w4}, [%w2];",
        ),
    ];
    assert_found(&planted, || Buffer::output::<u8>("to", BYTES).unwrap());
}

/// What launches and the host wrote is written for later launches, and no more.
#[test]
fn buffers_keep_what_was_written() {
    let to = || Buffer::output::<u8>("to", BYTES).unwrap();
    let (store, load) = (module("st.global.u32 [%d10], 1;"), module("ld.global.u32 %w0, [%d10];"));
    let loads = |to: &Buffer, blocks| run(&load, to, blocks, 32, Schedule::RoundRobin);
    let some = to();
    run(&store, &some, 2, 32, Schedule::RoundRobin).unwrap();
    loads(&some, 2).unwrap();
    let fault = loads(&some, 3).unwrap_err();
    assert!(matches!(&fault, Fault::Uninitialised { place, bytes: 4, .. } if place.block == [2, 0, 0]), "{fault}");
    assert!(fault.to_string().contains("load of 4 bytes at offset 256 of buffer `to`"), "{fault}");
    // A launch that was not watched, or of which only some blocks ran, may have written anything.
    for options in [Options::default(), Options { watch: true, blocks: Some(1..2), ..Options::default() }] {
        let all = to();
        run_with(&store, &all, 2, 32, &options).unwrap();
        loads(&all, 3).unwrap();
    }
    // The host's words: all that it fills, and those it names.
    let filled = to();
    filled.fill(0);
    loads(&filled, 3).unwrap();
    let named = to();
    written(named.address(), 126);
    let fault = loads(&named, 1).unwrap_err();
    assert!(matches!(&fault, Fault::Uninitialised { place, .. } if place.thread == [31, 0, 0]), "{fault}");
    written(named.address() + 126, 2);
    loads(&named, 1).unwrap();
}
