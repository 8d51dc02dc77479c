//! Where lanes go, and where they wait for each other: branches, barriers, shuffles, votes; and what is caught there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ptx.rs"]
mod support;

use support::{fault, module, run, try_module, values};
use twofour_emulator::ptx::{Launch, Module};
use twofour_emulator::{Fault, Options, Schedule};

/// The code of a value of `%w0` for each lane.
const STORE: &str = "cvt.u64.u32 %d0, %w0; st.global.u64 [%own], %d0;";

#[test]
fn lanes_part_and_meet_again() {
    // Each lane counts to its own number, odd ones by another way; `bra` and `bra.uni`.
    let counts = values(
        &format!(
            "mov.u32 %w0, 0; mov.u32 %w1, 0;
            LOOP: setp.ge.u32 %p0, %w1, %lane;
            @%p0 bra DONE;
            and.b32 %w2, %w1, 1; setp.eq.s32 %p1, %w2, 0;
            @!%p1 bra ODD;
            add.s32 %w0, %w0, 1;
            bra.uni JOIN;
            ODD: add.s32 %w0, %w0, 100;
            JOIN: add.s32 %w1, %w1, 1;
            bra LOOP;
            DONE: {STORE}"
        ),
        64,
    );
    let expected: Vec<u64> = (0..64u64).map(|lane| lane.div_ceil(2) + lane / 2 * 100).collect();
    assert_eq!(counts, expected);
}

#[test]
fn lanes_that_met_run_together() {
    let body = "setp.lt.u32 %p0, %lane, 7; @%p0 bra THEN; mov.u32 %w0, 1; bra JOIN; THEN: mov.u32 %w0, 2; JOIN: ret;";
    let (report, _) = run(&module("", body), &[0; 8], 32, 0, Schedule::RoundRobin).unwrap();
    // 5 before, setp, bra, mov, bra, mov, ret: once each.
    assert_eq!(report.instructions, 11);
}

#[test]
fn a_thread_ends_by_ret_and_by_exit_and_at_the_end() {
    for end in ["ret", "exit"] {
        let body = format!("setp.lt.u32 %p0, %lane, 5; @%p0 {end}; mov.u32 %w0, 1; {STORE}");
        assert_eq!(values(&body, 32).iter().sum::<u64>(), 27);
    }
}

#[test]
fn a_label_at_the_very_end_is_the_end() {
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n.entry k() { bra END; ret; END: }";
    let launch = Launch { kernel: "k", grid: [2, 1, 1], block: [40, 1, 1], shared_bytes: 0, args: &[] };
    let report = Module::new(text).unwrap().run(&launch, &Options::default()).unwrap();
    assert_eq!((report.blocks, report.instructions), (2, 8));
}

/// `shfl.sync.up.b32`, `shfl.sync.down.b32`, `shfl.sync.bfly.b32` and `shfl.sync.idx.b32`, lane by lane from the ISA's
/// words: within segments of a width, clamped.
#[test]
fn shuffles_take_from_the_lane_of_the_isa() {
    for (width, log) in [(32u32, 5u32), (8, 3)] {
        let mask = (32 - width) << 8;
        for (mode, clamp) in [("up", 0u32), ("down", 31), ("bfly", 31), ("idx", 31)] {
            for by in [0u32, 1, 3, 7, 9, 17, 31] {
                let body = format!(
                    "mul.lo.s32 %w1, %lane, 7;
                    shfl.sync.{mode}.b32 %w0|%p0, %w1, {by}, {}, 0xffffffff;
                    selp.u32 %w2, 1, 0, %p0; shl.b32 %w2, %w2, 16; or.b32 %w0, %w0, %w2; {STORE}",
                    mask | clamp
                );
                let expected = |lane: u32| {
                    let first = lane >> log << log;
                    let last = first + width - 1;
                    let from = match mode {
                        "up" => lane.checked_sub(by).filter(|&from| from >= first),
                        "down" => Some(lane + by).filter(|&from| from <= last),
                        "bfly" => Some(lane ^ by).filter(|&from| from <= last),
                        // Only the bits inside the segment count.
                        _ => Some(first + by % width),
                    };
                    u64::from((from.unwrap_or(lane) * 7) | (u32::from(from.is_some()) << 16))
                };
                assert_eq!(values(&body, 32), (0..32).map(expected).collect::<Vec<_>>(), "{mode} {by} of {width}");
            }
        }
    }
}

