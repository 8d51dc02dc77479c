//! One property suite for `select`, run against the CPU's executor, the emulator's on several schedules and, where
//! there is one, the GPU's. The oracles are naive, in `f64`; what the executors are to agree on to the bit is compared
//! with the CPU's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/array.rs"]
mod array;
#[path = "select/case.rs"]
mod case;
#[path = "select/edges.rs"]
mod edges;
#[path = "select/errors.rs"]
mod errors;
#[path = "select/executor.rs"]
mod executor;
#[path = "select/kernels.rs"]
mod kernels;
#[path = "select/oracle.rs"]
mod oracle;
#[cfg(feature = "sparsegpt")]
#[path = "select/sparsegpt.rs"]
mod sparsegpt;
#[cfg(feature = "sparsegpt")]
#[path = "select/squares.rs"]
mod squares;
#[path = "select/suite.rs"]
mod suite;

/// Every property of the suite, as a test of each executor.
macro_rules! suite {
    ($($property:ident),* $(,)?) => {
        mod on_the_cpu {
            $(#[test] fn $property() { crate::suite::$property(&crate::executor::Executor::Cpu) })*
        }
        mod in_the_emulator {
            $(#[test] fn $property() { crate::suite::$property(&crate::executor::Executor::emulator(1)) })*
        }
        #[cfg(feature = "cuda")]
        mod on_a_gpu {
            $(#[test] fn $property() {
                if let Some(gpu) = crate::executor::gpu() {
                    crate::suite::$property(&gpu);
                }
            })*
        }
    };
}

suite!(
    the_two_largest_scores_are_kept,
    squares_are_added_up,
    sweeps_are_the_cpus,
    wanda_is_its_formula,
    sums_choose_the_same,
    edge_cases,
);
