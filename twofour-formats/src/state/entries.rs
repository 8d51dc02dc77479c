//! What `__metadata__` says of a run and its layers, written and parsed.

use super::{LayerInfo, Run, VERSION};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use twofour::Shape;
use twofour::learn::{Recipe, Schedule};

const PREFIX: &str = "twofour-state.";
const RECIPE: &str = "twofour-state.recipe.";
const LAYER: &str = "twofour-state.layer.";

type Parsed<T> = std::result::Result<T, String>;

/// The entries of a run.
pub(super) fn of_run(run: &Run) -> Vec<(String, String)> {
    let mut entries = vec![];
    let mut put = |field: &str, value: &dyn Display| entries.push((format!("{PREFIX}{field}"), value.to_string()));
    put("version", &VERSION);
    put("step", &run.step);
    put("seed", &run.seed);
    if let Some(caller) = &run.caller {
        put("caller", caller);
    }
    if let Some(recipe) = &run.recipe {
        put("recipe.steps", &recipe.steps);
        for (field, schedule) in schedules(recipe) {
            let (form, [from, to], warmup) = schedule.parts();
            put(&format!("recipe.{field}"), &format_args!("{form} {from} {to} {warmup}"));
        }
        for (field, number) in numbers(recipe) {
            put(&format!("recipe.{field}"), &number);
        }
    }
    entries
}

fn schedules(recipe: &Recipe) -> [(&'static str, Schedule); 4] {
    let Recipe { kappa, tau, regulariser, rate, .. } = *recipe;
    [("kappa", kappa), ("tau", tau), ("regulariser", regulariser), ("rate", rate)]
}

fn numbers(recipe: &Recipe) -> [(&'static str, f64); 7] {
    let Recipe { beta1, beta2, epsilon, decay, max_norm, sigma, alpha, .. } = *recipe;
    [
        ("beta1", beta1),
        ("beta2", beta2),
        ("epsilon", epsilon),
        ("decay", decay),
        ("max_norm", max_norm),
        ("sigma", sigma),
        ("alpha", alpha),
    ]
}

/// The entry of a layer.
pub(super) fn of_layer(info: &LayerInfo) -> (String, String) {
    (format!("{LAYER}{}", info.name), format!("{} {}", info.shape.rows, info.shape.cols))
}

/// The entries of a file, of which those of a run are looked for.
pub(super) struct Entries<'a>(pub(super) BTreeMap<&'a str, &'a str>);

impl Entries<'_> {
    pub(super) fn run(&self) -> Parsed<Run> {
        match self.text("version").map(u32::from_str) {
            Ok(Ok(VERSION)) => {}
            Ok(Ok(other)) => {
                return Err(format!("is state of version {other}, and this release of twofour reads {VERSION}"));
            }
            _ => return Err(format!("has no entry `{PREFIX}version`: it is no file of a run's state")),
        }
        let caller = self.text("caller").ok().map(ToOwned::to_owned);
        let has_recipe = self.0.keys().any(|key| key.starts_with(RECIPE));
        let recipe = if has_recipe { Some(self.recipe()?) } else { None };
        Ok(Run { step: self.number("step")?, seed: self.number("seed")?, recipe, caller })
    }

    fn recipe(&self) -> Parsed<Recipe> {
        let recipe = Recipe {
            steps: self.number("recipe.steps")?,
            kappa: self.schedule("recipe.kappa")?,
            tau: self.schedule("recipe.tau")?,
            regulariser: self.schedule("recipe.regulariser")?,
            rate: self.schedule("recipe.rate")?,
            beta1: self.number("recipe.beta1")?,
            beta2: self.number("recipe.beta2")?,
            epsilon: self.number("recipe.epsilon")?,
            decay: self.number("recipe.decay")?,
            max_norm: self.number("recipe.max_norm")?,
            sigma: self.number("recipe.sigma")?,
            alpha: self.number("recipe.alpha")?,
        };
        recipe.check().map_err(|error| format!("its recipe: {error}"))?;
        Ok(recipe)
    }

    fn schedule(&self, field: &str) -> Parsed<Schedule> {
        let text = self.text(field)?;
        let parse = || {
            let mut words = text.split(' ');
            let form = match words.next()? {
                "linear" => Schedule::linear,
                "cosine" => Schedule::cosine,
                _ => return None,
            };
            let schedule = form(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let schedule = schedule.warmup(words.next()?.parse().ok()?);
            words.next().is_none().then_some(schedule)
        };
        parse().ok_or_else(|| format!("its entry `{PREFIX}{field}` is `{text}`, which is no schedule"))
    }

    fn number<T: FromStr>(&self, field: &str) -> Parsed<T> {
        let text = self.text(field)?;
        text.parse().map_err(|_| format!("its entry `{PREFIX}{field}` is `{text}`, which is no such number"))
    }

    fn text(&self, field: &str) -> Parsed<&str> {
        let key = format!("{PREFIX}{field}");
        self.0.get(key.as_str()).copied().ok_or_else(|| format!("there is no entry `{key}`"))
    }

    /// Names and shapes of layers.
    pub(super) fn layers(&self) -> impl Iterator<Item = Parsed<(&str, Shape)>> {
        let layers = self.0.iter().filter_map(|(key, text)| Some((key.strip_prefix(LAYER)?, *text)));
        layers.map(|(name, text)| {
            let shape = text.split_once(' ').and_then(|(n, k)| Some(Shape::new(n.parse().ok()?, k.parse().ok()?)));
            let shape = shape.ok_or_else(|| format!("layer `{name}`: its entry is `{text}`, which is no shape"))?;
            Ok((name, shape))
        })
    }
}
