//! What all suites share: the executors and how properties are run on them, random data, and how numbers are compared.
//! Nothing here knows an operation.
//!
//! A property is a function that is generic over the executor. It is written once, and runs on every one:
//!
//! ```ignore
//! fn doubles<E: TestExecutor>(on: &mut E, values: &Vec<f32>) {
//!     let (input, mut output) = (on.upload(values).unwrap(), on.poisoned(values.len()));
//!     on.run(Double::new(E::input(&input), E::output(&mut output))).unwrap();
//!     assert_eq!(on.download(&output).unwrap(), doubled(values), "{on:?}");
//! }
//!
//! #[test]
//! fn doubles_random_values() {
//!     for_all!(doubles, Counts { cpu: 600, emulator: 500, gpu: 500 }, proptest::collection::vec(any::<f32>(), 1..99));
//! }
//!
//! #[test]
//! fn doubles_nan() {
//!     everywhere!(doubles, &vec![f32::NAN]);
//! }
//!
//! // Properties without a case: a test of each.
//! everywhere_tests!(doubles_nothing, doubles_infinity);
//! ```

#![allow(dead_code, unused_macros, unused_imports, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod counts;
pub mod data;
pub mod emulator;
pub mod executor;
pub mod long;
pub mod number;
pub mod paths;
pub mod runs;

pub use data::normal;
pub use emulator::{Emulator, SMALL};
pub use executor::{Counts, TestExecutor, gpu};
pub use number::{convert, relative, rounding, same};
pub use paths::same_on_every_path;
pub use runs::run;

/// Runs a property, `fn(on: &mut impl TestExecutor, ...)`, on every executor: the CPU, the emulator on several
/// schedules and devices, and the GPU where there is one. What follows the property is given to it.
macro_rules! everywhere {
    ($property:path $(, $given:expr)* $(,)?) => {{
        $property(&mut twofour::Cpu $(, $given)*);
        for mut emulator in $crate::common::Emulator::several() {
            $property(&mut emulator $(, $given)*);
        }
        if let Some(mut gpu) = $crate::common::gpu() {
            $property(&mut gpu $(, $given)*);
        }
    }};
}
pub(crate) use everywhere;

/// Makes a test of each of these properties, `fn(on: &mut impl TestExecutor)`, on every executor.
macro_rules! everywhere_tests {
    ($($property:ident),* $(,)?) => {
        mod everywhere {
            $(#[test]
            fn $property() {
                $crate::common::everywhere!(super::$property);
            })*
        }
    };
}
pub(crate) use everywhere_tests;

/// Runs a property, `fn(on: &mut impl TestExecutor, case: &Case)`, on random cases: so many on each executor, those of
/// the emulator each on a schedule of its own. Failures are kept beside the file that says so.
macro_rules! for_all {
    ($property:path, $counts:expr, $cases:expr $(,)?) => {{
        let (counts, cases): ($crate::common::Counts, _) = ($counts, $cases);
        $crate::common::run(counts.cpu, &cases, |case| $property(&mut twofour::Cpu, &case));
        $crate::common::run(counts.emulator, &(&cases, proptest::prelude::any::<u64>()), |(case, number)| {
            $property(&mut $crate::common::Emulator::numbered(number), &case);
        });
        if let Some(gpu) = $crate::common::gpu() {
            let gpu = std::cell::RefCell::new(gpu);
            $crate::common::run(counts.gpu, &cases, |case| $property(&mut *gpu.borrow_mut(), &case));
        }
    }};
}
pub(crate) use for_all;

/// Adds what there is to a pass: `given!(pass, weight: Some(..), masked: None)` calls `pass.weight(..)`.
macro_rules! given {
    ($pass:expr, $($method:ident: $operand:expr),* $(,)?) => {{
        let pass = $pass;
        $(let pass = match $operand {
            Some(operand) => pass.$method(operand),
            None => pass,
        };)*
        pass
    }};
}
pub(crate) use given;
