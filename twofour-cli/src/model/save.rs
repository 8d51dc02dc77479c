//! Writing a model as a folder of Hugging Face's format.

use super::config::{Config, Kind, Scaling};
use super::{Model, Source};
use crate::Failure;
use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use twofour_formats::{Manifest, TensorType};

/// The type that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Saved {
    /// 32 bits.
    F32,
    /// 16 bits, rounded to the nearest.
    Bf16,
}

impl Saved {
    fn tensor_type(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::Bf16 => TensorType::Bf16,
        }
    }

    /// `torch_dtype` of `config.json`.
    fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    fn bytes(self, name: &str, values: &[f32]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::F32 => Ok(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Self::Bf16 => {
                let rounded = |x: &f32| Some(half::bf16::from_f32(*x)).filter(|y| y.is_finite() || !x.is_finite());
                let rounded = values.iter().map(rounded).collect::<Option<Vec<_>>>();
                let rounded =
                    rounded.ok_or_else(|| format!("`{name}` has a value that bf16 cannot hold: write f32"))?;
                Ok(rounded.into_iter().flat_map(half::bf16::to_le_bytes).collect())
            }
        }
    }
}

/// Files beside the weights that are taken along as they are.
const BESIDE: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Copies what a folder has beside its weights, `config.json` included, into another: with the weights it is a model.
pub(crate) fn copy_beside(from: &Path, to: &Path) -> Result<(), Failure> {
    copy(&["config.json"], from, to)?;
    copy(&BESIDE, from, to)
}

fn copy(names: &[&str], from: &Path, to: &Path) -> Result<(), Failure> {
    for name in names.iter().filter(|name| from.join(name).is_file()) {
        let copied = fs::copy(from.join(name), to.join(name));
        copied.map_err(|e| format!("{}: cannot be written: {e}", to.join(name).display()))?;
    }
    Ok(())
}

impl Model {
    /// Writes the model into a folder: `model.safetensors`, `config.json`, `tokenizer.json` and what else is beside it.
    /// `replace` gets the name and weight `[N, K]`, f32 on the model's device, of each linear layer of the blocks, and
    /// returns what is written in its place. A tensor at a time is in memory. The weights take their place last, when
    /// all is written.
    ///
    /// # Errors
    /// The folder is the model's own; a weight cannot be read, `replace` fails or gives another shape, a file cannot be
    /// written. The files of the folder are then as they were, but for those beside the weights.
    pub fn save(
        &self,
        folder: impl AsRef<Path>,
        dtype: Saved,
        replace: &mut dyn FnMut(&str, Tensor) -> Result<Tensor, Failure>,
    ) -> Result<(), Failure> {
        let folder = folder.as_ref();
        let unwritable = |e| format!("{}: cannot be written: {e}", folder.display());
        if fs::canonicalize(folder).is_ok_and(|to| fs::canonicalize(&self.path).is_ok_and(|from| from == to)) {
            return Err(format!("{}: is the model itself; write into another folder", folder.display()).into());
        }
        let config = self.config_json(dtype)?;
        let mut manifest = Manifest::new();
        let linears: HashSet<String> = self.linears().into_iter().map(|(name, _)| name).collect();
        let tensors = self.config.tensors();
        for (name, shape) in &tensors {
            manifest.tensor(name, dtype.tensor_type(), shape)?;
        }
        // As `transformers` wants it.
        manifest.metadata("format", "pt")?;
        fs::create_dir_all(folder).map_err(unwritable)?;
        let weights = manifest.stage::<Failure>(folder.join("model.safetensors"), |file| {
            for (name, shape) in &tensors {
                let mut tensor = self.tensor(name)?;
                if linears.contains(name) {
                    tensor = replace(name, tensor)?;
                }
                if tensor.dims() != shape.as_slice() {
                    let got = tensor.dims();
                    return Err(format!("`{name}` is of {shape:?}, and one of {got:?} cannot take its place").into());
                }
                let values = tensor.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::F32)?;
                file.tensor(name, &dtype.bytes(name, &values.flatten_all()?.to_vec1::<f32>()?)?)?;
            }
            Ok(())
        })?;
        fs::write(folder.join("config.json"), config).map_err(unwritable)?;
        self.save_beside(folder)?;
        Ok(weights.commit()?)
    }

    fn save_beside(&self, folder: &Path) -> Result<(), Failure> {
        if let Source::Gguf(_) = self.source {
            // A model can do without.
            let Ok(tokenizer) = self.tokenizer() else { return Ok(()) };
            let path = folder.join("tokenizer.json");
            tokenizer.save(&path, true).map_err(|e| format!("{}: cannot be written: {e}", path.display()))?;
            return Ok(());
        }
        copy(&BESIDE, &self.path, folder)
    }

    /// What was in the model's `config.json`, with the new type; of a GGUF file all that is known.
    fn config_json(&self, dtype: Saved) -> Result<String, Failure> {
        let mut json = match &self.source {
            Source::Gguf(gguf) => {
                let mut json = self.config.to_json()?;
                for (key, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos")] {
                    if let Some(id) = gguf.integer(&format!("tokenizer.ggml.{name}_token_id")) {
                        json.insert(key.to_owned(), id.into());
                    }
                }
                json
            }
            Source::Folder(_) => {
                let path = self.path.join("config.json");
                let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let mut json: Map<String, Value> = serde_json::from_str(&text)?;
                // The weights that are written are dense.
                json.remove("quantization_config");
                json.remove("compression_config");
                json
            }
        };
        let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        json.insert(key.to_owned(), dtype.torch().into());
        Ok(serde_json::to_string_pretty(&json)? + "\n")
    }
}

