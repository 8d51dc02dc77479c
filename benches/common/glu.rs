//! The `glu` op as it is timed.

use super::{At, Op, Result, Run, Timed, data};
use std::marker::PhantomData;
use twofour::glu::{Activation, Backward, Forward, words};
use twofour::{DType, Executor, Float, bf16, f16};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// h and the mask.
    Forward,
    /// Both gradients, by the mask.
    Backward,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub does: Does,
    pub activation: Activation,
    pub dtype: DType,
    pub tokens: usize,
    pub neurons: usize,
}

impl Case {
    /// The least number of bytes a run moves, were every neuron looked at; the mask among them.
    pub fn bytes(&self) -> u64 {
        let times = match self.does {
            Does::Forward => 3,
            Does::Backward => 5,
        };
        let elements = self.tokens * self.neurons;
        (times * elements * self.dtype.size() + 4 * self.tokens * words(self.neurons)) as u64
    }

    /// `forward/drelu/bf16/512x11008`.
    pub fn name(&self) -> String {
        let [does, by] = [format!("{:?}", self.does), format!("{:?}", self.activation)].map(|of| of.to_lowercase());
        format!("{does}/{by}/{}/{}x{}", self.dtype, self.tokens, self.neurons)
    }
}

/// A case, ready to run.
pub fn ready(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    match case.dtype {
        DType::F32 => at.ready(&Typed::<f32>(case, PhantomData)),
        DType::F16 => at.ready(&Typed::<f16>(case, PhantomData)),
        DType::Bf16 => at.ready(&Typed::<bf16>(case, PhantomData)),
        other => Err(format!("{other} activations are not timed").into()),
    }
}

/// A case with its type.
struct Typed<L>(Case, PhantomData<L>);

impl<L: Float> Op for Typed<L> {
    type On<E: Executor + 'static> = Operands<E, L>;

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Operands<E, L>> {
        let Case { activation, tokens, neurons, .. } = self.0;
        let shape = [tokens, neurons];
        let [gate, up, dh] = [0, 1, 2].map(|one| data::normal::<L>(tokens * neurons, 1.0, 3 * set + one));
        let [gate, up, dh] = [on.upload(&gate)?, on.upload(&up)?, on.upload(&dh)?];
        let [mut h, to] = [on.zeros(tokens * neurons)?, on.zeros(tokens * neurons)?];
        let mut mask = on.zeros(tokens * words(neurons))?;
        let pass = Forward::new(shape, activation, E::input(&gate), E::input(&up), E::output(&mut h));
        on.run(pass.mask(E::output(&mut mask)))?;
        Ok(Operands { case: self.0, gate, up, dh, h, to, mask })
    }
}

struct Operands<E: Executor, L: Float> {
    case: Case,
    gate: E::Buffer<L>,
    up: E::Buffer<L>,
    dh: E::Buffer<L>,
    h: E::Buffer<L>,
    to: E::Buffer<L>,
    mask: E::Buffer<u32>,
}

impl<E: Executor, L: Float> Run<E> for Operands<E, L> {
    fn run(&mut self, on: &mut E, _: u64) -> twofour::Result<()> {
        let Case { does, activation, tokens, neurons, .. } = self.case;
        let (gate, up, h) = (E::input(&self.gate), E::input(&self.up), E::output(&mut self.h));
        match does {
            Does::Forward => {
                let pass = Forward::new([tokens, neurons], activation, gate, up, h);
                on.run(pass.mask(E::output(&mut self.mask)))
            }
            Does::Backward => {
                let (dh, to) = (E::input(&self.dh), E::output(&mut self.to));
                let pass = Backward::new([tokens, neurons], activation, dh, gate, up, h, to);
                on.run(pass.mask(E::input(&self.mask)))
            }
        }
    }
}
