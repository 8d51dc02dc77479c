//! The command.

use super::state::{self, Identity};
use super::{Args, Curve, Digest, Learning, Point, Prior, Settings, Stopped, Windows, heap, room, settings, stop};
use crate::demo::Demo;
use crate::eval::{apart, tokens};
use crate::model::{Model, Teaching};
use crate::names::plain;
use crate::{Failure, output};
use clap::Parser;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use twofour_formats::Staged;
use twofour_formats::masks::{Form, Manifest, Mask, Masks};

/// Learns masks, writes them and reads them back. Whether all is well.
///
/// # Errors
/// What is wrong with the model, the text, the prior or the arguments; all of it before the first step. That it was
/// asked to stop.
pub fn run(args: &Args) -> Result<bool, Failure> {
    let Some(path) = &args.model else { return demo() };
    if args.text.is_empty() {
        return Err("what is to be learnt from? Give --text FILE".into());
    }
    let settings = args.settings()?;
    let model = Model::open(path, &args.device.open()?)?;
    let places = Places::new(args, path)?;
    heap::keep();
    let mut task = Task::new(args, &model, settings, places)?;
    task.describe(&model);
    stop::listen()?;
    task.learn()?;
    task.finish()
}

/// Where everything is written.
struct Places {
    form: Form,
    masks: PathBuf,
    state: PathBuf,
}

impl Places {
    /// Nothing is written over what is read, and a run that is saved is not begun again unasked.
    fn new(args: &Args, model: &Path) -> Result<Self, Failure> {
        let (form, masks) = crate::convert::masks(args.form, args.out.as_deref(), model, "learnt")?;
        let state = args.state.clone().unwrap_or_else(|| with_ending(&masks, ".state"));
        let mut read: Vec<PathBuf> = args.text.iter().chain(&args.validate).cloned().collect();
        match model.is_dir() {
            true => {
                read.extend(output::read(&twofour_formats::Model::find(model)?));
                read.extend(["config.json", "tokenizer.json"].map(|name| model.join(name)));
            }
            false => read.push(model.to_owned()),
        }
        if let super::prior::Named::File(prior) = &args.prior {
            // A folder or an index is its files too.
            read.extend(twofour_formats::Model::find(prior).iter().flat_map(output::read));
            read.push(prior.clone());
        }
        let written: Vec<PathBuf> = [&masks, &state].into_iter().chain(&args.report).cloned().collect();
        output::check(&read, &written, None)?;
        if state.exists() && !args.resume {
            let state = plain(&state.display().to_string()).into_owned();
            return Err(format!(
                "{state}: a run is saved there: --resume goes on with it, and --state names another place"
            )
            .into());
        }
        Ok(Self { form, masks, state })
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// A run.
struct Task<'a> {
    args: &'a Args,
    settings: Settings,
    places: Places,
    identity: Identity,
    windows: Windows,
    /// Whole windows of validation, and how long each is.
    validation: Option<(Vec<u32>, usize)>,
    learning: Learning,
    /// Masks before the first step.
    start: Vec<(String, Vec<u8>)>,
    step: u64,
    curve: Curve,
}

impl<'a> Task<'a> {
    fn new(args: &'a Args, model: &Model, settings: Settings, places: Places) -> Result<Self, Failure> {
        let text = tokens::of_files(model, &args.text, "--text")?;
        model.check_tokens(&text).map_err(|e| format!("--text: {e}"))?;
        let text_digest = Digest::of_tokens(&text);
        let windows = Windows::new(text, settings.window, settings.seed)?;
        let validation = validation(args, model)?;
        let prior = Prior::new(model, &args.prior)?;
        let weights: u64 = model.linears().iter().map(|(_, shape)| shape.weights() as u64).sum();
        room::check(&places.state, state::bytes(weights, settings.memory), weights)?;
        let mut learning = Learning::new(model, &settings, &prior)?;
        let start = learning.codes()?;
        let identity = json!({
            "model": learning.digest(),
            "text": text_digest,
            "prior": prior.identity(),
            "seed": settings.seed,
            "steps": settings.recipe.steps,
            "window": settings.window,
            "batch": settings.batch,
            "accumulate": settings.accumulate,
            "memory": format!("{:?}", settings.memory).to_lowercase(),
            "distil": settings.distil.map(|of| format!("{:?} T={} labels={}", of.by, of.temperature, of.labels)),
            "every": args.every,
            "validation": validation.as_ref().map(|(tokens, window)| format!("{} {window}", Digest::of_tokens(tokens))),
        });
        let identity = if let Value::Object(identity) = identity { identity } else { Identity::new() };
        let (mut step, mut curve) = (0, Curve::default());
        if args.resume && places.state.exists() {
            (step, curve) = state::load(&places.state, &mut learning, &settings, &identity)?;
        }
        Ok(Self { args, settings, places, identity, windows, validation, learning, start, step, curve })
    }

