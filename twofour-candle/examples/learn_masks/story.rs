//! The story of one seed: a dense model, masks of it, and what they cost.

use crate::learn::MaskLearning;
use crate::masks::write_masks;
use crate::model::Model;
use crate::phase::{Going, Phase};
use crate::prune::{Masks, OneShot, masked};
use crate::results::{BASELINE, DENSE, Results, Row};
use crate::settings::{Memory, Settings};
use crate::store::{Standing, load_json, load_tensors, save_json, save_tensors};
use crate::text::{Domain, Text};
use crate::train::{Batches, DenseTraining, evaluate};
use crate::{Failure, plots};
use candle_core::{Device, Tensor};
use candle_nn::Linear;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What seeds share.
pub(crate) struct Stage<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) device: &'a Device,
    pub(crate) going: &'a Going,
    pub(crate) code: &'a Text,
    /// Only where masks move from one to the other.
    pub(crate) prose: Option<&'a Text>,
    /// A dense model that was given.
    pub(crate) model: Option<&'a Path>,
    pub(crate) save_every: usize,
}

/// A seed's run.
pub(crate) struct Story<'a> {
    stage: &'a Stage<'a>,
    folder: PathBuf,
    results: Results,
}

/// What random numbers are for: a stream each.
mod stream {
    pub(super) const TRAINING: u64 = 0;
    pub(super) const CALIBRATION: u64 = 1;
    pub(super) const LEARNING: u64 = 2;
}

impl<'a> Story<'a> {
    /// Runs what a seed's folder does not have yet.
    pub(crate) fn run(stage: &'a Stage<'a>, seed: u64, folder: PathBuf) -> Result<Results, Failure> {
        std::fs::create_dir_all(folder.join("masks"))?;
        let results = load_json(&folder.join("results.json"))?.unwrap_or_else(|| Results {
            seed,
            settings: stage.settings.clone(),
            masked_weights: stage.settings.shape.masked_weights(),
            rows: Vec::new(),
        });
        let mut story = Self { stage, folder, results };
        let dense = story.dense()?;
        match stage.prose {
            None => story.compare(&dense, Domain::Code)?,
            Some(_) => story.transfer(&dense)?,
        }
        plots::curves(&story.folder, &story.results)?;
        Ok(story.results)
    }

    /// The dense model: the one given, or one that is trained on all texts by turns.
    fn dense(&mut self) -> Result<Model<Linear>, Failure> {
        let Stage { settings, device, going, .. } = *self.stage;
        let own = self.folder.join("dense.safetensors");
        let texts: Vec<&Text> = std::iter::once(self.stage.code).chain(self.stage.prose).collect();
        let mut standing = Standing::default();
        if self.stage.model.is_none() && !own.exists() {
            let batches = Batches { seed: self.results.seed, stream: stream::TRAINING };
            let mut training = DenseTraining::from_scratch(settings, &texts, batches, device)?;
            let phase = self.phase("dense model", "dense", settings.dense.steps);
            standing = phase.run(&mut training, going, device)?;
            // The curve first: with the model in its place, training is over.
            save_json(&self.folder.join("dense.json"), &standing)?;
            save_tensors(&own, training.tensors())?;
            phase.done()?;
        } else if let Some(saved) = load_json(&self.folder.join("dense.json"))? {
            standing = saved;
        }
        let model = Model::dense(&settings.shape, &self.dense_tensors()?)?;
        let domains = [Domain::Code, Domain::Prose];
        for domain in &domains[..texts.len()] {
            let bytes_seen = standing.step * settings.step_bytes();
            let made = Made { seconds: standing.seconds, bytes_seen, curve: standing.curve.clone(), ..Made::default() };
            self.measure(*domain, DENSE, &model, made)?;
        }
        Ok(model)
    }

    fn dense_tensors(&self) -> Result<HashMap<String, Tensor>, Failure> {
        let own = self.folder.join("dense.safetensors");
        load_tensors(self.stage.model.unwrap_or(&own), self.stage.device)
    }

