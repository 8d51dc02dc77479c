//! A small training run: layers whose gradients are a function of step and logits.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;
use std::path::Path;
use twofour::learn::{self, Clip, Fused, Initial, Measure, NORM_SLOTS, Recipe, Step};
use twofour::mask::Kind;
use twofour::{Cpu, Executor, Logit, Shape, bf16, noise};
use twofour_formats::Error;
use twofour_formats::state::{Manifest, Moments, Reader, Run};

pub(crate) const STEPS: u64 = 40;
const SEED: u64 = 77;

/// A layer with the moments it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer<L> {
    shape: Shape,
    number: u16,
    weight: Vec<bf16>,
    logits: Vec<L>,
    moments: Moments<'static>,
}

impl<L: Logit> Layer<L> {
    pub(crate) fn new(shape: Shape, eight: bool, number: u16) -> Self {
        let mut rng = StdRng::seed_from_u64(u64::from(number));
        let weight = (0..shape.weights()).map(|_| bf16::from_f32(rng.random_range(-1.0..1.0))).collect();
        let mut logits = vec![L::zeroed(); shape.logits()];
        let seed = SEED + u64::from(number);
        Cpu.run(Initial::new(shape, seed, 0.01, &mut logits)).unwrap();
        let count = shape.logits();
        let moments = if eight {
            let scales = vec![0.0; learn::Moments::scales(shape)];
            Moments::Eight { m: vec![0; count].into(), v: vec![0; count].into(), scales: scales.into() }
        } else {
            Moments::F32 { m: vec![0.0; count].into(), v: vec![0.0; count].into() }
        };
        Self { shape, number, weight, logits, moments }
    }

    /// `dL/d(W∘M)` of a step.
    pub(crate) fn gradient(&self, step: u64) -> Vec<bf16> {
        let mut rng = StdRng::seed_from_u64(step << 16 | u64::from(self.number));
        (0..self.shape.weights()).map(|_| bf16::from_f32(rng.random_range(-0.1..0.1))).collect()
    }

    pub(crate) fn step(&mut self, recipe: &Recipe, step: u64, gradient: &[bf16]) {
        let mut norm = vec![0.0; NORM_SLOTS];
        let mut factor = [0.0];
        let at = recipe.at(step);
        let sampling = at.sampling(SEED, noise::draw(self.number.into(), step as u32, 0));
        let pass = Measure::new(self.shape, Kind::Soft, sampling, &self.logits, &self.weight, gradient, &mut norm);
        Cpu.run(pass.regulariser(at.regulariser)).unwrap();
        Cpu.run(Clip::new(recipe.max_norm, &mut norm, &mut factor)).unwrap();
        let moments = match &mut self.moments {
            Moments::F32 { m, v } => learn::Moments::f32(m.to_mut(), v.to_mut()),
            Moments::Eight { m, v, scales } => learn::Moments::eight(m.to_mut(), v.to_mut(), scales.to_mut()),
        };
        let by = Step::new(at.adamw, moments).factor(&factor);
        let pass = Fused::new(self.shape, Kind::Soft, sampling, &mut self.logits, &self.weight, gradient, by);
        Cpu.run(pass.regulariser(at.regulariser)).unwrap();
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Training<L> {
    recipe: Recipe,
    done: u64,
    layers: Vec<Layer<L>>,
}

const NAMES: [&str; 3] = ["up", "mlp.down", "k"];

impl<L: Logit> Training<L> {
    pub(crate) fn new(eight: bool) -> Self {
        let shapes = [Shape::new(7, 52), Shape::new(33, 16), Shape::new(1, 4)];
        let layer = |(i, shape)| Layer::new(shape, eight, i as u16);
        Self { recipe: Recipe::maskllm(STEPS), done: 0, layers: shapes.into_iter().enumerate().map(layer).collect() }
    }

    pub(crate) fn steps(&mut self, steps: Range<u64>) {
        for step in steps {
            assert_eq!(step, self.done);
            for layer in &mut self.layers {
                let gradient = layer.gradient(step);
                layer.step(&self.recipe, step, &gradient);
            }
            self.done += 1;
        }
    }

    pub(crate) fn save(&self, path: &Path) -> Result<(), Error> {
        let recipe = Some(self.recipe.clone());
        let run = Run { step: self.done, seed: SEED, recipe, caller: Some(r#"{"note":"half way"}"#.into()) };
        let mut manifest = Manifest::new(&run)?;
        for (name, layer) in NAMES.iter().zip(&self.layers) {
            manifest.layer(name, layer.shape, L::DTYPE, matches!(layer.moments, Moments::Eight { .. }))?;
        }
        manifest.save(path, |file| {
            let mut layers = NAMES.iter().zip(&self.layers).rev();
            layers.try_for_each(|(name, layer)| file.layer(name, &layer.logits, &layer.moments))
        })
    }

    /// All but the weights, which are frozen, is from the file.
    pub(crate) fn load(path: &Path) -> Self {
        let reader = Reader::open(path).unwrap();
        let run = reader.run();
        assert_eq!((run.seed, run.caller.as_deref()), (SEED, Some(r#"{"note":"half way"}"#)));
        let eight = reader.layers().all(|layer| layer.has_eight_bits());
        let mut training = Self::new(eight);
        (training.recipe, training.done) = (run.recipe.clone().unwrap(), run.step);
        for (name, layer) in NAMES.iter().zip(&mut training.layers) {
            layer.logits = reader.logits(name).unwrap();
            layer.moments = reader.moments(name).unwrap();
        }
        training
    }
}
