//! The CPU's bodies of every operation and type, compiled with the crate. In a build that is little optimised, crates
//! downstream take them from here; else each of the tests, benches and examples would compile those it uses again. For
//! this checkout alone: `build.rs` says when.

use crate::element::{Element, Factor, Float, Logit};
use crate::pass::{Pass, run_on_host};
use crate::sample::GradientOf;
use crate::space::Host;
use crate::{E4m3, E5m2, bf16, compress, distil, f16, glu, learn, mask, matmul, select, sparse};
use std::hint::black_box;

/// Compiles them; there is no reason to call it.
pub fn all() {
    logits::<f32>();
    logits::<bf16>();
    rows::<f32>();
    rows::<f16>();
    rows::<bf16>();
    factor::<i8>();
    factor::<E4m3>();
    packed::<i8>();
    packed::<i32>();
    packed::<E4m3>();
    packed::<E5m2>();
    keep::<learn::Norm<Host>>();
    keep::<learn::Clip<Host>>();
    keep::<compress::Reorder<Host>>();
}

fn keep<P: Pass<Host>>() {
    black_box(run_on_host::<P> as fn(P) -> _);
}

fn logits<L: Logit>() {
    weight::<L, f32>();
    weight::<L, f16>();
    weight::<L, bf16>();
    gradient::<L, f32, f32>();
    gradient::<L, f16, f32>();
    gradient::<L, f16, f16>();
    gradient::<L, bf16, f32>();
    gradient::<L, bf16, bf16>();
    keep::<learn::Initial<Host, L>>();
    keep::<learn::Prior<Host, L>>();
    keep::<learn::Update<Host, L>>();
}

fn weight<L: Logit, W: Float>() {
    keep::<mask::Forward<Host, L, W>>();
    keep::<matmul::Forward<Host, L, W>>();
    keep::<matmul::Backward<Host, L, W>>();
    keep::<matmul::Step<Host, L, W>>();
    keep::<compress::Pack<Host, W, L>>();
}

fn gradient<L: Logit, W: Float, G: GradientOf<W>>() {
    keep::<mask::Backward<Host, L, W, G>>();
    keep::<learn::Fused<Host, L, W, G>>();
    keep::<learn::Measure<Host, L, W, G>>();
}

fn rows<X: Float + Factor>() {
    keep::<select::ByScore<Host, X>>();
    keep::<select::Sweep<Host, X>>();
    keep::<select::Swaps<Host, X>>();
    keep::<select::Squares<Host, X>>();
    keep::<select::Hessian<Host, X>>();
    keep::<distil::Distil<Host, X>>();
    keep::<distil::TopK<Host, X>>();
    keep::<distil::SquareHead<Host, X>>();
    keep::<glu::Forward<Host, X>>();
    keep::<glu::Backward<Host, X>>();
    keep::<glu::Decode<Host, X>>();
    factor::<X>();
    keep::<compress::Unpack<Host, X>>();
}

fn factor<T: Factor>() {
    keep::<sparse::Multiply<Host, T>>();
}

fn packed<T: Element>() {
    keep::<compress::Pack<Host, T>>();
    keep::<compress::Unpack<Host, T>>();
}
