//! A small model, made up, and a text, so that every command runs with nothing downloaded.

use crate::Failure;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand_distr::{Distribution, Normal};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokenizers::Tokenizer;
use tokenizers::decoders::byte_level::ByteLevel as Decoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use twofour_formats::{Manifest, TensorType};

const HIDDEN: usize = 64;
const WIDE: usize = 192;
const BLOCKS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// A token a byte.
const VOCABULARY: usize = 256;

/// A folder as of Hugging Face with a random model of LLaMA's kind, bf16, two blocks, and a tokenizer of bytes; and a
/// text. Both are gone when this is dropped.
#[derive(Debug)]
pub struct Demo {
    folder: TempDir,
    model: PathBuf,
}

impl Demo {
    /// Makes them, always the same.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn new() -> Result<Self, Failure> {
        let folder = TempDir::with_prefix("twofour-")?;
        let model = folder.path().join("model");
        fs::create_dir(&model)?;
        let demo = Self { folder, model };
        let mut rng = StdRng::seed_from_u64(0);
        demo.write_weights(&mut rng)?;
        demo.write_config()?;
        tokenizer()?.save(demo.model.join("tokenizer.json"), false).map_err(|e| e as Failure)?;
        fs::write(demo.text(), text(&mut rng))?;
        Ok(demo)
    }

    /// The model's folder.
    #[must_use]
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// The text's file; some 2000 tokens.
    #[must_use]
    pub fn text(&self) -> PathBuf {
        self.folder.path().join("text.txt")
    }

    /// Where results may be put that nobody wants afterwards.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn write_config(&self) -> Result<(), Failure> {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": WIDE,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
        });
        Ok(fs::write(self.model.join("config.json"), format!("{config:#}\n"))?)
    }

    fn write_weights(&self, rng: &mut StdRng) -> Result<(), Failure> {
        let kv = HIDDEN / HEADS * KV_HEADS;
        let mut tensors = vec![("model.embed_tokens".to_owned(), vec![VOCABULARY, HIDDEN])];
        tensors.push(("model.norm".to_owned(), vec![HIDDEN]));
        for block in 0..BLOCKS {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.push((format!("model.layers.{block}.{name}"), shape.to_vec()));
            };
            add("input_layernorm", &[HIDDEN]);
            add("post_attention_layernorm", &[HIDDEN]);
            add("self_attn.q_proj", &[HIDDEN, HIDDEN]);
            add("self_attn.k_proj", &[kv, HIDDEN]);
            add("self_attn.v_proj", &[kv, HIDDEN]);
            add("self_attn.o_proj", &[HIDDEN, HIDDEN]);
            add("mlp.gate_proj", &[WIDE, HIDDEN]);
            add("mlp.up_proj", &[WIDE, HIDDEN]);
            add("mlp.down_proj", &[HIDDEN, WIDE]);
        }
        let mut manifest = Manifest::new();
        for (name, shape) in &tensors {
            manifest.tensor(&format!("{name}.weight"), TensorType::Bf16, shape)?;
        }
        let normal = Normal::new(0.0f32, 0.1)?;
        manifest.save::<Failure>(self.model.join("model.safetensors"), |file| {
            for (name, shape) in &tensors {
                // Norms are about one.
                let mean = if shape.len() == 1 { 1.0 } else { 0.0 };
                let values = normal.sample_iter(&mut *rng).take(shape.iter().product());
                let bytes = values.flat_map(|value| half::bf16::from_f32(mean + value).to_le_bytes());
                file.tensor(&format!("{name}.weight"), &bytes.collect::<Vec<u8>>())?;
            }
            Ok(())
        })
    }
}

fn tokenizer() -> Result<Tokenizer, Failure> {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let vocabulary: Vocab = bytes.into_iter().map(String::from).zip(0..).collect();
    let mut tokenizer = Tokenizer::new(BPE::builder().vocab_and_merges(vocabulary, vec![]).build()?);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(Decoder::new(false, true, true)));
    Ok(tokenizer)
}

fn text(rng: &mut StdRng) -> String {
    const WORDS: [&str; 16] = [
        "a", "the", "weight", "mask", "group", "keeps", "two", "of", "four", "drops", "row", "matrix", "learns",
        "small", "sparse", "and",
    ];
    let mut sentence = || {
        let words: Vec<&str> = (0..8).filter_map(|_| WORDS.choose(&mut *rng).copied()).collect();
        format!("{}.\n", words.join(" "))
    };
    (0..50).map(|_| sentence()).collect()
}
