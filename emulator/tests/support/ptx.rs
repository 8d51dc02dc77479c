//! What the tests of the PTX executor share.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use twofour_emulator::ptx::{Launch, Module};
use twofour_emulator::{Args, Buffer, Fault, Options, Report, Schedule};

/// A module with one kernel `k(from, to)`: `%from` and `%to` hold the pointers, `%lane` the thread's number, `%own` the
/// address of 8 bytes of its own in `to`. There are registers `%h0..`, `%w0..`, `%d0..`, `%f0..`, `%p0..`.
pub fn module(variables: &str, body: &str) -> Module {
    try_module(variables, body).unwrap_or_else(|fault| panic!("{fault}"))
}

pub fn try_module(variables: &str, body: &str) -> Result<Module, Fault> {
    Module::new(&format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n{variables}
        .visible .entry k(.param .u64 k_from, .param .u64 k_to)
        .maxntid 1024, 1, 1
        {{
        .reg .b16 %h<16>; .reg .b32 %w<16>; .reg .b64 %d<16>; .reg .f32 %f<16>; .reg .pred %p<16>;
        .reg .b32 %lane; .reg .b64 %from, %to, %own;
        ld.param.u64 %from, [k_from]; ld.param.u64 %to, [k_to];
        mov.u32 %lane, %tid.x; mul.wide.u32 %own, %lane, 8; add.s64 %own, %to, %own;
        {body}
        ret;
        }}"
    ))
}

/// Runs `k` on a block of so many threads; gives the report and what is in `to`, a number for each thread.
pub fn run(
    module: &Module,
    from: &[u8],
    threads: u32,
    shared_bytes: u32,
    schedule: Schedule,
) -> Result<(Report, Vec<u64>), Fault> {
    let from = Buffer::input("from", from)?;
    let to = Buffer::in_place("to", &vec![0u64; threads as usize])?;
    let args = Args::new().pointer(&from).pointer(&to).finish();
    let launch = Launch { kernel: "k", grid: [1; 3], block: [threads, 1, 1], shared_bytes, args: &args };
    let report = module.run(&launch, &Options { schedule, workers: 1, ..Options::default() })?;
    Ok((report, to.values()))
}

/// What a body leaves for each of `threads` threads, the same under every schedule.
pub fn values(body: &str, threads: u32) -> Vec<u64> {
    let module = module("", body);
    let (_, first) = run(&module, &[0; 64], threads, 0, Schedule::RoundRobin).unwrap_or_else(|fault| panic!("{fault}"));
    for schedule in Schedule::several(4) {
        let (_, others) = run(&module, &[0; 64], threads, 0, schedule).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(others, first, "{schedule:?}");
    }
    first
}

/// The fault that a body ends in.
pub fn fault(variables: &str, body: &str, threads: u32) -> Fault {
    run(&module(variables, body), &[0; 64], threads, 64, Schedule::RoundRobin).unwrap_err()
}
