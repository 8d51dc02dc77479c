//! What a profile counts, on patterns of addresses whose traffic is known: sectors and lines of global memory,
//! wavefronts of shared memory, and how often instructions are issued.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ptx.rs"]
mod support;

use support::module;
use twofour_emulator::ptx::{Counts, Global, Kind, Launch, Profile, Shared};
use twofour_emulator::{Args, Buffer, Fault, Options, Schedule};

const BOX: &str = ".shared .align 128 .b8 box[8192];";

/// Profiles a body on blocks of so many threads; `%from` and `%to` have 16 KiB, on pages of their own.
fn profile_of(body: &str, [blocks, threads]: [u32; 2]) -> Profile {
    let module = module(BOX, body);
    let from = Buffer::input("from", &[0u8; 16384]).unwrap();
    let to = Buffer::in_place("to", &[0u8; 16384]).unwrap();
    let args = Args::new().pointer(&from).pointer(&to).finish();
    let launch = Launch { kernel: "k", grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0, args: &args };
    // Any schedule: a profile is in order, and on one thread.
    let options = Options { schedule: Schedule::Random(1), workers: 2, ..Options::default() };
    module.profile(&launch, &options).unwrap_or_else(|fault| panic!("{fault}"))
}

/// The counts of a warp's only access of this kind: `offset` is a lane's, in bytes.
fn counts(kind: Kind, offset: &str, access: &str) -> Counts {
    let body = format!(
        "{offset} mov.u32 %w11, box; add.s32 %w11, %w11, %w10; cvt.u64.u32 %d10, %w10; add.s64 %d1, %from, %d10;
        add.s64 %d2, %to, %d10; {access}"
    );
    let profile = profile_of(&body, [1, 32]);
    let mut sites = profile.sites.iter().filter(|site| site.kind == kind);
    let counts = sites.next().unwrap_or_else(|| panic!("no {kind:?} in {access}")).counts;
    assert!(sites.next().is_none(), "two of {access}");
    counts
}

/// Offset of a lane: its number times this, and more.
fn strided(stride: u32, more: u32) -> String {
    format!("mad.lo.s32 %w10, %lane, {stride}, {more};")
}

const fn global([bytes, sectors, ideal, lines]: [u64; 4]) -> Global {
    Global { requests: 1, bytes, sectors, ideal, lines }
}

#[test]
fn sectors_and_lines_of_a_request() {
    let word = "ld.global.u32 %w0, [%d1];";
    let cases = [
        ("coalesced words", word, strided(4, 0), [128, 4, 4, 1]),
        (
            "coalesced, 16 bytes a lane",
            "ld.global.v4.u32 {%w0, %w1, %w2, %w3}, [%d1];",
            strided(16, 0),
            [512, 16, 16, 4],
        ),
        ("every second word", word, strided(8, 0), [128, 8, 4, 2]),
        ("a word of each line", word, strided(128, 0), [128, 32, 4, 32]),
        ("a word off its sector", word, strided(4, 4), [128, 5, 4, 2]),
        ("off its line, on a sector", word, strided(4, 32), [128, 4, 4, 2]),
        ("all lanes one word", word, strided(0, 12), [128, 1, 1, 1]),
        ("bytes", "ld.global.u8 %w0, [%d1];", strided(1, 0), [32, 1, 1, 1]),
    ];
    for (name, access, offset, expected) in cases {
        assert_eq!(counts(Kind::Load, &offset, access).global, global(expected), "{name}");
    }
}

#[test]
fn a_store_of_half_sectors_shows() {
    let whole = counts(Kind::Store, &strided(16, 0), "st.global.v4.u32 [%d2], {%w0, %w1, %w2, %w3};").global;
    assert_eq!(whole, global([512, 16, 16, 4]));
    let half = counts(Kind::Store, &strided(32, 0), "st.global.v4.u32 [%d2], {%w0, %w1, %w2, %w3};").global;
    assert_eq!(half, global([512, 32, 16, 8]));
}

