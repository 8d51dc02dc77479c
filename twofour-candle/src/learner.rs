//! What layers share whose backward pass makes the optimiser's step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{DType, Device, DeviceLocation, Result, Storage, Tensor};
use twofour::Cpu;
use twofour::learn::{AdamW, Clip, NORM_SLOTS, Statistics, StepSettings};

use crate::array::{copy_of, zeroed};
use crate::number::wrap;
use crate::place::{DeviceOf, Output, Place, elsewhere, part_mut};
use crate::sampler::Sampler;

mod counts;

use counts::Counts;
pub(crate) use counts::Passes;

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
/// A step is [`begin`](Self::begin), one forward pass, `loss.backward()`, and [`end`](Self::end), which with clipping
/// must not be forgotten: the next `begin` is an error then.
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
///
/// # Steps that are NaN
///
/// A group whose gradient is NaN or infinite is skipped ([`twofour::learn`]): its logits and moments stay, and nothing
/// stops the run. [`statistics`](Self::statistics) says how many groups that were, and [`norm`](Self::norm) is NaN if
/// it was all of them. Such a step leaves nothing to clip by: the next one's factor is 1.
#[derive(Debug, Clone)]
pub struct Learner {
    sampler: Sampler,
    moments: Moments,
    max_norm: Option<f64>,
    panel_bytes: usize,
    now: Arc<Mutex<Now>>,
}

/// Where the run stands.
#[derive(Debug, Default)]
struct Now {
    stage: Stage,
    /// Of the step that was begun.
    adamw: Option<AdamW>,
    /// Counts the steps in which a layer moved.
    step: u64,
    devices: HashMap<DeviceLocation, OnDevice>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No step was begun.
    #[default]
    Idle,
    Begun,
    /// A layer has moved.
    Moved,
    /// A layer has moved, and the step was ended.
    Ended,
}

/// What a device has of the run.
#[derive(Debug, Default)]
pub(crate) struct OnDevice {
    pub(crate) clipping: Option<Clipping>,
    counts: Counts,
    /// The step that is made.
    step: u64,
}

/// What clipping has on a device.
#[derive(Debug)]
pub(crate) struct Clipping {
    max_norm: f64,
    /// `f64`: the sum of squares, and workspace.
    pub(crate) squares: Storage,
    /// `f32`: what gradients are multiplied by, and the norm that it came from.
    pub(crate) factor: Storage,
    norm: Storage,
    /// The last step that was ended, so that there is a norm.
    ended: Option<u64>,
}

