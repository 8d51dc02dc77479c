//! One property suite for `sparse`, run against the CPU's executor, the emulator's and, where there is one, the GPU's. The
//! oracle is naive, in `f64` (`i64` for integers), and its bounds are derived from sizes and types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/array.rs"]
#[allow(dead_code, reason = "tests/matmul.rs uses the rest")]
mod array;
#[path = "sparse/case.rs"]
mod case;
#[path = "sparse/checks.rs"]
mod checks;
#[path = "sparse/cpu.rs"]
mod cpu;
#[path = "sparse/emulated.rs"]
mod emulated;
#[cfg(feature = "cuda")]
#[path = "sparse/gpu.rs"]
mod gpu;
#[cfg(feature = "cuda")]
#[path = "sparse/library.rs"]
mod library;
#[path = "sparse/number.rs"]
mod number;
#[path = "sparse/oracle.rs"]
mod oracle;
#[path = "sparse/plans.rs"]
mod plans;
#[path = "sparse/suite.rs"]
mod suite;
#[path = "sparse/ways.rs"]
mod ways;

/// Every property of the suite, as a test of each executor.
macro_rules! suite {
    ($($property:ident),* $(,)?) => {
        mod on_the_cpu {
            $(#[test] fn $property() { crate::suite::$property(&crate::cpu::Cpu) })*
        }
        mod in_the_emulator {
            $(#[test] fn $property() { crate::suite::$property(&crate::emulated::Emulated::A100) })*
        }
        #[cfg(feature = "cuda")]
        mod on_a_gpu {
            $(#[test] fn $property() {
                if let Some(gpu) = crate::gpu::Gpu::find() {
                    crate::suite::$property(&gpu);
                }
            })*
        }
    };
}

suite! {
    any_problem_is_within_its_bound,
    tokens_at_the_edges,
    sizes_at_the_edges,
    nothing_to_multiply,
    small_integers_are_exact,
    the_bias_is_added_before_rounding,
    signs_and_subnormals_come_through,
    what_is_dropped_does_not_count,
    what_is_kept_does,
    integers_wrap,
}
