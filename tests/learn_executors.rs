//! `learn` on every executor: the emulator's on several schedules and, where there is one, the GPU's, against the CPU's.
//! From a gradient in memory a step's results are the same bits; a fused step is, to the bit, the mask's backward pass
//! on the same executor followed by such a step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/array.rs"]
mod array;
#[path = "learn_executors/case.rs"]
mod case;
#[path = "learn_executors/edges.rs"]
mod edges;
#[path = "learn_executors/kernels.rs"]
mod kernels;
#[path = "learn_executors/launches.rs"]
mod launches;
#[path = "learn_executors/memory.rs"]
mod memory;
#[path = "learn_executors/ops.rs"]
mod ops;
#[path = "learn_executors/suite.rs"]
mod suite;

/// Every property of the suite, as a test of each executor.
macro_rules! suite {
    ($($property:ident),* $(,)?) => {
        mod in_the_emulator {
            $(#[test] fn $property() { crate::suite::$property(&crate::memory::Emulator::new(1)) })*
        }
        #[cfg(feature = "cuda")]
        mod on_a_gpu {
            $(#[test] fn $property() {
                if let Some(gpu) = crate::memory::gpu() {
                    crate::suite::$property(&gpu);
                }
            })*
        }
    };
}

suite!(
    starts_are_the_cpus,
    priors_are_the_cpus,
    updates_are_the_cpus,
    fused_steps_are_a_backward_pass_and_an_update,
    norms_are_the_cpus,
    factors_are_the_cpus,
    edge_cases,
);