impl Learner {
    /// For layers of this sampler, without clipping.
    #[must_use]
    pub fn new(sampler: &Sampler, moments: Moments) -> Self {
        Self { sampler: sampler.clone(), moments, max_norm: None, panel_bytes: 16 << 20, now: Arc::default() }
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

    /// How many bytes of the weight's gradient, in `f32`, may exist at a time, where a step goes through a layer some
    /// rows at a time. 16 MiB unless this is called; at least eight rows, and one block of 8-bit moments.
    #[must_use]
    pub fn panel_bytes(mut self, bytes: usize) -> Self {
        self.panel_bytes = bytes;
        self
    }

    /// Begins a step: its number, from 0, and κ, τ and λ go to the sampler, whose mode stays; the optimiser's part is
    /// kept for the backward pass.
    ///
    /// # Errors
    /// A scalar outside its domain; with clipping, a step before that was not [ended](Self::end). Then nothing is
    /// changed.
    pub fn begin(&self, step: u32, settings: &StepSettings) -> Result<()> {
        settings.adamw.check().map_err(wrap)?;
        let mut now = self.now();
        if now.stage == Stage::Moved && now.devices.values().any(|on| on.clipping.is_some() && on.moved(now.step)) {
            candle_core::bail!(
                "the last step was not ended, so the next would not be clipped by its gradient: call `Learner::end` \
                 after each backward pass"
            )
        }
        self.sampler.begin(step, settings)?;
        if matches!(now.stage, Stage::Moved | Stage::Ended) {
            now.step += 1;
        }
        (now.stage, now.adamw) = (Stage::Begun, Some(settings.adamw));
        Ok(())
    }

    /// Ends a step: makes the clip factor of the next one, on every device where a layer has moved. Queues work on a
    /// device, and waits for nothing. A step that was ended is not ended again, and layers move no more in it.
    ///
    /// # Errors
    /// What queueing may give; and a step in which no layer has moved, as under the masks of evaluation.
    pub fn end(&self) -> Result<()> {
        let mut now = self.now();
        let step = now.step;
        if now.stage == Stage::Idle {
            return Ok(());
        }
        if now.stage == Stage::Moved {
            for on in now.devices.values_mut().filter(|on| on.moved(step)) {
                // One that has been ended already was so before another device failed.
                let Some(clipping) = on.clipping.as_mut().filter(|clipping| clipping.ended != Some(step)) else {
                    continue;
                };
                match &clipping.squares {
                    Storage::Cpu(_) => self.clip_on::<Cpu>(clipping)?,
                    #[cfg(feature = "cuda")]
                    Storage::Cuda(_) => self.clip_on::<twofour::Gpu>(clipping)?,
                    _ => return Err(elsewhere()),
                }
                clipping.ended = Some(step);
            }
        }
        if now.stage == Stage::Begun {
            candle_core::bail!(
                "no layer has moved since `Learner::begin`: layers learn under Mode::Soft and Mode::Hard, by the \
                 backward pass of a loss that is made of what they give"
            )
        }
        (now.stage, now.adamw) = (Stage::Ended, None);
        Ok(())
    }

    fn clip_on<P: Place>(&self, clipping: &mut Clipping) -> Result<()> {
        let Clipping { max_norm, squares, factor, norm, .. } = clipping;
        let device = P::of(squares).ok_or_else(elsewhere)?.device().clone();
        let pass = Clip::new(*max_norm, part_mut::<P, f64>(squares, 0..NORM_SLOTS)?, part_mut::<P, f32>(factor, 0..1)?);
        let pass = pass.norm(part_mut::<P, f32>(norm, 0..1)?);
        P::with(self.sampler.engine(), &device, |on| on.run(pass))
    }

    /// What the steps of the layers on one device say of themselves, in the step that was begun last: the groups that
    /// were [skipped](Statistics::skipped) among them, and the squares of the gradient, before clipping, without
    /// those. Waits for the device. `None` before a layer has moved; until one does in another step, it is still the
    /// last one's.
    ///
    /// # Errors
    /// What reading may give.
    pub fn statistics(&self, device: &Device) -> Result<Option<Statistics>> {
        let now = self.now();
        let Some(on) = now.devices.get(&device.location()) else { return Ok(None) };
        on.counts.sum(&on.counts.since(on.step, 0), device)
    }

    /// Those of some passes of a layer's.
    pub(crate) fn statistics_of(&self, passes: &Passes, device: &Device) -> Result<Option<Statistics>> {
        match self.now().devices.get(&device.location()) {
            Some(on) => on.counts.sum(passes, device),
            None => Ok(None),
        }
    }

    /// The norm of the gradient of the step that [`end`](Self::end) ended last, over all layers on one device, without
    /// the groups that were skipped; NaN if all were. Waits for the device. `None` before, and without clipping.
    ///
    /// # Errors
    /// What reading may give.
    pub fn norm(&self, device: &Device) -> Result<Option<f32>> {
        let now = self.now();
        let Some(OnDevice { clipping: Some(clipping), counts, .. }) = now.devices.get(&device.location()) else {
            return Ok(None);
        };
        let Some(ended) = clipping.ended else { return Ok(None) };
        match counts.sum(&counts.since(ended, 0), device)? {
            Some(Statistics { skipped, groups, .. }) if groups > 0 && skipped == groups => Ok(Some(f32::NAN)),
            _ => scalar(&clipping.norm).map(Some),
        }
    }

    /// What the next step multiplies gradients by on one device, to be saved with a run after [`end`](Self::end); waits
    /// for the device. `None` before the first step, and without clipping.
    ///
    /// # Errors
    /// What reading may give.
    pub fn factor(&self, device: &Device) -> Result<Option<f32>> {
        let now = self.now();
        let clipping = now.devices.get(&device.location()).and_then(|on| on.clipping.as_ref());
        clipping.map(|clipping| scalar(&clipping.factor)).transpose()
    }

    /// Puts back what [`factor`](Self::factor) gave, before the first step of a run that goes on.
    ///
    /// # Errors
    /// A factor that is not from 0 to 1, or a learner that does not clip; then nothing is changed.
    pub fn set_factor(&self, factor: f32, device: &Device) -> Result<()> {
        let Some(max_norm) = self.max_norm else {
            candle_core::bail!("a learner that does not clip has no factor: call `Learner::clip` first")
        };
        if !(0.0..=1.0).contains(&factor) {
            let (value, must) = (f64::from(factor), "from 0 to 1");
            return Err(wrap(twofour::Error::Scalar { what: "factor", value, must }));
        }
        let factor = copy_of(&Tensor::new(&[factor], device)?)?;
        let clipping = Clipping { factor, ..Clipping::new(max_norm, device)? };
        self.now().devices.entry(device.location()).or_default().clipping = Some(clipping);
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
        let none = || candle_core::Error::Msg("no step was begun: call `Learner::begin`".to_owned()).bt();
        self.now().adamw.ok_or_else(none)
    }

    /// Gives a layer's `step` what the device has of the run; from then on the step is one in which a layer moved.
    pub(crate) fn with_device<R>(&self, device: &Device, step: impl FnOnce(&mut OnDevice) -> Result<R>) -> Result<R> {
        let mut now = self.now();
        now.stage = Stage::Moved;
        let number = now.step;
        let on = now.devices.entry(device.location()).or_default();
        on.step = number;
        if let Some(max_norm) = self.max_norm {
            match &mut on.clipping {
                Some(clipping) => clipping.max_norm = max_norm,
                none => *none = Some(Clipping::new(max_norm, device)?),
            }
        }
        step(on)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OnDevice {
    /// What clipping has, if there is clipping, and where the next pass writes its statistics.
    pub(crate) fn next<P: Place>(
        &mut self,
        device: &DeviceOf<P>,
    ) -> Result<(Option<&mut Clipping>, Output<'_, P, Statistics>)> {
        let Self { clipping, counts, step } = self;
        Ok((clipping.as_mut(), counts.next::<P>(*step, device)?))
    }

    /// How many passes there were in this step.
    pub(crate) fn passes(&self) -> usize {
        self.counts.passes(self.step)
    }

    /// Those from one on.
    pub(crate) fn passes_since(&self, first: usize) -> Passes {
        self.counts.since(self.step, first)
    }

    /// Whether a layer has moved here in a step.
    fn moved(&self, step: u64) -> bool {
        self.counts.passes(step) > 0
    }
}

impl Clipping {
    fn new(max_norm: f64, device: &Device) -> Result<Self> {
        Ok(Self {
            max_norm,
            squares: zeroed(NORM_SLOTS, DType::F64, device)?,
            factor: copy_of(&Tensor::ones(1, DType::F32, device)?)?,
            norm: zeroed(1, DType::F32, device)?,
            ended: None,
        })
    }
}

/// The one element of an array of `f32`.
fn scalar(storage: &Storage) -> Result<f32> {
    crate::array::tensor_of(storage, &[])?.to_scalar()
}
