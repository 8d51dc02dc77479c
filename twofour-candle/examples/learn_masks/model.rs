//! The model: a decoder of bytes with RMSNorm, rotary positions and SwiGLU, as in LLaMA, and any kind of linear
//! layer.
//!
//! Names of tensors are those of LLaMA's files.

use crate::ops::{self, Rotary};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Linear, Module};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Bytes.
pub(crate) const VOCABULARY: usize = 256;

/// Sizes of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) hidden: usize,
    /// Bytes that a prediction sees, itself included.
    pub(crate) context: usize,
}

/// The linear layers of a decoder layer, in the order of their use, with (out, in) features of a shape.
const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

impl Shape {
    /// Names and (out, in) features of the linear layers of the decoder, which are the ones to be pruned.
    pub(crate) fn linears(&self) -> impl Iterator<Item = (String, (usize, usize))> {
        let (width, hidden) = (self.width, self.hidden);
        (0..self.layers).flat_map(move |layer| {
            LINEARS.iter().map(move |&name| {
                let features = match name {
                    "mlp.gate_proj" | "mlp.up_proj" => (hidden, width),
                    "mlp.down_proj" => (width, hidden),
                    _ => (width, width),
                };
                (format!("model.layers.{layer}.{name}"), features)
            })
        })
    }

    /// Weights that are pruned.
    pub(crate) fn masked_weights(&self) -> usize {
        self.linears().map(|(_, (out, input))| out * input).sum()
    }
}

/// A model whose decoder has linear layers of a kind.
pub(crate) struct Model<L> {
    pub(crate) shape: Shape,
    embedding: Tensor,
    blocks: Vec<Block<L>>,
    norm: Tensor,
    head: Tensor,
    rotary: Rotary,
}

struct Block<L> {
    attention_norm: Tensor,
    mlp_norm: Tensor,
    linears: [L; LINEARS.len()],
}

/// All parameters of a dense model, by name.
pub(crate) type Parameters = BTreeMap<String, Var>;

/// Parameters at the start of training: normal with a deviation of 0.02, smaller where a layer adds to the residual.
pub(crate) fn initial(shape: &Shape, seed: u64, device: &Device) -> Result<Parameters> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut parameters = Parameters::new();
    let mut add = |name: &str, (rows, cols): (usize, usize), deviation: f32| {
        let normal = Normal::new(0.0, deviation).map_err(candle_core::Error::wrap)?;
        let values: Vec<f32> = normal.sample_iter(&mut random).take(rows * cols).collect();
        parameters.insert(name.to_owned(), Var::from_vec(values, (rows, cols), device)?);
        Result::Ok(())
    };
    add("model.embed_tokens.weight", (VOCABULARY, shape.width), 0.02)?;
    add("lm_head.weight", (VOCABULARY, shape.width), 0.02)?;
    for (name, features) in shape.linears() {
        let adds = name.ends_with("o_proj") || name.ends_with("down_proj");
        let scale = if adds { 1.0 / (2.0 * shape.layers as f32).sqrt() } else { 1.0 };
        add(&format!("{name}.weight"), features, scale * (0.5 / features.1 as f32).sqrt())?;
    }
    let norms = (0..shape.layers).flat_map(|layer| {
        ["input_layernorm", "post_attention_layernorm"].map(|norm| format!("model.layers.{layer}.{norm}.weight"))
    });
    for name in norms.chain(["model.norm.weight".to_owned()]) {
        parameters.insert(name, Var::ones(shape.width, DType::F32, device)?);
    }
    Ok(parameters)
}

impl Model<Linear> {
    /// The dense model of such parameters: training them trains it.
    pub(crate) fn dense(shape: &Shape, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let get = |name: &str, dims: &[usize]| match tensors.get(name) {
            Some(tensor) if tensor.dims() == dims => Ok(tensor.clone()),
            Some(tensor) => candle_core::bail!("{name} is {:?}, and the setting asks for {dims:?}", tensor.dims()),
            None => candle_core::bail!("the model has no tensor {name}"),
        };
        let mut linears = shape
            .linears()
            .map(|(name, (out, input))| Ok(Linear::new(get(&format!("{name}.weight"), &[out, input])?, None)));
        let blocks = (0..shape.layers).map(|layer| {
            let norm = |name: &str| get(&format!("model.layers.{layer}.{name}.weight"), &[shape.width]);
            let linears: Vec<Linear> = linears.by_ref().take(LINEARS.len()).collect::<Result<_>>()?;
            Ok(Block {
                attention_norm: norm("input_layernorm")?,
                mlp_norm: norm("post_attention_layernorm")?,
                linears: exactly(linears)?,
            })
        });
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            embedding: get("model.embed_tokens.weight", &[VOCABULARY, shape.width])?,
            norm: get("model.norm.weight", &[shape.width])?,
            head: get("lm_head.weight", &[VOCABULARY, shape.width])?,
            rotary: Rotary::new(shape.context, shape.width / shape.heads),
            shape: shape.clone(),
            blocks,
        })
    }
}

