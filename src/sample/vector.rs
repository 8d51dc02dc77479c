//! Sixteen numbers side by side, and the operations that sampling is made of. What is written over [`Vector`] is written
//! once and gives the same bits whatever the processor: every operation is one of IEEE's or of integers, and none is
//! reordered. [`by_processor!`] compiles a function for what a processor may have and chooses when it is called:
//!
//! | path | registers | what chooses it |
//! | --- | --- | --- |
//! | `avx512` | of 512 bits, with shuffles and gathers laid by hand | AVX-512 with the extensions of Ice Lake and Zen 4 |
//! | `avx2` | as compilers lay them | AVX2, FMA and F16C |
//! | `portable` | as compilers lay them; NEON on aarch64 | everything else |
//!
//! What is over a [`Vector`] must be inlined to be compiled for the processor: functions are `inline(always)`, and there
//! are no closures over vectors and no `map` of arrays of them.
//!
//! The environment variable `TWOFOUR_CPU`, one of these names, keeps to a path or one below it; it is read once. It is
//! for tests and measurements, for no result depends on it.

use std::fmt::Debug;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Sub};
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Groups worked on at once.
pub(crate) const LANES: usize = 16;

/// Sixteen values of `f32`.
pub(crate) trait Vector:
    Copy + Debug + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    type Words: Words<Mask = Self::Mask>;
    type Mask: Mask;

    fn splat(value: f32) -> Self;
    fn from_array(values: [f32; LANES]) -> Self;
    fn to_array(self) -> [f32; LANES];
    fn from_bits(bits: Self::Words) -> Self;
    fn to_bits(self) -> Self::Words;

    /// `self · factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    fn sqrt(self) -> Self;
    /// The greater one; `other` if they are equal or one is NaN.
    fn max(self, other: Self) -> Self;
    fn equals(self, other: Self) -> Self::Mask;
    fn is_below(self, other: Self) -> Self::Mask;
    /// Whether one of the two is NaN.
    fn is_unordered(self, other: Self) -> Self::Mask;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// The noise of six fields' places: `line[number](t)`, from the table of [`crate::noise`].
    fn on_line(t: Self, number: Self::Words) -> Self;
    /// Values of sixteen groups, from one group after the other to one position after the other.
    fn turn<const PER: usize>(groups: &[[f32; PER]; LANES]) -> [Self; PER];
    /// And back.
    fn turn_back<const PER: usize>(lanes: &[Self; PER], groups: &mut [[f32; PER]; LANES]);

    #[inline(always)]
    fn abs(self) -> Self {
        Self::from_bits(self.to_bits() & Self::Words::splat(0x7fff_ffff))
    }

    #[inline(always)]
    fn is_finite(self) -> Self::Mask {
        self.abs().is_below(Self::splat(f32::INFINITY))
    }
}

/// Sixteen words of 32 bits; addition and subtraction wrap.
pub(crate) trait Words:
    Copy + Debug + Add<Output = Self> + Sub<Output = Self> + BitAnd<Output = Self> + BitOr<Output = Self>
{
    type Mask: Mask;

    fn splat(word: u32) -> Self;
    fn to_array(self) -> [u32; LANES];
    fn shl<const BY: u32>(self) -> Self;
    fn shr<const BY: u32>(self) -> Self;
    /// Each shifted by its own number, below 32.
    fn shr_each(self, by: Self) -> Self;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// The four words of [`crate::noise::philox`] for each of sixteen groups.
    fn philox(round_keys: &[u32; 20], draw: u64, groups: &[u64; LANES]) -> [Self; 4];
}

#[inline(always)]
pub(crate) fn to_arrays<W: Words>(words: [W; 4]) -> [[u32; LANES]; 4] {
    let [a, b, c, d] = words;
    [a.to_array(), b.to_array(), c.to_array(), d.to_array()]
}

/// A yes or no for each lane.
pub(crate) trait Mask: Copy + BitOr<Output = Self> {
    /// The first lane's in the lowest bit.
    fn to_bits(self) -> u16;
}

/// What a processor has, each with all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Processor {
    Portable,
    Avx2,
    Avx512,
}

impl Processor {
    /// This one, or less if the environment says so.
    #[inline]
    pub(crate) fn at_hand() -> Self {
        static AT_HAND: OnceLock<Processor> = OnceLock::new();
        *AT_HAND.get_or_init(|| {
            let most = match std::env::var("TWOFOUR_CPU").as_deref() {
                Ok("portable") => Self::Portable,
                Ok("avx2") => Self::Avx2,
                _ => Self::Avx512,
            };
            most.min(Self::detected())
        })
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detected() -> Self {
        macro_rules! has {
            ($($feature:tt)+) => { $(is_x86_feature_detected!($feature))&&+ };
        }
        if !has!("avx2" "fma" "f16c") {
            Self::Portable
        } else if has!("bmi2" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vbmi" "avx512vbmi2" "avx512vnni") {
            Self::Avx512
        } else {
            Self::Avx2
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detected() -> Self {
        Self::Portable
    }
}

/// `fn name<V, ..>(..) { .. }`: a function over a [`Vector`] `V`, called without it.
macro_rules! by_processor {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<V $(, $type:ident: $bound:path)*>($($argument:ident: $of:ty),* $(,)?)
        $(-> $gives:ty)? $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name<$($type: $bound),*>($($argument: $of),*) $(-> $gives)? {
            #[inline(always)]
            fn lanes<V: $crate::sample::vector::Vector $(, $type: $bound)*>($($argument: $of),*) $(-> $gives)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::sample::vector::{Avx512, Portable, Processor};

                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2<$($type: $bound),*>($($argument: $of),*) $(-> $gives)? {
                    lanes::<Portable $(, $type)*>($($argument),*)
                }

                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2")]
                fn avx512<$($type: $bound),*>($($argument: $of),*) $(-> $gives)? {
                    lanes::<Avx512 $(, $type)*>($($argument),*)
                }

                match Processor::at_hand() {
                    // SAFETY: the processor has these features, says `Processor::detected`.
                    Processor::Avx512 => return unsafe { avx512::<$($type),*>($($argument),*) },
                    // SAFETY: as above.
                    Processor::Avx2 => return unsafe { avx2::<$($type),*>($($argument),*) },
                    Processor::Portable => {}
                }
            }
            lanes::<$crate::sample::vector::Portable $(, $type)*>($($argument),*)
        }
    };
}
pub(crate) use by_processor;
