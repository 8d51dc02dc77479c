//! The masked layer whose backward pass makes the optimiser's step, so that the gradient of the logits is never kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Module, Result, Storage, Tensor, Var};
use candle_nn::VarBuilder;
use twofour::Cpu;
use twofour::learn::{self, Statistics};

use crate::array::{copy_of, tensor_of, zeroed};
use crate::learner::{Learner, Moments, Passes};
use crate::masked::MaskedLinear;
use crate::number::ready;
use crate::ops::custom::{Custom, Op};
use crate::ops::linear::Product;
use crate::place::{Operand, Place};
use crate::sampler::Mode;
use crate::stepper::Stepper;

mod step;

use step::Step;

/// A [`MaskedLinear`] that learns by itself: when a backward pass comes to it, it passes on the gradient of its input,
/// and moves its logits by a step of AdamW in one pass ([`twofour::matmul::Step`]). There is no gradient of the logits
/// for another optimiser, and none in memory: the weight's goes through registers or, as where moments have eight bits,
/// some rows at a time through a workspace.
///
/// # Memory
///
/// Bytes a masked weight in all, with a `bf16` weight: 20 with `f32` logits and [`Moments::F32`], 8.03 with `bf16`
/// logits and [`Moments::Eight`]. Between forward and backward pass nothing is kept but `x`.
///
/// # One micro-batch a step
///
/// A layer goes forward once, and backward once, between two [`Learner::begin`]: its step would otherwise be made of a
/// part of the gradient, and the next product's masks of moved logits. It is an error, not a wrong step. (Several
/// forward passes without a backward pass do no harm.) For several micro-batches, or a weight that is used twice, take
/// the plain [`MaskedLinear`].
#[derive(Debug)]
pub struct FusedLinear {
    masked: MaskedLinear,
    shared: Arc<Shared>,
}

/// What a layer shares with the graph of its last forward pass.
#[derive(Debug)]
struct Shared {
    logits: Var,
    learner: Learner,
    layer: u32,
    /// Nobody else moves the logits.
    _stepper: Stepper,
    /// Makes the layer a part of the graph, for logits are none; no gradient comes to it.
    anchor: Var,
    moments: Mutex<OwnMoments>,
    /// Steps that were made.
    steps: AtomicU64,
    /// AdamW's number of the last one; 0 before.
    last: AtomicU64,
}

/// The moments of a layer.
#[derive(Debug)]
struct OwnMoments {
    m: Storage,
    v: Storage,
    /// With eight bits.
    scales: Option<Storage>,
    /// What the last step was made by.
    passes: Option<Passes>,
}

impl MaskedLinear {
    /// A layer over the same logits that learns by itself, with moments that are zero.
    ///
    /// # Errors
    /// A learner of another sampler, logits that another [`FusedLinear`] moves, or no memory.
    pub fn fused(self, learner: &Learner) -> Result<FusedLinear> {
        if !self.sampler().is(learner.sampler()) {
            candle_core::bail!("the learner belongs to another sampler than the layer's")
        }
        let stepper = Stepper::of(self.logits())?;
        let (device, elements) = (self.weight().device(), self.shape().logits());
        let of = |dtype| zeroed(elements, dtype, device);
        let moments = match learner.moments() {
            Moments::F32 => OwnMoments { m: of(DType::F32)?, v: of(DType::F32)?, scales: None, passes: None },
            Moments::Eight => {
                let scales = zeroed(learn::Moments::scales(self.shape()), DType::F32, device)?;
                OwnMoments { m: of(DType::U8)?, v: of(DType::U8)?, scales: Some(scales), passes: None }
            }
        };
        let shared = Shared {
            logits: self.logits().clone(),
            learner: learner.clone(),
            layer: self.layer(),
            _stepper: stepper,
            anchor: Var::zeros(1, DType::F32, device)?,
            moments: Mutex::new(moments),
            steps: AtomicU64::new(0),
            last: AtomicU64::new(0),
        };
        Ok(FusedLinear { masked: self, shared: Arc::new(shared) })
    }
}

