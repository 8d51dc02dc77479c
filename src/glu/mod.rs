//! Gated activations: `h = a(g) ⊙ b(u)` of a feed-forward's gate and up products, with what makes most of `h` exactly
//! zero, and their gradients; and decode that reads no row of a neuron that is off ([`Decode`]).
//!
//! A gated feed-forward multiplies three weights: `g = X W_gateᵀ`, `u = X W_upᵀ`, `Y = h W_downᵀ`. Where `h` is zero, the
//! neuron's rows of the last two need not be read. SwiGLU is practically never zero; a ReLU on the gate, or on both as
//! dReLU has it (TurboSparse, Song et al. 2024, arXiv 2406.05955, equation 2), is zero for most neurons of a token.
//!
//! | [`Activation`] | `h` | on (elsewhere `h` is 0) |
//! | --- | --- | --- |
//! | `SwiGlu` | `SiLU(g) u` | everywhere |
//! | `DRelu` | `g u` | `g > 0` and `u > 0` |
//! | `ReGlu` | `g u` | `g > 0` |
//! | `FatRelu(t)` | `g u`: the value is kept, not shifted (ProSparse, arXiv 2402.13516) | `g ≥ t` |
//! | `Cats(t)` | `SiLU(g) u` (CATS, arXiv 2404.08763) | `\|SiLU(g)\| > t` |
//!
//! `SiLU(g) = g/(1 + e⁻ᵍ)`. Gradients, where it is on: `dg = dh b a′(g)`, `du = dh a(g)`; elsewhere 0. So `h`, `dg` and
//! `du` have one support, and one bit a neuron says it: [`Forward::mask`] writes it, [`Backward::mask`] reads it.
//! [`Backward::l1`] adds the gradient of `λ Σ |h|`, which makes more of `h` zero in training.
//!
//! # The support is exact
//!
//! Whether a neuron is on is a comparison of `g` and `u` with bounds that are worked out once, for CATS too: no result of
//! an approximate exponential is ever compared, so every executor has the same bits. `h` of the three without SiLU is one
//! product, rounded once, and the same to the bit everywhere, gradients too; with SiLU results are so to 4e-6 of the terms
//! that are added up (its slope is zero at −1.28), and a unit in the last place of their type.
//!
//! # What is no number
//!
//! A neuron whose `g u` is NaN (one of the two is, or an infinity meets a zero) is off, whatever the activation: its `h`
//! and its gradients are 0. [`Forward::lost`] counts them, row by row: training that must not go on over a NaN looks
//! there. A gradient `dh` that is no number makes one of each neuron that is on, and harms no other.
//!
//! # Masks of neurons
//!
//! `[T, ⌈f/32⌉]` words of 32 bits: neuron `i` of a row is bit `i % 32`, the lowest first, of word `i / 32`. Bits beyond f
//! are written as 0 and not looked at. [`words`] says how many words a row has.
//!
//! # Joined inputs
//!
//! One product often makes gate and up together, `[T, 2f]`: [`Joined::Halves`] has all of a row's gate before its up, as
//! vLLM and Transformers' `gate_up_proj` do, [`Joined::Pairs`] has a neuron's two side by side.
//!
//! ```
//! use twofour::glu::{Activation, Backward, Forward};
//! use twofour::{Cpu, Executor};
//!
//! // Two tokens, three neurons.
//! let (gate, up) = ([1.0f32, -2.0, 0.5, 3.0, 0.0, -1.0], [2.0f32, 1.0, -4.0, 0.5, 7.0, 1.0]);
//! let (mut h, mut mask, mut active) = ([0.0f32; 6], [0; 2], [0; 2]);
//! let pass = Forward::new([2, 3], Activation::DRelu, &gate, &up, &mut h);
//! Cpu.run(pass.mask(&mut mask).active(&mut active))?;
//! assert_eq!(h, [2.0, 0.0, 0.0, 1.5, 0.0, 0.0]);
//! assert_eq!((mask, active), ([0b001, 0b001], [1, 1]));
//!
//! let (mut dgate, mut dup) = ([0.0f32; 6], [0.0f32; 6]);
//! let pass = Backward::new([2, 3], Activation::DRelu, &[1.0; 6], &gate, &up, &mut dgate, &mut dup);
//! Cpu.run(pass.mask(&mask))?;
//! assert_eq!((dgate[0], dup[0]), (2.0, 1.0));
//! assert_eq!((dgate[3], dup[3], dgate[2]), (0.5, 3.0, 0.0));
//! # Ok::<(), twofour::Error>(())
//! ```
//!
//! # Decode
//!
//! A feed-forward of one token reads three weights and does little with them: its time is that of their bytes. Of a
//! neuron that is off, up's row is not needed where the gate says so, nor down's. [`Decode`] makes all gates, up for
//! neurons whose gate is on for a token, and adds up rows of down of those that are on: exact, and without a predictor.
//! [`Plan::decode`] has it in one call, and `examples/relu_decode` in figures.
//!
//! Rows are of a neuron each, `[f, d]` ([`Neurons`]): a stock down projection `[d, f]` is transposed once. Each of the three
//! weights is dense or 2:4 along its rows, which for gate and up is the sum's own direction, as masks are learnt, and for
//! down is along its outputs. Down that is 2:4 along its own sum is refused ([`Axis`]): four neurons share a group there, so
//! at a tenth on it would be 0.39 bytes an element for 0.20 of dense rows.
//!
//! Bytes read, in those of all three dense weights, with gates on for a share `p` of neurons, and `q` on altogether:
//! `(1 + p + q)/3`; of 2:4 weights in 16 bits 9/16 of that. With a mask that is given, as a predictor makes it, gates too are
//! read of its neurons alone. Several tokens read rows of neurons that are on for any of them:
//!
//! | tokens | a tenth on, each by itself | read, gates on for a third |
//! | --- | --- | --- |
//! | 1 | 10 % | 47 % |
//! | 2 | 19 % | 57 % |
//! | 4 | 34 % | 71 % |
//! | 8 | 57 % | 84 % |
//!
//! So a [`Plan`] skips up to 7 tokens, and reads whole weights for 8 and for SwiGLU; for more use products of whole weights
//! ([`sparse`](crate::sparse)) and [`Forward`]. It is of no use where most neurons are on, nor where something else than
//! the weights takes the time. A model whose activation was SwiGLU must be trained to another first.
//!
//! Measured on two cores (Zen 4) by `cargo run --release --example relu_decode`, medians of one run: `[4096, 11008]` in
//! `bf16`, one token, a tenth of the neurons on. All rows 7.1 ms (38 GB/s); 2:4 weights 1.5 times as fast; skipping 2.0
//! times; skipping on 2:4 weights 2.8 times; with a mask that is given 8.5 times on either.
//!
//! On a device a decode is three kernels: gates, up, down. Each counts the neurons that the one before it left on in shared
//! memory, and takes an even share of them by rank, so that it does not matter where they are; nothing is read back, so a
//! graph can hold it. Sums are `f32` in an order that which neurons are on decides, and no split or schedule. Gates are not
//! rounded before they are compared, where a product of its own would round them to 16 bits: neurons at an edge may be on
//! here and off there. A sum is within `n·u/(1 − n·u)` times its terms' magnitudes of the exact one, `u = 2⁻²⁴`, n its
//! terms.
//!
//! ```
//! use twofour::glu::{Activation, FeedForward, Neurons, Plan};
//! use twofour::{Cpu, Executor, bf16};
//!
//! // Two neurons of width 2, of which the second's gate is off: its rows of up and down are not read.
//! let of = |weights: [f32; 4]| weights.map(bf16::from_f32);
//! let (gate, up, down) = (of([1.0, 1.0, -1.0, -1.0]), of([2.0, 0.0, 9.0, 9.0]), of([1.0, -1.0, 9.0, 9.0]));
//! let weights = FeedForward::new([2, 2], Neurons::dense(&gate), Neurons::dense(&up), Neurons::dense(&down));
//! let plan = Plan::new(1, weights.size(), Activation::DRelu)?;
//! let mut scratch = Cpu.scratch(&plan)?;
//! let (x, mut y, mut rows) = ([bf16::ONE; 2], [bf16::ZERO; 2], [0; 3]);
//! let pass = plan.decode(&weights, Activation::DRelu, &x, &mut y, &mut scratch);
//! Cpu.run(pass.rows(&mut rows))?;
//! assert_eq!(y.map(bf16::to_f32), [4.0, -4.0]);
//! assert_eq!((rows, weights.bytes([2, 1, 1])), ([2, 1, 1], 16));
//! # Ok::<(), twofour::Error>(())
//! ```

