//! Fused multiply-adds of whole rows: with the processor's own instruction where it has one, as the library's function
//! costs as much as ten other instructions. Both round once.

use super::lanes::{Doubles, Words, each};
use super::scalar::canonical;

#[inline(always)]
fn floats_of(a: &Words, b: &Words, c: &Words) -> Words {
    each(|i| canonical(f32::from_bits(a[i]).mul_add(f32::from_bits(b[i]), f32::from_bits(c[i]))))
}

#[inline(always)]
fn doubles_of(a: &Doubles, b: &Doubles, c: &Doubles) -> Doubles {
    each(|i| f64::from_bits(a[i]).mul_add(f64::from_bits(b[i]), f64::from_bits(c[i])).to_bits())
}

#[cfg(target_arch = "x86_64")]
mod own {
    use super::{Doubles, Words, doubles_of, floats_of};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn floats(a: &Words, b: &Words, c: &Words) -> Words {
        floats_of(a, b, c)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn doubles(a: &Doubles, b: &Doubles, c: &Doubles) -> Doubles {
        doubles_of(a, b, c)
    }

    pub(super) fn has() -> bool {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
}

/// `a b + c` in every lane.
pub(super) fn floats(a: &Words, b: &Words, c: &Words) -> Words {
    #[cfg(target_arch = "x86_64")]
    if own::has() {
        // SAFETY: the processor has the features.
        return unsafe { own::floats(a, b, c) };
    }
    floats_of(a, b, c)
}

/// `a b + c` in every lane.
pub(super) fn doubles(a: &Doubles, b: &Doubles, c: &Doubles) -> Doubles {
    #[cfg(target_arch = "x86_64")]
    if own::has() {
        // SAFETY: the processor has the features.
        return unsafe { own::doubles(a, b, c) };
    }
    doubles_of(a, b, c)
}