    /// What the bytes that masks learn from do for the dense model itself: they are the same, in the same order.
    fn control(&mut self, domain: Domain) -> Result<(), Failure> {
        let Stage { settings, device, going, .. } = *self.stage;
        let method = "dense, trained on for as many bytes";
        if self.results.row(domain, method).is_some() {
            return Ok(());
        }
        let texts = [self.text(domain)?];
        let batches = Batches { seed: self.results.seed, stream: of_domain(stream::LEARNING, domain) };
        let mut training = DenseTraining::onwards(settings, &texts, batches, &self.dense_tensors()?)?;
        let steps = settings.learn.steps * usize::from(settings.learn.micro_batches);
        let phase = self.phase(method, &file_name(domain, method), steps);
        let Standing { step, seconds, curve, .. } = phase.run(&mut training, going, device)?;
        let made = Made { seconds, bytes_seen: step * settings.step_bytes(), curve, ..Made::default() };
        self.measure(domain, method, training.model(), made)?;
        phase.done()
    }

    /// All methods on one text.
    fn compare(&mut self, dense: &Model<Linear>, domain: Domain) -> Result<(), Failure> {
        let one_shot = self.one_shot(dense, domain)?;
        self.control(domain)?;
        let memory = self.stage.settings.learn.memory;
        let small = memory == Memory::Small;
        self.learn(dense, domain, "MaskLLM, no prior", None, small)?;
        self.learn(dense, domain, "MaskLLM, magnitude prior", Some(&one_shot.magnitude), small)?;
        self.learn(dense, domain, "MaskLLM, SparseGPT prior", Some(&one_shot.sparsegpt), small)?;
        if memory == Memory::Both {
            self.learn(dense, domain, "MaskLLM, SparseGPT prior, small memory", Some(&one_shot.sparsegpt), true)?;
        }
        Ok(())
    }

    /// A mask learnt on code as a prior on prose, and learning on prose without it.
    fn transfer(&mut self, dense: &Model<Linear>) -> Result<(), Failure> {
        let small = self.stage.settings.learn.memory == Memory::Small;
        let of_code = self.one_shot(dense, Domain::Code)?;
        let code = self.learn(dense, Domain::Code, "MaskLLM, SparseGPT prior", Some(&of_code.sparsegpt), small)?;
        let of_prose = self.one_shot(dense, Domain::Prose)?;
        self.measure(Domain::Prose, "the mask learnt on code", &masked(dense, &code)?, Made::default())?;
        self.control(Domain::Prose)?;
        self.learn(dense, Domain::Prose, "MaskLLM, no prior", None, small)?;
        self.learn(dense, Domain::Prose, "MaskLLM, SparseGPT prior", Some(&of_prose.sparsegpt), small)?;
        self.learn(dense, Domain::Prose, "MaskLLM, the mask learnt on code as prior", Some(&code), small)?;
        Ok(())
    }

    /// Masks of one pass over a text, measured on it.
    fn one_shot(&mut self, dense: &Model<Linear>, domain: Domain) -> Result<OneShot, Failure> {
        let Settings { calibration, batch, ref shape, .. } = *self.stage.settings;
        let start = Instant::now();
        let batches = Batches { seed: self.results.seed, stream: of_domain(stream::CALIBRATION, domain) };
        let sequences = self.text(domain)?.draw(&mut batches.random(0), calibration, shape.context + 1);
        let one_shot = OneShot::new(dense, &sequences, batch)?;
        let made = Made { seconds: start.elapsed().as_secs_f64(), ..Made::default() };
        let calibrated = Made { bytes_seen: calibration * shape.context, ..made.clone() };
        let all = [
            ("magnitude", &one_shot.magnitude, made),
            ("Wanda", &one_shot.wanda, calibrated.clone()),
            (BASELINE, &one_shot.sparsegpt, calibrated.clone()),
        ];
        for (method, masks, made) in all {
            self.measure(domain, method, &masked(dense, masks)?, made)?;
            self.write(domain, method, dense, masks)?;
        }
        let method = "SparseGPT with weight update";
        self.measure(domain, method, &one_shot.updated, calibrated)?;
        self.write(domain, method, &one_shot.updated, &one_shot.sparsegpt_updated)?;
        Ok(one_shot)
    }

