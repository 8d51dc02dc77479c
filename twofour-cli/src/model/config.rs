//! What a checkpoint says of its sizes.

use crate::Failure;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use twofour::Shape;

/// Which model of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Llama 2 and 3, SmolLM2.
    Llama,
    /// The same with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: q, k and v have biases.
    Qwen2,
    /// Heads of q and k are normalised.
    Qwen3,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` of `config.json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// `architectures` of `config.json`.
    #[must_use]
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    pub(super) fn of_name(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        let known = Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| format!("is of architecture `{name}`, which is not known here: these are {known}"))
    }
}

/// How rotary positions are stretched.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// Not.
    None,
    /// Positions divided by a factor.
    Linear(f64),
    /// Llama 3's: slow frequencies divided by the factor, fast ones kept, those between mixed.
    Llama3 {
        /// What slow frequencies are divided by.
        factor: f64,
        /// Waves longer than the original context over this are slow.
        low: f64,
        /// Waves shorter than the original context over this are fast.
        high: f64,
        /// The original context.
        original: f64,
    },
    /// What each frequency is divided by, `[head / 2]`, as GGUF files have it.
    Divided(Vec<f64>),
}

/// Sizes of a model and what its blocks have.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which model of the family.
    pub kind: Kind,
    /// Width d of the hidden states.
    pub hidden: usize,
    /// Width of gate and up.
    pub intermediate: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k and v.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// The longest context that the model was made for.
    pub positions: usize,
    /// Of the norms.
    pub eps: f64,
    /// Base of rotary positions.
    pub rope_theta: f64,
    /// How they are stretched.
    pub scaling: Scaling,
    /// The head is the embedding.
    pub tied: bool,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// o has one.
    pub o_bias: bool,
    /// gate, up and down have.
    pub mlp_bias: bool,
    /// Heads of q and k are normalised.
    pub qk_norm: bool,
    /// How far back each block looks, itself included; all the way, without.
    pub windows: Vec<Option<usize>>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}

/// `config.json`, as far as it counts. Defaults are those of `transformers`.
#[derive(Deserialize)]
struct Stored {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    sliding_window: Option<Value>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Value>,
    eos_token_id: Option<Value>,
}

impl Config {
    /// Of a folder's `config.json`.
    pub(super) fn of_json(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: cannot be read: {e}", path.display()))?;
        Self::parse(&text).map_err(|problem| format!("{}: {problem}", path.display()).into())
    }