/// `vote.sync.ballot.b32`, `vote.sync.all.pred`, `vote.sync.any.pred`, `vote.sync.uni.pred`.
#[test]
fn votes_count_the_members_alone() {
    let vote = |form: &str, below: u32, members: u32| {
        let pred = format!("vote.sync.{form}.pred %p1, %p0, {members}; selp.u32 %w0, 1, 0, %p1;");
        let ballot = format!("vote.sync.ballot.b32 %w0, %p0, {members};");
        let vote = if form == "ballot" { ballot } else { pred };
        let body = format!("setp.ge.u32 %p2, %lane, 16; @%p2 ret; setp.lt.u32 %p0, %lane, {below}; {vote} {STORE}");
        let votes = values(&body, 32);
        assert!(votes[..16].iter().all(|&vote| vote == votes[0]) && votes[16..].iter().all(|&vote| vote == 0));
        votes[0]
    };
    let half = 0xffff;
    assert_eq!(vote("ballot", 5, half), 0b11111);
    assert_eq!((vote("all", 16, half), vote("all", 15, half)), (1, 0));
    assert_eq!((vote("any", 1, half), vote("any", 0, half)), (1, 0));
    assert_eq!((vote("uni", 16, half), vote("uni", 0, half), vote("uni", 3, half)), (1, 1, 0));
    // Negated, and lanes that have ended are not waited for.
    let body = format!(
        "setp.ge.u32 %p2, %lane, 16; @%p2 exit; setp.eq.s32 %p0, %lane, 3;
        vote.sync.ballot.b32 %w0, !%p0, 0xffffffff; {STORE}"
    );
    assert_eq!(values(&body, 32)[0], 0xfff7);
}

#[test]
fn halves_of_a_warp_meet_by_themselves() {
    let body = format!(
        "setp.lt.u32 %p0, %lane, 16; selp.u32 %w1, 0xffff, 0xffff0000, %p0;
        shfl.sync.bfly.b32 %w0, %lane, 15, 31, %w1;
        @%p0 bra LOW;
        shfl.sync.bfly.b32 %w0, %w0, 1, 31, 0xffff0000;
        bra JOIN;
        LOW: shfl.sync.bfly.b32 %w0, %w0, 2, 31, 0xffff;
        JOIN: {STORE}"
    );
    let expected: Vec<u64> = (0..32u64).map(|lane| lane ^ 15 ^ if lane < 16 { 2 } else { 1 }).collect();
    assert_eq!(values(&body, 32), expected);
}

const SHARED: &str = ".shared .align 4 .b8 box[512];";

/// Each thread puts its number into its place and takes its neighbour's of the next warp.
fn exchange(barrier: &str) -> String {
    format!(
        "mov.u32 %w1, box; shl.b32 %w2, %lane, 2; add.s32 %w2, %w1, %w2; st.shared.u32 [%w2], %lane; {barrier}
        xor.b32 %w3, %lane, 33; shl.b32 %w3, %w3, 2; add.s32 %w3, %w1, %w3; ld.shared.u32 %w0, [%w3]; {STORE}"
    )
}

#[test]
fn barriers_hold_the_block() {
    let expected: Vec<u64> = (0..128u64).map(|lane| lane ^ 33).collect();
    for barrier in ["barrier.sync.aligned 0;", "bar.sync 3;", "barrier.sync 15;", "bar.sync 1, 128;"] {
        let module = module(SHARED, &exchange(barrier));
        for schedule in Schedule::several(4) {
            let (report, values) = run(&module, &[0; 8], 128, 0, schedule).unwrap();
            assert_eq!((report.barriers, &values), (1, &expected), "{barrier} {schedule:?}");
        }
    }
    // Without, some schedule shows it.
    let module = module(SHARED, &exchange(""));
    assert!(Schedule::several(4).any(|schedule| run(&module, &[0; 8], 128, 0, schedule).unwrap().1 != expected));
}

#[test]
fn a_barrier_of_some_warps_lets_the_others_pass() {
    let body = format!("setp.ge.u32 %p0, %lane, 64; @%p0 bra JOIN; bar.sync 2, 64; JOIN: mov.u32 %w0, 1; {STORE}");
    assert_eq!(values(&body, 96), [1; 96]);
}

#[test]
fn a_warp_is_held_by_bar_warp_sync_and_a_missing_one_shows() {
    let swap = |sync: &str| {
        format!(
            "mov.u32 %w1, box; shl.b32 %w2, %lane, 2; add.s32 %w2, %w1, %w2; st.shared.u32 [%w2], %lane; {sync}
            xor.b32 %w3, %lane, 9; shl.b32 %w3, %w3, 2; add.s32 %w3, %w1, %w3; ld.shared.u32 %w0, [%w3]; {STORE}"
        )
    };
    let expected: Vec<u64> = (0..32u64).map(|lane| lane ^ 9).collect();
    let right = module(SHARED, &swap("bar.warp.sync 0xffffffff;"));
    let wrong = module(SHARED, &swap(""));
    let of = |module, schedule| run(module, &[0; 8], 32, 0, schedule).unwrap().1;
    assert!(Schedule::several(12).all(|schedule| of(&right, schedule) == expected));
    assert!(Schedule::several(12).any(|schedule| of(&wrong, schedule) != expected));
}