impl<L> Model<L> {
    /// The same model with other linear layers, each made of its name and what it was.
    pub(crate) fn map<M, E: From<candle_core::Error>>(
        &self,
        mut made: impl FnMut(&str, &L) -> std::result::Result<M, E>,
    ) -> std::result::Result<Model<M>, E> {
        let names: Vec<String> = self.shape.linears().map(|(name, _)| name).collect();
        let blocks = self.blocks.iter().zip(names.chunks(LINEARS.len())).map(|(block, names)| {
            let linears = block.linears.iter().zip(names).map(|(linear, name)| made(name, linear));
            Ok(Block {
                attention_norm: block.attention_norm.clone(),
                mlp_norm: block.mlp_norm.clone(),
                linears: exactly(linears.collect::<std::result::Result<_, E>>()?)?,
            })
        });
        Ok(Model {
            blocks: blocks.collect::<std::result::Result<_, E>>()?,
            shape: self.shape.clone(),
            embedding: self.embedding.clone(),
            norm: self.norm.clone(),
            head: self.head.clone(),
            rotary: self.rotary.clone(),
        })
    }

    /// Its linear layers with their names.
    pub(crate) fn linears(&self) -> impl Iterator<Item = (String, &L)> {
        self.shape.linears().map(|(name, _)| name).zip(self.blocks.iter().flat_map(|block| &block.linears))
    }
}

impl<L: Module> Model<L> {
    /// Mean loss of predicting each byte's next, in nats; bytes `[sequences, context + 1]`.
    pub(crate) fn loss(&self, bytes: &[u8]) -> Result<Tensor> {
        let context = self.shape.context;
        let sequences = bytes.chunks_exact(context + 1);
        let seen: Vec<u32> = sequences.clone().flat_map(|s| &s[..context]).map(|&b| u32::from(b)).collect();
        let next: Vec<u32> = sequences.flat_map(|s| &s[1..]).map(|&b| u32::from(b)).collect();
        ops::cross_entropy(&self.logits(&seen)?, &next)
    }

    /// `[B·T, 256]`.
    fn logits(&self, bytes: &[u32]) -> Result<Tensor> {
        let bytes = Tensor::from_slice(bytes, bytes.len(), self.embedding.device())?;
        let mut x = self.embedding.index_select(&bytes, 0)?;
        for block in &self.blocks {
            x = (&x + self.attention(block, &weighted_norm(&x, &block.attention_norm)?)?)?;
            let normed = weighted_norm(&x, &block.mlp_norm)?;
            let [.., gate, up, down] = &block.linears;
            x = (x + down.forward(&ops::swiglu(&gate.forward(&normed)?, &up.forward(&normed)?)?)?)?;
        }
        weighted_norm(&x, &self.norm)?.matmul(&self.head.t()?)
    }

    fn attention(&self, block: &Block<L>, x: &Tensor) -> Result<Tensor> {
        let Shape { width, heads, context, .. } = self.shape;
        let (rows, head) = (x.dim(0)?, width / heads);
        let [q, k, v, o, ..] = &block.linears;
        let by_head = |x: Tensor| x.reshape((rows / context, context, heads, head))?.transpose(1, 2)?.contiguous();
        let q = by_head(self.rotary.turn(&q.forward(x)?)?)?;
        let k = by_head(self.rotary.turn(&k.forward(x)?)?)?;
        let v = by_head(v.forward(x)?)?;
        let scores = q.matmul(&k.t()?)?;
        let mixed = ops::causal_softmax(&scores, 1.0 / (head as f32).sqrt())?.matmul(&v)?;
        o.forward(&mixed.transpose(1, 2)?.reshape((rows, width))?)
    }
}

fn weighted_norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    ops::normalised(x)?.broadcast_mul(weight)
}

fn exactly<L>(linears: Vec<L>) -> Result<[L; LINEARS.len()]> {
    linears.try_into().map_err(|_| candle_core::Error::Msg("a decoder layer has seven linear layers".into()))
}