    fn parse(text: &str) -> Result<Self, String> {
        // First of all what it is: of another architecture everything else may be missing.
        let json: Value = serde_json::from_str(text).map_err(|e| format!("is not the config of a model: {e}"))?;
        let kind = kind(&json)?;
        let stored: Stored =
            serde_json::from_value(json.clone()).map_err(|e| format!("is not the config of a model: {e}"))?;
        stored.refuse()?;
        let heads = stored.num_attention_heads;
        let bias = stored.attention_bias;
        let head = stored.head_dim.or((kind == Kind::Qwen3).then_some(128));
        let rope = stored.rope_parameters.as_ref().or(stored.rope_scaling.as_ref());
        let theta = rope.and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64).or(stored.rope_theta);
        let config = Self {
            kind,
            hidden: stored.hidden_size,
            intermediate: stored.intermediate_size,
            blocks: stored.num_hidden_layers,
            heads,
            kv_heads: stored.num_key_value_heads.unwrap_or(if kind == Kind::Mistral { 8 } else { heads }),
            head: head.unwrap_or(stored.hidden_size / heads.max(1)),
            vocabulary: stored.vocab_size,
            positions: stored.max_position_embeddings.unwrap_or(2048),
            eps: stored.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta.unwrap_or(10_000.0),
            scaling: scaling(rope)?,
            tied: stored.tie_word_embeddings.unwrap_or(false),
            qkv_bias: (bias.unwrap_or(false) && kind != Kind::Mistral) || kind == Kind::Qwen2,
            o_bias: bias.unwrap_or(false) && matches!(kind, Kind::Llama | Kind::Qwen3),
            mlp_bias: stored.mlp_bias.unwrap_or(false) && kind == Kind::Llama,
            qk_norm: kind == Kind::Qwen3,
            windows: stored.windows(kind, json.get("sliding_window").is_some())?,
            ends: stored.ends(),
        };
        config.check()?;
        Ok(config)
    }

    /// Checks that sizes go together.
    pub(super) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("hidden states", self.hidden),
            ("blocks", self.blocks),
            ("the width of gate and up", self.intermediate),
            ("heads", self.heads),
            ("heads of keys", self.kv_heads),
            ("the width of heads", self.head),
            ("the vocabulary", self.vocabulary),
        ];
        // What no model has, and what would overflow when multiplied.
        if let Some((what, size)) = sizes.into_iter().find(|&(_, size)| size == 0 || size > 1 << 28) {
            return Err(format!("a size of {size} for {what} is none that a model can have"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!("{} heads cannot share {} heads of keys", self.heads, self.kv_heads));
        }
        if !self.head.is_multiple_of(2) {
            return Err(format!("heads are {} wide, and rotary positions need pairs", self.head));
        }
        if !(self.eps >= 0.0 && self.eps.is_finite() && self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return Err(format!("eps {} or base {} is no number for it", self.eps, self.rope_theta));
        }
        Ok(())
    }

    /// Names and shapes of a block's linear layers: q, k, v, o, gate, up, down.
    #[must_use]
    pub fn linears(&self, block: usize) -> [(String, Shape); 7] {
        let (q, kv) = (self.heads * self.head, self.kv_heads * self.head);
        let (hidden, wide) = (self.hidden, self.intermediate);
        [
            ("self_attn.q_proj", Shape::new(q, hidden)),
            ("self_attn.k_proj", Shape::new(kv, hidden)),
            ("self_attn.v_proj", Shape::new(kv, hidden)),
            ("self_attn.o_proj", Shape::new(hidden, q)),
            ("mlp.gate_proj", Shape::new(wide, hidden)),
            ("mlp.up_proj", Shape::new(wide, hidden)),
            ("mlp.down_proj", Shape::new(hidden, wide)),
        ]
        .map(|(name, shape)| (format!("model.layers.{block}.{name}.weight"), shape))
    }

    /// Whether the i-th linear layer of a block, in that order, has a bias.
    pub(super) fn has_bias(&self, i: usize) -> bool {
        [self.qkv_bias, self.qkv_bias, self.qkv_bias, self.o_bias, self.mlp_bias, self.mlp_bias, self.mlp_bias][i]
    }

    /// Number of weights, biases and norms.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Names and shapes of all tensors that the model has, in the order of the walk.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let matrix = [self.vocabulary, self.hidden];
        let mut tensors = vec![(super::EMBEDDING.to_owned(), matrix.to_vec())];
        for block in 0..self.blocks {
            let mut vector = |name: &str, width| {
                tensors.push((format!("model.layers.{block}.{name}.weight"), vec![width]));
            };
            vector("input_layernorm", self.hidden);
            vector("post_attention_layernorm", self.hidden);
            if self.qk_norm {
                vector("self_attn.q_norm", self.head);
                vector("self_attn.k_norm", self.head);
            }
            for (i, (name, shape)) in self.linears(block).into_iter().enumerate() {
                if self.has_bias(i) {
                    tensors.push((bias_of(&name), vec![shape.rows]));
                }
                tensors.push((name, vec![shape.rows, shape.cols]));
            }
        }
        tensors.push((super::LAST_NORM.to_owned(), vec![self.hidden]));
        if !self.tied {
            tensors.push((super::HEAD.to_owned(), matrix.to_vec()));
        }
        tensors
    }
}

/// The name of a weight's bias.
pub(super) fn bias_of(weight: &str) -> String {
    format!("{}.bias", weight.strip_suffix(".weight").unwrap_or(weight))
}

