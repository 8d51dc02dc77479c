//! One property suite for `matmul`, run against the CPU's executor, the emulator's and, where there is one, the GPU's. The
//! oracle is naive, in `f64`, and its bounds are derived from sizes and types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/array.rs"]
mod array;
#[path = "matmul/case.rs"]
mod case;
#[path = "matmul/checks.rs"]
mod checks;
#[path = "matmul/emulated.rs"]
mod emulated;
#[path = "matmul/executor.rs"]
mod executor;
#[cfg(feature = "cuda")]
#[path = "matmul/gpu.rs"]
mod gpu;
#[path = "matmul/kernels.rs"]
mod kernels;
#[path = "matmul/oracle.rs"]
mod oracle;
#[path = "matmul/plans.rs"]
mod plans;
#[path = "matmul/suite.rs"]
mod suite;

/// Every property of the suite, as a test of each executor.
macro_rules! suite {
    ($($property:ident),* $(,)?) => {
        mod on_the_cpu {
            $(#[test] fn $property() { crate::suite::$property(&crate::executor::Cpu) })*
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
    sizes_at_the_edges,
    nothing_to_multiply,
    sizes_no_tile_divides,
    small_integers_are_exact,
    gradient_is_the_derivative_of_the_loss,
    shard_is_the_slice_of_the_whole,
    dropped_weights_do_no_harm,
    specials_go_through_as_in_a_dense_product,
}

#[test]
fn threads_do_not_change_the_cpu_s_results() {
    use case::{Case, Spec};
    use executor::{Cpu, Executor};
    use twofour::mask::Kind;
    let case = Case::<f32, f32>::new(Spec::new(300, 270, 1200, Kind::Soft));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Cpu.run(&case))
    };
    let (one, five) = (run(1), run(5));
    assert!(one.y == five.y && one.dx == five.dx && one.logit_gradient == five.logit_gradient);
}

/// The CPU takes the weight's gradient 4 MiB of rows at a time: 256 rows here.
#[test]
fn panels_of_the_cpu_meet() {
    use case::{Case, Spec};
    use executor::{Cpu, Executor};
    let case = Case::<f32, f32>::new(Spec::new(2, 270, 4096, twofour::mask::Kind::Soft));
    oracle::compare(&case, &Cpu.run(&case), Cpu::UNIT);
}
