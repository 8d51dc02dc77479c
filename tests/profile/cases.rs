//! What is profiled: cases of the benches.

use crate::common::{
    At, Cache, Place, Result, Timed, compress, decode, distil, glu, learn, mask, matmul, select, sparse,
};
use crate::profiler::Profiled;
use twofour::compress::{Layout, MinTileK};
use twofour::glu::Activation;
use twofour::mask::Kind;
use twofour::{DType, Float, Shape, bf16};
use twofour_emulator::ptx::Compiler;

use DType::{Bf16, F32, I8};

/// The weight's shape; predictions are for others too.
const SHAPE: Shape = Shape::new(4096, 4096);

pub(crate) fn small(compiler: &Compiler) {
    Cases { compiler, wanted: None }.of_weights(Shape::new(64, 256));
}

pub(crate) fn all(compiler: &Compiler) {
    let cases = Cases { compiler, wanted: std::env::var("TWOFOUR_PROFILE").ok() };
    cases.of_weights(SHAPE);
    cases.of_activations();
    cases.decode();
    cases.products(SHAPE);
}

struct Cases<'a> {
    compiler: &'a Compiler,
    wanted: Option<String>,
}

impl Cases<'_> {
    fn case(&self, name: String, ready: impl FnOnce(Profiled) -> Result<Box<dyn Timed>>) {
        if self.wanted.as_ref().is_none_or(|wanted| name.starts_with(wanted)) {
            let at = Profiled { compiler: self.compiler, name };
            ready(at).unwrap().time(1).unwrap();
        }
    }

    fn of_weights(&self, shape: Shape) {
        self.masks(shape);
        self.steps(shape);
        self.layouts(shape);
        self.choices::<bf16>(shape);
        self.choices::<f32>(shape);
    }

    fn masks(&self, shape: Shape) {
        use mask::{Case, Does};
        for (logits, weights) in [(F32, F32), (F32, Bf16), (Bf16, Bf16), (Bf16, F32)] {
            for (does, kind) in [Does::Forward, Does::Backward]
                .into_iter()
                .flat_map(|does| [Kind::Soft, Kind::Hard].map(|kind| (does, kind)))
            {
                let case = Case { does, kind, logits, weights, shape, metrics: false };
                self.case(format!("mask/{}", case.name()), |at| mask::ready(case, at));
            }
            let case = Case { does: Does::Forward, kind: Kind::Soft, logits, weights, shape, metrics: true };
            self.case(format!("mask/metrics/{}", case.name()), |at| mask::ready(case, at));
        }
    }

    fn steps(&self, shape: Shape) {
        use learn::{Case, Does};
        for (logits, eight, weights) in [(F32, false, F32), (F32, false, Bf16), (F32, true, Bf16), (Bf16, true, Bf16)] {
            for does in [Does::Update, Does::Fused] {
                let case = Case { does, eight, logits, weights, shape };
                self.case(format!("learn/{}", case.name()), |at| learn::ready(case, at));
            }
        }
    }

    fn layouts(&self, shape: Shape) {
        use compress::{Case, Does};
        let mut cases = Vec::new();
        for does in [Does::Codes, Does::Magnitude, Does::Sparse, Does::Unpack] {
            for values in [Bf16, F32, I8] {
                cases.push(Case { does, values, layout: Layout::CutlassSm80, shape });
            }
        }
        for does in [Does::Logits, Does::Bf16Logits] {
            cases.push(Case { does, values: Bf16, layout: Layout::CutlassSm80, shape });
        }
        for layout in [Layout::CutlassSm80, Layout::CusparseltSm90, Layout::CutlassSm90(MinTileK::K128)] {
            cases.extend([Does::Reorder, Does::Restore].map(|does| Case { does, values: Bf16, layout, shape }));
        }
        for case in cases {
            self.case(format!("compress/{}", case.name()), |at| compress::ready(case, at));
        }
    }

    fn choices<T: Float>(&self, shape: Shape) {
        use select::{Case, Does};
        for does in [Does::Magnitude, Does::ScaledMasked, Does::Squares] {
            let case = Case::<T>::new(does, shape);
            self.case(format!("select/{}", case.name()), |at| at.ready(&case));
        }
    }

    fn of_activations(&self) {
        use distil::Does;
        let (rows, vocab) = (512, 49_152);
        for does in [Does::Labels, Does::Forward, Does::Reverse, Does::Jsd, Does::Known, Does::TopK] {
            for dtype in [F32, Bf16] {
                let case = distil::Case { does, dtype, rows, vocab };
                self.case(format!("distil/{}", case.name()), |at| distil::ready(case, at));
            }
        }
        let (tokens, neurons) = (512, 11_008);
        for does in [glu::Does::Forward, glu::Does::Backward] {
            for activation in [Activation::DRelu, Activation::SwiGlu] {
                let case = glu::Case { does, activation, dtype: Bf16, tokens, neurons };
                self.case(format!("glu/{}", case.name()), |at| glu::ready(case, at));
            }
        }
    }

    /// A feed-forward of LLaMA-2 7B's size, one token.
    fn decode(&self) {
        use decode::{Case, Reads};
        for (reads, kept) in [Reads::Whole, Reads::Skip, Reads::Given]
            .into_iter()
            .flat_map(|reads| [false, true].map(|kept| (reads, kept)))
        {
            let case = Case { reads, kept, tokens: 1, width: 4096, neurons: 11_008 };
            self.case(format!("glu/{}", case.name()), |at| at.ready(&case));
        }
    }

    /// By few tokens, where they are bound by the weight's bytes.
    fn products(&self, shape: Shape) {
        for tokens in [8, 16, 32, 64, 128] {
            let case = sparse::Case { values: Bf16, tokens, shape };
            self.case(format!("sparse/{}", case.name()), |at| sparse::planned(case, Layout::CutlassSm80, at));
        }
        for (logits, tokens) in [(F32, 16), (F32, 128), (Bf16, 16), (Bf16, 128)] {
            let case = matmul::Case { part: matmul::Part::Y, kind: Kind::Soft, logits, weights: Bf16, tokens, shape };
            let place = Place::Gpu(Cache::Cold);
            self.case(format!("matmul/{}", case.name()), |at| matmul::planned(case, place, at));
        }
    }
}
