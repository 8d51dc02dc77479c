//! Tensor cores: what `mma` and `mma.sp` compute, to the last bit.
//!
//! An `mma` is a product of small matrices whose elements lie in the registers of 32 lanes. Two things are to be known
//! of it, and each is stated here once:
//!
//! - **Where each element lies** (`fragments.rs`): [`mma`] and [`mma_sp`], from the text of the PTX ISA, 9.7.14.5 and
//!   9.7.14.6. The twins of the C++ emulator (`include/twins_tensor.hpp`) have a statement of their own, and a test
//!   holds the two together.
//! - **How the products are added up** (`arithmetic.rs`): [`Arithmetic`], which the twins call too.
//!
//! # How tensor cores add
//!
//! Not as a loop does. A device takes a step of several products and the accumulator at once, like this:
//!
//! 1. Each product is exact: the significands multiplied, the exponents added, nothing normalised.
//! 2. All products and the accumulator are shifted to the largest exponent among them, and what then lies below `F`
//!    fractional bits is cut off, of each of them.
//! 3. What is left is added exactly, and the sum is cut off to f32: rounded toward zero.
//!
//! The next step begins with that sum. `F` and the products of a step are the architecture's:
//!
//! | [`Arithmetic`] | devices | F | 16-bit products a step | tf32 products a step |
//! | --- | --- | --- | --- | --- |
//! | `Ampere` | Turing, Ampere, Ada | 24 | 8 | 4 |
//! | `Hopper` | Hopper, Blackwell, RTX Blackwell | 25 | 16 | 8 |
//! | `InOrder` | none: f32, in order of k, each product and each sum rounded to nearest | | | |
//!
//! What is cut off is cut off toward zero. So a sum of terms of one sign is too small in magnitude, and the more the
//! longer it is: a shrink, not a noise. A step whose largest exponent is small is cut off where one of exponent -132
//! (`Ampere`) or -133 (`Hopper`) would be: an empty accumulator has that one. A sum of zero is +0, whatever its terms'
//! signs; at 2^128 it becomes an infinity; infinities and NaNs among the terms do what they do in IEEE arithmetic, and
//! a NaN comes out as 0x7FFFFFFF.
//!
//! This is the rule T-FDPA of MMA-Sim (arXiv 2511.10909), which its authors compared with ten GPUs, a million results
//! an instruction. `tests/tensor_cores.rs` compares this statement with theirs.
//!
//! **An assumption: `mma.sp`.** No one has published how the sparse instructions add. Here they add the products that
//! are kept, in order of k, in steps of as many as the dense ones: what is dropped takes no place in a step. A device
//! will decide; `tests/probe_mma_sp.rs` of the crate `twofour` asks it.
//!
//! Integers (`s8`) are added exactly and wrap, as they do without `.satfinite`.

mod arithmetic;
mod fragments;

pub use arithmetic::{Arithmetic, Element};
pub use fragments::{Registers, Undefined, mma, mma_sp};

pub(crate) use arithmetic::multiply;