#[test]
fn lanes_without_their_guard_ask_for_nothing() {
    let load = "setp.lt.u32 %p0, %lane, 8; @%p0 ld.global.u32 %w0, [%d1];";
    let some = counts(Kind::Load, &strided(4, 0), load);
    assert_eq!((some.issued, some.lanes, some.global), (1, 8, global([32, 1, 1, 1])));
}

#[test]
fn atomics_read_and_write() {
    let profile = profile_of("atom.relaxed.gpu.global.add.u32 %w0, [%own], 1;", [1, 32]);
    let expected = Global { requests: 1, bytes: 128, sectors: 8, ideal: 4, lines: 2 };
    assert_eq!(profile.global(Kind::Atomic), expected);
    assert_eq!((profile.read_bytes, profile.written_bytes), (256, 256));
}

/// Wavefronts and their ideal for a lane's offset and an access.
fn wavefronts(kind: Kind, offset: &str, access: &str) -> [u64; 2] {
    let Shared { requests, wavefronts, ideal, .. } = counts(kind, offset, access).shared;
    assert_eq!(requests, 1, "{access}");
    [wavefronts, ideal]
}

#[test]
fn banks_of_words() {
    let load = |offset: &str| wavefronts(Kind::Load, offset, "ld.shared.u32 %w0, [%w11];");
    assert_eq!(load(&strided(4, 0)), [1, 1], "neighbours");
    assert_eq!(load(&strided(4, 4)), [1, 1], "neighbours, a word on");
    assert_eq!(load(&strided(0, 0)), [1, 1], "all one word");
    assert_eq!(load(&strided(8, 0)), [2, 1], "two ways");
    assert_eq!(load(&strided(128, 0)), [32, 1], "32 ways");
    assert_eq!(load(&strided(132, 0)), [1, 1], "rows a word longer than the banks");
    assert_eq!(load("and.b32 %w10, %lane, 1; shl.b32 %w10, %w10, 7;"), [2, 1], "two words of one bank, shared");
    let store = |offset: &str| wavefronts(Kind::Store, offset, "st.shared.u32 [%w11], %w0;");
    assert_eq!(store(&strided(8, 0)), [2, 1], "a store");
    let byte = |offset: &str| wavefronts(Kind::Store, offset, "st.shared.u8 [%w11], %w0;");
    assert_eq!(byte(&strided(1, 0)), [1, 1], "bytes of a word are in one bank, and together");
}

#[test]
fn banks_of_wider_accesses() {
    let two = |offset: &str| wavefronts(Kind::Load, offset, "ld.shared.v2.u32 {%w0, %w1}, [%w11];");
    assert_eq!(two(&strided(8, 0)), [2, 2], "neighbours by half-warps");
    assert_eq!(two(&strided(16, 0)), [4, 2], "two ways in each half");
    assert_eq!(two(&strided(0, 8)), [1, 1], "all one");
    let four = |offset: &str| wavefronts(Kind::Load, offset, "ld.shared.v4.u32 {%w0, %w1, %w2, %w3}, [%w11];");
    assert_eq!(four(&strided(16, 0)), [4, 4], "neighbours by quarters");
    assert_eq!(four(&strided(32, 0)), [8, 4], "two ways in each quarter");
    assert_eq!(four(&strided(128, 0)), [32, 4], "eight ways in each quarter");
    assert_eq!(four(&strided(0, 16)), [1, 1], "all one");
    // Lanes 0 to 15 read even pairs of banks, two ways; 16 to 31 odd ones, two ways: halves do not help each other.
    let apart = "and.b32 %w10, %lane, 15; shl.b32 %w10, %w10, 4; shr.u32 %w9, %lane, 4; mad.lo.s32 %w10, %w9, 8, %w10;";
    assert_eq!(two(apart), [4, 2], "what a half leaves free, the other cannot use");
}

#[test]
fn shared_atomics_of_one_word_follow_each_other() {
    let add = "atom.shared.add.u32 %w0, [%w11], 1;";
    assert_eq!(wavefronts(Kind::Atomic, &strided(4, 0), add), [1, 1]);
    assert_eq!(wavefronts(Kind::Atomic, &strided(0, 0), add), [32, 1]);
}

