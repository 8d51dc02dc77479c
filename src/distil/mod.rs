//! Distillation: rows of student and teacher logits to a loss and its gradient, and losses of hidden states.
//!
//! A pruned model learns more from a teacher's whole distribution than from the one token that came next. A model whose
//! masks are being learnt has a teacher at no cost: itself, dense. The weights are frozen and in memory, so the teacher
//! is one more forward pass with the mask off (`Mode::Dense` of twofour-candle), and no second model.
//!
//! | what | how |
//! | --- | --- |
//! | loss and gradient, in place of the student's logits | [`Distil::gradient`] |
//! | the loss alone | [`Distil::loss`] |
//! | a teacher's logits, and which divergence from them | [`Distil::teacher`], [`Divergence`] |
//! | the k likeliest tokens of a teacher that is not there | [`TopK`] makes them, [`Distil::top_k`] takes them |
//! | cross-entropy with labels, beside a teacher or alone | [`Distil::labels`] |
//! | hidden states | [`SquareHead`] |
//!
//! # The loss of a row
//!
//! With student logits `s` and teacher logits `t` of a row, `V` of them, temperature T, `p = softmax(s/T)`,
//! `q = softmax(t/T)`, natural logarithms, weight w of the row and label y:
//!
//! ```text
//! loss = w (T² D + λ C)        C = −ln softmax(s)_y
//! ```
//!
//! | [`Divergence`] | D | gradient of `T² D` to `s_v` |
//! | --- | --- | --- |
//! | `Forward` | `Σ q (ln q − ln p)` | `T (p_v − q_v)` |
//! | `Reverse` | `Σ p (ln p − ln q)` | `T p_v (ln p_v − ln q_v − D)` |
//! | `Jsd(β)` | `β Σ q ln(q/m) + (1−β) Σ p ln(p/m)`, `m = β q + (1−β) p` | `T (1−β) p_v (ln(p_v/m_v) − Σ p ln(p/m))` |
//!
//! The gradient of C is `softmax(s)_v − [v = y]`. What is written is the gradient of the loss times
//! [`Distil::scale`]: 1 over the rows of a batch makes it that of the mean, over all micro-batches alike. A loss is not
//! scaled. With T² gradients keep their size whatever T is (Hinton et al. 2015, arXiv 1503.02531).
//!
//! `Jsd` is the form of Liger-Kernel: β = 0 is `Forward` and β = 1 is `Reverse`, though the formula's own limits are 0.
//! Minitron (Muralidharan et al. 2024, arXiv 2407.14679) distils by forward divergence alone, without C; AST (Huang et
//! al. 2024, arXiv 2407.20584), which trains 2:4 models, by forward divergence with T = 2, C, and if wanted
//! [`SquareHead`]. MaskLLM has no teacher, C alone.
//!
//! # What a row may hold
//!
//! - **−∞, in student or teacher: probability 0**, as a padded vocabulary has it. Where both are 0, nothing is added
//!   and the gradient is 0. A probability that underflows (below e⁻⁸⁷ of the row's largest) counts as 0 too.
//! - **The student has 0 where the teacher has not**: forward divergence is +∞, its gradient is by its formula, finite.
//!   So is C of a label with probability 0. **The teacher has 0 where the student has not**: reverse divergence is +∞
//!   and the row's gradient NaN. `Jsd` with 0 < β < 1 is finite everywhere.
//! - **NaN, +∞, or −∞ alone**, in student or teacher: loss and gradient of the row are NaN. Other rows do not mind.
//! - **Weight 0: the row is not looked at.** Its loss is 0, its gradient zeros, whatever it holds, label and tokens among
//!   it. A weight of NaN makes its row NaN, a negative one turns the gradient round.
//! - **The label that is ignored** ([`Distil::ignored`]): no C, its loss and gradient are 0. The teacher counts all the
//!   same.
//! - **A label or a teacher's token beyond the vocabulary**, or a token twice, is an error on the CPU, before anything
//!   is written. On a device, which nobody looks at, such a row's loss and gradient are NaN (with a token that comes
//!   twice, wrong), and nothing beyond the row is read or written.
//!
//! Logits are of magnitudes up to 1e28: differences of them are summed in `f32`. Gradients of 16-bit logits are rounded
//! once, and those too small for the type are 0: in `f16` that is below 6e-8, so give it a scale of some thousands and
//! divide afterwards.
//!
//! # Top-k teachers
//!
//! k log-probabilities a row are a few hundred bytes where logits are a hundred thousand, so a teacher can be run once
//! and kept. What is known of the other tokens is the mass that is left, `1 − Σ q`:
//!
//! | [`Tail`] | meaning | gradient of the others |
//! | --- | --- | --- |
//! | `Renormalised` | there is none: q over the k is made to sum to 1 | `T p_v` |
//! | `Lumped` | one bucket: the student's mass of all others against the teacher's | `T p_v (1 − q_rest/p_rest)` |
//!
//! Log-probabilities are those at the temperature of the loss, in any order. Divergence is forward. A rest below 2⁻²⁰
//! is the rounding of the k, and none. The rest of the student is summed over the others themselves, not subtracted
//! from 1.
//!
//! # Memory and executors
//!
//! Nothing of size `R x V` is allocated: the gradient takes the place of the student's logits, and the teacher is read.
//! A row is gone over twice, once for the largest logits and the sums and once to write (`Jsd` three times: its
//! gradient has a sum of logarithms of the sums); what the first sweep read, the second finds in a cache.
//!
//! [`Cpu`](crate::Cpu) gives the same bits whatever the number of threads and the processor's vectors: a row is one
//! thread's, its sums `f32` over 2048 logits and `f64` from there on. On a device a block goes over a row, so that
//! results do not depend on the grid (though, in their last bits, on where in 16 bytes a row begins); exponentials are
//! the hardware's, and results are those of the CPU but for rounding: losses to 1e-5 of the size of T² and of what is
//! summed, gradients to 1e-5 of themselves and a unit in the last place of the type they are written in. Where student
//! and teacher are equal to the bit, divergence and gradient are exactly 0 on every executor, T and the scale whatever
//! they are.
//!
//! ```
//! use twofour::distil::{Distil, Divergence};
//! use twofour::{Cpu, Executor};
//!
//! // Two tokens, a vocabulary of four, the last of which is padding.
//! let pad = f32::NEG_INFINITY;
//! let teacher = [2.0, 0.0, 1.0, pad, 0.0, 0.0, 3.0, pad];
//! let mut student = [1.0, 0.0, 1.0, pad, 0.0, 1.0, 0.0, pad];
//! let mut loss = [0.0; 2];
//! let pass = Distil::gradient(2, 4, &mut student, &mut loss).teacher(Divergence::Forward, 2.0, &teacher);
//! Cpu.run(pass.labels(0.5, &[0, 2]).scale(1.0 / 2.0))?;
//! assert!(loss[0] > 0.0 && loss[1] > loss[0]);
//! // Up where the teacher and the label are, against the gradient; the padding stays.
//! assert!(student[0] < 0.0 && student[6] < 0.0 && student[3] == 0.0);
//! # Ok::<(), twofour::Error>(())
//! ```

