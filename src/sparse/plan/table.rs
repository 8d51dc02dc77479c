//! The table of a plan: which route is best where. Every line says the model behind it.

use super::Route;
use super::choice::Choice;
use super::serves::{CUSPARSELT, TILE};
use crate::compress::Layout;
use crate::element::DType;
use crate::error::{Result, unsupported};
use crate::sparse::launch::MAX_SMALL_TOKENS;

impl Choice {
    // No line has met a GPU yet. Models use, for Hopper, 4.3 TB/s, 700 TFLOP/s (of a dense product) in cuBLASLt, 1.2
    // times that in cuSPARSELt (NVIDIA's own figure, CUDALibrarySamples issue 203), and 0.84 times in this crate's
    // kernels: 0.6 for `mma.sync` (62 % of `wgmma`), times 1.4 for what sparse tensor cores gain over dense ones in
    // hand-written kernels. For Ampere, 1.6 TB/s, 270 TFLOP/s, 1.48 (401 of cuSPARSELt over 271 of cuBLAS at 4096³) and
    // 1.26.

    /// From how many tokens on cuSPARSELt beats this crate's kernels. It pads tokens to a tile, so that few cost as
    /// much as many (0.11 of dense at one token, PyTorch issue 111339), and wins by 1.2/0.84 on Hopper, by 1.48/1.26 on
    /// Ampere. Whole tiles of 256 tokens, padded by a quarter on average from 512 on and by an eighth from 1,024 on,
    /// leave it ahead.
    const fn cusparselt_tokens(&self) -> usize {
        if self.limits.has_faster_instructions() { 512 } else { 1024 }
    }

    /// From how many tokens on cuBLASLt beats this crate's kernels, if ever. Decompressing writes 2 bytes a weight and
    /// reads 1.125, the product reads 0.875 more: 0.93 ps a weight on Hopper, of which the last 0.2 remain where a
    /// dense copy is there. This crate's product takes `2·T·(1/0.84 − 1)/700e12` s a weight more: they meet at 1,700
    /// and 370 tokens. On Ampere own kernels are faster at any number.
    const fn dense_tokens(&self) -> Option<usize> {
        match (self.limits.has_faster_instructions(), self.given.dense) {
            (false, _) => None,
            (true, true) => Some(384),
            (true, false) => Some(1792),
        }
    }

    /// Whether the library's tiles (128 × 256 or so) fill the device and rows are long enough to pay for starting them:
    /// measured on H100, it loses to cuBLASLt (0.54 to 0.97) where N or K is 2,048 or less and tokens are too.
    const fn fills_cusparselt(&self) -> bool {
        let shape = self.problem.shape;
        let wide = shape.rows > 2048 && shape.cols > 2048;
        wide || self.problem.tokens > 2048 && shape.rows > 1024 && shape.cols > 1024
    }

    /// Whether sums of `i8` products do not exceed 2²⁴ (1,024 kept products of at most 2¹⁴), up to where cuSPARSELt's
    /// are known to be exact.
    const fn sums_are_short(&self) -> bool {
        self.problem.shape.cols <= 2048
    }

    /// Whether rows of kept values and of X start on 16 bytes. This crate's kernels copy others element by element.
    const fn rows_are_aligned(&self) -> bool {
        self.problem.shape.cols.is_multiple_of(32 / self.values().size())
    }

    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if no route serves.
    pub(super) fn best(&self) -> Result<(Route, &'static str)> {
        let serves = |route| self.serves(route).is_ok();
        let tokens = self.problem.tokens;
        match self.values() {
            DType::F32 => {
                return self.only(Route::Dense, "f32 goes to cuBLASLt, in IEEE f32; tf32 is there to ask for");
            }
            DType::E4m3 => return self.only(Route::Cusparselt, "cuSPARSELt alone multiplies 8-bit floating point"),
            _ => {}
        }
        let library = serves(Route::Cusparselt) && (self.values() != DType::I8 || self.sums_are_short());
        let fast = self.rows_are_aligned() || !serves(Route::Dense);
        if tokens <= MAX_SMALL_TOKENS && serves(Route::Small) && fast {
            return Ok((
                Route::Small,
                "few tokens: bound by reading the weight, and 2:4 is 9/16 of it (i8: 5/8), read once",
            ));
        }
        if library && tokens >= self.cusparselt_tokens() && self.fills_cusparselt() {
            return Ok((
                Route::Cusparselt,
                "tokens and weight fill the library's tiles, and it has the fastest instructions",
            ));
        }
        let enough = self.dense_tokens().is_some_and(|least| tokens >= least);
        if serves(Route::Dense) && enough {
            return Ok((Route::Dense, "so many tokens that cuBLASLt makes up for the larger weight: it has wgmma"));
        }
        if serves(Route::Dense) && !self.rows_are_aligned() {
            return Ok((Route::Dense, "rows do not start on whole accesses: this crate's kernels would be slow"));
        }
        if serves(Route::Tile) {
            let why = match (self.rows_are_aligned(), enough) {
                (false, _) => "slow, for rows do not start on whole accesses, but cuBLASLt does not serve",
                (true, true) => "cuBLASLt, which would be faster for so many tokens, does not serve",
                (true, false) => "sparse tensor cores, and no library pays for being fed",
            };
            return Ok((Route::Tile, why));
        }
        if serves(Route::Dense) {
            return Ok((Route::Dense, "this crate's kernels do not read this layout, or count so far"));
        }
        if library {
            return Ok((Route::Cusparselt, "nothing else serves"));
        }
        Err(match self.given.layout {
            _ if serves(Route::Cusparselt) => unsupported(
                CUSPARSELT,
                "i8 sums of K above 2048 may exceed what it is known to keep; ask for it if it may",
            ),
            Layout::CutlassSm80 => unsupported(TILE, "the sizes exceed what the kernel counts, and no library serves"),
            _ => unsupported(TILE, "this crate's kernels read layout cutlass-sm80, and no library serves"),
        })
    }

    /// The one route of a type.
    fn only(&self, route: Route, why: &'static str) -> Result<(Route, &'static str)> {
        self.serves(route).map(|()| (route, why))
    }
}
