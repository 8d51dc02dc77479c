//! Operands. Normal-distributed always: zeros and constants draw less power and let a GPU clock higher.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};
use std::sync::OnceLock;
use twofour::{Factor, Float, bf16, f16};

/// `len` numbers with this standard deviation. The same for the same `stream`, another part of the same million numbers
/// for another one: it is the distribution that matters, and large operands are filled at the speed of a copy.
pub fn normal<T: Float>(len: usize, deviation: f32, stream: usize) -> Vec<T> {
    let numbers = million();
    let start = stream * 7919 % numbers.len();
    numbers.iter().cycle().skip(start).take(len).map(|number| T::from_f32(number * deviation)).collect()
}

fn million() -> &'static [f32] {
    static NUMBERS: OnceLock<Vec<f32>> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        let rng = StdRng::seed_from_u64(24);
        StandardNormal.sample_iter(rng).take(1 << 20).collect()
    })
}

/// A type of values that compressed weights are timed in.
pub trait Number: Factor {
    /// Normal-distributed; integers fill their 8 bits, whatever the deviation.
    fn normal(len: usize, deviation: f32, stream: usize) -> Vec<Self>;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn normal(len: usize, deviation: f32, stream: usize) -> Vec<Self> {
                normal(len, deviation, stream)
            }
        }
    )*};
}
numbers!(f32, f16, bf16);

impl Number for i8 {
    fn normal(len: usize, _: f32, stream: usize) -> Vec<Self> {
        normal::<f32>(len, 40.0, stream).into_iter().map(|x| x as i8).collect()
    }
}

/// Calls a function for the type of a case's values.
macro_rules! for_values {
    ($case:expr, $function:ident($($argument:expr),*)) => {
        match $case.values {
            twofour::DType::F32 => $function::<f32>($($argument),*),
            twofour::DType::F16 => $function::<twofour::f16>($($argument),*),
            twofour::DType::Bf16 => $function::<twofour::bf16>($($argument),*),
            twofour::DType::I8 => $function::<i8>($($argument),*),
            other => Err(format!("{other} is not timed").into()),
        }
    };
}
#[allow(unused_imports, reason = "some ops have them")]
pub(super) use for_values;