use crate::check::{finite, length, not_negative, scalar};
use crate::element::Float;
use crate::error::{Error, Result};
use crate::pass::{self, Binder, Checked, DeviceSpace, Pass, Queue};
use crate::sample::temperature;
use crate::space::{HostSpace, Input, Output, Space};

mod cpu;
mod launch;
mod squarehead;
mod top_k;

pub use squarehead::SquareHead;
pub use top_k::TopK;

/// The label that is ignored unless another is named: PyTorch's −100 as a `u32`.
pub const IGNORED: u32 = -100_i32 as u32;

/// How far the student is from the teacher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Divergence {
    /// KL(teacher ‖ student): the student is to have mass wherever the teacher has.
    Forward,
    /// KL(student ‖ teacher): the student is to have mass nowhere else.
    Reverse,
    /// Generalised Jensen-Shannon divergence of β from 0, which is `Forward`, to 1, which is `Reverse`.
    Jsd(f32),
}

impl Divergence {
    /// The ends of `Jsd` are the other two.
    fn plain(self) -> Self {
        match self {
            Self::Jsd(0.0) => Self::Forward,
            Self::Jsd(1.0) => Self::Reverse,
            other => other,
        }
    }
}

/// What becomes of the teacher's mass beyond its k tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tail {
    /// It is shared out among the k.
    Renormalised,
    /// It is one bucket.
    Lumped,
}

