//! Random tiny models, written in every format, and what they compute by plain loops in f64, written from the
//! architectures' description and not from the crate's code.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub(crate) mod gguf;
pub(crate) mod oracle;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Normal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use twofour_formats::{Index, Manifest, TensorType};

/// A tensor: shape and values.
pub(crate) type Weight = (Vec<usize>, Vec<f32>);

/// A model's sizes and what its kind has, as the test says it.
#[derive(Debug, Clone)]
pub(crate) struct Tiny {
    pub(crate) kind: &'static str,
    pub(crate) hidden: usize,
    pub(crate) wide: usize,
    pub(crate) blocks: usize,
    pub(crate) heads: usize,
    pub(crate) kv: usize,
    pub(crate) head: usize,
    pub(crate) vocabulary: usize,
    pub(crate) theta: f64,
    pub(crate) eps: f64,
    pub(crate) tied: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) qk_norm: bool,
    pub(crate) window: Option<usize>,
    pub(crate) scaling: Value,
}

impl Tiny {
    pub(crate) fn llama() -> Self {
        Self {
            kind: "llama",
            hidden: 64,
            wide: 96,
            blocks: 2,
            heads: 4,
            kv: 2,
            head: 16,
            vocabulary: 260,
            theta: 10_000.0,
            eps: 1e-5,
            tied: false,
            qkv_bias: false,
            qk_norm: false,
            window: None,
            scaling: Value::Null,
        }
    }

    pub(crate) fn llama3() -> Self {
        // So that of eight pairs some are fast, some slow, some between.
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        Self { theta: 500.0, scaling, kv: 1, ..Self::llama() }
    }

    pub(crate) fn linear() -> Self {
        Self { scaling: json!({"type": "linear", "factor": 4.0}), ..Self::llama() }
    }

    pub(crate) fn mistral() -> Self {
        Self { kind: "mistral", window: Some(37), ..Self::llama() }
    }

    pub(crate) fn qwen2() -> Self {
        Self { kind: "qwen2", qkv_bias: true, tied: true, theta: 1e6, eps: 1e-6, ..Self::llama() }
    }

    pub(crate) fn qwen3() -> Self {
        Self { kind: "qwen3", qk_norm: true, head: 32, eps: 1e-6, ..Self::llama() }
    }

    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "model_type": self.kind,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.wide,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 512,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "rope_scaling": self.scaling,
            "tie_word_embeddings": self.tied,
        });
        if self.kind == "mistral" {
            config["sliding_window"] = json!(self.window);
        }
        if self.kind == "qwen3" {
            config["head_dim"] = json!(self.head);
        }
        config
    }

    /// Random weights, by Hugging Face's names.
    pub(crate) fn weights(&self, seed: u64) -> BTreeMap<String, Weight> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut weights = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], mean: f32, deviation: f32| {
            let normal = Normal::new(mean, deviation).unwrap();
            let values = normal.sample_iter(&mut rng).take(shape.iter().product()).collect();
            weights.insert(name, (shape.to_vec(), values));
        };
        let (d, q, kv) = (self.hidden, self.heads * self.head, self.kv * self.head);
        add("model.embed_tokens.weight".into(), &[self.vocabulary, d], 0.0, 1.0);
        add("model.norm.weight".into(), &[d], 1.0, 0.3);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocabulary, d], 0.0, 0.3);
        }
        for block in 0..self.blocks {
            let name = |part: &str| format!("model.layers.{block}.{part}");
            add(name("input_layernorm.weight"), &[d], 1.0, 0.3);
            add(name("post_attention_layernorm.weight"), &[d], 1.0, 0.3);
            for (part, rows, cols) in [
                ("self_attn.q_proj", q, d),
                ("self_attn.k_proj", kv, d),
                ("self_attn.v_proj", kv, d),
                ("self_attn.o_proj", d, q),
                ("mlp.gate_proj", self.wide, d),
                ("mlp.up_proj", self.wide, d),
                ("mlp.down_proj", d, self.wide),
            ] {
                add(name(&format!("{part}.weight")), &[rows, cols], 0.0, 1.5 / (cols as f32).sqrt());
            }
            for (part, rows) in [("q", q), ("k", kv), ("v", kv)] {
                if self.qkv_bias {
                    add(name(&format!("self_attn.{part}_proj.bias")), &[rows], 0.0, 0.5);
                }
            }
            if self.qk_norm {
                add(name("self_attn.q_norm.weight"), &[self.head], 1.0, 0.3);
                add(name("self_attn.k_norm.weight"), &[self.head], 1.0, 0.3);
            }
        }
        weights
    }

    pub(crate) fn tokens(&self, count: usize, seed: u64) -> Vec<u32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(0..self.vocabulary as u32)).collect()
    }

    /// Writes a folder; a block's tensors go to shard `block % shards`. Returns the weights as they are in the file.
    pub(crate) fn write(
        &self,
        folder: &Path,
        weights: &BTreeMap<String, Weight>,
        dtype: TensorType,
        shards: usize,
    ) -> BTreeMap<String, Weight> {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), self.config().to_string()).unwrap();
        let mut index = Index::new();
        for shard in 0..shards {
            let name = match shards {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
            };
            let here: Vec<_> = weights.iter().filter(|(name, _)| name.len() % shards == shard).collect();
            let mut manifest = Manifest::new();
            for (name, (shape, _)) in &here {
                manifest.tensor(name, dtype, shape).unwrap();
            }
            let fill = |file: &mut twofour_formats::Writer<'_>| {
                here.iter().try_for_each(|(name, (_, values))| file.tensor(name, &bytes(dtype, values)))
            };
            manifest.save(folder.join(&name), fill).unwrap();
            index.add(&name, manifest.tensor_names(), manifest.data_bytes()).unwrap();
        }
        if shards > 1 {
            index.save(folder.join("model.safetensors.index.json")).unwrap();
        }
        let rounded = |(name, (shape, values)): (&String, &Weight)| {
            (name.clone(), (shape.clone(), values.iter().map(|&x| round(dtype, x)).collect()))
        };
        weights.iter().map(rounded).collect()
    }
}

fn round(dtype: TensorType, x: f32) -> f32 {
    match dtype {
        TensorType::F16 => half::f16::from_f32(x).to_f32(),
        TensorType::Bf16 => half::bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn bytes(dtype: TensorType, values: &[f32]) -> Vec<u8> {
    match dtype {
        TensorType::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        TensorType::Bf16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        TensorType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        other => panic!("{other}"),
    }
}

/// Runs the application.
pub(crate) fn twofour(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twofour")).args(args).output().unwrap()
}

/// What it prints, if all is well.
pub(crate) fn printed(args: &[&str]) -> String {
    let output = twofour(args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {out}{err}");
    out.into_owned()
}

/// That it refuses with exit code 2 and one sentence in which each of these is.
pub(crate) fn refused(args: &[&str], parts: &[&str]) {
    let output = twofour(args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
    assert!(err.starts_with("error: ") && err.trim_end().lines().count() == 1, "{args:?}: {err}");
    for part in parts {
        assert!(err.contains(part), "{args:?}: no `{part}` in: {err}");
    }
}

/// The perplexity that `eval` printed.
pub(crate) fn perplexity(printed: &str) -> f64 {
    let line = printed.lines().find_map(|line| line.strip_prefix("perplexity")).expect(printed);
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Token ids as a file of 16-bit numbers.
pub(crate) fn write_tokens(path: &Path, tokens: &[u32]) {
    fs::write(path, tokens.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}
