//! What layers share whose backward pass makes the optimiser's step.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use candle_core::backend::BackendStorage;
use candle_core::{DType, Device, DeviceLocation, Result, Storage, Tensor};
use twofour::Cpu;
use twofour::learn::{AdamW, Clip, NORM_SLOTS, StepSettings};

use crate::array::{copy_of, zeroed};
use crate::number::wrap;
use crate::place::{Place, elsewhere, part_mut};
use crate::sampler::Sampler;

/// How an optimiser's moments are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moments {
    /// In `f32`: 12 bytes a masked weight.
    F32,
    /// In eight bits with a scale a block ([`twofour::learn::Moments`]): 3.03 bytes a masked weight.
    Eight,
}

/// AdamW for the logits of [`FusedLinear`](crate::FusedLinear)s: hyper-parameters, clipping, and where the run stands.
///
/// A step is [`begin`](Self::begin), one forward pass, `loss.backward()`, and [`end`](Self::end):
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_nn::Linear;
/// use twofour::learn::Recipe;
/// use twofour_candle::{Learner, MaskedLinear, Moments, Sampler};
///
/// # fn main() -> candle_core::Result<()> {
/// # let linear = Linear::new(Tensor::randn(0f32, 0.1, (64, 32), &Device::Cpu)?, None);
/// # let x = Tensor::randn(0f32, 1.0, (8, 32), &Device::Cpu)?;
/// # let target = linear.forward(&x)?;
/// let sampler = Sampler::new(42);
/// let recipe = Recipe::maskllm(2000);
/// let learner = Learner::new(&sampler, Moments::Eight).clip(recipe.max_norm)?;
/// let layer = MaskedLinear::from_linear(&linear, 0, &sampler)?.fused(&learner)?;
/// for step in 0..3 {
///     learner.begin(step, &recipe.at(step.into()))?;
///     let loss = (layer.forward(&x)? - &target)?.sqr()?.mean_all()?;
///     loss.backward()?; // has moved the logits
///     learner.end()?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Clipping
///
/// By the global norm of the **last** step's gradient, over the layers on one device: that of this step is not known
/// before its last layer, and then the others have moved. The first step is not clipped. What the last step leaves is a
/// part of the run: whoever saves it saves [`factor`](Self::factor) too. With a plain
/// [`MaskedLinear`](crate::MaskedLinear), gradients are there and can be clipped exactly.
#[derive(Debug, Clone)]
pub struct Learner {
    sampler: Sampler,
    moments: Moments,
    max_norm: Option<f64>,
    panel_bytes: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    adamw: RwLock<Option<AdamW>>,
    clipping: Mutex<HashMap<DeviceLocation, Clipping>>,
}

/// What clipping has on a device.
#[derive(Debug)]
pub(crate) struct Clipping {
    /// `f64`: the sum of squares, and workspace.
    pub(crate) squares: Storage,
    /// `f32`: what gradients are multiplied by, and the norm that it came from.
    pub(crate) factor: Storage,
    norm: Storage,
    /// Whether a step was ended, so that there is a norm.
    ended: bool,
}

impl Learner {
    /// For layers of this sampler, without clipping.
    #[must_use]
    pub fn new(sampler: &Sampler, moments: Moments) -> Self {
        let shared = Arc::default();
        Self { sampler: sampler.clone(), moments, max_norm: None, panel_bytes: 16 << 20, shared }
    }

    /// Clips gradients to this norm. A layer keeps the learner that it is made with: call this before.
    ///
    /// # Errors
    /// A norm that is not positive and finite.
    pub fn clip(mut self, max_norm: f64) -> Result<Self> {
        if !(max_norm.is_finite() && max_norm > 0.0) {
            let must = "positive and finite; without clipping, do not call this";
            return Err(wrap(twofour::Error::Scalar { what: "max_norm", value: max_norm, must }));
        }
        self.max_norm = Some(max_norm);
        Ok(self)
    }

    /// How many bytes of the logits' gradient, in `f32`, may exist at a time: a step goes through a layer some rows at
    /// a time. 16 MiB unless this is called; at least one row, and one block of 8-bit moments.
    #[must_use]
    pub fn panel_bytes(mut self, bytes: usize) -> Self {
        self.panel_bytes = bytes;
        self
    }

    /// Begins a step: its number, from 0, and κ, τ and λ go to the sampler, whose mode stays; the optimiser's part is
    /// kept for the backward pass.
    ///
    /// # Errors
    /// A scalar outside its domain; then nothing is changed.
    pub fn begin(&self, step: u32, settings: &StepSettings) -> Result<()> {
        settings.adamw.check().map_err(wrap)?;
        self.sampler.begin(step, settings)?;
        *self.shared.adamw.write().unwrap_or_else(PoisonError::into_inner) = Some(settings.adamw);
        Ok(())
    }