use crate::check::{finite, length, not_negative};
use crate::element::Float;
use crate::error::{Error, Result, unsupported};
use crate::space::Array;

mod backward;
mod bounds;
mod cpu;
mod decode;
mod forward;
mod launch;
mod neurons;
mod plan;
mod scratch;

pub use crate::element::Factor;
pub use backward::Backward;
pub use decode::Decode;
pub use forward::Forward;
pub use launch::MAX_NEURONS;
pub use neurons::{Axis, FeedForward, Neurons};
pub use plan::{Plan, Route};
pub use scratch::Scratch;

/// The most tokens of a decode.
pub const MAX_TOKENS: usize = 8;

/// What is made of gate and up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `SiLU(g) u`.
    SwiGlu,
    /// `g u` where both are above zero.
    DRelu,
    /// `g u` where the gate is above zero.
    ReGlu,
    /// `g u` where the gate is not below a threshold.
    FatRelu(f32),
    /// `SiLU(g) u` where the magnitude of the first is above a threshold.
    Cats(f32),
}

impl Activation {
    fn check(self) -> Result<()> {
        match self {
            Self::FatRelu(threshold) => finite("threshold", threshold),
            Self::Cats(threshold) => not_negative("threshold", threshold),
            Self::SwiGlu | Self::DRelu | Self::ReGlu => Ok(()),
        }
    }
}

/// How gate and up lie in one array `[T, 2f]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Joined {
    /// A row is f of gate, then f of up.
    Halves,
    /// A row is f pairs of gate and up.
    Pairs,
}

/// Words of a row's mask of so many neurons.
#[must_use]
pub const fn words(neurons: usize) -> usize {
    neurons.div_ceil(32)
}

/// Elements of `[T, f]`, twice which fit the address space and whose columns 32 bits do.
fn elements<L: Float>(tokens: usize, neurons: usize) -> Result<usize> {
    let most = isize::MAX as usize / 2 / size_of::<L>();
    match tokens.checked_mul(neurons).filter(|&elements| elements <= most) {
        Some(elements) if neurons <= 1 << 30 => Ok(elements),
        _ => Err(Error::Overflow { what: "neurons", rows: tokens as u64, cols: neurons as u64 }),
    }
}

/// Checks the length of a mask.
fn mask<A: Array>(what: &'static str, mask: Option<&A>, tokens: usize, neurons: usize) -> Result<()> {
    length(what, mask, tokens * words(neurons))
}

/// Checks that a decode has few tokens.
fn tokens(tokens: usize) -> Result<()> {
    if tokens <= MAX_TOKENS {
        return Ok(());
    }
    let because = "most neurons are on for one of them: multiply by whole weights, and see `glu::Forward`";
    Err(unsupported("decode of more than 8 tokens", because))
}