    /// Learns masks, measures and writes them, if that has not been done.
    fn learn(
        &mut self,
        dense: &Model<Linear>,
        domain: Domain,
        method: &str,
        prior: Option<&Masks>,
        small: bool,
    ) -> Result<Masks, Failure> {
        let Stage { settings, device, going, .. } = *self.stage;
        let file = self.mask_file(domain, method);
        if self.results.row(domain, method).is_some() {
            return crate::masks::read_masks(&file, dense);
        }
        let batches = Batches { seed: self.results.seed, stream: of_domain(stream::LEARNING, domain) };
        let mut learning = MaskLearning::new(dense, settings, self.text(domain)?, prior, batches, small, device)?;
        let phase = self.phase(method, &file_name(domain, method), settings.learn.steps);
        let standing = phase.run(&mut learning, going, device)?;
        let masks = learning.masks()?;
        self.write(domain, method, dense, &masks)?;
        let made = Made {
            seconds: standing.seconds,
            bytes_seen: standing.step * settings.step_bytes() * usize::from(settings.learn.micro_batches),
            moved: standing.curve.last().map(|point| point.moved),
            bytes_per_weight: Some(learning.bytes()? as f64 / self.results.masked_weights as f64),
            curve: standing.curve,
        };
        self.measure(domain, method, &masked(dense, &masks)?, made)?;
        phase.done()?;
        Ok(masks)
    }

    /// Takes a model's perplexity, prints it and keeps it; once.
    fn measure(&mut self, domain: Domain, method: &str, model: &Model<Linear>, made: Made) -> Result<(), Failure> {
        if self.results.row(domain, method).is_some() {
            return Ok(());
        }
        let settings = self.stage.settings;
        let sequences = self.text(domain)?.validation(settings.validation, settings.shape.context + 1);
        let loss = evaluate(model, &sequences, settings.batch)?;
        let Made { seconds, bytes_seen, moved, bytes_per_weight, curve } = made;
        let perplexity = loss.exp();
        let row = Row {
            domain,
            method: method.to_owned(),
            loss,
            perplexity,
            seconds,
            bytes_seen,
            moved,
            bytes_per_weight,
            curve,
        };
        let closed = self
            .results
            .closed(&row)
            .map_or_else(String::new, |closed| format!("  {:6.1} % of the gap", 100.0 * closed));
        println!(
            "seed {}  {domain}  {method:<42} perplexity {perplexity:.4}{closed}  {seconds:.1} s",
            self.results.seed
        );
        self.results.rows.push(row);
        save_json(&self.folder.join("results.json"), &self.results)
    }

    fn text(&self, domain: Domain) -> Result<&'a Text, Failure> {
        match domain {
            Domain::Code => Ok(self.stage.code),
            Domain::Prose => self.stage.prose.ok_or_else(|| "there is no prose".into()),
        }
    }

    fn write(&self, domain: Domain, method: &str, dense: &Model<Linear>, masks: &Masks) -> Result<(), Failure> {
        write_masks(&self.mask_file(domain, method), dense, masks)
    }

    fn mask_file(&self, domain: Domain, method: &str) -> PathBuf {
        self.folder.join("masks").join(file_name(domain, method))
    }

    fn phase(&self, name: &str, file: &str, steps: usize) -> Phase {
        let settings = self.stage.settings;
        Phase {
            name: format!("seed {}: {name}", self.results.seed),
            steps,
            points: settings.points,
            checkpoint: self.folder.join(format!("{file}.checkpoint.safetensors")),
            save_every: self.stage.save_every,
            step_bytes: settings.step_bytes(),
        }
    }
}

/// How a model came to be.
#[derive(Debug, Clone, Default)]
struct Made {
    seconds: f64,
    bytes_seen: usize,
    moved: Option<f64>,
    bytes_per_weight: Option<f64>,
    curve: Vec<crate::store::Point>,
}

fn of_domain(stream: u64, domain: Domain) -> u64 {
    match domain {
        Domain::Code => stream,
        Domain::Prose => stream + 100,
    }
}

fn file_name(domain: Domain, method: &str) -> String {
    let words = method.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("-").to_lowercase();
    if domain == Domain::Code { name } else { format!("{domain}-{name}") }
}
