//! Which tensors of a model are worked on, and why others are not.

use crate::Failure;
use crate::layer::Layer;
use crate::names::{any, is_weight, left_dense, matches, plain, some};
use crate::table::sizes;
use std::collections::BTreeMap;
use std::path::Path;
use twofour_formats::masks::Shapes;
use twofour_formats::{Model, Reader, TensorInfo, TensorType};

/// Layers by name.
pub(crate) type Layers = BTreeMap<String, Layer>;

/// Which layers are wanted.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Which {
    /// Only layers of such names, where * stands for anything; embeddings and heads too, if they match
    #[arg(long, visible_alias = "only", value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// No layers of such names
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Weights of such names are [in, out], as GPT-2's Conv1D has them, or [E, in, out]: groups run along the inputs.
    /// Known without, by config.json: GPT-2's and its kin's, and the experts of Llama 4 and gpt-oss
    #[arg(long, value_name = "PATTERN")]
    pub(crate) transposed: Vec<String>,
}

/// What a command can do with a layer, and its words for it.
pub(crate) struct Can<'c> {
    /// Of a layer that it cannot work on: why.
    pub(crate) layer: &'c dyn Fn(&Layer) -> Result<(), String>,
    /// Of a layer that it was not given what it needs for: why. By name.
    pub(crate) given: &'c dyn Fn(&str) -> Result<(), String>,
    /// Whether whatever has groups is a layer, where no patterns say otherwise.
    pub(crate) all: bool,
    /// What is said where there is none.
    pub(crate) nothing: &'c str,
}

/// The layers, and the weights that are left dense.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) layers: Layers,
    /// Names with sizes, and why.
    dense: Vec<(String, String)>,
}

impl Chosen {
    /// Prints a line for every weight that is left dense.
    pub(crate) fn print_dense(&self) {
        for (tensor, why) in &self.dense {
            println!("left dense: {}: {why}", plain(tensor));
        }
    }
}

/// Names of weights that are known to be `[in, out]`, by the model's type in its `config.json`.
const TRANSPOSED: [(&[&str], &[&str]); 2] = [
    (
        &["gpt2", "openai-gpt", "imagegpt", "decision_transformer"],
        &["*c_attn.weight", "*q_attn.weight", "*c_proj.weight", "*c_fc.weight"],
    ),
    (&["llama4", "llama4_text", "gpt_oss"], &["*experts.gate_up_proj", "*experts.down_proj"]),
];