impl Config {
    /// `config.json` of the model, without a type of weights.
    ///
    /// # Errors
    /// Rotary positions are stretched in a way that `config.json` cannot say.
    pub fn to_json(&self) -> Result<Map<String, Value>, Failure> {
        let window = self.windows.iter().flatten().next();
        // A llama knows no window, and a llama with one is a Mistral.
        let kind = if self.kind == Kind::Llama && window.is_some() { Kind::Mistral } else { self.kind };
        let json = json!({
            "architectures": [kind.architecture()],
            "model_type": kind.name(),
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": self.eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.scaling_json()?,
            "tie_word_embeddings": self.tied,
            "attention_bias": self.o_bias || (self.qkv_bias && self.kind != Kind::Qwen2),
            "mlp_bias": self.mlp_bias,
            "sliding_window": window,
            "use_sliding_window": window.is_some(),
            "max_window_layers": self.windows.iter().take_while(|window| window.is_none()).count(),
        });
        match json {
            Value::Object(map) => Ok(map),
            _ => Err("a config is a map".into()),
        }
    }

    fn scaling_json(&self) -> Result<Value, Failure> {
        let llama3 = |factor: f64, low: f64, high: f64, original: f64| {
            json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original as u64,
            })
        };
        match &self.scaling {
            Scaling::None => Ok(Value::Null),
            Scaling::Linear(factor) => Ok(json!({ "rope_type": "linear", "factor": factor })),
            &Scaling::Llama3 { factor, low, high, original } => Ok(llama3(factor, low, high, original)),
            Scaling::Divided(by) => {
                // GGUF files have what comes of Llama 3's numbers, of which all but the factor are always the same.
                let factor = by.iter().copied().fold(1.0, f64::max);
                let (low, high, original) = (1.0, 4.0, 8192.0);
                let guess = Self { scaling: Scaling::Llama3 { factor, low, high, original }, ..self.clone() };
                let none = Self { scaling: Scaling::None, ..self.clone() };
                let plain = super::attention::frequencies(&none);
                let meant = super::attention::frequencies(&guess);
                let same = plain.iter().zip(&meant).zip(by).all(|((f, g), by)| (f / g / by - 1.0).abs() < 1e-4);
                match same && by.len() == plain.len() {
                    true => Ok(llama3(factor, low, high, original)),
                    false => Err("the stretch of rotary positions in this GGUF file is not one of Llama 3's".into()),
                }
            }
        }
    }
}