/// The student's logits.
#[derive(Debug)]
enum Student<R, M> {
    /// For the loss alone.
    Read(R),
    /// Overwritten by their gradient.
    Gradient(M),
}

/// What the student is to be like.
#[derive(Debug)]
enum Teacher<L, I, P> {
    None,
    Logits { by: Divergence, logits: L },
    TopK { k: usize, tail: Tail, tokens: I, log_probs: P },
}

type TeacherOf<'a, S, L> = Teacher<<S as Space>::Ref<'a, L>, <S as Space>::Ref<'a, u32>, <S as Space>::Ref<'a, f32>>;

/// Arguments of the loss of rows of logits, and of its gradient.
///
/// Shapes, row-major: student and teacher `[R, V]` of one type; loss, weights and labels `[R]`; of a top-k teacher
/// tokens and log-probabilities `[R, k]`. The loss, and with [`gradient`](Self::gradient) the student's logits, are
/// overwritten. V below 2³². On a device every operand starts on a 16-byte boundary.
///
/// # Errors
/// When run: [`Error::Overflow`], [`Error::Length`]; [`Error::Scalar`] for a temperature that is not positive and
/// finite (or so small that 1.4427/T overflows), a λ that is negative or not finite, a scale that is not finite, a β
/// outside of [0, 1], a k outside of [1, V]; [`Error::Missing`] without teacher and labels. On the CPU
/// [`Error::Token`] and [`Error::TokenTwice`]; on a device [`Error::Unsupported`] for a top-k teacher where V bits and
/// k numbers do not fit a block's shared memory (of an H200 V = 1.8 million).
#[derive(Debug)]
pub struct Distil<'a, S: Space, L: Float> {
    rows: usize,
    vocab: usize,
    student: Student<S::Ref<'a, L>, S::Mut<'a, L>>,
    loss: S::Mut<'a, f32>,
    teacher: TeacherOf<'a, S, L>,
    temperature: f32,
    labels: Option<S::Ref<'a, u32>>,
    lambda: f32,
    ignored: u32,
    weights: Option<S::Ref<'a, f32>>,
    scale: f32,
}

impl<'a, S: Space, L: Float> Distil<'a, S, L> {
    fn new(
        [rows, vocab]: [usize; 2],
        student: Student<S::Ref<'a, L>, S::Mut<'a, L>>,
        loss: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        Self {
            rows,
            vocab,
            student,
            loss: loss.output(),
            teacher: Teacher::None,
            temperature: 1.0,
            labels: None,
            lambda: 0.0,
            ignored: IGNORED,
            weights: None,
            scale: 1.0,
        }
    }

    /// The loss of each row, and its gradient in place of the student's logits.
    #[must_use]
    pub fn gradient(
        rows: usize,
        vocab: usize,
        student: impl Output<'a, Space = S, Element = L>,
        loss: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        Self::new([rows, vocab], Student::Gradient(student.output()), loss)
    }

    /// The loss of each row alone.
    #[must_use]
    pub fn loss(
        rows: usize,
        vocab: usize,
        student: impl Input<'a, Space = S, Element = L>,
        loss: impl Output<'a, Space = S, Element = f32>,
    ) -> Self {
        Self::new([rows, vocab], Student::Read(student.input()), loss)
    }

    /// Adds `T² D`, the divergence from a teacher's logits at a temperature.
    #[must_use]
    pub fn teacher(mut self, by: Divergence, temperature: f32, logits: impl Input<'a, Space = S, Element = L>) -> Self {
        self.teacher = Teacher::Logits { by: by.plain(), logits: logits.input() };
        self.temperature = temperature;
        self
    }

