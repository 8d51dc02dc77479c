//! How fast the emulator is: `cargo bench -p twofour-emulator`.
//!
//! Each line is the best of several runs on one OS thread, in CPU time, so that a busy machine does not show. How many,
//! `TWOFOUR_BENCH` says, as for every bench (`benches/README.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../benches/common/level.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "every bench uses a part")]
mod level;

use level::Levels;
use std::time::Duration;

use twofour_emulator::{Args, Buffer, Kernel, Launch, Options, Report, Schedule, run};

/// CPU time of this process.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn best(launch: &Launch, options: &Options) -> (Duration, Report) {
    let start = now();
    let mut report = run(launch, options).unwrap();
    let mut best = now() - start;
    let again = Levels { smoke: 0, quick: 1, usual: 4, full: 19 };
    for _ in 0..again.asked() {
        let start = now();
        report = run(launch, options).unwrap();
        best = best.min(now() - start);
    }
    (best, report)
}

fn orders() -> [(&'static str, Options); 3] {
    let options = |schedule| Options { schedule, workers: 1, ..Options::default() };
    [
        ("RoundRobin", options(Schedule::RoundRobin)),
        ("Random", options(Schedule::Random(1))),
        ("Solo", options(Schedule::Solo(1))),
    ]
}

fn synchronisation() {
    let (blocks, rounds) = (16, 200);
    let output = Buffer::output::<u32>("out", blocks * 256).unwrap();
    let args = Args::new().pointer(&output).value(rounds as u32).finish();
    let kernel = Kernel::find("twofour_speed_sync").unwrap();
    let launch = Launch { kernel, grid: [blocks as u32, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
    for (name, options) in orders() {
        let (time, _) = best(&launch, &options);
        let syncs = (blocks * rounds * 7 * 256) as f64;
        let (rate, each) = (syncs / time.as_secs_f64() / 1e6, time.as_secs_f64() / syncs * 1e9);
        println!("thread synchronisations, {name}: {rate:.1} M/s, {each:.1} ns each");
    }
}

fn blocks() {
    let blocks = 4096;
    let input = Buffer::input("in", &vec![1f32; blocks * 1024]).unwrap();
    let output = Buffer::output::<f32>("out", blocks * 1024).unwrap();
    let args = Args::new().pointer(&input).pointer(&output).finish();
    let kernel = Kernel::find("twofour_speed_scale").unwrap();
    let launch = Launch { kernel, grid: [blocks as u32, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
    let (time, _) = best(&launch, &orders()[0].1);
    let each = time.as_secs_f64() / blocks as f64 * 1e6;
    println!("block of 256 threads, a 16-byte load and store each: {each:.1} us");
}

fn product(size: [usize; 3], options: &Options, name: &str) {
    let [m, n, k] = size;
    let a = Buffer::input("a", &vec![0x3f80u16; m * k]).unwrap();
    let b = Buffer::input("b", &vec![0x3f80u16; n * k]).unwrap();
    let c = Buffer::output::<f32>("c", m * n).unwrap();
    let args = Args::new().pointer(&a).pointer(&b).pointer(&c).value(n as u32).value(k as u32).finish();
    let kernel = Kernel::find("twofour_speed_product").unwrap();
    let grid = [n as u32 / 128, m as u32 / 128, 1];
    let launch = Launch { kernel, grid, block: [256, 1, 1], shared_bytes: 4 * 128 * 40 * 2, args: &args };
    let (time, report) = best(&launch, options);
    assert!(c.values::<f32>().iter().all(|&x| x == k as f32));
    println!("product {m} x {n} x {k}, {name}: {:.2} ms, {} collectives", time.as_secs_f64() * 1e3, report.collectives);
}

fn sparse() {
    let output = Buffer::output::<f32>("out", 256).unwrap();
    let args = Args::new().pointer(&output).value(500u32).finish();
    let kernel = Kernel::find("twofour_speed_sparse").unwrap();
    let launch = Launch { kernel, grid: [1, 1, 1], block: [256, 1, 1], shared_bytes: 0, args: &args };
    let (time, report) = best(&launch, &orders()[0].1);
    println!("mma.sp m16n8k32: {:.2} us each", time.as_secs_f64() / report.collectives as f64 * 1e6);
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    synchronisation();
    blocks();
    for (name, options) in orders() {
        product([128, 128, 256], &options, name);
    }
    let large = [512, 512, 1024];
    let large = Levels { smoke: [128, 128, 32], quick: large, usual: large, full: large };
    product(large.asked(), &orders()[0].1, "RoundRobin");
    sparse();
}
