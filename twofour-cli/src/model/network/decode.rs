//! Token after token: what layers made of those before is kept.

use super::super::attention::{Length, attend, attend_one};
use super::super::rows::gated;
use super::{Block, Network};
use crate::Failure;
use candle_core::{DType, Tensor};
use candle_nn::Module;
use candle_nn::ops::rms_norm;

/// Keys and values of all tokens that a network has read, with room for more.
#[derive(Debug)]
pub struct Cache {
    /// Of each block, `[KV, room, head]`.
    blocks: Vec<[Tensor; 2]>,
    tokens: usize,
    room: usize,
}

impl Cache {
    /// Tokens that were read.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl<L: Module> Network<L> {
    /// An empty cache for so many tokens.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn cache(&self, room: usize) -> Result<Cache, Failure> {
        let (kv, head) = (self.config.kv_heads, self.config.head);
        let sizes = [room, kv, head, 2 * self.blocks.len(), size_of::<f32>()];
        let bytes = sizes.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
        // An allocator that is asked for a tensor ends the process where there is nothing.
        let there = |&bytes: &usize| !self.device.is_cpu() || Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
        if bytes.filter(there).is_none() {
            return Err(
                format!("there is no memory for keys and values of {room} tokens: fewer --tokens need less").into()
            );
        }
        let of = || Tensor::zeros((kv, room, head), DType::F32, &self.device);
        let blocks = self.blocks.iter().map(|_| Ok([of()?, of()?])).collect::<Result<_, Failure>>()?;
        Ok(Cache { blocks, tokens: 0, room })
    }

    /// Reads tokens: all of a prompt into an empty cache, or one. Logits `[vocabulary]` of the token that follows.
    ///
    /// # Errors
    /// Several tokens behind others, more than the cache has room for, or one that is not of the vocabulary; what a
    /// layer returns.
    pub fn next(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor, Failure> {
        let (count, before) = (tokens.len(), cache.tokens);
        if count == 0 || count > 1 && before > 0 {
            return Err(
                format!("{count} tokens cannot be read behind {before}: a prompt first, and then one by one").into()
            );
        }
        if before + count > cache.room {
            return Err(format!("the cache has room for {} tokens, and there are more", cache.room).into());
        }
        let length = self.positions.of_length(cache.room)?;
        let at = if count == 1 { length.at(before)? } else { length.to(count)? };
        let mut x = self.rows(tokens)?;
        for (block, kept) in self.blocks.iter().zip(&cache.blocks) {
            x = block.extend(&x, kept, before, &at)?;
        }
        cache.tokens += count;
        Ok(self.head.logits(&x.narrow(0, count - 1, 1)?)?.squeeze(0)?)
    }
}

impl<L: Module> Block<L> {
    /// Hidden states `[T, d]` behind the block of tokens that follow those that are kept; theirs are kept too.
    fn extend(&self, x: &Tensor, kept: &[Tensor; 2], before: usize, at: &Length) -> Result<Tensor, Failure> {
        let eps = self.config.eps as f32;
        let layer = |i: usize, x: &Tensor| self.linears[i].1.forward(x);
        let count = x.dim(0)?;
        let input = rms_norm(x, &self.input_norm, eps)?;
        let q = self.turned(&layer(0, &input)?, 0, at)?;
        let k = self.turned(&layer(1, &input)?, 1, at)?;
        let v = self.heads(&layer(2, &input)?, count)?;
        for (kept, new) in kept.iter().zip([&k, &v]) {
            kept.slice_set(&new.squeeze(0)?, 1, before)?;
        }
        let mixed = if before == 0 && count > 1 {
            let mixed = attend([&q, &k, &v], self.window, &mut drop)?;
            mixed.reshape((count, self.config.heads * self.config.head))?
        } else {
            let seen = self.window.map_or(before + 1, |window| window.min(before + 1));
            let [k, v] = [0, 1].map(|i| kept[i].narrow(1, before + 1 - seen, seen));
            attend_one(&q.reshape((self.config.heads, self.config.head))?, &k?, &v?)?
        };
        let middle = (x + layer(3, &mixed)?)?;
        let second = rms_norm(&middle, &self.middle_norm, eps)?;
        let wide = gated(layer(4, &second)?, &layer(5, &second)?)?;
        Ok((middle + layer(6, &wide)?)?)
    }
}
