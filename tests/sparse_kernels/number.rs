//! The types of values, with the types of Y they give, as the suite needs them.

use bytemuck::Pod;
use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;

use twofour::{Element, bf16, f16};

pub(crate) trait Number: Element + Send + Sync + PartialEq {
    type Y: Pod + PartialEq + std::fmt::Debug + Send + Sync;

    /// Normal, or any integer.
    fn random(rng: &mut StdRng) -> Self;
    fn of(small: i32) -> Self;
    fn wide(self) -> f64;
    fn y_of(small: i32) -> Self::Y;
    fn y_wide(y: Self::Y) -> f64;
    /// Half a unit in the last place of Y, a little more than its rounding error; 0 for integers.
    fn rounding(y: f64) -> f64;
}

/// A 16-bit type of so many bits of significand and least exponent.
macro_rules! number {
    ($type:ident, $bits:literal, $least:literal) => {
        impl Number for $type {
            type Y = Self;

            fn random(rng: &mut StdRng) -> Self {
                Self::from_f32(rng.sample::<f32, _>(StandardNormal))
            }
            fn of(small: i32) -> Self {
                Self::from_f32(small as f32)
            }
            fn wide(self) -> f64 {
                self.to_f64()
            }
            fn y_of(small: i32) -> Self {
                Self::of(small)
            }
            fn y_wide(y: Self) -> f64 {
                y.to_f64()
            }
            fn rounding(y: f64) -> f64 {
                y.abs() * 2f64.powi(-$bits) * 1.0001 + 2f64.powi(-$least)
            }
        }
    };
}
number!(f16, 11, 24);
number!(bf16, 8, 133);

impl Number for i8 {
    type Y = i32;

    fn random(rng: &mut StdRng) -> Self {
        rng.random()
    }
    fn of(small: i32) -> Self {
        small as Self
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn y_of(small: i32) -> i32 {
        small
    }
    fn y_wide(y: i32) -> f64 {
        f64::from(y)
    }
    fn rounding(_: f64) -> f64 {
        0.0
    }
}

/// Runs a generic function for each type of values.
macro_rules! for_all_types {
    ($function:ident($($argument:expr),*)) => {
        $function::<twofour::f16>($($argument),*);
        $function::<twofour::bf16>($($argument),*);
        $function::<i8>($($argument),*);
    };
}
pub(crate) use for_all_types;