#[test]
fn ldmatrix_takes_a_wavefront_a_matrix() {
    let four = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w0, %w1, %w2, %w3}, [%w11];";
    assert_eq!(wavefronts(Kind::Matrix, &strided(16, 0), four), [4, 4], "rows one after another");
    assert_eq!(wavefronts(Kind::Matrix, &strided(144, 0), four), [4, 4], "rows of 128 bytes and 16 more");
    assert_eq!(wavefronts(Kind::Matrix, &strided(32, 0), four), [8, 4], "two ways");
    assert_eq!(wavefronts(Kind::Matrix, &strided(128, 0), four), [32, 4], "eight ways");
    let one = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%w0}, [%w11];";
    // The other lanes' addresses do not count.
    assert_eq!(wavefronts(Kind::Matrix, &strided(16, 0), one), [1, 1], "one matrix");
}

#[test]
fn a_copy_reads_global_and_writes_shared_memory() {
    let copy = "cp.async.ca.shared.global [%w11], [%d1], 16; cp.async.commit_group; cp.async.wait_group 0;";
    let whole = counts(Kind::Copy, &strided(16, 0), copy);
    assert_eq!(whole.global, global([512, 16, 16, 4]));
    assert_eq!(whole.shared, Shared { requests: 1, bytes: 512, wavefronts: 4, ideal: 4 });
    // Lanes from 16 on copy nothing and fill with zeros.
    let copy = "setp.lt.u32 %p0, %lane, 16; selp.u32 %w2, 16, 0, %p0; cp.async.ca.shared.global [%w11], [%d1], 16, %w2;
        cp.async.commit_group; cp.async.wait_group 0;";
    let half = counts(Kind::Copy, &strided(16, 0), copy);
    assert_eq!((half.global, half.shared.bytes), (global([256, 8, 8, 2]), 512));
}

#[test]
fn generic_addresses_count_where_they_lead() {
    let global_and_shared = "cvt.u64.u32 %d4, %w11; cvta.shared.u64 %d4, %d4;
        setp.lt.u32 %p0, %lane, 16; selp.b64 %d5, %d4, %d1, %p0; ld.u32 %w0, [%d5];";
    let both = counts(Kind::Load, &strided(8, 0), global_and_shared);
    assert_eq!(both.global, global([64, 4, 2, 1]));
    assert_eq!(both.shared, Shared { requests: 1, bytes: 64, wavefronts: 1, ideal: 1 });
}

#[test]
fn sectors_of_a_launch_count_once() {
    // Each of 3 blocks of 2 warps reads the same 256 bytes twice and writes 8 bytes a thread.
    let body = "mul.wide.u32 %d10, %lane, 4; add.s64 %d1, %from, %d10; ld.global.u32 %w0, [%d1];
        ld.global.u32 %w1, [%d1]; st.global.u32 [%own], %w1;";
    let profile = profile_of(body, [3, 64]);
    assert_eq!((profile.read_bytes, profile.written_bytes), (256, 512));
    let loads = profile.global(Kind::Load);
    assert_eq!((loads.requests, loads.sectors, loads.bytes), (12, 48, 1536));
    let stores = profile.global(Kind::Store);
    assert_eq!((stores.requests, stores.sectors, stores.ideal), (6, 48, 24));
    assert_eq!(profile.report.blocks, 3);
}

#[test]
fn turns_of_a_loop_and_sides_of_a_branch() {
    // Lane i turns i % 4 + 1 times; what follows is carried out by all together.
    let body = "and.b32 %w0, %lane, 3;\nTURN:\nadd.s32 %w0, %w0, -1;\nsetp.ge.s32 %p0, %w0, 0;\n@%p0 bra TURN;
        st.global.u32 [%own], %w0;";
    let profile = profile_of(body, [1, 32]);
    let issued: Vec<_> = profile.sites.iter().map(|site| [site.counts.issued, site.counts.lanes]).collect();
    let turns = issued.iter().position(|&counts| counts == [4, 80]).expect("a turn");
    assert_eq!(issued[turns..turns + 3], [[4, 80], [4, 80], [4, 48]]);
    assert_eq!(profile.sites[turns + 3].counts.issued, 1);
    let all: u64 = issued.iter().map(|counts| counts[0]).sum();
    assert_eq!(all, profile.report.instructions);
    assert!(profile.sites[turns + 1].line > profile.sites[turns].line);
}

