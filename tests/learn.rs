//! One property suite for `learn`, run against each executor. What an executor makes of a gradient is compared to the bit
//! with the formulas said again in `learn/oracle.rs`; the tests beside the suite say what those formulas are good for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "learn/adamw.rs"]
mod adamw;
#[path = "learn/case.rs"]
mod case;
#[path = "learn/clip.rs"]
mod clip;
#[path = "learn/edges.rs"]
mod edges;
#[path = "learn/eight.rs"]
mod eight;
#[path = "learn/errors.rs"]
mod errors;
#[path = "learn/executor.rs"]
mod executor;
#[path = "learn/initial.rs"]
mod initial;
#[path = "learn/oracle.rs"]
mod oracle;
#[path = "learn/recipe.rs"]
mod recipe;
#[path = "learn/rounding.rs"]
mod rounding;
#[path = "learn/suite.rs"]
mod suite;

/// Every property of the suite, as a test of each executor.
macro_rules! suite {
    ($($property:ident),* $(,)?) => {
        mod on_the_cpu {
            $(#[test] fn $property() { crate::suite::$property(&crate::executor::Executor::Cpu) })*
        }
    };
}

suite!(
    initial_logits_are_their_definition,
    priors_are_their_definition,
    updates_are_their_definition,
    fused_steps_are_gradients_and_updates,
    measures_are_norms,
    factors_are_their_definition,
    shards_are_slices,
    edge_cases,
);
