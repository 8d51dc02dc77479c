//! A kernel developer's loop without a GPU: `cargo run -p twofour-emulator --example develop`.
//!
//! Change `kernels/demo.cu`, run again. Try it: take out the `sync_threads`, or the `i < args.count`.

use std::process::ExitCode;

use twofour_emulator::{Args, Buffer, Fault, Kernel, Launch, Options, Schedule, run, unwritten};

const COUNT: usize = 5000;

fn expected(numbers: &[f32]) -> Vec<f32> {
    numbers.chunks(1024).map(|part| part.iter().sum()).collect()
}

/// How many schedules gave a wrong result.
fn wrong_results() -> Result<usize, Fault> {
    let numbers: Vec<f32> = (0..COUNT).map(|i| (i % 10) as f32).collect();
    let blocks = COUNT.div_ceil(1024);
    let input = Buffer::input("numbers", &numbers)?;
    let sums = Buffer::output::<f32>("sums", blocks)?;
    let args = Args::new().pointer(&input).pointer(&sums).value(COUNT as u64).finish();
    let launch = Launch {
        kernel: Kernel::find("twofour_demo_sum")?,
        grid: [blocks as u32, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args,
    };
    let mut wrong = 0;
    for schedule in Schedule::several(3) {
        sums.fill(0xFF);
        let report = run(&launch, &Options { schedule, ..Options::default() })?;
        let got = sums.values::<f32>();
        let verdict = if got == expected(&numbers) { "right" } else { "WRONG" };
        wrong += usize::from(verdict == "WRONG");
        println!("{schedule:?}: {verdict}, {} barriers, {} collectives", report.barriers, report.collectives);
    }
    println!("bytes never written: {:?}", unwritten(&launch, &Options::default(), &sums)?);
    Ok(wrong)
}

fn main() -> ExitCode {
    match wrong_results() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(wrong) => {
            println!("{wrong} schedules gave a wrong result: threads do not wait for each other somewhere");
            ExitCode::FAILURE
        }
        Err(fault) => {
            println!("fault: {fault}");
            ExitCode::FAILURE
        }
    }
}
