//! Decode as it is timed: dReLU, a third of whose gates are on and a tenth of whose neurons.

use super::{Op, Result, Run, data};
use twofour::compress::{Compressed, Layout};
use twofour::glu::{Activation, Axis, FeedForward, Neurons, Plan, Route, Scratch, words};
use twofour::{Executor, Shape, bf16};

/// Which rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// All.
    Whole,
    /// All gates, and of neurons that are on.
    Skip,
    /// Of neurons that are on, by a mask that is given.
    Given,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub reads: Reads,
    /// 2:4 weights.
    pub kept: bool,
    pub tokens: usize,
    pub width: usize,
    pub neurons: usize,
}

impl Case {
    /// `decode/skip/2:4/1x4096x11008`.
    pub fn name(&self) -> String {
        let Self { tokens, width, neurons, .. } = self;
        let (reads, form) = (format!("{:?}", self.reads).to_lowercase(), if self.kept { "2:4" } else { "dense" });
        format!("decode/{reads}/{form}/{tokens}x{width}x{neurons}")
    }

    /// Gates, up and down that are read for one token, in hundredths of all.
    const fn shares(&self) -> [u64; 3] {
        match self.reads {
            Reads::Whole => [100, 100, 100],
            Reads::Skip => [100, 32, 10],
            Reads::Given => [10, 10, 10],
        }
    }
}

impl Op for Case {
    type On<E: Executor + 'static> = Operands<E>;

    /// Those of one token's rows.
    fn bytes(&self) -> u64 {
        let [gate, up, down] = self.shares();
        let rows = (gate + up + down) * self.neurons as u64 / 100;
        let row = 2 * self.width as u64;
        rows * if self.kept { row / 2 + row / 16 } else { row }
    }

    fn ready<E: Executor + 'static>(&self, on: &mut E, set: usize) -> Result<Operands<E>> {
        let &Case { tokens, width, neurons, .. } = self;
        let x = data::normal::<bf16>(tokens * width, 1.0, 4 * set);
        let (mut values, mut codes) = (Vec::new(), Vec::new());
        for which in 0..3 {
            let mut weight = data::normal::<bf16>(width * neurons, 0.02, 4 * set + 1 + which);
            for (neuron, row) in weight.chunks_mut(width).enumerate().filter(|_| which < 2) {
                // A third, each by itself.
                let wanted = (neuron * [7, 11][which] + neuron / 50) % 100 < 32;
                let product: f32 = row.iter().zip(&x).map(|(weight, x)| weight.to_f32() * x.to_f32()).sum();
                if (product > 0.0) != wanted {
                    row.iter_mut().for_each(|weight| *weight = -*weight);
                }
            }
            if self.kept {
                let weight = Compressed::by_magnitude(Shape::new(neurons, width), &weight)?;
                values.push(on.upload(weight.values())?);
                codes.push(on.upload(&weight.metadata(Layout::Plain)?)?);
            } else {
                values.push(on.upload(&weight)?);
            }
        }
        let route = if self.reads == Reads::Whole { Route::Whole } else { Route::Skip };
        let plan = Plan::new(tokens, [width, neurons], Activation::DRelu)?.with_route(route);
        let (x, y, mask) = (on.upload(&x)?, on.zeros(tokens * width)?, on.zeros(tokens * words(neurons))?);
        let scratch = on.scratch(&plan)?;
        let mut operands = Operands { case: *self, plan, values, codes, x, y, mask, scratch, given: false };
        operands.run(on, 0)?;
        operands.given = self.reads == Reads::Given;
        Ok(operands)
    }
}

pub struct Operands<E: Executor> {
    case: Case,
    plan: Plan<bf16>,
    values: Vec<E::Buffer<bf16>>,
    codes: Vec<E::Buffer<u8>>,
    x: E::Buffer<bf16>,
    y: E::Buffer<bf16>,
    mask: E::Buffer<u32>,
    scratch: Scratch<E>,
    /// Whether the mask is read, or written.
    given: bool,
}

impl<E: Executor> Run<E> for Operands<E> {
    fn run(&mut self, on: &mut E, _: u64) -> twofour::Result<()> {
        let of = |which: usize| match self.codes.get(which) {
            Some(codes) => Neurons::kept(Axis::Width, E::input(&self.values[which]), E::input(codes)),
            None => Neurons::dense(E::input(&self.values[which])),
        };
        let weights = FeedForward::new([self.case.width, self.case.neurons], of(0), of(1), of(2));
        let (x, y) = (E::input(&self.x), E::output(&mut self.y));
        let pass = self.plan.decode(&weights, Activation::DRelu, x, y, &mut self.scratch);
        let mask = &mut self.mask;
        on.run(if self.given { pass.given(E::input(mask)) } else { pass.mask(E::output(mask)) })
    }
}
