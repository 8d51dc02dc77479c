//! Text of tokens, as they come.

use crate::Failure;
use tokenizers::tokenizer::DecodeStream;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
};

type Stream<'t> =
    DecodeStream<'t, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Tokens that are decoded one by one, each once.
pub(super) struct Decoded<'t> {
    tokenizer: &'t Tokenizer,
    stream: Stream<'t>,
    tokens: Vec<u32>,
    text: String,
}

impl<'t> Decoded<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, stream: tokenizer.decode_stream(true), tokens: Vec::new(), text: String::new() }
    }

    /// What the text has more by these tokens. An unfinished character waits.
    pub(super) fn add(&mut self, tokens: &[u32]) -> Result<&str, Failure> {
        let before = self.text.len();
        for &token in tokens {
            let more = self.stream.step(token).or_else(|_| {
                // The token changed the text before it: begun anew.
                self.stream = self.tokenizer.decode_stream(true);
                self.stream.step(token)
            });
            self.text.extend(more.map_err(failed)?);
            self.tokens.push(token);
        }
        Ok(&self.text[before..])
    }

    /// What was still waiting.
    pub(super) fn end(self) -> Result<String, Failure> {
        let whole = self.tokenizer.decode(&self.tokens, true).map_err(failed)?;
        Ok(whole.strip_prefix(&self.text).unwrap_or_default().to_owned())
    }
}

fn failed(error: tokenizers::Error) -> Failure {
    format!("the tokenizer: {error}").into()
}

#[cfg(test)]
mod tests {
    use super::Decoded;
    use crate::demo::Demo;
    use tokenizers::Tokenizer;

    #[test]
    fn a_character_waits_until_it_is_whole() -> Result<(), crate::Failure> {
        let demo = Demo::new()?;
        let tokenizer = Tokenizer::from_file(demo.model().join("tokenizer.json"))?;
        let text = "two\tof 四\u{200d}👍\n";
        let ids = tokenizer.encode(text, true)?.get_ids().to_vec();
        assert_eq!(ids.len(), text.len(), "a token a byte");
        let mut decoded = Decoded::new(&tokenizer);
        let parts =
            ids.iter().map(|&id| Ok(decoded.add(&[id])?.to_owned())).collect::<Result<Vec<_>, crate::Failure>>()?;
        assert_eq!(parts.iter().filter(|part| !part.is_empty()).count(), text.chars().count(), "{parts:?}");
        assert_eq!(parts.concat(), text);
        assert_eq!(decoded.end()?, "");
        // Of two bytes of three nothing is shown before the end; what cannot go on does not hold back what follows.
        let mut decoded = Decoded::new(&tokenizer);
        let start = text.find('四').unwrap_or(0);
        assert_eq!(
            decoded.add(&[&ids[..start + 2], &ids[..3], &ids[start..start + 2]].concat())?,
            "two\tof \u{fffd}two"
        );
        assert_eq!(decoded.end()?, "\u{fffd}");
        Ok(())
    }
}