#[test]
fn a_profile_prints_what_touches_memory() {
    let load = "ld.shared.u32 %w0, [%w10];";
    let profile = profile_of(&format!("mov.u32 %w10, box; mad.lo.s32 %w10, %lane, 8, %w10; {load}"), [1, 32]);
    let text = profile.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].ends_with("0 bytes of sectors read, 0 written"), "{text}");
    assert!(lines[1].ends_with("Load, 1 issued by 32.0 lanes; shared: 2.0 wavefronts, fewest 1.0"), "{text}");
}

#[test]
fn a_fault_is_a_fault() {
    let module = module("", "ld.global.u32 %w0, [%to+4096];");
    let to = Buffer::in_place("to", &[0u8; 64]).unwrap();
    let args = Args::new().pointer(&to).pointer(&to).finish();
    let launch = Launch { kernel: "k", grid: [1; 3], block: [32, 1, 1], shared_bytes: 0, args: &args };
    let fault = module.profile(&launch, &Options::default()).unwrap_err();
    assert!(matches!(fault, Fault::OutOfBounds { .. }), "{fault}");
}

/// A warp's clocks of a body, and those up to its first barrier.
fn chain_of(body: &str, threads: u32) -> [u64; 2] {
    let profile = profile_of(body, [1, threads]);
    [profile.chain, profile.first_barrier]
}

#[test]
fn loads_wait_for_their_addresses_alone() {
    // The way to memory takes 479 clocks; what is between takes a few.
    let way = |count: u64| 479 * count..479 * count + 60;
    let used = "add.s32 %w2, %w0, %w1; st.global.u32 [%to], %w2;";
    let apart = format!("ld.global.u32 %w0, [%from]; ld.global.u32 %w1, [%from+4]; {used}");
    assert!(way(1).contains(&chain_of(&apart, 32)[0]));
    let chained = format!(
        "ld.global.u32 %w0, [%from]; cvt.u64.u32 %d10, %w0; add.s64 %d1, %from, %d10; ld.global.u32 %w1, [%d1]; {used}"
    );
    assert!(way(2).contains(&chain_of(&chained, 32)[0]));
    // A branch that hangs on the first load holds the second one up.
    let branched = format!(
        "ld.global.u32 %w0, [%from]; setp.eq.s32 %p0, %w0, 1; @%p0 bra END; ld.global.u32 %w1, [%from+4]; {used} END:"
    );
    assert!(way(2).contains(&chain_of(&branched, 32)[0]));
    // What nobody reads is not waited for.
    assert!(chain_of("ld.global.u32 %w0, [%from];", 32)[0] < 60);
}

#[test]
fn a_barrier_waits_for_the_slowest_warp() {
    // The second warp loads and stores before it comes; the first one does not.
    let body = "setp.lt.u32 %p0, %lane, 32; @%p0 bra ON;
        ld.global.u32 %w0, [%from]; st.shared.u32 [box], %w0;
        ON: barrier.sync.aligned 0; ld.shared.u32 %w1, [box]; st.global.u32 [%to], %w1;";
    let [chain, barrier] = chain_of(body, 64);
    assert!((479..540).contains(&barrier), "{barrier}");
    assert!((barrier + 29..barrier + 60).contains(&chain), "{chain} after {barrier}");
    // Copies are waited for by who says so.
    let copied = "mov.u32 %w11, box; cp.async.ca.shared.global [%w11], [%from], 4; cp.async.commit_group;";
    assert!(chain_of(copied, 32)[0] < 60);
    let waited = format!("{copied} cp.async.wait_group 0; st.global.u32 [%to], %w11;");
    assert!((479..540).contains(&chain_of(&waited, 32)[0]));
}
