//! A product of few tokens with its operands, its run in the emulator, and what it must give.

use crate::common::data::normal;
use crate::common::executor::{SMALL, emulate, forward_emulated};
use crate::common::{ForwardCase, Wants, convert, rounding};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::mask::{Kind, Sampling, cpu};
use twofour::matmul::Problem;
use twofour::matmul::small::{Small, Source, partial_bytes};
use twofour::{Float, Logit, Pattern, Shape, Shard};
use twofour_emulator::{Buffer, Schedule};

/// Where the mask comes from: with the types of logits and weights it names the kernel, but for the number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    Soft,
    Hard,
    Argmax,
    Codes,
}

impl Mask {
    pub(crate) const ALL: [Self; 4] = [Self::Soft, Self::Hard, Self::Argmax, Self::Codes];

    fn kind(self) -> Kind {
        match self {
            Self::Soft => Kind::Soft,
            Self::Hard => Kind::Hard,
            Self::Argmax | Self::Codes => Kind::Argmax,
        }
    }
}

/// Everything of a case but its operands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) tokens: usize,
    pub(crate) shape: Shape,
    pub(crate) shard: Shard,
    pub(crate) mask: Mask,
    pub(crate) sampling: Sampling,
    pub(crate) splits: u32,
    /// Seed of the operands.
    pub(crate) data: u64,
}

