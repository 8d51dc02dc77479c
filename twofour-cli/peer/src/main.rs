//! `twofour eval` beside candle-transformers' `models::llama`, f32, on the same tensors, in one run.
//!
//!     cargo run --release --manifest-path twofour-cli/peer/Cargo.toml -- MODEL.gguf TOKENS.u16 [WINDOWS [LENGTH]]
//!
//! Both read windows of LENGTH (512) tokens in turn, a few windows at a time. candle-transformers gives the logits of a
//! window's last token alone; a perplexity needs all of them, so its line "with a head" adds the same product with the
//! vocabulary and `log_softmax` by candle for all other tokens. Ours has its head in both lines.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;
use twofour_cli::Failure;
use twofour_cli::eval::{apart, losses, tokens};
use twofour_cli::model::Model;

/// Windows that each side reads before the other does.
const TURN: usize = 16;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, more @ ..] = args.as_slice() else { return Err("MODEL TOKENS [WINDOWS [LENGTH]]".into()) };
    let number = |i: usize, or: usize| more.get(i).map_or(Ok(or), |number| number.parse());
    let (count, length) = (number(0, 32)?, number(1, 512)?);
    let model = Model::open(model, &Device::Cpu)?;
    let tokens = tokens::of_file(file.as_ref())?;
    let tokens = &tokens[..tokens.len().min(count * length)];
    let (windows, _) = apart(tokens.len(), length)?;
    let peer = Peer::new(&model)?;

    let (mut ours, mut theirs, mut head) = (0.0, 0.0, 0.0);
    for turn in windows.chunks(TURN) {
        let start = Instant::now();
        black_box(losses(&model, tokens, turn, &mut |_| Ok(()), &mut |_, _| ())?);
        ours += start.elapsed().as_secs_f64();
        for window in turn {
            let start = Instant::now();
            let last = peer.last(&tokens[window.tokens.clone()])?;
            theirs += start.elapsed().as_secs_f64();
            check(&model, &tokens[window.tokens.clone()], &last)?;
            let start = Instant::now();
            black_box(peer.head(length - 1)?);
            head += start.elapsed().as_secs_f64();
        }
    }
    let speed = |seconds: f64| (windows.len() * length) as f64 / seconds;
    println!("tokens/s   {} windows of {length}, {} threads", windows.len(), candle_core::utils::get_num_threads());
    println!("ours       {:8.1}   all logits, weights read from the file every {TURN} windows", speed(ours));
    for (what, seconds) in [("one logit", theirs), ("with a head", theirs + head)] {
        println!("{what:<11}{:8.1}   candle-transformers; ours / theirs {:.3}", speed(seconds), seconds / ours);
    }
    Ok(())
}

/// That both compute the same.
fn check(model: &Model, tokens: &[u32], last: &Tensor) -> Result<(), Failure> {
    let mut x = model.embed(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?)?;
    for i in 0..model.blocks() {
        x = model.block(i)?.run(&x)?;
    }
    let own = model.head()?.logits(&x.get(0)?.narrow(0, tokens.len() - 1, 1)?)?;
    let error = (own - last)?.abs()?.max_all()?.to_scalar::<f32>()?;
    if error > 1e-2 { Err(format!("logits differ by {error}").into()) } else { Ok(()) }
}

/// candle-transformers' model, all in memory.
struct Peer {
    llama: Llama,
    config: Config,
    embedding: Tensor,
}

impl Peer {
    fn new(model: &Model) -> Result<Self, Failure> {
        let own = model.config();
        let config = Config {
            hidden_size: own.hidden,
            intermediate_size: own.intermediate,
            vocab_size: own.vocabulary,
            num_hidden_layers: own.blocks,
            num_attention_heads: own.heads,
            num_key_value_heads: own.kv_heads,
            use_flash_attn: false,
            rms_norm_eps: own.eps,
            rope_theta: own.rope_theta as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: own.positions,
            tie_word_embeddings: own.tied,
        };
        let read = |(name, _): (String, Vec<usize>)| Ok((name.clone(), model.tensor(&name)?));
        let tensors: HashMap<String, Tensor> = own.tensors().into_iter().map(read).collect::<Result<_, Failure>>()?;
        let head = if own.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let embedding = tensors[head].clone();
        let llama = Llama::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &config)?;
        Ok(Self { llama, config, embedding })
    }

    /// Logits of the last token.
    fn last(&self, tokens: &[u32]) -> Result<Tensor, Failure> {
        let mut cache = Cache::new(false, DType::F32, &self.config, &Device::Cpu)?;
        Ok(self.llama.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, 0, &mut cache)?)
    }

    /// What a perplexity needs of so many tokens more.
    fn head(&self, tokens: usize) -> Result<Tensor, Failure> {
        let x = self.embedding.narrow(0, 0, tokens)?;
        let logits = x.matmul(&self.embedding.t()?)?;
        let targets = Tensor::zeros((tokens, 1), DType::U32, &Device::Cpu)?;
        Ok(candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&targets, D::Minus1)?)
    }
}
