//! GGUF files, as llama.cpp writes them (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

use super::config::{Config, Kind, Scaling};
use crate::Failure;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A file and what its head says.
#[derive(Debug)]
pub(super) struct Gguf {
    path: PathBuf,
    pub(super) content: Content,
    file: Mutex<BufReader<File>>,
    /// In bytes.
    length: u64,
    /// Of q and k, if their rows stand as rotary positions in pairs want them.
    permuted: Option<[usize; 2]>,
}

impl Gguf {
    pub(super) fn open(path: &Path) -> Result<(Config, Self), Failure> {
        let wrong = |problem: String| format!("{}: {problem}", path.display());
        let mut file = File::open(path).map(BufReader::new).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let length = file.get_ref().metadata().map_err(|e| wrong(format!("cannot be read: {e}")))?.len();
        let content = Content::read(&mut file)
            .map_err(|e| wrong(format!("is no GGUF file that can be read; is it cut short? {}", said(&e))))?;
        let mut gguf = Self { path: path.to_owned(), content, file: Mutex::new(file), length, permuted: None };
        let config = gguf.config().map_err(wrong)?;
        let llama = gguf.text("general.architecture") == Some(Kind::Llama.name());
        gguf.permuted = llama.then_some([config.heads, config.kv_heads]);
        Ok((config, gguf))
    }

    pub(super) fn wrong(&self, problem: impl std::fmt::Display) -> Failure {
        format!("{}: {problem}", self.path.display()).into()
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.content.metadata.get(key)?.to_string().ok().map(String::as_str)
    }

    pub(super) fn integer(&self, key: &str) -> Option<usize> {
        match self.content.metadata.get(key)? {
            Value::I32(n) => usize::try_from(*n).ok(),
            Value::I64(n) => usize::try_from(*n).ok(),
            other => other.to_u64().ok().and_then(|n| usize::try_from(n).ok()),
        }
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.content.metadata.get(key)? {
            // Said in f32: 1e-5 is meant, not what the nearest f32 is in f64.
            Value::F32(x) => x.to_string().parse().ok(),
            Value::F64(x) => Some(*x),
            _ => None,
        }
    }