impl Spec {
    pub(crate) fn new(tokens: usize, rows: usize, cols: usize, mask: Mask) -> Self {
        Self {
            tokens,
            shape: Shape::new(rows, cols),
            shard: Shard::whole(cols as u64),
            mask,
            sampling: Sampling { seed: 42, draw: 7, kappa: 3.0, tau: 0.7 },
            splits: 1,
            data: 1,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        Problem::new(self.tokens, self.shape)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Case<L, W> {
    pub(crate) spec: Spec,
    pub(crate) logits: Vec<L>,
    pub(crate) codes: Vec<u8>,
    pub(crate) weight: Vec<W>,
    pub(crate) x: Vec<W>,
}

impl<L: Logit, W: Float> Case<L, W> {
    /// With normal operands.
    pub(crate) fn new(spec: Spec) -> Self {
        let mut rng = StdRng::seed_from_u64(spec.data);
        let shape = spec.shape;
        let code = |rng: &mut StdRng| Pattern::ALL[rng.random_range(0..6)].code();
        Self {
            spec,
            logits: convert(&normal(&mut rng, shape.logits(), 1.0, &[])),
            codes: (0..shape.packed_codes()).map(|_| code(&mut rng) | code(&mut rng) << 4).collect(),
            weight: convert(&normal(&mut rng, shape.weights(), 0.5, &[])),
            x: convert(&normal(&mut rng, spec.problem().inputs(), 1.0, &[])),
        }
    }

    /// With weights and tokens from -2 to 2: sums of few are exact.
    pub(crate) fn integers(spec: Spec) -> Self {
        let mut case = Self::new(spec);
        let mut rng = StdRng::seed_from_u64(spec.data + 1);
        for value in case.weight.iter_mut().chain(&mut case.x) {
            *value = W::from_f32(rng.random_range(-2..=2) as f32);
        }
        case
    }

    /// `W∘M`. Choices are the CPU's, to the bit; soft masks the emulated mask kernel's, whose exponentials are the same.
    pub(crate) fn masked(&self) -> Vec<W> {
        let Spec { shape, shard, mask, sampling, .. } = self.spec;
        let (kind, logits, weight) = (mask.kind(), self.logits.clone(), Some(self.weight.clone()));
        match mask {
            Mask::Codes => self.kept_by_codes(),
            Mask::Soft => {
                let case = ForwardCase {
                    shape,
                    shard,
                    kind,
                    sampling,
                    logits,
                    weight,
                    previous_codes: None,
                    wants: Wants::MASKED,
                };
                forward_emulated(&case, Schedule::RoundRobin, &SMALL).masked.unwrap()
            }
            Mask::Hard | Mask::Argmax => {
                let mut masked = vec![W::from_f32(f32::NAN); shape.weights()];
                let args = cpu::Forward::new(shape, kind, sampling, &self.logits).shard(shard);
                cpu::forward_into(args.weight(&self.weight).masked(&mut masked)).unwrap();
                masked
            }
        }
    }

    fn kept_by_codes(&self) -> Vec<W> {
        let value = |(i, &weight): (usize, &W)| {
            let code = self.codes[i / 8] >> (i / 4 % 2 * 4) & 15;
            let (first, second) = (usize::from(code & 3), usize::from(code >> 2));
            match i % 4 {
                _ if first >= second => W::from_f32(f32::NAN),
                at if at == first || at == second => weight,
                _ => W::from_f32(0.0),
            }
        };
        self.weight.iter().enumerate().map(value).collect()
    }

    /// Runs it in the emulator: `Y` if the sum over K is whole, else its parts `[splits, T, N]`.
    pub(crate) fn run(&self, schedule: Schedule) -> Outputs<W> {
        let Spec { shard, mask, sampling, splits, .. } = self.spec;
        let problem = self.spec.problem();
        let [x, weight] = [("x", &self.x), ("weight", &self.weight)].map(|(name, values)| input(name, values));
        let (logits, codes) = (input("logits", &self.logits), input("codes", &self.codes));
        let y = Buffer::output::<u8>("y", problem.outputs() * size_of::<W>()).unwrap();
        let partial = Buffer::output::<u8>("partial", partial_bytes(problem, splits)).unwrap();
        let source = match mask {
            Mask::Codes => Source::Codes { address: codes.address() },
            _ => Source::Sampled { kind: mask.kind(), sampling, logits: L::DTYPE, address: logits.address() },
        };
        let small = Small {
            problem,
            shard,
            source,
            dtype: W::DTYPE,
            x: x.address(),
            weight: weight.address(),
            y: y.address(),
            partial: partial.address(),
            splits,
        };
        emulate(&small.launch().unwrap(), schedule);
        if splits > 1 { Outputs::Parts(read(&partial)) } else { Outputs::Whole(read(&y)) }
    }

    /// Compares outputs with the product in `f64`, which they must meet within the errors of sums in `f32`: tensor cores
    /// truncate, so each addition errs by up to 2⁻²³ of the terms' magnitudes, whatever the order (Higham, section 3.5).
    pub(crate) fn compare(&self, outputs: &Outputs<W>) {
        let [tokens, rows, cols] = [self.spec.tokens, self.spec.shape.rows, self.spec.shape.cols];
        let masked = wide(&self.masked());
        let x = wide(&self.x);
        let splits = self.spec.splits as usize;
        let error = (cols + splits) as f64 * 2f64.powi(-23);
        for at in 0..tokens * rows {
            let (token, row) = (at / rows, at % rows);
            let terms = || x[token * cols..][..cols].iter().zip(&masked[row * cols..][..cols]).map(|(x, w)| x * w);
            let (sum, size) = terms().fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let bound = error / (1.0 - error) * size;
            let (got, bound) = match outputs {
                Outputs::Whole(y) => (f64::from(y[at].to_f32()), bound + rounding::<W>(sum.abs() + bound)),
                Outputs::Parts(parts) => {
                    ((0..splits).map(|split| f64::from(parts[split * tokens * rows + at])).sum::<f64>(), bound)
                }
            };
            let same = got == sum || got.is_nan() && sum.is_nan() || (got - sum).abs() <= bound;
            assert!(same, "y[{token}, {row}] is {got}, expected {sum} within {bound:e}: {:?}", self.spec);
        }
    }

    /// Runs it and compares.
    pub(crate) fn check(&self, schedule: Schedule) {
        self.compare(&self.run(schedule));
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outputs<W> {
    Whole(Vec<W>),
    Parts(Vec<f32>),
}

fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| f64::from(value.to_f32())).collect()
}

fn input<T: bytemuck::Pod>(name: &str, values: &[T]) -> Buffer {
    Buffer::input(name, bytemuck::cast_slice::<T, u8>(values)).unwrap()
}

fn read<T: bytemuck::Pod>(buffer: &Buffer) -> Vec<T> {
    buffer.values::<u8>().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}
