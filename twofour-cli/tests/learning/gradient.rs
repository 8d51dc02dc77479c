//! Gradients of the whole model's loss with respect to mask logits, against finite differences of a model of plain
//! loops in f64, whose masks are made of the same noise by MaskLLM's formulas.

use crate::common::{Tiny, Weight, oracle};
use candle_core::Device;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::BTreeMap;
use twofour::distil::Divergence;
use twofour::{Shape, noise};
use twofour_candle::{MaskedLinear, Mode, Sampler};
use twofour_cli::model::{Model, Network, Teaching};
use twofour_formats::TensorType;

const SEED: u64 = 5;
const STEP: u32 = 3;
const KAPPA: f32 = 2.0;
const TAU: f32 = 0.75;
/// Positions that are kept, by pattern.
const KEPT: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];

/// Logits by layer, in the order of the model.
type Logits = Vec<(String, Vec<f64>)>;

fn normals(count: usize, seed: u64) -> Vec<f64> {
    StandardNormal.sample_iter(StdRng::seed_from_u64(seed)).take(count).collect()
}

/// The weights under soft masks.
fn masked(weights: &BTreeMap<String, Weight>, logits: &Logits) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let wide = |(name, (shape, values)): (&String, &Weight)| {
        (name.clone(), (shape.clone(), values.iter().copied().map(f64::from).collect::<Vec<_>>()))
    };
    let mut masked: BTreeMap<_, _> = weights.iter().map(wide).collect();
    for (layer, (name, logits)) in (0..).zip(logits) {
        let values = &mut masked.get_mut(name).unwrap().1;
        for (group, (values, logits)) in values.chunks_mut(4).zip(logits.chunks(6)).enumerate() {
            let noise = noise::gumbels(SEED, noise::draw(layer, STEP, 0), group as u64);
            let score = |i: usize| (f64::from(KAPPA) * logits[i] + f64::from(noise[i])) / f64::from(TAU);
            let shares: [f64; 6] = std::array::from_fn(|i| score(i).exp());
            let all: f64 = shares.iter().sum();
            for (j, value) in values.iter_mut().enumerate() {
                let kept = (0..6).filter(|&i| KEPT[i].contains(&j)).map(|i| shares[i] / all);
                *value *= kept.sum::<f64>();
            }
        }
    }
    masked
}

/// `ln softmax(row / t)`.
fn log_shares(row: &[f64], t: f64) -> Vec<f64> {
    let all: f64 = row.iter().map(|x| (x / t).exp()).sum();
    row.iter().map(|x| x / t - all.ln()).collect()
}

/// What is learnt from: windows of `length + 1` tokens, and a teacher, if there is one.
#[derive(Clone, Copy)]
struct Task<'t> {
    windows: &'t [u32],
    length: usize,
    teaching: Option<Teaching>,
}