impl FusedLinear {
    /// As [`MaskedLinear::load`], and then [`MaskedLinear::fused`].
    ///
    /// # Errors
    /// Of both.
    ///
    /// ```
    /// use candle_core::{DType, Device, Module, Tensor};
    /// use candle_nn::VarBuilder;
    /// use twofour_candle::{FusedLinear, Learner, Moments, Sampler};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let learner = Learner::new(&Sampler::new(42), Moments::Eight);
    /// let vb = VarBuilder::zeros(DType::BF16, &Device::Cpu);
    /// let layer = FusedLinear::load(32, 64, true, vb.pp("mlp.up"), 0, &learner)?;
    /// assert_eq!(layer.masked().weight().dims(), [64, 32]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(
        in_dim: usize,
        out_dim: usize,
        bias: bool,
        vb: VarBuilder<'_>,
        layer: u32,
        learner: &Learner,
    ) -> Result<Self> {
        MaskedLinear::load(in_dim, out_dim, bias, vb, layer, learner.sampler())?.fused(learner)
    }

    /// The layer without its optimiser: for evaluation, codes and export. (No gradient reaches its logits through
    /// `self`.)
    #[must_use]
    pub fn masked(&self) -> &MaskedLinear {
        &self.masked
    }

    /// What makes its steps.
    #[must_use]
    pub fn learner(&self) -> &Learner {
        &self.shared.learner
    }

    /// What its part of the step that was begun last says of itself: the groups that were
    /// [skipped](Statistics::skipped), for their gradient was NaN or infinite, and the squares of the gradient, before
    /// clipping, without those. Waits for the device. `None` before the layer has moved, and when other layers have
    /// moved in two steps since.
    ///
    /// # Errors
    /// What reading may give.
    pub fn statistics(&self) -> Result<Option<Statistics>> {
        let passes = self.shared.moments().passes.clone();
        let Some(passes) = passes else { return Ok(None) };
        self.shared.learner.statistics_of(&passes, self.masked.weight().device())
    }

    /// Copies of what the optimiser keeps, to be saved beside the logits: `m`, `v`, `[N, K/4, 6]`, and with eight bits
    /// `scales`, `[blocks, 2]`.
    ///
    /// # Errors
    /// What copying may give.
    pub fn state(&self) -> Result<Vec<(&'static str, Tensor)>> {
        let OwnMoments { m, v, scales, .. } = &*self.shared.moments();
        let dims = self.shared.logits.dims();
        let mut state = vec![("m", tensor_of(m, dims)?), ("v", tensor_of(v, dims)?)];
        if let Some(scales) = scales {
            let blocks = learn::Moments::scales(self.masked.shape()) / 2;
            state.push(("scales", tensor_of(scales, &[blocks, 2])?));
        }
        Ok(state)
    }

    /// Puts back what [`state`](Self::state) gave: with the same logits, seed and moments to come, and with clipping
    /// the same [`Learner::factor`], the run goes on as if it had not been interrupted.
    ///
    /// # Errors
    /// A tensor that is missing, or is not as [`state`](Self::state) gives it, values too: NaN, infinite, or negative
    /// where none can be. Then nothing is changed.
    pub fn set_state(&self, mut get: impl FnMut(&str) -> Option<Tensor>) -> Result<()> {
        let mut copies = Vec::new();
        for (name, old) in self.state()? {
            let Some(new) = get(name) else { candle_core::bail!("the state has no `{name}`") };
            if new.dims() != old.dims() || new.dtype() != old.dtype() {
                let ([new, old], [is, was]) = ([new.dims(), old.dims()], [new.dtype(), old.dtype()]);
                candle_core::bail!("`{name}` is {new:?} {is:?}, and must be {old:?} {was:?}")
            }
            check_moments(name, &new)?;
            copies.push(copy_of(&new.to_device(self.masked.weight().device())?)?);
        }
        let mut copies = copies.into_iter();
        if let (Some(m), Some(v)) = (copies.next(), copies.next()) {
            *self.shared.moments() = OwnMoments { m, v, scales: copies.next(), passes: None };
            self.shared.last.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Whether these can be moments, or their scales. Codes of eight bits are whatever they are.
fn check_moments(name: &str, values: &Tensor) -> Result<()> {
    if values.dtype() != DType::F32 {
        return Ok(());
    }
    let values = ready(&values.to_device(&Device::Cpu)?)?;
    let (storage, layout) = values.storage_and_layout();
    let values = Operand::<Cpu>::of(&storage, layout)?.elements::<f32>()?;
    let may_be = |value: f32| value.is_finite() && (name == "m" || value >= 0.0);
    match values.iter().position(|&value| !may_be(value)) {
        None => Ok(()),
        Some(at) => {
            let must = if name == "m" { "finite" } else { "finite and not negative" };
            candle_core::bail!("element {at} of `{name}` is {}, and must be {must}: take another state", values[at])
        }
    }
}

impl Module for FusedLinear {
    /// As [`MaskedLinear`]'s. Under soft and hard masks, a backward pass through what comes out makes the step.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if matches!(self.masked.sampler().settings().mode, Mode::Argmax | Mode::Dense) {
            return self.masked.forward(x);
        }
        self.masked.forward_by(x, |x, product| {
            let (of, weight) = (Arc::clone(&self.shared), self.masked.weight());
            let op = FusedProduct { product, steps: of.steps.load(Ordering::Relaxed), of };
            x.apply_op3(&self.shared.anchor, weight, Custom(op))
        })
    }
}

