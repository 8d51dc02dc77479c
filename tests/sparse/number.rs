//! The types of products, and ways between them and the oracle's.

use std::sync::LazyLock;

use twofour::{E4m3, Factor, Float, bf16, f16};

/// A type of weight and activations.
pub(crate) trait Number: Factor {
    /// Unit roundoff of `Y`, and half its smallest number: `|round(v) − v| ≤ u·|v| + tiny`. Integers are exact.
    const ROUNDOFF: (f64, f64);
    /// The nearest value; of `E4m3`, one of some.
    fn of(value: f32) -> Self;
    fn number(self) -> f64;
    fn output(value: f32) -> Self::Output;
    fn result(output: Self::Output) -> f64;
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

/// Calls a function for each type.
macro_rules! for_all_types {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        $function::<f16, _>($($argument),*);
        $function::<bf16, _>($($argument),*);
        $function::<f32, _>($($argument),*);
        $function::<i8, _>($($argument),*);
        $function::<E4m3, _>($($argument),*);
    }};
}
pub(crate) use for_all_types;
