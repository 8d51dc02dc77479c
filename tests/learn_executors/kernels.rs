//! Each kernel on many random problems.

use crate::memory::{Emulator, RUNS};
use crate::suite::{
    check_clip, check_fused, check_initial, check_norm, check_prior, check_update, of_logits, of_types,
};
use rayon::prelude::*;
use twofour_emulator::Kernel;

/// As many problems as each kernel is to meet.
fn wanted() -> u64 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

#[test]
fn every_kernel_meets_many_problems() {
    // Sums are added up by a kernel of their own, which every measured norm brings too.
    (0..wanted()).into_par_iter().for_each(|round| {
        for types in 0..10 {
            let seed = round * 10 + types;
            let emulator = Emulator::new(seed);
            of_types!(types, check_fused(&emulator, seed, false));
            of_types!(types, check_fused(&emulator, seed + 1, true));
        }
        for logits in 0..2 {
            let seed = round * 2 + logits;
            let emulator = Emulator::new(seed);
            of_logits!(logits, check_update(&emulator, seed, false));
            of_logits!(logits, check_update(&emulator, seed + 1, true));
            of_logits!(logits, check_initial(&emulator, seed));
            // Half of these have codes.
            of_logits!(logits, check_prior(&emulator, seed));
            of_logits!(logits, check_prior(&emulator, seed + 2 * wanted()));
            of_logits!(logits, check_prior(&emulator, seed + 4 * wanted()));
        }
        check_norm(&Emulator::new(round), round);
        check_clip(&Emulator::new(round), round);
    });
    let runs = RUNS.lock().unwrap().clone();
    let kernels = twofour_emulator::kernels();
    let names = kernels.iter().map(Kernel::name).filter(|name| name.starts_with("twofour_learn_"));
    let mut report: Vec<_> = names.map(|name| (runs.get(name.as_str()).copied().unwrap_or(0), name)).collect();
    report.sort_unstable();
    println!("{report:#?}");
    assert_eq!(report.len(), 31);
    assert!(report.first().is_some_and(|(least, _)| *least as u64 >= wanted()), "{:?}", report.first());
}