    fn describe(&self, model: &Model) {
        let (config, layers) = (model.config(), self.start.len());
        let Settings { recipe, window, batch, accumulate, .. } = &self.settings;
        let masked: u64 = self.learning.layers().map(|(_, layer)| layer.shape().weights() as u64).sum();
        let million = |count: u64| format!("{:.1} M", count as f64 / 1e6);
        let path = model.path().display().to_string();
        let all = million(config.weights() as u64);
        println!("model       {}: {}, {all} weights", plain(&path), config.kind.name());
        println!("masks       {layers} layers, {} weights; prior: {}", million(masked), self.prior());
        let micro = if *accumulate > 1 { format!(" in {accumulate} micro-batches") } else { String::new() };
        let (seen, there) = (recipe.steps * self.settings.tokens() as u64, self.windows.tokens().len());
        let of = format!("{} windows of {window}{micro}", batch * usize::from(*accumulate));
        if let Some(Teaching { by, temperature, labels }) = &self.settings.distil {
            let by = format!("{by:?}").to_lowercase();
            println!(
                "teacher     the dense model: {by}, temperature {temperature}, and the next token's loss times {labels}"
            );
        }
        println!("steps       {} of {of}: {seen} tokens, of a text of {there}", recipe.steps);
        let [rate, kappa, tau, lambda] =
            [&recipe.rate, &recipe.kappa, &recipe.tau, &recipe.regulariser].map(settings::shown);
        let clip = if self.settings.clips() { recipe.max_norm.to_string() } else { "none".into() };
        println!("recipe      rate {rate}, kappa {kappa}, tau {tau}, lambda {lambda}");
        println!(
            "            alpha {}, sigma {}, clip {clip}, decay {}, betas {} {}, epsilon {:e}, seed {}",
            recipe.alpha, recipe.sigma, recipe.decay, recipe.beta1, recipe.beta2, recipe.epsilon, self.settings.seed
        );
        if let Some((tokens, window)) = &self.validation {
            println!(
                "validation  {} tokens in windows of {window}, under the masks of the largest logits",
                tokens.len()
            );
        }
        println!("\n{}", Point::HEAD);
        for point in &self.curve.points {
            println!("{}", point.line(recipe.steps, None));
        }
    }

    fn prior(&self) -> String {
        match &self.args.prior {
            super::prior::Named::None => "none".into(),
            super::prior::Named::Magnitude => "magnitude".into(),
            super::prior::Named::File(path) => plain(&path.display().to_string()).into_owned(),
        }
    }