    /// Adds `T² D`, the forward divergence from a teacher of which k tokens a row are known with their
    /// log-probabilities at that temperature, as [`TopK`] makes them. The tokens of a row differ from one another.
    #[must_use]
    pub fn top_k(
        mut self,
        k: usize,
        tail: Tail,
        temperature: f32,
        tokens: impl Input<'a, Space = S, Element = u32>,
        log_probs: impl Input<'a, Space = S, Element = f32>,
    ) -> Self {
        self.teacher = Teacher::TopK { k, tail, tokens: tokens.input(), log_probs: log_probs.input() };
        self.temperature = temperature;
        self
    }

    /// Adds `λ C`, the cross-entropy with labels at temperature 1.
    #[must_use]
    pub fn labels(mut self, lambda: f32, labels: impl Input<'a, Space = S, Element = u32>) -> Self {
        self.labels = Some(labels.input());
        self.lambda = lambda;
        self
    }

    /// The label whose rows have no cross-entropy, instead of [`IGNORED`].
    #[must_use]
    pub fn ignored(mut self, label: u32) -> Self {
        self.ignored = label;
        self
    }

    /// Weighs the rows, their losses and gradients; otherwise all weights are 1.
    #[must_use]
    pub fn weights(mut self, weights: impl Input<'a, Space = S, Element = f32>) -> Self {
        self.weights = Some(weights.input());
        self
    }

    /// Multiplies the gradient and not the loss, 1 if not given: 1 over the rows of a batch, a loss scale, or what the
    /// loss is multiplied by in what follows.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }
}

impl<S: Space, L: Float> pass::Sealed for Distil<'_, S, L> {}
impl<S: Space, L: Float> Pass<S> for Distil<'_, S, L> {
    fn check(&self) -> Result<()> {
        let logits = logits(self.rows, self.vocab)?;
        temperature("temperature", self.temperature)?;
        match &self.student {
            Student::Read(student) => length("student", Some(student), logits)?,
            Student::Gradient(student) => length("student", Some(student), logits)?,
        }
        length("loss", Some(&self.loss), self.rows)?;
        match &self.teacher {
            Teacher::None if self.labels.is_none() => {
                return Err(Error::Missing { what: "a loss", missing: "neither a teacher nor labels were given" });
            }
            Teacher::None => {}
            Teacher::Logits { by, logits: teacher } => {
                length("teacher", Some(teacher), logits)?;
                if let Divergence::Jsd(beta) = by
                    && !(0.0..=1.0).contains(beta)
                {
                    return scalar("beta", f64::from(*beta), "from 0 to 1");
                }
            }
            Teacher::TopK { k, tokens, log_probs, .. } => {
                let known = known(self.rows, self.vocab, *k)?;
                length("tokens", Some(tokens), known)?;
                length("log_probs", Some(log_probs), known)?;
            }
        }
        length("labels", self.labels.as_ref(), self.rows)?;
        length("weights", self.weights.as_ref(), self.rows)?;
        not_negative("lambda", self.lambda)?;
        finite("scale", self.scale)
    }

    fn execute(pass: Checked<Self>) -> Result<()>
    where
        S: HostSpace,
    {
        cpu::distil(pass.into_inner())
    }

    fn queue<'g>(pass: &'g mut Checked<Self>, binder: &mut Binder<'g, S>, queue: &mut Queue) -> Result<()>
    where
        S: DeviceSpace,
    {
        launch::distil(pass.inner(), binder, queue)
    }
}

/// A rest of a top-k teacher below this is the rounding of its log-probabilities.
const LEAST_REST: f32 = 1.0 / (1 << 20) as f32;

/// Elements of `[R, V]`, whose bytes fit the address space and whose columns 32 bits.
fn logits(rows: usize, vocab: usize) -> Result<usize> {
    let elements = rows.checked_mul(vocab).filter(|&elements| elements <= isize::MAX as usize / size_of::<f32>());
    match elements {
        Some(elements) if u32::try_from(vocab).is_ok() => Ok(elements),
        _ => Err(Error::Overflow { what: "logits", rows: rows as u64, cols: vocab as u64 }),
    }
}

/// Elements of `[R, k]`.
fn known(rows: usize, vocab: usize, k: usize) -> Result<usize> {
    match (1..=vocab).contains(&k) {
        true => Ok(rows * k),
        false => scalar("k", k as f64, "at least 1, and no more than the vocabulary has"),
    }
}