    pub(super) fn list(&self, key: &str) -> Option<&[Value]> {
        self.content.metadata.get(key)?.to_vec().ok().map(Vec::as_slice)
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    fn config(&self) -> Result<Config, String> {
        let architecture = self.text("general.architecture").ok_or("does not say its architecture")?;
        let kind = Kind::of_name(architecture)?;
        let key = |key: &str| format!("{architecture}.{key}");
        let size = |name: &str| {
            let key = key(name);
            self.integer(&key).ok_or_else(|| format!("does not say `{key}`"))
        };
        if let Some(experts @ 1..) = self.integer(&key("expert_count")) {
            return Err(format!("has {experts} experts, and such models are not read"));
        }
        let (hidden, heads, blocks) = (size("embedding_length")?, size("attention.head_count")?, size("block_count")?);
        let head = self.integer(&key("attention.key_length")).unwrap_or(hidden / heads.max(1));
        match self.integer(&key("rope.dimension_count")) {
            Some(part) if part != head => {
                return Err(format!("rotary positions of {part} of {head} of a head are not known here"));
            }
            _ => {}
        }
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let embedding = embedding.and_then(|embedding| embedding.shape.dims().first());
        let config = Config {
            kind,
            hidden,
            intermediate: size("feed_forward_length")?,
            blocks,
            heads,
            kv_heads: self.integer(&key("attention.head_count_kv")).unwrap_or(heads),
            head,
            vocabulary: *embedding.ok_or("has no tensor `token_embd.weight`")?,
            positions: self.integer(&key("context_length")).unwrap_or(2048),
            eps: self.number(&key("attention.layer_norm_rms_epsilon")).unwrap_or(1e-5),
            rope_theta: self.number(&key("rope.freq_base")).unwrap_or(10_000.0),
            scaling: self.scaling(&key)?,
            tied: !self.has("output.weight"),
            qkv_bias: self.has("blk.0.attn_q.bias"),
            o_bias: self.has("blk.0.attn_output.bias"),
            mlp_bias: self.has("blk.0.ffn_gate.bias"),
            qk_norm: self.has("blk.0.attn_q_norm.weight"),
            windows: vec![self.integer(&key("attention.sliding_window")).filter(|&window| window > 0); blocks],
            ends: self
                .integer("tokenizer.ggml.eos_token_id")
                .and_then(|id| u32::try_from(id).ok())
                .into_iter()
                .collect(),
        };
        config.check()?;
        Ok(config)
    }

    fn scaling(&self, key: &dyn Fn(&str) -> String) -> Result<Scaling, String> {
        if self.has("rope_freqs.weight") {
            let factors = self.tensor("rope_freqs.weight").map_err(|e| e.to_string())?;
            let factors = factors.to_vec1::<f32>().map_err(|e| e.to_string())?;
            return Ok(Scaling::Divided(factors.into_iter().map(f64::from).collect()));
        }
        let factor = self.number(&key("rope.scaling.factor")).or(self.number(&key("rope.scale_linear")));
        match (self.text(&key("rope.scaling.type")), factor) {
            (Some("none"), _) | (None | Some("linear"), None) => Ok(Scaling::None),
            (None | Some("linear"), Some(factor)) => Ok(Scaling::Linear(factor)),
            (Some(other), _) => Err(format!("scaling of rotary positions by `{other}` is not known here: linear is")),
        }
    }

    /// A tensor by its name in the file.
    fn tensor(&self, name: &str) -> Result<Tensor, Failure> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = || -> candle_core::Result<Tensor> {
            file.seek(SeekFrom::Start(0))?;
            self.content.tensor(&mut *file, name, &Device::Cpu)?.dequantize(&Device::Cpu)
        };
        read().map_err(|e| self.wrong(format_args!("`{name}` cannot be read: {}", said(&e))))
    }

    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), Failure> {
        let inside = inside(name);
        let Some(info) = self.content.tensor_infos.get(&inside) else {
            return Err(self.wrong(format_args!("has no tensor `{inside}`, which is `{name}`")));
        };
        let blocks = info.shape.elem_count() / info.ggml_dtype.block_size();
        let bytes = (blocks as u64).saturating_mul(info.ggml_dtype.type_size() as u64);
        let end = self.content.tensor_data_offset.saturating_add(info.offset).saturating_add(bytes);
        if end > self.length {
            let length = self.length;
            return Err(self.wrong(format_args!("`{inside}` ends at {end} of {length} bytes: is the file cut short?")));
        }
        let found = info.shape.dims();
        if found != shape {
            let problem = format!("`{inside}` is of {found:?}, and by the file's head it is of {shape:?}");
            return Err(self.wrong(problem));
        }
        Ok(())
    }

    /// A tensor by Hugging Face's name, its rows as those libraries have them.
    pub(super) fn read(&self, name: &str) -> Result<Tensor, Failure> {
        let tensor = self.tensor(&inside(name))?;
        match self.permuted {
            Some([heads, _]) if name.contains(".self_attn.q_proj.") => unpermuted(heads, &tensor),
            Some([_, heads]) if name.contains(".self_attn.k_proj.") => unpermuted(heads, &tensor),
            _ => Ok(tensor),
        }
    }
}

/// Rows `[heads, head / 2, 2]` as `[heads, 2, head / 2]`: halves of a head are rotated against each other, not
/// neighbours. The inverse of `permute` in llama.cpp's `convert_hf_to_gguf.py`.
fn unpermuted(heads: usize, tensor: &Tensor) -> Result<Tensor, Failure> {
    let (rows, all) = (tensor.dim(0)?, tensor.elem_count());
    let pairs = tensor.reshape((heads, rows / heads / 2, 2, all / rows))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(tensor.shape())?)
}

/// What candle says, without its backtrace.
fn said(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The name in a GGUF file.
fn inside(name: &str) -> String {
    const WHOLE: [(&str, &str); 3] = [
        (super::EMBEDDING, "token_embd.weight"),
        (super::LAST_NORM, "output_norm.weight"),
        (super::HEAD, "output.weight"),
    ];
    const PARTS: [(&str, &str); 11] = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    if let Some((_, inside)) = WHOLE.iter().find(|(whole, _)| *whole == name) {
        return (*inside).to_owned();
    }
    let split = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let Some((block, (part, end))) = split.and_then(|(block, rest)| Some((block, rest.rsplit_once('.')?))) else {
        return name.to_owned();
    };
    let known = PARTS.iter().find(|(known, _)| *known == part);
    known.map_or_else(|| name.to_owned(), |(_, inside)| format!("blk.{block}.{inside}.{end}"))
}
