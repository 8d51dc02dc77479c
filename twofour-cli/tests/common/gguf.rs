//! Tiny models as GGUF files.

use super::{Tiny, Weight, oracle};
use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Writes a file whose matrices are of a type, vectors f32. Returns the weights as they are in it.
pub(crate) fn save(
    tiny: &Tiny,
    path: &Path,
    weights: &BTreeMap<String, Weight>,
    dtype: GgmlDType,
) -> BTreeMap<String, Weight> {
    let mut tensors: Vec<(String, QTensor)> = Vec::new();
    let mut rounded = BTreeMap::new();
    for (name, (shape, values)) in weights {
        let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
        rounded.insert(name.clone(), (shape.clone(), dequantised(&quantised(shape, values, dtype))));
        let heads = match tiny.kind {
            "llama" if name.contains("q_proj") => Some(tiny.heads),
            "llama" if name.contains("k_proj") => Some(tiny.kv),
            _ => None,
        };
        let values = heads.map_or_else(|| values.clone(), |heads| permuted(heads, shape[0], values));
        tensors.push((inside(name), quantised(shape, &values, dtype)));
    }
    if tiny.scaling.get("rope_type").is_some() {
        let plain = Tiny { scaling: serde_json::Value::Null, ..tiny.clone() };
        let by = |i: usize| (oracle::frequency(&plain, i) / oracle::frequency(tiny, i)) as f32;
        let by: Vec<f32> = (0..tiny.head / 2).map(by).collect();
        tensors.push(("rope_freqs.weight".to_owned(), quantised(&[by.len()], &by, GgmlDType::F32)));
    }
    let metadata = metadata(tiny);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    rounded
}

fn metadata(tiny: &Tiny) -> Vec<(String, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let own = |key: &str, value: Value| (format!("{}.{key}", tiny.kind), value);
    let mut tokens: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    tokens.sort_unstable();
    tokens.extend(["th", "the", "<|end|>", "12"].map(String::from));
    let mut kinds = vec![Value::I32(1); tokens.len()];
    kinds[258] = Value::I32(3);
    let mut metadata = vec![
        ("general.architecture".to_owned(), text(tiny.kind)),
        own("embedding_length", Value::U32(tiny.hidden as u32)),
        own("feed_forward_length", Value::U32(tiny.wide as u32)),
        own("block_count", Value::U32(tiny.blocks as u32)),
        own("attention.head_count", Value::U32(tiny.heads as u32)),
        own("attention.head_count_kv", Value::U32(tiny.kv as u32)),
        own("attention.key_length", Value::U32(tiny.head as u32)),
        own("attention.layer_norm_rms_epsilon", Value::F32(tiny.eps as f32)),
        own("rope.freq_base", Value::F32(tiny.theta as f32)),
        own("context_length", Value::U32(512)),
        ("tokenizer.ggml.model".to_owned(), text("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), text("smollm")),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(kinds)),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(["t h", "th e", "1 2"].map(text).to_vec())),
    ];
    if tiny.scaling.get("type").is_some() {
        metadata.push(own("rope.scaling.type", text("linear")));
        metadata.push(own("rope.scaling.factor", Value::F32(tiny.scaling["factor"].as_f64().unwrap() as f32)));
    }
    if let Some(window) = tiny.window {
        metadata.push(own("attention.sliding_window", Value::U32(window as u32)));
    }
    metadata
}

fn quantised(shape: &[usize], values: &[f32], dtype: GgmlDType) -> QTensor {
    QTensor::quantize(&Tensor::from_slice(values, shape, &Device::Cpu).unwrap(), dtype).unwrap()
}

fn dequantised(tensor: &QTensor) -> Vec<f32> {
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Row `s·half + i` of a head goes to row `2i + s`: neighbours are rotated against each other in llama.cpp.
fn permuted(heads: usize, rows: usize, values: &[f32]) -> Vec<f32> {
    let (cols, head) = (values.len() / rows, rows / heads);
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        let (h, r) = (row / head, row % head);
        let (s, i) = (r / (head / 2), r % (head / 2));
        let to = h * head + 2 * i + s;
        out[to * cols..(to + 1) * cols].copy_from_slice(&values[row * cols..(row + 1) * cols]);
    }
    out
}

fn inside(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}
