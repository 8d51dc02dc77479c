//! How many random problems there are, and how many each kernel has met.

use super::emulator::beside::{Executed, from_ptx, wanted as executed, watched};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use std::collections::HashMap;
use std::panic::Location;
use std::sync::{LazyLock, Mutex};
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

/// How often each kernel has run in this process.
static RUNS: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);

/// Counts a run of a kernel, or of what else has a name.
pub fn ran(what: &str) {
    *RUNS.lock().unwrap().entry(what.to_owned()).or_default() += 1;
}

/// How often something has run.
pub fn runs(what: &str) -> u64 {
    RUNS.lock().unwrap().get(what).copied().unwrap_or(0)
}

/// As many problems as each kernel is to meet.
pub fn wanted() -> u64 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or_else(|| share(1000).into())
}

/// Says how many problems each kernel has met whose name begins so, all `kernels` of them, as C++, from PTX beside it and
/// watched; fails if one has met fewer than [`wanted`], or than half of that where only a part is run: of few random
/// problems, chance gives some fewer.
#[track_caller]
pub fn each_kernel_has_met_many(start: &str, kernels: usize) {
    let names = twofour_emulator::kernels().iter().map(Kernel::name).filter(|name| name.starts_with(start));
    let counts = |name: &str| [runs(name), runs(&from_ptx(name)), runs(&watched(name))];
    let mut report: Vec<_> = names.map(|name| (counts(&name), name)).collect();
    report.sort_unstable();
    println!("{:>10} {:>10} {:>10}  kernel", "as C++", "from PTX", "watched");
    report
        .iter()
        .for_each(|([emulated, ptx, watched], name)| println!("{emulated:>10} {ptx:>10} {watched:>10}  {name}"));
    assert_eq!(report.len(), kernels);
    let enough = if is_full() { wanted() } else { wanted() / 2 };
    for ([emulated, from_ptx, watched], name) in report {
        let least = match executed() {
            Executed::Emulator => emulated,
            Executed::Beside => emulated.min(from_ptx),
            Executed::Watched => watched,
        };
        assert!(least >= enough, "{name}: {least} of {enough} problems");
    }
}
