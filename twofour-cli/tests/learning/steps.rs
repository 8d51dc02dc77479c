//! What a step does with its micro-batches: AdamW in f64 on the gradients of each, and what is no micro-batch.

use super::{Runs, report};
use crate::common::Tiny;
use candle_core::{Device, Tensor};
use twofour::distil::Divergence;
use twofour::learn::{Recipe, Schedule};
use twofour_candle::{MaskedLinear, Mode, Sampler};
use twofour_cli::learn::{Learning, Prior, Settings};
use twofour_cli::model::{Model, Network, Teaching};
use twofour_formats::TensorType;

const LENGTH: usize = 12;
const STEPS: u32 = 3;

fn model(tiny: &Tiny) -> Model {
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path(), &tiny.weights(3), TensorType::F32, 1);
    Model::open(folder.path(), &Device::Cpu).unwrap()
}

/// The epsilon is as large as gradients are, so that a step tells how large they were.
fn settings(accumulate: u16, max_norm: f64, distil: Option<Teaching>) -> Settings {
    let (kappa, tau, rate) = (Schedule::constant(2.0), Schedule::constant(0.75), Schedule::linear(0.1, 0.02));
    let recipe = Recipe { kappa, tau, rate, epsilon: 1e-2, max_norm, sigma: 0.1, ..Recipe::few_steps(STEPS.into()) };
    Settings { recipe, accumulate, distil, ..Settings::few_steps(1) }
}

fn logits(layer: &MaskedLinear) -> Vec<f32> {
    layer.logits().flatten_all().unwrap().to_vec1().unwrap()
}

/// Layers that hold their gradients, and what AdamW knows of each logit.
struct ByHand {
    sampler: Sampler,
    network: Network<MaskedLinear>,
    settings: Settings,
    logits: Vec<Vec<f64>>,
    moments: Vec<Vec<[f64; 2]>>,
    /// What clipping by the last step's norm multiplies by.
    factor: f64,
    clipped: u32,
    /// How far the gradient moved a logit at most.
    moved: f64,
}

impl ByHand {
    fn new(model: &Model, settings: &Settings, start: &[Vec<f32>]) -> Self {
        let (sampler, mut number) = (Sampler::new(settings.seed), 0);
        let network = Network::new(model, |_, linear| {
            let layer = MaskedLinear::from_linear(&linear, number, &sampler)?;
            number += 1;
            Ok(layer)
        });
        let logits: Vec<Vec<f64>> =
            start.iter().map(|layer| layer.iter().map(|&logit| logit.into()).collect()).collect();
        let moments = logits.iter().map(|layer| vec![[0.0; 2]; layer.len()]).collect();
        let (network, settings) = (network.unwrap(), settings.clone());
        Self { sampler, network, settings, logits, moments, factor: 1.0, clipped: 0, moved: 0.0 }
    }

    /// The mean gradient of micro-batches, each with its own draw.
    fn gradients(&self, batches: &[Vec<u32>]) -> Vec<Vec<f64>> {
        let mut mean: Vec<_> = self.logits.iter().map(|layer| vec![0.0; layer.len()]).collect();
        for (number, windows) in (0..).zip(batches) {
            let read: Vec<u32> = windows.chunks(LENGTH + 1).flat_map(|window| &window[..LENGTH]).copied().collect();
            self.sampler.update(|now| (now.micro_batch, now.mode) = (number, Mode::Dense)).unwrap();
            let taught = self.network.states(&read, LENGTH).unwrap();
            self.sampler.update(|now| now.mode = Mode::Soft).unwrap();
            let teacher = self.settings.distil.map(|of| (&taught, of));
            let mut add = |layer: &MaskedLinear, store: &mut candle_core::backprop::GradStore| {
                let gradient = store.get(layer.logits()).unwrap().flatten_all()?.to_vec1::<f32>()?;
                for (mean, gradient) in mean[layer.layer() as usize].iter_mut().zip(gradient) {
                    *mean += f64::from(gradient) / batches.len() as f64;
                }
                Ok(())
            };
            self.network.backward_of(windows, LENGTH, teacher, &mut add).unwrap();
        }
        mean
    }

    fn step(&mut self, step: u32, batches: &[Vec<u32>]) {
        for ((_, layer), logits) in self.network.linears().zip(&self.logits) {
            let logits = logits.iter().map(|&logit| logit as f32).collect();
            layer.logits().set(&Tensor::from_vec(logits, layer.logits().dims(), &Device::Cpu).unwrap()).unwrap();
        }
        let now = self.settings.recipe.at(step.into());
        self.sampler.begin(step, &now).unwrap();
        let gradients = self.gradients(batches);
        let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let this = (self.settings.recipe.max_norm / norm).min(1.0);
        let last = std::mem::replace(&mut self.factor, this);
        let factor = if self.settings.accumulate == 1 { last } else { this };
        self.clipped += u32::from(factor < 0.9);
        let (by, t) = (now.adamw, f64::from(step + 1));
        let all = self.logits.iter_mut().flatten().zip(self.moments.iter_mut().flatten());
        for ((logit, [m, v]), g) in all.zip(gradients.iter().flatten().map(|g| factor * g)) {
            *m = by.beta1 * *m + (1.0 - by.beta1) * g;
            *v = by.beta2 * *v + (1.0 - by.beta2) * g * g;
            let (m, v) = (*m / (1.0 - by.beta1.powf(t)), *v / (1.0 - by.beta2.powf(t)));
            let toward = m / (v.sqrt() + by.epsilon);
            *logit -= by.rate * (by.decay * *logit + toward);
            self.moved = self.moved.max(by.rate * toward.abs());
        }
    }
}

