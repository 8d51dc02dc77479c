//! SentencePiece's tokenizer of Llama 2 and Mistral in a GGUF file, which holds pieces and scores, and no merges.

use super::gguf::Gguf;
use crate::Failure;
use candle_core::quantized::gguf_file::Value;
use std::collections::HashMap;
use tokenizers::Tokenizer;
use tokenizers::decoders::{DecoderWrapper, byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence, strip::Strip};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{self, NormalizerWrapper, Prepend, Replace};

impl Gguf {
    /// As `transformers`' `convert_slow_tokenizer.py` makes one of SentencePiece's model: merges in falling order of
    /// the score of what they make.
    pub(super) fn pieces(&self, tokens: &[String]) -> Result<Tokenizer, Failure> {
        let scores = self.list("tokenizer.ggml.scores").ok_or_else(|| self.wrong("has no `tokenizer.ggml.scores`"))?;
        let scores: Vec<f32> = scores.iter().filter_map(|score: &Value| score.to_f32().ok()).collect();
        if scores.len() != tokens.len() {
            return Err(self.wrong(format_args!("has {} scores of {} tokens", scores.len(), tokens.len())));
        }
        let ids: HashMap<&str, u32> = tokens.iter().zip(0..).map(|(token, id)| (token.as_str(), id)).collect();
        let mut merges: Vec<(f32, u32, u32)> = Vec::new();
        for (token, &score) in tokens.iter().zip(&scores) {
            let first = merges.len();
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                    merges.push((score, left, right));
                }
            }
            merges[first..].sort_by_key(|&(_, left, right)| (left, right));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        let piece = |id: u32| tokens[id as usize].clone();
        let merges = merges.into_iter().map(|(_, left, right)| (piece(left), piece(right))).collect();
        let vocabulary: Vocab = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
        let unknown = self.integer("tokenizer.ggml.unknown_token_id").and_then(|id| tokens.get(id));
        let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true).byte_fallback(true);
        if let Some(unknown) = unknown {
            builder = builder.unk_token(unknown.clone());
        }
        let mut tokenizer = Tokenizer::new(builder.build().map_err(|e| self.wrong(e))?);
        let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|e| self.wrong(e));
        let steps: Vec<NormalizerWrapper> = vec![Prepend::new("▁".to_owned()).into(), replace(" ", "▁")?.into()];
        let normalizer = normalizers::Sequence::new(steps);
        tokenizer.with_normalizer(Some(normalizer)).map_err(|e| self.wrong(e))?;
        let steps: Vec<DecoderWrapper> = vec![
            replace("▁", " ")?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
            Strip::new(' ', 1, 0).into(),
        ];
        tokenizer.with_decoder(Some(Sequence::new(steps)));
        Ok(tokenizer)
    }
}
