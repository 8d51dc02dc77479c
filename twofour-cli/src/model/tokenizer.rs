//! The tokenizer in a GGUF file.
//!
//! Not candle-core's `TokenizerFromGguf`, which takes every pre-tokenizer that it does not know for GPT-2's, with a
//! space before the text: of SmolLM2 it makes other tokens.

use super::gguf::Gguf;
use crate::Failure;
use tokenizers::decoders::byte_level::ByteLevel as Decoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// How digits are split in the two that are alike but for that, of `tokenizer.json` of Llama 3 and of Qwen2.
fn words(digits: &str) -> String {
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
    let rest = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    format!("{words}|{digits}|{rest}")
}

/// What a token is, as llama.cpp counts: `LLAMA_TOKEN_TYPE_*`.
const UNKNOWN: usize = 2;
const CONTROL: usize = 3;
const USER: usize = 4;

impl Gguf {
    /// The tokenizer that the file's metadata describe.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        let advice = "give token ids by --tokens";
        let model =
            self.text("tokenizer.ggml.model").ok_or_else(|| self.wrong(format_args!("has no tokenizer: {advice}")))?;
        let tokens = self.strings("tokenizer.ggml.tokens")?;
        let mut tokenizer = match model {
            "gpt2" => self.byte_level(&tokens)?,
            "llama" => self.pieces(&tokens)?,
            other => return Err(self.wrong(format_args!("tokenizers of kind `{other}` are not read: {advice}"))),
        };
        self.add_special(&mut tokenizer, &tokens)?;
        // Of SentencePiece's, a token at the beginning is the rule.
        let begins = self.flag("tokenizer.ggml.add_bos_token").unwrap_or(model == "llama");
        let begin = self.integer("tokenizer.ggml.bos_token_id").filter(|_| begins);
        if let Some((id, token)) = begin.and_then(|id| Some((id, tokens.get(id)?.as_str()))) {
            let template = TemplateProcessing::builder()
                .try_single(vec![token.to_owned(), "$0".to_owned()])
                .map_err(|e| self.wrong(e))?
                .special_tokens(vec![(token.to_owned(), id as u32)])
                .build();
            tokenizer.with_post_processor(Some(template.map_err(|e| self.wrong(e))?));
        }
        Ok(tokenizer)
    }

    pub(super) fn strings(&self, key: &str) -> Result<Vec<String>, Failure> {
        let list = self.list(key).ok_or_else(|| self.wrong(format_args!("has no `{key}`")))?;
        list.iter().map(|value| value.to_string().cloned().map_err(|e| self.wrong(e))).collect()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.content.metadata.get(key)?.to_bool().ok()
    }

    /// Pairs of bytes' merges, as GPT-2 has them.
    fn byte_level(&self, tokens: &[String]) -> Result<Tokenizer, Failure> {
        let merge = |merge: &String| {
            let pair = merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            pair.ok_or_else(|| self.wrong(format_args!("`{merge}` is no merge of two tokens")))
        };
        let merges = self.strings("tokenizer.ggml.merges")?.iter().map(merge).collect::<Result<Vec<_>, Failure>>()?;
        let vocabulary: Vocab = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
        let pre = self.text("tokenizer.ggml.pre").unwrap_or("default");
        let bpe = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(pre == "llama-bpe").build();
        let mut tokenizer = Tokenizer::new(bpe.map_err(|e| self.wrong(e))?);
        tokenizer.with_pre_tokenizer(Some(self.pre(pre)?));
        if pre == "qwen2" {
            tokenizer.with_normalizer(Some(NFC)).map_err(|e| self.wrong(e))?;
        }
        tokenizer.with_decoder(Some(Decoder::new(false, true, true)));
        Ok(tokenizer)
    }

    /// How text is split before, as in the models' `tokenizer.json`; names are llama.cpp's.
    fn pre(&self, name: &str) -> Result<PreTokenizerWrapper, Failure> {
        let words = |digits: &str| -> Result<PreTokenizerWrapper, Failure> {
            let pattern = SplitPattern::Regex(words(digits));
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(|e| self.wrong(e))?;
            Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
        };
        match name {
            "smollm" | "starcoder" | "refact" | "command-r" => {
                let digits = Digits::new(true);
                Ok(Sequence::new(vec![digits.into(), ByteLevel::new(false, true, true).into()]).into())
            }
            "gpt-2" | "gpt2" | "default" => Ok(ByteLevel::new(false, true, true).into()),
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => words(r"\p{N}{1,3}"),
            "qwen2" => words(r"\p{N}"),
            other => {
                let problem = format!("the tokenizer splits text as `{other}`, which is not known here");
                Err(self.wrong(format_args!("{problem}: give token ids by --tokens")))
            }
        }
    }

    /// Tokens that are found in text before all else.
    fn add_special(&self, tokenizer: &mut Tokenizer, tokens: &[String]) -> Result<(), Failure> {
        let Some(types) = self.list("tokenizer.ggml.token_type") else { return Ok(()) };
        let kind = |value: &candle_core::quantized::gguf_file::Value| {
            value
                .to_i32()
                .ok()
                .and_then(|kind| usize::try_from(kind).ok())
                .or_else(|| Some(value.to_u64().ok()? as usize))
        };
        let kinds = tokens.iter().zip(types).map(|(token, value)| (token, kind(value)));
        let of = |wanted: &[usize], special: bool| -> Vec<AddedToken> {
            let found = kinds.clone().filter(|(_, kind)| kind.is_some_and(|kind| wanted.contains(&kind)));
            found.map(|(token, _)| AddedToken::from(token.clone(), special).normalized(false)).collect()
        };
        tokenizer.add_special_tokens(of(&[UNKNOWN, CONTROL], true)).map_err(|e| self.wrong(e))?;
        tokenizer.add_tokens(of(&[USER], false)).map_err(|e| self.wrong(e))?;
        Ok(())
    }
}
