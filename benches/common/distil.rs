//! The `distil` op as it is timed.

use super::{At, Op, Result, Run, Timed, data};
use std::marker::PhantomData;
use twofour::distil::{Distil, Divergence, SquareHead, Tail, TopK};
use twofour::{Cpu, DType, Executor, Float, bf16, f16};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Loss and gradient of labels alone.
    Labels,
    /// Of forward divergence from a teacher's logits.
    Forward,
    /// Of reverse divergence.
    Reverse,
    /// Of Jensen and Shannon's.
    Jsd,
    /// Of forward divergence from a top-k teacher with one bucket for the others.
    Known,
    /// Makes such a teacher.
    TopK,
    /// Loss and gradient of hidden states.
    SquareHead,
}

/// Tokens that a top-k teacher knows.
pub const K: usize = 64;

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub does: Does,
    pub dtype: DType,
    pub rows: usize,
    pub vocab: usize,
}

impl Case {
    pub fn elements(&self) -> u64 {
        (self.rows * self.vocab) as u64
    }

    /// The least number of bytes a run moves, what is overwritten twice.
    pub fn bytes(&self) -> u64 {
        let times = match self.does {
            Does::Labels | Does::Known => 2,
            Does::TopK => 1,
            Does::Forward | Does::Reverse | Does::Jsd | Does::SquareHead => 3,
        };
        times * self.elements() * self.dtype.size() as u64
    }

    /// `forward/f32/512x49152`.
    pub fn name(&self) -> String {
        let does = match self.does {
            Does::TopK => "top_k".to_owned(),
            does => format!("{does:?}").to_lowercase(),
        };
        format!("{does}/{}/{}x{}", self.dtype, self.rows, self.vocab)
    }
}

/// A case, ready to run.
pub fn ready(case: Case, at: impl At) -> Result<Box<dyn Timed>> {
    match case.dtype {
        DType::F32 => at.ready(&Typed::<f32>(case, PhantomData)),
        DType::F16 => at.ready(&Typed::<f16>(case, PhantomData)),
        DType::Bf16 => at.ready(&Typed::<bf16>(case, PhantomData)),
        other => Err(format!("{other} logits are not timed").into()),
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
        let Case { does, rows, vocab, .. } = self.0;
        let teacher = data::normal::<L>(rows * vocab, 2.0, 2 * set + 1);
        let k = K.min(vocab);
        let (mut tokens, mut log_probs) = (vec![0; rows * k], vec![0.0; rows * k]);
        if does == Does::Known {
            Cpu.run(TopK::new(rows, vocab, k, &teacher, &mut tokens, &mut log_probs))?;
        }
        Ok(Operands {
            case: self.0,
            student: on.upload(&data::normal::<L>(rows * vocab, 2.0, 2 * set))?,
            teacher: on.upload(&teacher)?,
            loss: on.zeros(if does == Does::SquareHead { 1 } else { rows })?,
            labels: on.upload(&(0..rows).map(|row| (row * 97 % vocab) as u32).collect::<Vec<_>>())?,
            tokens: on.upload(&tokens)?,
            log_probs: on.upload(&log_probs)?,
            workspace: on.workspace(SquareHead::workspace_bytes())?,
        })
    }
}

/// The student's logits become their gradient, and the next run's logits: what they are changes no time.
struct Operands<E: Executor, L: Float> {
    case: Case,
    student: E::Buffer<L>,
    teacher: E::Buffer<L>,
    loss: E::Buffer<f32>,
    labels: E::Buffer<u32>,
    tokens: E::Buffer<u32>,
    log_probs: E::Buffer<f32>,
    workspace: Option<E::Buffer<u8>>,
}

impl<E: Executor, L: Float> Run<E> for Operands<E, L> {
    fn run(&mut self, on: &mut E, _: u64) -> twofour::Result<()> {
        let Case { does, rows, vocab, .. } = self.case;
        let k = K.min(vocab);
        let (student, teacher) = (E::output(&mut self.student), E::input(&self.teacher));
        let divergence = match does {
            Does::TopK => {
                let (tokens, log_probs) = (E::output(&mut self.tokens), E::output(&mut self.log_probs));
                return on.run(TopK::new(rows, vocab, k, teacher, tokens, log_probs));
            }
            Does::SquareHead => {
                let pass = SquareHead::new(rows * vocab, student, teacher, E::output(&mut self.loss));
                return match self.workspace.as_mut().map(E::output) {
                    Some(workspace) => on.run(pass.workspace(workspace)),
                    None => on.run(pass),
                };
            }
            Does::Labels | Does::Known => None,
            Does::Forward => Some(Divergence::Forward),
            Does::Reverse => Some(Divergence::Reverse),
            Does::Jsd => Some(Divergence::Jsd(0.5)),
        };
        let pass = Distil::gradient(rows, vocab, student, E::output(&mut self.loss)).scale(1.0 / rows as f32);
        on.run(match divergence {
            Some(by) => pass.teacher(by, 1.0, teacher),
            None if does == Does::Known => {
                pass.top_k(k, Tail::Lumped, 1.0, E::input(&self.tokens), E::input(&self.log_probs))
            }
            None => pass.labels(1.0, E::input(&self.labels)),
        })
    }
}