/// Some steps, of learning and by hand.
#[track_caller]
fn check(accumulate: u16, max_norm: f64, distil: Option<Teaching>) {
    let tiny = Tiny { blocks: 1, ..Tiny::llama() };
    let (model, settings) = (model(&tiny), settings(accumulate, max_norm, distil));
    let mut learning = Learning::new(&model, &settings, &Prior::Magnitude).unwrap();
    let start: Vec<_> = learning.layers().map(|(_, layer)| logits(layer)).collect();
    let mut by_hand = ByHand::new(&model, &settings, &start);
    for step in 0..STEPS {
        let windows = |number: u16| {
            let seed = u64::from(step) * 100 + u64::from(number);
            [tiny.tokens(LENGTH + 1, 2 * seed), tiny.tokens(LENGTH + 1, 2 * seed + 1)].concat()
        };
        let batches: Vec<_> = (0..accumulate).map(windows).collect();
        learning.step(step, &batches, LENGTH).unwrap();
        by_hand.step(step, &batches);
    }
    let got = learning.layers().flat_map(|(_, layer)| logits(layer));
    let off = got.zip(by_hand.logits.iter().flatten()).map(|(got, want)| (f64::from(got) - want).abs());
    let (off, moved) = (off.fold(0.0, f64::max), by_hand.moved);
    println!("{accumulate} micro-batches: off by {off:e}, of a gradient that moved by up to {moved:e}");
    assert!(off < 1e-4 * moved, "{accumulate} micro-batches: off by {off}, moved by {moved}");
    let clips = if max_norm == f64::MAX { 0 } else { STEPS - u32::from(accumulate == 1) };
    assert_eq!(by_hand.clipped, clips);
}

#[test]
fn micro_batches_are_summed() {
    for accumulate in 1..4 {
        check(accumulate, f64::MAX, None);
    }
}

#[test]
fn gradients_are_clipped() {
    check(1, 1e-2, None);
    check(3, 1e-2, None);
}

#[test]
fn the_teacher_is_of_every_micro_batch() {
    for accumulate in 1..3 {
        check(accumulate, f64::MAX, Some(Teaching { by: Divergence::Reverse, temperature: 2.0, labels: 0.5 }));
    }
}

/// What is given on the command line is what a step does.
#[test]
fn options_reach_the_step() {
    let runs = Runs::new();
    let curve = |steps: &str, more: &[&str]| {
        let told = runs.at("report.json");
        let own = ["--steps", steps, "--every", "1", "--prior", "none", "--report", &told];
        runs.learns("masks.npz", &[&own[..], more].concat());
        report(told.as_ref())["curve"].clone()
    };
    let loss = |more: &[&str]| curve("1", more)[1]["loss"].as_f64().unwrap();
    let [labels, taught, both] = [&[][..], &["--distil"], &["--distil", "--labels", "0.5"]].map(loss);
    assert!((both - taught - 0.5 * labels).abs() < 1e-5 * both && taught < 0.9 * labels, "{labels} {taught} {both}");
    assert_ne!(taught, loss(&["--distil", "reverse"]));
    assert_ne!(taught, loss(&["--distil", "--temperature", "2"]));

    let moved = |more: &[&str]| [1, 4].map(|i| curve("4", more)[i]["moved"].as_f64().unwrap());
    // By this step's norm nothing moves; by the last one's, the first step does.
    assert_eq!(moved(&["--accumulate", "2", "--clip", "1e-15"]), [0.0; 2]);
    assert!(moved(&["--accumulate", "2"])[0] > 0.01);
    let forgets = ["--beta1", "0", "--beta2", "0", "--decay", "0"];
    let [free, clipped] = [&[][..], &["--clip", "1e-15"]].map(|clip| moved(&[&forgets, clip].concat()));
    assert!(clipped == [free[0]; 2] && free[0] > 0.01 && free[1] != free[0], "{free:?} {clipped:?}");
    let tokens = |more: &[&str]| curve("1", more)[1]["tokens"].as_u64().unwrap();
    assert_eq!([tokens(&[]), tokens(&["--accumulate", "3"])], [4 * 32, 3 * 4 * 32]);
}

#[test]
fn tokens_that_are_no_windows() {
    let tiny = Tiny { blocks: 1, ..Tiny::llama() };
    let (model, tokens) = (model(&tiny), tiny.tokens(3 * (LENGTH + 1), 1));
    let network = Network::new(&model, |_, linear| Ok(linear)).unwrap();
    let whole = &tokens[..2 * LENGTH + 2];
    for (windows, length) in [(&tokens[..2 * LENGTH], LENGTH), (&[], LENGTH), (whole, 0), (whole, usize::MAX)] {
        assert!(network.backward(windows, length, &mut |_, _| Ok(())).is_err(), "{} {length}", windows.len());
    }
    for accumulate in 1..3 {
        let settings = settings(accumulate, 1.0, None);
        let mut learning = Learning::new(&model, &settings, &Prior::None).unwrap();
        let of = |windows: &[u32]| vec![windows.to_vec(); accumulate.into()];
        assert!(learning.step(0, &[], LENGTH).is_err());
        assert!(learning.step(0, &of(&tokens[..2 * LENGTH]), LENGTH).is_err());
        assert!(learning.step(0, &of(&[]), LENGTH).is_err());
        assert!(learning.step(0, &of(whole), 0).is_err());
        assert_eq!(learning.step(0, &vec![whole.to_vec(); 2], LENGTH).is_err(), accumulate == 1);
        learning.step(0, &of(whole), LENGTH).unwrap();
        for length in [0, 1, 10, usize::MAX] {
            assert!(learning.losses(&tokens, length).is_err(), "{length}");
        }
        assert_eq!(learning.losses(&tokens, 13).unwrap().len(), 3 * 12);
    }
}