impl Shared {
    fn moments(&self) -> std::sync::MutexGuard<'_, OwnMoments> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Y = X (W∘M)ᵀ` of `(x [T, K], anchor, weight)`, and the logits that it holds.
struct FusedProduct {
    product: Product,
    of: Arc<Shared>,
    /// Steps that the logits had made when the mask was drawn.
    steps: u64,
}

impl Op<3> for FusedProduct {
    const NAME: &'static str = "twofour fused linear";

    fn forward<P: Place>(&self, [x, _anchor, weight]: [Operand<'_, P>; 3]) -> Result<(P::Storage, candle_core::Shape)> {
        let (logits, layout) = self.of.logits.storage_and_layout();
        self.product.forward([x, Operand::of(&logits, layout)?, weight])
    }

    fn backward(&self, [x, _anchor, weight]: [&Tensor; 3], dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let Shared { logits, learner, layer, last, steps, .. } = &*self.of;
        // Before anything is looked at: two threads with a graph each must not both find that no step was made.
        let mut moments = self.of.moments();
        if steps.load(Ordering::Relaxed) != self.steps {
            candle_core::bail!(
                "the logits of layer {layer} have moved since this forward pass: a layer that learns by itself goes \
                 forward and backward once a step; take MaskedLinear for several micro-batches or shared weights"
            )
        }
        let adamw = learner.adamw()?;
        if last.load(Ordering::Relaxed) == adamw.step {
            candle_core::bail!(
                "layer {layer} has made step {} already: call `Learner::begin` with the next step's settings",
                adamw.step
            )
        }
        let dy = ready(dy)?;
        let dx = if x.track_op() { Some(self.product.input_gradient(&dy, logits, weight)?) } else { None };
        let step = Step { product: &self.product, logits, weight, learner, adamw };
        // From here on the logits are others, even if a part of the step should fail.
        steps.fetch_add(1, Ordering::Relaxed);
        last.store(adamw.step, Ordering::Relaxed);
        step.make(&dy, x, &mut moments)?;
        Ok([dx, None, None])
    }
}