    /// Ends a step: makes the clip factor of the next one. Queues work on a device, and waits for nothing; without
    /// clipping it does nothing.
    ///
    /// # Errors
    /// What queueing may give.
    pub fn end(&self) -> Result<()> {
        let Some(max_norm) = self.max_norm else { return Ok(()) };
        for clipping in self.clipping().values_mut() {
            match &clipping.squares {
                Storage::Cpu(_) => self.clip_on::<Cpu>(max_norm, clipping)?,
                #[cfg(feature = "cuda")]
                Storage::Cuda(_) => self.clip_on::<twofour::Gpu>(max_norm, clipping)?,
                _ => return Err(elsewhere()),
            }
        }
        Ok(())
    }

    fn clip_on<P: Place>(&self, max_norm: f64, clipping: &mut Clipping) -> Result<()> {
        let Clipping { squares, factor, norm, ended } = clipping;
        let device = P::of(squares).ok_or_else(elsewhere)?.device().clone();
        let pass = Clip::new(max_norm, part_mut::<P, f64>(squares, 0..NORM_SLOTS)?, part_mut::<P, f32>(factor, 0..1)?);
        let pass = pass.norm(part_mut::<P, f32>(norm, 0..1)?);
        P::with(self.sampler.engine(), &device, |on| on.run(pass))?;
        *ended = true;
        Ok(())
    }

    /// The norm of the gradient of the step that [`end`](Self::end) ended last, over all layers on one device; waits
    /// for the device. `None` before, and without clipping.
    ///
    /// # Errors
    /// What reading may give.
    pub fn norm(&self, device: &Device) -> Result<Option<f32>> {
        match self.clipping().get(&device.location()) {
            Some(Clipping { norm, ended: true, .. }) => scalar(norm).map(Some),
            _ => Ok(None),
        }
    }

    /// What the next step multiplies gradients by on one device, to be saved with a run after [`end`](Self::end); waits
    /// for the device. `None` before the first step, and without clipping.
    ///
    /// # Errors
    /// What reading may give.
    pub fn factor(&self, device: &Device) -> Result<Option<f32>> {
        self.clipping().get(&device.location()).map(|clipping| scalar(&clipping.factor)).transpose()
    }

    /// Puts back what [`factor`](Self::factor) gave, before the first step of a run that goes on.
    ///
    /// # Errors
    /// A factor that is not from 0 to 1, or a learner that does not clip; then nothing is changed.
    pub fn set_factor(&self, factor: f32, device: &Device) -> Result<()> {
        if self.max_norm.is_none() {
            candle_core::bail!("a learner that does not clip has no factor: call `Learner::clip` first")
        }
        if !(0.0..=1.0).contains(&factor) {
            let (value, must) = (f64::from(factor), "from 0 to 1");
            return Err(wrap(twofour::Error::Scalar { what: "factor", value, must }));
        }
        let clipping = Clipping { factor: copy_of(&Tensor::new(&[factor], device)?)?, ..Clipping::new(device)? };
        self.clipping().insert(device.location(), clipping);
        Ok(())
    }

    /// What says how masks are drawn.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// How moments are kept.
    #[must_use]
    pub fn moments(&self) -> Moments {
        self.moments
    }

    pub(crate) fn panel(&self) -> usize {
        self.panel_bytes
    }

    /// The step that was begun.
    pub(crate) fn adamw(&self) -> Result<AdamW> {
        let adamw = *self.shared.adamw.read().unwrap_or_else(PoisonError::into_inner);
        adamw.ok_or_else(|| candle_core::Error::Msg("no step was begun: call `Learner::begin`".to_owned()).bt())
    }

    /// Gives `step` what clipping has on the device, if there is clipping.
    pub(crate) fn with_clipping<R>(
        &self,
        device: &Device,
        step: impl FnOnce(Option<&mut Clipping>) -> Result<R>,
    ) -> Result<R> {
        if self.max_norm.is_none() {
            return step(None);
        }
        let mut clipping = self.clipping();
        step(Some(match clipping.entry(device.location()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Clipping::new(device)?),
        }))
    }

    fn clipping(&self) -> MutexGuard<'_, HashMap<DeviceLocation, Clipping>> {
        self.shared.clipping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clipping {
    fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            squares: zeroed(NORM_SLOTS, DType::F64, device)?,
            factor: copy_of(&Tensor::ones(1, DType::F32, device)?)?,
            norm: zeroed(1, DType::F32, device)?,
            ended: false,
        })
    }
}

/// The one element of an array of `f32`.
fn scalar(storage: &Storage) -> Result<f32> {
    crate::array::tensor_of(storage, &[])?.to_scalar()
}
