//! How many random problems there are, and how many each kernel is to meet.

use super::counts::runs;
use super::emulator::beside::{columns, enough};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use std::panic::Location;
use twofour_emulator::Kernel;

/// Whether every random problem is wanted, as the gate wants them (`TWOFOUR_TEST=full`), or a part that ends soon.
pub fn is_full() -> bool {
    match std::env::var("TWOFOUR_TEST").as_deref() {
        Ok("full") => true,
        Err(_) | Ok("" | "quick") => false,
        Ok(other) => panic!("TWOFOUR_TEST={other} is neither `quick` nor `full`"),
    }
}

/// As many of `cases` random problems as are wanted: all of them, or an eighth.
pub fn share(cases: u32) -> u32 {
    if is_full() { cases } else { cases.div_ceil(8) }
}

/// Runs a property on its [`share`] of `cases` random cases, or on as many as `PROPTEST_CASES` says; failures are kept
/// beside the file of the caller.
#[track_caller]
pub fn run<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value)) {
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = share(cases);
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")));
    config.source_file = Some(Location::caller().file());
    let held = TestRunner::new(config).run(strategy, |case| {
        property(case);
        Ok(())
    });
    held.unwrap_or_else(|error| panic!("{error}"));
}

/// As many problems as each kernel is to meet.
pub fn wanted() -> u64 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or_else(|| share(1000).into())
}

/// Says how many problems each kernel has met whose name begins so, all `kernels` of them, on each way that is wanted;
/// fails if one has met fewer than [`wanted`] and [`enough`], or than half of that where only a part is run, or as many as
/// `PROPTEST_CASES` says: of few random problems, chance gives some fewer.
#[track_caller]
pub fn each_kernel_has_met_many(start: &str, kernels: usize) {
    let columns = columns();
    let names = twofour_emulator::kernels().iter().map(Kernel::name).filter(|name| name.starts_with(start));
    let row = |name: String| (columns.iter().map(|by| runs(&name, by)).collect::<Vec<_>>(), name);
    let mut report: Vec<_> = names.map(row).collect();
    report.sort_unstable();
    println!("{columns:?}");
    report.iter().for_each(|(counts, name)| println!("{counts:?} {name}"));
    assert_eq!(report.len(), kernels);
    let are_few = std::env::var_os("PROPTEST_CASES").is_some();
    for (counts, name) in report {
        for (by, met) in columns.iter().zip(counts) {
            let wanted = wanted().min(enough(&name, by));
            let least = if is_full() && !are_few { wanted } else { wanted / 2 };
            assert!(met >= least, "{name}: {met} of {least} problems, {by}");
        }
    }
}
