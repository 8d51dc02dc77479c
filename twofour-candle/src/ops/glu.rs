//! Gated activations as candle's operation.

use candle_core::{Result, Tensor};
use twofour::glu::{Activation, Backward, Forward};
use twofour::space::Space;

use super::custom::{Custom, Op};
use crate::engine::Engine;
use crate::number::{Number, ready, with_weight};
use crate::place::{Operand, Place};

/// `a(gate) ⊙ b(up)` of two tensors of one shape, `[.., f]`, of `f32`, `f16` or `bf16`; see [`twofour::glu`]. Of a neuron
/// that is off both gradients are exactly 0.
///
/// # Errors
/// Shapes, types or devices that do not fit; a threshold that is none.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use twofour::glu::Activation;
/// use twofour_candle::{Engine, ops};
///
/// # fn main() -> candle_core::Result<()> {
/// let gate = Var::new(&[1_f32, -2.0, 3.0], &Device::Cpu)?;
/// let up = Var::new(&[2_f32, 5.0, -1.0], &Device::Cpu)?;
/// let h = ops::glu(&gate, &up, Activation::DRelu, &Engine::default())?;
/// assert_eq!(h.to_vec1::<f32>()?, [2.0, 0.0, 0.0]);
/// let gradients = h.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&gate).unwrap().to_vec1::<f32>()?, [2.0, 0.0, 0.0]);
/// # Ok(())
/// # }
/// ```
pub fn glu(gate: &Tensor, up: &Tensor, activation: Activation, engine: &Engine) -> Result<Tensor> {
    super::same_device([gate, up, up])?;
    if gate.dims() != up.dims() || gate.dtype() != up.dtype() {
        let ([g, u], [of_gate, of_up]) = ([gate.dims(), up.dims()], [gate.dtype(), up.dtype()]);
        candle_core::bail!("the gate is {g:?} {of_gate:?}, and up {u:?} {of_up:?}: they must be alike")
    }
    ready(gate)?.apply_op2(&ready(up)?, Custom(Glu { activation, engine: engine.clone() }))
}

/// Rows, and neurons of each.
fn rows(dims: &[usize]) -> [usize; 2] {
    let neurons = dims.last().copied().unwrap_or(1);
    [dims.iter().product::<usize>().checked_div(neurons).unwrap_or(0), neurons]
}

/// h of `(gate, up)`.
struct Glu {
    activation: Activation,
    engine: Engine,
}

impl Op<2> for Glu {
    const NAME: &'static str = "twofour gated activation";

    fn forward<P: Place>(&self, [gate, up]: [Operand<'_, P>; 2]) -> Result<(P::Storage, candle_core::Shape)> {
        let h = with_weight!(gate.dtype(), <W> self.make::<P, W>(gate, up))?;
        Ok((h, gate.shape().clone()))
    }

    fn backward(&self, [gate, up]: [&Tensor; 2], dh: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let of = |to: &Tensor, of_gate| {
            let op = Gradient { of_gate, activation: self.activation, engine: self.engine.clone() };
            let gradient = || gate.apply_op3_no_bwd(up, &ready(dh)?, &Custom(op));
            if to.track_op() { gradient().map(Some) } else { Ok(None) }
        };
        Ok([of(gate, true)?, of(up, false)?])
    }
}

impl Glu {
    fn make<P: Place, W: Number>(&self, gate: Operand<'_, P>, up: Operand<'_, P>) -> Result<P::Storage> {
        let shape = rows(gate.shape().dims());
        let (of_gate, of_up) = (gate.elements::<W>()?, up.elements::<W>()?);
        P::made::<W>(&self.engine, gate.device(), shape[0] * shape[1], |on, h| {
            let (gate, up) = (P::Space::share(&of_gate), P::Space::share(&of_up));
            on.run(Forward::new(shape, self.activation, gate, up, P::output(h)))
        })
    }
}

/// Of `(gate, up, dh)` one of the two gradients, which are made together: candle takes one result of an operation.
struct Gradient {
    of_gate: bool,
    activation: Activation,
    engine: Engine,
}

impl Op<3> for Gradient {
    const NAME: &'static str = "twofour gated activation, gradient";

    fn forward<P: Place>(&self, operands: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let shape = operands[0].shape().clone();
        Ok((with_weight!(operands[0].dtype(), <W> self.make::<P, W>(operands))?, shape))
    }
}

impl Gradient {
    fn make<P: Place, W: Number>(&self, operands: [Operand<'_, P>; 3]) -> Result<P::Storage> {
        let shape = rows(operands[0].shape().dims());
        let [gate, up, dh] = operands;
        let (of_gate, of_up, dh) = (gate.elements::<W>()?, up.elements::<W>()?, dh.elements::<W>()?);
        P::made::<W>(&self.engine, gate.device(), shape[0] * shape[1], |on, made| {
            let mut other = on.unset::<W>(shape[0] * shape[1])?;
            let (gate, up) = (P::Space::share(&of_gate), P::Space::share(&of_up));
            let [dgate, dup] = if self.of_gate { [made, &mut other] } else { [&mut other, made] }.map(P::output);
            on.run(Backward::new(shape, self.activation, P::Space::share(&dh), gate, up, dgate, dup))
        })
    }
}