    fn learn(&mut self) -> Result<(), Failure> {
        let steps = self.settings.recipe.steps;
        let progress = progress(steps, self.step);
        let (first, before, start) = (self.step, self.curve.seconds, Instant::now());
        if self.curve.points.is_empty() {
            self.point(&progress, None)?;
        }
        let every = u64::from(self.args.every);
        while self.step < steps {
            let loss = self.one()?;
            self.step += 1;
            self.curve.losses.push(loss);
            self.curve.seconds = before + start.elapsed().as_secs_f64();
            progress.set_position(self.step);
            progress.set_message(format!("loss {loss:.4}"));
            if self.step.is_multiple_of(every) || self.step == steps {
                let left = start.elapsed().mul_f64((steps - self.step) as f64 / (self.step - first) as f64);
                self.point(&progress, Some(left))?;
                self.curve.seconds = before + start.elapsed().as_secs_f64();
            }
            let stops = stop::asked() || self.args.stop_after == u32::try_from(self.step - first).ok();
            if self.step < steps && (stops || self.step.is_multiple_of(u64::from(self.args.save_every))) {
                self.save()?;
            }
            if self.step < steps && stops {
                progress.abandon();
                let state = self.places.state.display().to_string();
                return Err(Box::new(Stopped { step: self.step, of: steps, state }));
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn save(&self) -> Result<(), Failure> {
        let Self { places, learning, settings, identity, step, curve, .. } = self;
        state::save(&places.state, learning, settings, identity, *step, curve)
    }

    /// One step; its loss.
    fn one(&mut self) -> Result<f64, Failure> {
        let Settings { batch, accumulate, window, .. } = self.settings;
        let micro_batches = u64::from(accumulate);
        let batches: Vec<_> = (0..micro_batches)
            .map(|number| self.windows.take((self.step * micro_batches + number) * batch as u64, batch))
            .collect();
        let loss = self.learning.step(self.step as u32, &batches, window)?;
        if !loss.is_finite() {
            let advice = match self.step {
                0 => "before anything was learnt: has the model one on this text? `twofour eval` tells",
                _ => "a lower --rate may help, in a run begun anew: one that goes on comes to it again",
            };
            return Err(format!("the loss of step {} is {loss}: {advice}", self.step + 1).into());
        }
        Ok(loss)
    }

    /// Adds a point to the curve, and prints it.
    fn point(&mut self, progress: &ProgressBar, left: Option<Duration>) -> Result<(), Failure> {
        let perplexity = match &self.validation {
            Some((tokens, window)) => {
                let losses = self.learning.losses(tokens, *window)?;
                Some((losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64).exp())
            }
            None => None,
        };
        let point = Point {
            step: self.step,
            tokens: self.step * self.settings.tokens() as u64,
            loss: self.curve.loss(),
            perplexity: perplexity.filter(|perplexity| perplexity.is_finite()),
            moved: self.moved()?,
            confidence: self.learning.confidence()?,
            seconds: self.curve.seconds,
        };
        self.curve.points.push(point);
        progress.suspend(|| println!("{}", point.line(self.settings.recipe.steps, left)));
        Ok(())
    }

    /// The share of groups whose pattern is not that of the start.
    fn moved(&self) -> Result<f64, Failure> {
        let (mut moved, mut all) = (0u64, 0u64);
        for ((_, layer), (_, start)) in self.learning.layers().zip(&self.start) {
            let halves = |(a, b): (&u8, &u8)| u64::from((a ^ b) & 15 != 0) + u64::from((a ^ b) >> 4 != 0);
            moved += layer.codes()?.iter().zip(start).map(halves).sum::<u64>();
            all += layer.shape().groups() as u64;
        }
        Ok(moved as f64 / all.max(1) as f64)
    }

    /// Writes masks and report, and reads the masks back. The run is saved first, so that no step is lost if that fails.
    fn finish(self) -> Result<bool, Failure> {
        let (saved, state) = (self.save(), &self.places.state);
        let hint = match &saved {
            Ok(()) => format!("all steps are saved in {}, and --resume writes their masks", state.display()),
            Err(failure) => format!("nor could the steps be saved: {failure}"),
        };
        let well = self.write().map_err(|failure| format!("{failure}; {hint}"))?;
        if !well {
            println!("read back: FAILED; {}", plain(&hint));
        } else if state.exists() {
            // With the masks in their place the run is over.
            std::fs::remove_file(state)?;
        }
        Ok(well)
    }

    /// Whether what was read back is what was written.
    fn write(&self) -> Result<bool, Failure> {
        let Places { form, masks: path, .. } = &self.places;
        let layers = self.learning.layers().map(|(name, layer)| Ok((name, Mask::new(layer.shape(), layer.codes()?)?)));
        let layers = layers.collect::<Result<Vec<_>, Failure>>()?;
        let mut manifest = Manifest::new(*form);
        layers.iter().try_for_each(|(name, mask)| manifest.layer(name, mask.shape()))?;
        manifest
            .save::<Failure>(path, |file| Ok(layers.iter().try_for_each(|(name, mask)| file.mask(name, mask))?))?;
        let shapes = layers.iter().map(|(name, mask)| (*name, mask.shape())).collect();
        let written = Masks::open(path)?.with_shapes(shapes);
        let mut well = written.names().len() == layers.len();
        for (name, mask) in &layers {
            well = well && written.read(name)? == *mask;
        }
        if let Some(report) = &self.args.report {
            self.report(report)?;
        }
        let (size, to) = (BinaryBytes(std::fs::metadata(path)?.len()), path.display().to_string());
        println!("\n{} masks, {form}: {size}, in {}", layers.len(), plain(&to));
        if well {
            println!("read back: all {} masks are as they should be", layers.len());
        }
        Ok(well)
    }

    fn report(&self, path: &Path) -> Result<(), Failure> {
        let Settings { recipe, recompute, .. } = &self.settings;
        let [rate, kappa, tau, lambda] =
            [&recipe.rate, &recipe.kappa, &recipe.tau, &recipe.regulariser].map(settings::shown);
        let clip = self.settings.clips().then_some(recipe.max_norm);
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "settings": self.identity,
            "prior": self.prior(),
            "recompute": recompute,
            "recipe": {
                "rate": rate, "kappa": kappa, "tau": tau, "lambda": lambda, "alpha": recipe.alpha,
                "sigma": recipe.sigma, "clip": clip, "decay": recipe.decay, "beta1": recipe.beta1,
                "beta2": recipe.beta2, "epsilon": recipe.epsilon,
            },
            "curve": self.curve.points,
        });
        Ok(Staged::of_bytes(path, format!("{report:#}\n").as_bytes())?.commit()?)
    }
}

/// The tokens of validation, whole windows, and how long each is.
fn validation(args: &Args, model: &Model) -> Result<Option<(Vec<u32>, usize)>, Failure> {
    if args.validate.is_empty() {
        return Ok(None);
    }
    let mut tokens = tokens::of_files(model, &args.validate, "--validate")?;
    let named = |failure: Failure| format!("--validate: {failure}");
    model.check_tokens(&tokens).map_err(named)?;
    let (windows, _) = apart(tokens.len(), args.validation_window as usize).map_err(named)?;
    let window = windows[0].tokens.len();
    tokens.truncate(windows.len().min(args.validation_windows as usize) * window);
    Ok(Some((tokens, window)))
}

/// On a terminal; else nothing is drawn.
fn progress(steps: u64, done: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} steps, {eta} left  {msg}");
    let progress = ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    progress.set_position(done);
    progress.reset_eta();
    progress
}

/// A small model that is made up, some steps.
fn demo() -> Result<bool, Failure> {
    let demo = Demo::new()?;
    println!("A small model, made up. For one of yours: twofour learn FOLDER --text FILE\n");
    let (model, text, out) = (demo.model().to_owned(), demo.text(), demo.folder().join("masks.safetensors"));
    let mut arguments = vec!["learn".into(), model.into_os_string(), "--text".into(), text.clone().into_os_string()];
    arguments.extend(["--validate".into(), text.into_os_string(), "--out".into(), out.into_os_string()]);
    let short = ["--window", "64", "--batch", "8", "--steps", "40", "--every", "10"];
    arguments.extend(short.map(Into::into));
    run(&Args::try_parse_from(arguments)?)
}
