//! The operands of a product, and what comes out.

use super::{E4m3, Element, Float};
use half::{bf16, f16};

/// A type of weight and activations in a product: [`struct@f16`], [`bf16`], `f32`, `i8` or [`E4m3`]. Sealed.
pub trait Factor: Element + arithmetic::Arithmetic<Self::Output> {
    /// The type of `Y` and of the bias: the same, but `i32` for `i8` and `f32` for [`E4m3`].
    type Output: Element;
}

/// What the CPU computes with: `f32`, or `i32` that wraps.
pub(crate) mod arithmetic {
    pub trait Arithmetic<Y>: Sized {
        /// The type of sums.
        type Sum: bytemuck::Pod + Send + Sync + std::fmt::Debug;
        /// Whether sums are `f32`.
        const IN_F32: bool;
        /// Widens exactly, as many as both slices have.
        fn widen(from: &[Self], to: &mut [Self::Sum]);
        /// Neither infinite nor NaN.
        fn is_finite(&self) -> bool;
        fn multiply(a: Self::Sum, b: Self::Sum) -> Self::Sum;
        fn add(a: Self::Sum, b: Self::Sum) -> Self::Sum;
        /// Of `Y`, as it is added to a sum.
        fn bias(bias: Y) -> Self::Sum;
        /// Rounds once.
        fn finish(sum: Self::Sum) -> Y;
    }
}

macro_rules! float {
    ($type:ty, $output:ty, $widen:expr) => {
        impl Factor for $type {
            type Output = $output;
        }
        impl arithmetic::Arithmetic<$output> for $type {
            type Sum = f32;
            const IN_F32: bool = true;
            #[inline(always)]
            fn widen(from: &[Self], to: &mut [f32]) {
                let widen: fn(&[Self], &mut [f32]) = $widen;
                widen(from, to);
            }
            #[inline(always)]
            fn is_finite(&self) -> bool {
                self.to_f32().is_finite()
            }
            #[inline(always)]
            fn multiply(a: f32, b: f32) -> f32 {
                a * b
            }
            #[inline(always)]
            fn add(a: f32, b: f32) -> f32 {
                a + b
            }
            #[inline(always)]
            fn bias(bias: $output) -> f32 {
                Float::to_f32(bias)
            }
            #[inline(always)]
            fn finish(sum: f32) -> $output {
                Float::from_f32(sum)
            }
        }
    };
}
float!(f16, f16, |from, to| <f16 as Float>::widen(from, to));
float!(bf16, bf16, |from, to| <bf16 as Float>::widen(from, to));
float!(f32, f32, |from, to| <f32 as Float>::widen(from, to));
float!(E4m3, f32, |from, to| to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32()));

impl Factor for i8 {
    type Output = i32;
}

impl arithmetic::Arithmetic<i32> for i8 {
    type Sum = i32;
    const IN_F32: bool = false;
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [i32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = i32::from(*from));
    }
    #[inline(always)]
    fn is_finite(&self) -> bool {
        true
    }
    #[inline(always)]
    fn multiply(a: i32, b: i32) -> i32 {
        a.wrapping_mul(b)
    }
    #[inline(always)]
    fn add(a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn bias(bias: i32) -> i32 {
        bias
    }
    #[inline(always)]
    fn finish(sum: i32) -> i32 {
        sum
    }
}
