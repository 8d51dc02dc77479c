//! The loss of rows of logits and its gradient, in place.

use candle_core::backend::BackendStorage;
use candle_core::{DType, Layout, Result, Storage, Tensor};
use twofour::distil::{self, Divergence};

use crate::array::{Write, tensor_of, write, zeroed};
use crate::engine::Engine;
use crate::number::{Number, contiguous_range, with_weight};
use crate::place::{Operand, Place, part_mut};

/// What rows of logits are to be like: a teacher's, the tokens that came next, or both. See [`twofour::distil`].
#[derive(Debug, Clone, Copy)]
pub struct Loss<'t> {
    /// The teacher's logits `[R, V]`, how far from them is counted, and at which temperature.
    pub teacher: Option<(&'t Tensor, Divergence, f32)>,
    /// The next tokens, `u32 [R]`, and how much their cross-entropy counts.
    pub labels: Option<(&'t Tensor, f32)>,
    /// What the gradient is multiplied by, and the losses not: 1 over the rows of a batch makes it that of the mean.
    pub scale: f32,
}

/// The losses `[R]`, `f32`, of rows of logits `[R, V]`, of `f32`, `f16` or `bf16`, whose gradient takes their place. The
/// logits are to be nobody else's, and of no graph.
///
/// # Errors
/// Shapes, types or devices that do not fit; a teacher that is of the same array as the logits; neither teacher nor
/// labels; numbers that are none.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use twofour_candle::{Engine, ops};
///
/// # fn main() -> candle_core::Result<()> {
/// let logits = Tensor::new(&[[0_f32, 0.0]], &Device::Cpu)?;
/// let next = Tensor::new(&[1_u32], &Device::Cpu)?;
/// let loss = ops::Loss { teacher: None, labels: Some((&next, 1.0)), scale: 1.0 };
/// let losses = ops::loss(&logits, &loss, &Engine::default())?;
/// assert!((losses.to_vec1::<f32>()?[0] - 2_f32.ln()).abs() < 1e-6);
/// assert_eq!(logits.to_vec2::<f32>()?, [[0.5, -0.5]]);
/// # Ok(())
/// # }
/// ```
pub fn loss(logits: &Tensor, loss: &Loss<'_>, engine: &Engine) -> Result<Tensor> {
    let (rows, _) = logits.dims2()?;
    let teacher = loss.teacher.map_or(logits, |(teacher, ..)| teacher);
    let labels = loss.labels.map_or(logits, |(labels, _)| labels);
    // The one is locked to be written while the other is to be read.
    if loss.teacher.is_some() && array(teacher) == array(logits) {
        candle_core::bail!("the teacher's logits are the student's own, whose place the gradient takes: copy them")
    }
    super::same_device([logits, teacher, labels])?;
    if teacher.dims() != logits.dims() || teacher.dtype() != logits.dtype() {
        let ([t, s], [is, must]) = ([teacher.dims(), logits.dims()], [teacher.dtype(), logits.dtype()]);
        candle_core::bail!("the teacher's logits are {t:?} {is:?}, and must be {s:?} {must:?}")
    }
    if loss.labels.is_some() && (labels.dims() != [rows] || labels.dtype() != DType::U32) {
        candle_core::bail!("labels are {:?} {:?}, and must be [{rows}] u32", labels.dims(), labels.dtype())
    }
    let mut losses = zeroed(rows, DType::F32, logits.device())?;
    write(logits, Gradient { dtype: logits.dtype(), loss, engine, losses: &mut losses })?;
    tensor_of(&losses, &[rows])
}

/// Where the array is that a tensor is of, which others may be of too.
fn array(tensor: &Tensor) -> *const Storage {
    std::ptr::from_ref(&*tensor.storage_and_layout().0)
}

/// The loss as it writes the gradient.
struct Gradient<'g> {
    dtype: DType,
    loss: &'g Loss<'g>,
    engine: &'g Engine,
    losses: &'g mut Storage,
}

impl Write for Gradient<'_> {
    fn write<P: Place>(self, logits: &mut P::Storage, layout: &Layout) -> Result<()> {
        with_weight!(self.dtype, <W> self.run::<P, W>(logits, layout))
    }
}

impl Gradient<'_> {
    fn run<P: Place, W: Number>(self, logits: &mut P::Storage, layout: &Layout) -> Result<()> {
        let Self { loss: Loss { teacher, labels, scale }, engine, losses, .. } = self;
        let (rows, vocabulary) = layout.shape().dims2()?;
        let device = logits.device().clone();
        let of_teacher = teacher.map(|(teacher, by, t)| (teacher.storage_and_layout(), by, t));
        let of_labels = labels.map(|(labels, share)| (labels.storage_and_layout(), share));
        let pass = distil::Distil::gradient(
            rows,
            vocabulary,
            P::elements_mut::<W>(logits, contiguous_range(layout)?)?,
            part_mut::<P, f32>(losses, 0..rows)?,
        );
        let pass = match &of_teacher {
            Some(((teacher, layout), by, t)) => {
                pass.teacher(*by, *t, Operand::<P>::of(teacher, layout)?.elements::<W>()?)
            }
            None => pass,
        };
        let pass = match &of_labels {
            Some(((labels, layout), share)) => {
                pass.labels(*share, Operand::<P>::of(labels, layout)?.elements::<u32>()?)
            }
            None => pass,
        };
        P::with(engine, &device, |on| on.run(pass.scale(*scale)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn nobody_teaches_himself() -> Result<()> {
        let logits = Tensor::new(&[[0_f32, 1.0], [2.0, 3.0], [4.0, 5.0]], &Device::Cpu)?;
        let by = |student: &Tensor, teacher: &Tensor| {
            let teacher = Some((teacher, Divergence::Forward, 1.0));
            super::loss(student, &Loss { teacher, labels: None, scale: 1.0 }, &Engine::default())
        };
        // Neither all of it nor other rows.
        let rows = [logits.narrow(0, 0, 1)?, logits.narrow(0, 2, 1)?];
        for (student, teacher) in [(&logits, &logits), (&logits, &logits.detach()), (&rows[0], &rows[1])] {
            let refused = by(student, teacher).err().map(|e| e.to_string());
            assert!(refused.is_some_and(|e| e.contains("copy them")));
        }
        assert_eq!(by(&logits, &logits.copy()?)?.to_vec1::<f32>()?, [0.0; 3]);
        Ok(())
    }
}