fn kind(json: &Value) -> Result<Kind, String> {
    if let Some(name) = json.get("model_type").and_then(Value::as_str) {
        return Kind::of_name(name);
    }
    let architecture = json.get("architectures").and_then(|all| all.get(0)).and_then(Value::as_str);
    let architecture = architecture.ok_or("says neither `model_type` nor `architectures`: what is this model?")?;
    let found = Kind::ALL.into_iter().find(|kind| kind.architecture() == architecture);
    found.map_or_else(|| Kind::of_name(architecture), Ok)
}

impl Stored {
    /// What is said and not done here.
    fn refuse(&self) -> Result<(), String> {
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(format!("the activation `{other}` is not known here, silu alone is")),
        }
        match self.partial_rotary_factor {
            None | Some(1.0) => {}
            Some(part) => return Err(format!("rotary positions of {part} of a head are not known here")),
        }
        self.quantization_config.as_ref().map_or(Ok(()), refuse_quantised)
    }

    /// One token, or several.
    fn ends(&self) -> Vec<u32> {
        let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match &self.eos_token_id {
            Some(Value::Array(several)) => several.iter().filter_map(token).collect(),
            one => one.iter().filter_map(token).collect(),
        }
    }

    /// How far back each block looks.
    fn windows(&self, kind: Kind, said: bool) -> Result<Vec<Option<usize>>, String> {
        let window = match &self.sliding_window {
            // As `transformers` has it for a Mistral that says nothing.
            None if kind == Kind::Mistral && !said => Some(4096),
            None => None,
            Some(value) => match value.as_u64().map(usize::try_from) {
                Some(Ok(window)) if window > 0 => Some(window),
                _ => return Err(format!("a sliding window of {value} is none")),
            },
        };
        let blocks = self.num_hidden_layers;
        let slides = |block: usize| match (&self.layer_types, kind) {
            (_, Kind::Llama) => Ok(false),
            (Some(types), _) => match types.get(block).map(String::as_str) {
                Some("sliding_attention") => Ok(true),
                Some("full_attention") => Ok(false),
                Some(other) => Err(format!("attention of type `{other}` is not known here")),
                None => Err(format!("`layer_types` has {} of {blocks} blocks", types.len())),
            },
            (None, Kind::Mistral) => Ok(true),
            (None, _) => Ok(self.use_sliding_window == Some(true) && block >= self.max_window_layers.unwrap_or(28)),
        };
        (0..blocks).map(|block| Ok(if slides(block)? { window } else { None })).collect()
    }
}

/// Weights that are there as they are, or compressed and nothing more, are read.
fn refuse_quantised(config: &Value) -> Result<(), String> {
    let say = |key: &str| config.get(key).and_then(Value::as_str);
    let method = say("quant_method").unwrap_or("of a kind that is not named");
    let groups = config.get("config_groups").and_then(Value::as_object).is_some_and(|groups| !groups.is_empty());
    if method == "compressed-tensors" && !groups {
        return Ok(());
    }
    Err(format!("the weights are quantised ({method}), and only f32, f16, bf16 and GGUF are read: take the original"))
}

fn scaling(rope: Option<&Value>) -> Result<Scaling, String> {
    let Some(rope) = rope.filter(|rope| !rope.is_null()) else { return Ok(Scaling::None) };
    let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str).unwrap_or("default");
    let number = |key: &str| {
        let number = rope.get(key).and_then(Value::as_f64).filter(|&n| n > 0.0 && n.is_finite());
        number.ok_or_else(|| format!("scaling of rotary positions by `{kind}` has no `{key}`"))
    };
    match kind {
        "default" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear(number("factor")?)),
        "llama3" => Ok(Scaling::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original: number("original_max_position_embeddings")?,
        }),
        other => Err(format!("scaling of rotary positions by `{other}` is not known here: linear and llama3 are")),
    }
}