#[test]
fn a_fence_orders_and_changes_nothing() {
    assert_eq!(values(&format!("mov.u32 %w0, 4; fence.acq_rel.gpu; {STORE}"), 1), [4]);
}

#[test]
fn barriers_that_cannot_be_complete_are_faults() {
    let diverged = fault("", "setp.lt.u32 %p0, %lane, 40; @%p0 bra OUT; barrier.sync.aligned 0; OUT: ret;", 64);
    assert!(matches!(diverged, Fault::BarrierDivergence { .. }), "{diverged}");
    let ended = fault("", "setp.lt.u32 %p0, %lane, 32; @%p0 ret; barrier.sync.aligned 0;", 64);
    assert!(matches!(ended, Fault::BarrierDivergence { .. }), "{ended}");
    let two = "setp.lt.u32 %p0, %lane, 32; @%p0 bra OTHER; bar.sync 0; bra OUT; OTHER: bar.sync 0; OUT: ret;";
    let two = fault("", two, 64);
    assert!(matches!(two, Fault::BarrierMismatch { .. }), "{two}");
    // Not aligned, threads may have ended, and different instructions meet.
    assert_eq!(values("setp.lt.u32 %p0, %lane, 40; @%p0 ret; barrier.sync 0; st.global.u64 [%own], 1;", 64)[63], 1);
    let outside = fault("", "bar.sync 16;", 32);
    assert!(matches!(outside, Fault::UndefinedPtx { .. }), "{outside}");
}

#[test]
fn collectives_without_their_members_are_faults() {
    let branch = "setp.lt.u32 %p0, %lane, 4; @%p0 bra OUT; shfl.sync.idx.b32 %w0, %lane, 0, 31, 0xffffffff; OUT:
        barrier.sync.aligned 0;";
    let branch = fault("", branch, 32);
    assert!(matches!(branch, Fault::CollectiveMismatch { .. } | Fault::BarrierMismatch { .. }), "{branch}");
    let member = fault("", "shfl.sync.idx.b32 %w0, %lane, 0, 31, 0xfffffffe;", 32);
    assert!(matches!(&member, Fault::UndefinedPtx { what, .. } if what.contains("0xfffffffe")), "{member}");
    let source = "setp.lt.u32 %p0, %lane, 16; @!%p0 ret; shfl.sync.bfly.b32 %w0, %lane, 16, 31, 0xffffffff;";
    let source = fault("", source, 32);
    assert!(matches!(&source, Fault::UndefinedPtx { what, .. } if what.contains("lane 16")), "{source}");
    let matrix = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w0}, [box];";
    let matrix = run(&module(SHARED, matrix), &[0; 8], 16, 0, Schedule::RoundRobin).unwrap_err();
    assert!(matches!(matrix, Fault::CollectiveDivergence { .. }), "{matrix}");
}

#[test]
fn what_is_not_known_is_a_fault_of_its_line() {
    for (body, what) in [
        ("frobnicate.b32 %w0, %w1;", "`frobnicate.b32`: this form is not in the list"),
        ("add.s32 %w0, %w1;", "`add.s32`: takes 3 operands, found 2"),
        ("add.s32 %w0, %w1, %d0;", "`add.s32`: `%d0` is a register of another size"),
        ("add.s32 %w0, %w99, 1;", "`add.s32`: `%w99` is not declared"),
        ("add.s32 %w0, %w1, 0x1ffffffff;", "`add.s32`: 8589934591 does not fit into 32 bits"),
        ("bra NOWHERE;", "`bra`: `NOWHERE` is not declared"),
        ("HERE: HERE: ret;", "the label `HERE` is there twice"),
        (".pragma \"novector\";", "the pragma \"novector\" is not known"),
        (".sreg .b32 x;", "the directive `.sreg` in a body is not known"),
        ("mov.u32 %w0, %clock;", "`mov.u32`: `%clock` is not declared"),
        ("ld.global.u32 %w0, %w1;", "`ld.global.u32`: an address in brackets must come"),
        ("add.s32 %w0, %w1, 5", "expected `,`, found `ret`"),
        (".reg .b32 %x<4000000000>;", "`%x`: more than 1048576 registers"),
        (".shared .b8 x[4000000000][4000000000][4000000000];", "`x` has more than 524288 bytes"),
    ] {
        let fault = try_module("", body).unwrap_err().to_string();
        assert!(fault.starts_with("PTX, line 1") && fault.contains(what), "{fault}");
    }
}
