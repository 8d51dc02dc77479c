//! Local memory: each thread's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ptx.rs"]
mod support;

use support::{fault, module, run};
use twofour_emulator::{Fault, Schedule};

/// `st.local.u32` and `ld.local.u32`.
#[test]
fn local_memory_is_each_threads_own() {
    let body = ".local .align 8 .b8 own[16]; mov.u64 %d0, own; st.local.u32 [%d0+4], %lane; bar.warp.sync 0xffffffff;
        ld.local.u32 %w0, [own+4]; cvt.u64.u32 %d1, %w0; st.global.u64 [%own], %d1;";
    let (_, values) = run(&module("", body), &[0; 8], 96, 0, Schedule::Random(1)).unwrap();
    assert_eq!(values, (0..96).collect::<Vec<u64>>());
    let beyond = fault("", ".local .align 8 .b8 own[16]; ld.local.u32 %w0, [own+16];", 32);
    assert!(matches!(beyond, Fault::OutOfBounds { .. }), "{beyond}");
}

/// `st.local.v4.u32` and `ld.local.v4.u32`: four words, the first at the address, which must be a multiple of 16.
#[test]
fn vectors_lie_in_local_memory() {
    let body = |store: u32, load: u32| {
        format!(
            ".local .align 16 .b8 own[48]; mov.u64 %d0, own; add.u32 %w1, %lane, 1; add.u32 %w2, %lane, 2;
            add.u32 %w3, %lane, 3; st.local.v4.u32 [%d0+{store}], {{%lane, %w1, %w2, %w3}};
            st.local.u32 [own+24], 700; ld.local.v4.u32 {{%w4, %w5, %w6, %w7}}, [%d0+{load}];
            mul.lo.s32 %w4, %w4, 1000; add.s32 %w4, %w4, %w5; mul.lo.s32 %w6, %w6, 1000; add.s32 %w6, %w6, %w7;
            mov.b64 %d1, {{%w4, %w6}}; st.global.u64 [%own], %d1;"
        )
    };
    let (_, values) = run(&module("", &body(16, 16)), &[0; 8], 96, 0, Schedule::Random(1)).unwrap();
    let expected = |lane: u64| (1000 * lane + lane + 1) | ((700_000 + lane + 3) << 32);
    assert_eq!(values, (0..96).map(expected).collect::<Vec<u64>>());
    for (store, load) in [(8, 16), (16, 8)] {
        let misaligned = fault("", &body(store, load), 32);
        assert!(matches!(misaligned, Fault::Misaligned { .. }), "{misaligned}");
    }
    for (store, load) in [(48, 16), (16, 48)] {
        let beyond = fault("", &body(store, load), 32);
        assert!(matches!(beyond, Fault::OutOfBounds { .. }), "{beyond}");
    }
}