/// The layers of a model that are wanted.
pub(crate) fn choose(
    which: &Which,
    model: &Model,
    readers: &[(&str, Reader<'_>)],
    can: &Can<'_>,
) -> Result<Chosen, Failure> {
    let tensors = || readers.iter().flat_map(|(_, reader)| reader.tensors());
    let known = known_transposed(&model.path("config.json"), tensors())?;
    let (mut layers, mut dense, mut wrong) = (Layers::new(), Vec::new(), BTreeMap::new());
    let mut possible = Vec::new();
    for tensor in tensors() {
        let name = tensor.name();
        let layer =
            Layer::new(tensor, is_transposed(which, known, name)).and_then(|layer| (can.layer)(&layer).map(|()| layer));
        match &layer {
            Ok(_) => possible.push(name),
            Err(why) => drop(wrong.insert(name, (label(tensor), why.clone()))),
        }
        match unwanted(which, can, name).map_or(layer, Err) {
            Ok(layer) => drop(layers.insert(name.to_owned(), layer)),
            Err(why) if is_told(which, tensor) => dense.push((label(tensor), why)),
            Err(_) => {}
        }
    }
    dense.sort();
    let patterns = [("--include", &which.include), ("--exclude", &which.exclude), ("--transposed", &which.transposed)];
    for (option, pattern) in patterns.into_iter().flat_map(|(option, all)| all.iter().map(move |one| (option, one))) {
        let found: Vec<_> = tensors().map(TensorInfo::name).filter(|name| matches(pattern, name)).collect();
        if found.is_empty() {
            let names = some(possible.iter().copied(), "the model's tensors");
            return Err(format!("{option}: the pattern {pattern} matches none of {names}").into());
        }
        if option == "--include" && found.iter().all(|name| wrong.contains_key(name)) {
            let found: Vec<_> = found.iter().filter_map(|name| wrong.get(name)).map(is_because).collect();
            let found = some(found.iter().map(String::as_str), "");
            return Err(format!("{option}: the pattern {pattern} matches nothing that has a mask: {found}").into());
        }
    }
    if layers.is_empty() {
        let wrong: Vec<_> = wrong.values().map(is_because).collect();
        let wrong = format!("no tensors that have groups of four: {}", some(wrong.iter().map(String::as_str), "none"));
        let what = some(possible.into_iter(), &wrong);
        return Err(format!("{} {what}; --include PATTERN chooses others", can.nothing).into());
    }
    Ok(Chosen { layers, dense })
}

/// The shapes of a model's weights, as rows of groups if they have groups.
pub(crate) fn shapes(which: &Which, model: &Model, readers: &[(&str, Reader<'_>)]) -> Result<Shapes, Failure> {
    let tensors = || readers.iter().flat_map(|(_, reader)| reader.tensors());
    let known = known_transposed(&model.path("config.json"), tensors())?;
    let mut shapes = Shapes::new();
    readers.iter().for_each(|(_, reader)| shapes.add(reader));
    for tensor in tensors() {
        if let Ok(layer) = Layer::new(tensor, is_transposed(which, known, tensor.name())) {
            shapes.insert(layer.name, layer.shape);
        }
    }
    Ok(shapes)
}

fn is_transposed(which: &Which, known: &[&str], name: &str) -> bool {
    any(&which.transposed, name) || known.iter().any(|pattern| matches(pattern, name))
}

fn is_because((tensor, why): &(String, String)) -> String {
    format!("{tensor}: {why}")
}

fn label(tensor: &TensorInfo) -> String {
    format!("{} [{}] {}", tensor.name(), sizes(tensor.shape()), tensor.dtype())
}

/// Why nobody wants a tensor, if that is so.
fn unwanted(which: &Which, can: &Can<'_>, name: &str) -> Option<String> {
    if let Some(pattern) = which.exclude.iter().find(|pattern| matches(pattern, name)) {
        return Some(format!("--exclude {pattern}"));
    }
    if !which.include.is_empty() && !any(&which.include, name) {
        return Some("no --include matches it".into());
    }
    if which.include.is_empty() && !can.all {
        if !is_weight(name) {
            return Some("its name does not end in .weight; --include takes it all the same".into());
        }
        if let Some((what, word)) = left_dense(name) {
            return Some(format!("{what}, by `{word}` in its name; --include takes it all the same"));
        }
    }
    (can.given)(name).err()
}

/// Whether a tensor that is left dense gets a line: a weight, by its name or by its dimensions, or what was asked for.
fn is_told(which: &Which, tensor: &TensorInfo) -> bool {
    let name = tensor.name();
    let matrix = tensor.shape().len() > 1 && is_float(tensor.dtype());
    is_weight(name) || matrix || any(&which.include, name) || any(&which.exclude, name)
}

/// Whether masks can be chosen by the values of this type.
pub(crate) fn is_float(dtype: TensorType) -> bool {
    use TensorType::{Bf16, F8E4m3, F8E5m2, F16, F32};
    matches!(dtype, F32 | F16 | Bf16 | F8E4m3 | F8E5m2)
}

/// Patterns of the weights that are known to be transposed: by what the model says it is, or, where it says nothing, by
/// the shape of GPT-2's first layer, which makes three of each.
fn known_transposed<'t>(
    config: &Path,
    mut tensors: impl Iterator<Item = &'t TensorInfo>,
) -> Result<&'static [&'static str], Failure> {
    #[derive(serde::Deserialize)]
    struct Config {
        model_type: Option<String>,
    }
    let kind = match std::fs::read(config) {
        Ok(json) => {
            let read = serde_json::from_slice::<Config>(&json);
            read.map_err(|e| format!("{}: is not a model's configuration: {e}", config.display()))?.model_type
        }
        Err(_) => {
            let gpt2 = |tensor: &TensorInfo| match tensor.shape() {
                &[input, output] => tensor.name().ends_with("c_attn.weight") && input.checked_mul(3) == Some(output),
                _ => false,
            };
            tensors.any(gpt2).then(|| "gpt2".into())
        }
    };
    let found = kind.and_then(|kind| TRANSPOSED.into_iter().find(|(kinds, _)| kinds.contains(&kind.as_str())));
    Ok(found.map_or(&[], |(_, patterns)| patterns))
}