/// The mean loss.
fn loss(tiny: &Tiny, weights: &BTreeMap<String, Weight>, logits: &Logits, task: Task<'_>) -> f64 {
    let Task { windows, length, teaching } = task;
    let masked = masked(weights, logits);
    let mut losses = Vec::new();
    for window in windows.chunks(length + 1) {
        let rows = oracle::logits(tiny, &masked, &window[..length]);
        let taught = teaching.map(|_| oracle::logits(tiny, weights, &window[..length]));
        for (i, (row, &next)) in rows.iter().zip(&window[1..]).enumerate() {
            let own = oracle::loss(row, next);
            losses.push(match (&teaching, &taught) {
                (Some(teaching), Some(taught)) => {
                    let t = f64::from(teaching.temperature);
                    let (p, q) = (log_shares(row, t), log_shares(&taught[i], t));
                    let forward: f64 = p.iter().zip(&q).map(|(p, q)| q.exp() * (q - p)).sum();
                    t * t * forward + f64::from(teaching.labels) * own
                }
                _ => own,
            });
        }
    }
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// Loss and gradients as `learn` has them.
fn learnt(model: &Model, logits: &Logits, task: Task<'_>, recompute: bool) -> (f64, Logits) {
    let sampler = Sampler::new(SEED);
    sampler.update(|now| (now.step, now.kappa, now.tau) = (STEP, KAPPA, TAU)).unwrap();
    let mut number = 0;
    let network = Network::new(model, |name, linear| {
        let layer = MaskedLinear::from_linear(&linear, number, &sampler)?;
        let (known, values) = &logits[number as usize];
        assert_eq!(name, known);
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        layer.logits().set(&candle_core::Tensor::from_vec(values, layer.logits().dims(), &Device::Cpu)?)?;
        number += 1;
        Ok(layer)
    });
    let network = network.unwrap().recompute(recompute);
    let mut gradients: Logits = logits.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
    let Task { windows, length, teaching } = task;
    let read: Vec<u32> = windows.chunks(length + 1).flat_map(|window| &window[..length]).copied().collect();
    sampler.update(|now| now.mode = Mode::Dense).unwrap();
    let taught = network.states(&read, length).unwrap();
    sampler.update(|now| now.mode = Mode::Soft).unwrap();
    let loss = network.backward_of(windows, length, teaching.map(|of| (&taught, of)), &mut |layer, store| {
        let gradient = store.get(layer.logits()).unwrap().flatten_all()?.to_vec1::<f32>()?;
        gradients[layer.layer() as usize].1 = gradient.into_iter().map(f64::from).collect();
        Ok(())
    });
    (loss.unwrap(), gradients)
}

#[track_caller]
fn check(tiny: &Tiny, windows: usize, length: usize, teaching: Option<Teaching>) {
    let folder = tempfile::tempdir().unwrap();
    let weights = tiny.write(folder.path(), &tiny.weights(3), TensorType::F32, 1);
    let model = Model::open(folder.path(), &Device::Cpu).unwrap();
    let tokens: Vec<u32> = (0..windows as u64).flat_map(|i| tiny.tokens(length + 1, i)).collect();
    let task = Task { windows: &tokens, length, teaching };
    // As f32 has them.
    let of = |(i, (name, shape)): (usize, (String, Shape))| {
        (name, normals(shape.logits(), i as u64).into_iter().map(|x| f64::from(x as f32)).collect())
    };
    let logits: Logits = model.linears().into_iter().enumerate().map(of).collect();
    let (got, gradients) = learnt(&model, &logits, task, false);
    let want = loss(tiny, &weights, &logits, task);
    assert!((got / want - 1.0).abs() < 1e-5, "{}: the loss is {got}, and by hand {want}", tiny.kind);

    // Of each layer: all logits at once, in two directions, and its largest alone.
    let mut moved = logits.clone();
    for (i, (name, gradient)) in gradients.iter().enumerate() {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let largest = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
        let mut alone = vec![0.0; gradient.len()];
        alone[largest] = 1.0;
        for direction in [normals(gradient.len(), 100 + i as u64), normals(gradient.len(), 200 + i as u64), alone] {
            let mut along = |h: f64| {
                let values = logits[i].1.iter().zip(&direction).map(|(x, d)| x + h * d);
                moved[i].1 = values.collect();
                loss(tiny, &weights, &moved, task)
            };
            const H: f64 = 1e-4;
            let differences = (along(H) - along(-H)) / (2.0 * H);
            let got: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let error = (got - differences).abs();
            assert!(error < 2e-4 * norm, "{} {name}: {got}, by differences {differences}; norm {norm}", tiny.kind);
        }
        moved[i].1.clone_from(&logits[i].1);
    }
    let again = learnt(&model, &logits, task, true);
    assert!(again == (got, gradients), "{}: what is made again is the same to the bit", tiny.kind);
}

#[test]
fn of_a_model_with_biases() {
    check(&Tiny::qwen2(), 2, 11, None);
}

#[test]
fn of_a_model_whose_heads_are_normalised() {
    check(&Tiny::qwen3(), 2, 11, None);
}

/// Longer than the rows that attention takes at a time.
#[test]
fn of_a_window_that_slides() {
    check(&Tiny { blocks: 1, ..Tiny::mistral() }, 1, 140, None);
}

#[test]
fn of_shared_heads_and_stretched_positions() {
    check(&Tiny::llama3(), 3, 9, None);
}

#[test]
fn of_what_the_dense_model_teaches() {
    let teaching = Teaching { by: Divergence::Forward, temperature: 2.0, labels: 0.5 };
    check(&Tiny::llama(), 2, 9, Some(teaching));
}
