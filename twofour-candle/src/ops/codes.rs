//! The packed codes of masks as candle's operation.

use candle_core::{DType, Result};
use twofour::Shape;
use twofour::mask::Forward;
use twofour::space::Space;

use super::Masks;
use super::custom::Op;
use crate::engine::Engine;
use crate::number::with_types;
use crate::place::{Operand, Place};

/// Packed codes of `(logits)`.
pub(super) struct Codes {
    pub(super) masks: Masks,
    pub(super) shape: Shape,
}

impl Op<1> for Codes {
    const NAME: &'static str = "twofour codes";

    fn forward<P: Place>(&self, [logits]: [Operand<'_, P>; 1]) -> Result<(P::Storage, candle_core::Shape)> {
        let Self { masks, shape } = self;
        let codes = with_types!(logits.dtype(), DType::F32, <L, W> {
            let from = logits.elements::<L>()?;
            // An engine for the call: it needs none of the libraries that are shared.
            P::made::<u8>(&Engine::default(), logits.device(), shape.packed_codes(), |on, codes| {
                let pass = Forward::<_, L, W>::new(*shape, masks.kind, masks.sampling, P::Space::share(&from));
                on.run(pass.shard(masks.shard_of(*shape)).codes(P::output(codes)))
            })
        })?;
        Ok((codes, shape.packed_codes().into()))
    }
}
