//! Planted faults, each with a twin that is right, under several schedules.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twofour_emulator::ptx::{Launch, Module};
use twofour_emulator::{Args, Buffer, Fault, Options, Schedule};

#[path = "ptx.rs"]
mod ptx;

/// What should be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    Race,
    UnderWay,
    NeverWaited,
    Stale,
    Unwritten,
}

impl Is {
    fn of(fault: &Fault) -> Option<Is> {
        Some(match fault {
            Fault::Race { .. } => Is::Race,
            Fault::CopyUnderWay { .. } => Is::UnderWay,
            Fault::CopyNeverWaitedFor { .. } => Is::NeverWaited,
            Fault::Stale { .. } => Is::Stale,
            Fault::Uninitialised { .. } => Is::Unwritten,
            _ => return None,
        })
    }
}

/// A body with a fault in it, and the same without.
pub struct Planted {
    pub name: &'static str,
    pub blocks: u32,
    pub threads: u32,
    pub is: Is,
    pub wrong: &'static str,
    pub right: &'static str,
}

/// What bodies find: `box` has 4096 bytes, of which each thread has written a word and all have waited since. `%w10` is
/// its address; `%w11` that of the thread's own word, `%w12` and `%w13` those of its neighbours in the warp and in the
/// next warp; `%w14` is the block's number; `%d10` is the address of a word of the thread's own in `to`, which no other
/// block has either. `%p10` holds in thread 0, `%p11` in the first warp, `%p12` in the first block.
const BEFORE: &str = "mov.u32 %w10, box; shl.b32 %w11, %lane, 2; add.s32 %w11, %w10, %w11;
    xor.b32 %w12, %lane, 1; shl.b32 %w12, %w12, 2; add.s32 %w12, %w10, %w12;
    xor.b32 %w13, %lane, 32; shl.b32 %w13, %w13, 2; add.s32 %w13, %w10, %w13;
    mov.u32 %w14, %ctaid.x; mov.u32 %w15, %ntid.x; mad.lo.s32 %w15, %w14, %w15, %lane;
    mul.wide.u32 %d10, %w15, 4; add.s64 %d10, %to, %d10;
    setp.eq.s32 %p10, %lane, 0; setp.lt.u32 %p11, %lane, 32; setp.eq.s32 %p12, %w14, 0;
    st.shared.u32 [%w11], %lane; barrier.sync.aligned 0;\n";

pub const BYTES: usize = 4096;

pub fn module(body: &str) -> Module {
    module_in("", body)
}

/// In a module that has these directives, too.
pub fn module_in(directives: &str, body: &str) -> Module {
    ptx::module(&format!("{directives}.shared .align 16 .b8 box[4096];"), &format!("{BEFORE}{body}"))
}

/// Runs a body on `to`.
pub fn run(module: &Module, to: &Buffer, blocks: u32, threads: u32, schedule: Schedule) -> Result<(), Fault> {
    run_with(module, to, blocks, threads, &Options { schedule, watch: true, ..Options::default() })
}

pub fn run_with(module: &Module, to: &Buffer, blocks: u32, threads: u32, options: &Options) -> Result<(), Fault> {
    let from = Buffer::input("from", &[7u8; BYTES]).unwrap();
    let args = Args::new().pointer(&from).pointer(to).finish();
    let launch = Launch { kernel: "k", grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0, args: &args };
    module.run(&launch, options).map(drop)
}

/// A buffer of zeros to run on.
pub fn zeros() -> Buffer {
    Buffer::in_place("to", &[0u8; BYTES]).unwrap()
}

/// Asserts of each that it is found under every schedule, and that its twin passes.
pub fn assert_found(planted: &[Planted], to: impl Fn() -> Buffer) {
    for &Planted { name, blocks, threads, is, wrong, right } in planted {
        let (wrong, right) = (module(wrong), module(right));
        for schedule in Schedule::several(4) {
            let found = run(&wrong, &to(), blocks, threads, schedule);
            let found = found.map_or_else(|fault| (Is::of(&fault), fault.to_string()), |()| (None, String::new()));
            assert_eq!(found.0, Some(is), "{name} {schedule:?}: {}", found.1);
            if let Err(fault) = run(&right, &to(), blocks, threads, schedule) {
                panic!("{name}, the right one, {schedule:?}: {fault}");
            }
        }
    }
}
