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
            P::with(&Engine::default(), logits.device(), |on| {
                let mut codes = on.unset::<u8>(shape.packed_codes())?;
                let pass = Forward::<_, L, W>::new(*shape, masks.kind, masks.sampling, P::Space::share(&from));
                on.run(pass.shard(masks.shard_of(*shape)).codes(P::output(&mut codes)))?;
                Ok(codes)
            })
        })?;
        Ok((P::own(codes, logits.device()), shape.packed_codes().into()))
    }
}
