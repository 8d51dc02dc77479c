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
    /// The tokenizer of pieces and scores.
    pub(super) fn pieces(&self, tokens: &[String]) -> Result<Tokenizer, Failure> {
        let scores = self.list("tokenizer.ggml.scores").ok_or_else(|| self.wrong("has no `tokenizer.ggml.scores`"))?;
        let scores: Vec<f32> = scores.iter().filter_map(|score: &Value| score.to_f32().ok()).collect();
        if scores.len() != tokens.len() {
            return Err(self.wrong(format_args!("has {} scores of {} tokens", scores.len(), tokens.len())));
        }
        let unknown = self.integer("tokenizer.ggml.unknown_token_id").and_then(|id| tokens.get(id));
        of_pieces(tokens, &scores, unknown).map_err(|e| self.wrong(e))
    }
}

/// As `transformers`' `convert_slow_tokenizer.py` makes one of SentencePiece's model: merges in falling order of the
/// score of what they make.
fn of_pieces(tokens: &[String], scores: &[f32], unknown: Option<&String>) -> tokenizers::Result<Tokenizer> {
    let ids: HashMap<&str, u32> = tokens.iter().zip(0..).map(|(token, id)| (token.as_str(), id)).collect();
    let mut merges: Vec<(f32, u32, u32)> = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
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
    let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown.clone());
    }
    let mut tokenizer = Tokenizer::new(builder.build()?);
    let steps: Vec<NormalizerWrapper> = vec![Prepend::new("▁".to_owned()).into(), Replace::new(" ", "▁")?.into()];
    tokenizer.with_normalizer(Some(normalizers::Sequence::new(steps)))?;
    let steps: Vec<DecoderWrapper> = vec![
        Replace::new("▁", " ")?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
        Strip::new(' ', 1, 0).into(),
    ];
    tokenizer.with_decoder(Some(Sequence::new(steps)));
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    #[test]
    fn pieces_merge_by_score_and_bytes_stand_for_what_is_unknown() -> tokenizers::Result<()> {
        let pieces = ["<unk>", "▁", "t", "w", "o", "tw", "wo", "▁t", "▁two", "two", "<0xC3>", "<0x9F>"];
        let scores = [0.0, -9.0, -9.0, -9.0, -9.0, -4.0, -1.0, -2.0, -3.0, -5.0, 0.0, 0.0];
        let pieces = pieces.map(str::to_owned);
        let tokenizer = super::of_pieces(&pieces, &scores, pieces.first())?;
        let encoded = tokenizer.encode("two otwß", false)?;
        // `wo` is made before `tw`, and there is no way from `t`, `wo` to `two` but by a piece.
        assert_eq!(encoded.get_tokens(), ["▁two", "▁", "o", "tw", "<0xC3>", "<0x9F>"]);
        assert_eq!(tokenizer.decode(encoded.get_ids(), true)?, "two otwß");
        Ok(())
    }
}
