//! The types of products, and ways between them and the oracle's.

use std::sync::LazyLock;

use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;
use twofour::{E4m3, Factor, Float, bf16, f16};

/// A type of weight and activations.
pub(crate) trait Number: Factor {
    /// Unit roundoff of `Y`, and half its smallest number: `|round(v) − v| ≤ u·|v| + tiny`. Integers are exact.
    const ROUNDOFF: (f64, f64);
    /// The nearest value; of `E4m3`, one of some.
    fn of(value: f32) -> Self;
    /// Normal, or any integer.
    fn random(rng: &mut StdRng) -> Self {
        Self::of(rng.sample::<f32, _>(StandardNormal))
    }
    fn number(self) -> f64;
    fn output(value: f32) -> Self::Output;
    fn result(output: Self::Output) -> f64;
}

/// Equal numbers, or both NaN.
pub(crate) fn same<T: Number>(a: &[T::Output], b: &[T::Output]) -> bool {
    let bits =
        |value: &T::Output| if T::result(*value).is_nan() { f64::NAN.to_bits() } else { T::result(*value).to_bits() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bits(a) == bits(b))
}

macro_rules! float {
    ($type:ty: $roundoff:expr) => {
        impl Number for $type {
            const ROUNDOFF: (f64, f64) = $roundoff;
            fn of(value: f32) -> Self {
                Float::from_f32(value)
            }
            fn number(self) -> f64 {
                f64::from(Float::to_f32(self))
            }
            fn output(value: f32) -> Self {
                Float::from_f32(value)
            }
            fn result(output: Self) -> f64 {
                output.number()
            }
        }
    };
}

/// 2 to the power of −n, down to where there are subnormal numbers.
const fn power(n: u64) -> f64 {
    f64::from_bits((1023 - n) << 52)
}

float!(f32: (power(24), power(150)));
float!(f16: (power(11), power(25)));
float!(bf16: (power(8), power(134)));

impl Number for E4m3 {
    const ROUNDOFF: (f64, f64) = (power(24), power(150));
    fn of(value: f32) -> Self {
        static SORTED: LazyLock<Vec<E4m3>> = LazyLock::new(|| {
            let mut all: Vec<E4m3> = (0..=255).map(E4m3::from_bits).filter(|at| !at.to_f32().is_nan()).collect();
            all.sort_by(|a, b| a.to_f32().total_cmp(&b.to_f32()));
            all
        });
        let above = SORTED.partition_point(|at| at.to_f32().total_cmp(&value).is_lt()).min(SORTED.len() - 1);
        let [low, high] = [SORTED[above.saturating_sub(1)], SORTED[above]];
        match value.is_finite() {
            true if (value - low.to_f32()).abs() < (high.to_f32() - value).abs() => low,
            true => high,
            // There is no infinity.
            false => Self::from_bits(0x7f),
        }
    }
    fn number(self) -> f64 {
        f64::from(self.to_f32())
    }
    fn output(value: f32) -> f32 {
        value
    }
    fn result(output: f32) -> f64 {
        f64::from(output)
    }
}

impl Number for i8 {
    const ROUNDOFF: (f64, f64) = (0.0, 0.0);
    /// Spread out, so that normal values are not all zero.
    fn of(value: f32) -> Self {
        if value.fract() == 0.0 { value as i8 } else { (40.0 * value) as i8 }
    }
    fn random(rng: &mut StdRng) -> Self {
        rng.random()
    }
    fn number(self) -> f64 {
        f64::from(self)
    }
    fn output(value: f32) -> i32 {
        value as i32
    }
    fn result(output: i32) -> f64 {
        f64::from(output)
    }
}

/// Calls a function for each type that this crate's kernels multiply.
macro_rules! for_kernel_types {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        $function::<twofour::f16>($($argument),*);
        $function::<twofour::bf16>($($argument),*);
        $function::<i8>($($argument),*);
    }};
}
pub(crate) use for_kernel_types;

/// Calls a function for each type.
macro_rules! for_all_types {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        $function::<twofour::f16>($($argument),*);
        $function::<twofour::bf16>($($argument),*);
        $function::<f32>($($argument),*);
        $function::<i8>($($argument),*);
        $function::<twofour::E4m3>($($argument),*);
    }};
}
pub(crate) use for_all_types;
