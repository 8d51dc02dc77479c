//! Plans: which route is taken where, what it takes, and what cannot be asked for.

use twofour::device::Limits;
use twofour::mask::Kind;
use twofour::matmul::{Dense, InputRoute, Keep, Layer, LogitRoute, Masks, OutputRoute, Plan, Problem};
use twofour::{Cpu, Error, Float, Libraries, Logit, Shape, bf16, f16};

pub(crate) const SOFT: Masks = Masks::Sampled(Kind::Soft);
pub(crate) const HARD: Masks = Masks::Sampled(Kind::Hard);
/// Layers of language models.
pub(crate) const SHAPES: [(usize, usize); 4] = [(4096, 4096), (11008, 4096), (14336, 4096), (28672, 8192)];

pub(crate) fn plan<L: Logit, W: Float>(
    limits: &Limits,
    tokens: usize,
    (rows, cols): (usize, usize),
    masks: Masks,
) -> Plan<L, W> {
    let problem = Problem::new(tokens, Shape::new(rows, cols));
    Plan::new(limits, Libraries::CUBLASLT, problem, masks, Keep::Nothing).unwrap()
}

#[test]
fn few_tokens_are_sampled_in_the_product() {
    for shape in SHAPES {
        for tokens in [1, 16, 128] {
            for masks in [SOFT, HARD] {
                let plan = plan::<f32, bf16>(&Limits::H200, tokens, shape, masks);
                assert_eq!(plan.output().route, OutputRoute::Sampled);
                // Nothing of the weight's size.
                assert!(plan.output().workspace_bytes <= 64 << 20, "{plan}");
            }
            let plan = plan::<f32, bf16>(&Limits::H200, tokens, shape, Masks::Frozen);
            assert_eq!(plan.output().route, OutputRoute::Codes);
        }
    }
}

#[test]
fn many_tokens_go_to_cublaslt_on_hopper() {
    for shape in SHAPES {
        for tokens in [4096, 16384] {
            let plan = plan::<f32, bf16>(&Limits::H200, tokens, shape, SOFT);
            assert_eq!(plan.output().route, OutputRoute::Masked(Dense::Cublaslt));
            assert_eq!(plan.input_gradient().route, InputRoute::Masked(Dense::Cublaslt));
            assert_eq!(plan.logit_gradient().route, LogitRoute::Panels(Dense::Cublaslt));
        }
        let plan = plan::<f32, bf16>(&Limits::A100, 4096, shape, SOFT);
        assert_eq!(plan.logit_gradient().route, LogitRoute::Fused);
        let plan = self::plan::<bf16, f16>(&Limits::H200, 200, shape, HARD);
        assert_eq!((plan.output().route, plan.input_gradient().route), (OutputRoute::Codes, InputRoute::Codes));
        assert_eq!(plan.logit_gradient().route, LogitRoute::Fused);
    }
}

/// The tokens are split where the weight's tiles are few, unless cuBLASLt takes it all.
#[test]
fn small_weights_fill_the_device_by_splitting() {
    for limits in [Limits::A100, Limits::H200] {
        let few = plan::<f32, bf16>(&limits, 600, (1024, 1024), SOFT).logit_gradient();
        assert_eq!(few.route, LogitRoute::Panels(Dense::Own));
        assert!(few.splits > 1);
        let many = plan::<f32, bf16>(&limits, 16384, (1024, 1024), SOFT).logit_gradient();
        assert_eq!((many.route, many.splits), (LogitRoute::Panels(Dense::Cublaslt), 1));
    }
}

/// A wave and a third of blocks leave a third of the device idle in the second: three parts each do not.
#[test]
fn waves_are_filled_by_splitting() {
    let plan = plan::<f32, bf16>(&Limits::H200, 512, (11008, 4096), HARD);
    let plan =
        plan.with_output(OutputRoute::Codes).unwrap().with_input_gradient(InputRoute::Masked(Dense::Own)).unwrap();
    assert!(plan.output().splits > 1, "{plan}");
    let full = self::plan::<f32, bf16>(&Limits::H200, 4096, (16896, 4096), HARD);
    assert_eq!(full.with_output(OutputRoute::Masked(Dense::Own)).unwrap().output().splits, 1);
}

/// Own kernels copy rows that are not aligned element by element: not by default.
#[test]
fn odd_sizes_are_left_to_cublaslt() {
    let odd = plan::<f32, bf16>(&Limits::A100, 200, (4097, 4096), HARD);
    assert_eq!(odd.output().route, OutputRoute::Codes, "Y has odd rows, but no operand does");
    assert_eq!(odd.input_gradient().route, InputRoute::Masked(Dense::Cublaslt));
    assert_eq!(odd.logit_gradient().route, LogitRoute::Panels(Dense::Cublaslt));
    let odd = plan::<f32, bf16>(&Limits::A100, 200, (4096, 4100), HARD);
    assert_eq!(odd.output().route, OutputRoute::Masked(Dense::Cublaslt));
}

/// A layer's plan is that of its shape and masks, with the libraries that the executor has.
#[test]
fn layers_make_plans() {
    let shape = Shape::new(8, 16);
    let (codes, weight) = ([0x44; 16], [bf16::ONE; 128]);
    let frozen: Plan<f32, bf16> = Layer::frozen(shape, &codes, &weight).plan(&Cpu, 5, Keep::Masked).unwrap();
    let problem = Problem::new(5, shape);
    assert_eq!(frozen, Plan::new(&Limits::H200, Libraries::ALL, problem, Masks::Frozen, Keep::Masked).unwrap());
    assert_eq!((frozen.problem(), frozen.masks(), frozen.keep()), (problem, Masks::Frozen, Keep::Masked));
}

#[test]
fn f32_is_multiplied_by_cublaslt() {
    let plan = plan::<bf16, f32>(&Limits::A100, 16, (4096, 4096), HARD);
    assert_eq!(plan.output().route, OutputRoute::Masked(Dense::Cublaslt));
    assert_eq!(plan.input_gradient().route, InputRoute::Masked(Dense::Cublaslt));
    assert_eq!(plan.logit_gradient().route, LogitRoute::Panels(Dense::Cublaslt));
    assert!(matches!(plan.without_cublaslt(), Err(Error::Unsupported { .. })));
    let problem = plan.problem();
    let without = Plan::<bf16, f32>::new(&Limits::A100, Libraries::NONE, problem, HARD, Keep::Nothing);
    assert!(matches!(without, Err(Error::Unsupported { .. })));
    assert!(matches!(plan.with_output(OutputRoute::Sampled), Err(Error::Unsupported { .. })));
    assert!(matches!(plan.with_logit_gradient(LogitRoute::Fused), Err(Error::Unsupported { .. })));
}

/// Two bytes a weight at most, beside what does not grow with the weight.
#[test]
fn extra_memory_is_bounded() {
    const BOUNDED: usize = 64 << 20;
    for limits in [Limits::A100, Limits::H200] {
        for (rows, cols) in SHAPES {
            for tokens in [1, 128, 2048, 16384] {
                for (masks, keep) in
                    [SOFT, HARD].into_iter().flat_map(|masks| [(masks, Keep::Nothing), (masks, Keep::Masked)])
                {
                    let problem = Problem::new(tokens, Shape::new(rows, cols));
                    let plan = Plan::<f32, bf16>::new(&limits, Libraries::CUBLASLT, problem, masks, keep).unwrap();
                    let extra = plan.saved_bytes() + plan.workspace_bytes();
                    assert!(extra <= 2 * rows * cols + BOUNDED, "{extra} bytes\n{plan}");
                    let kept = if keep == Keep::Masked { 2 * rows * cols } else { 0 };
                    assert_eq!(plan.saved_bytes(), kept);
                }
            }
        }
    }
}

/// More of a step can be hidden behind its product than of the gradient; blocks of 8-bit moments are not tiles.
#[test]
fn steps_have_their_routes() {
    let cublaslt = LogitRoute::Panels(Dense::Cublaslt);
    let of = |plan: Plan<f32, bf16>| [plan, plan.with_moments_of_eight_bits()].map(|plan| plan.step_route().route);
    for shape in SHAPES {
        let at = |limits: &Limits, tokens| plan::<f32, bf16>(limits, tokens, shape, SOFT);
        assert_eq!(of(at(&Limits::H200, 2048)), [LogitRoute::Fused, cublaslt]);
        assert_eq!(at(&Limits::H200, 2048).logit_gradient().route, cublaslt);
        assert_eq!(of(at(&Limits::H200, 4096)), [cublaslt; 2]);
        assert_eq!(of(at(&Limits::A100, 16384)), [LogitRoute::Fused, cublaslt]);
        let own = at(&Limits::H200, 4096).without_cublaslt().unwrap();
        assert_eq!(of(own), [LogitRoute::Fused, LogitRoute::Panels(Dense::Own)]);
        let eight = at(&Limits::H200, 4096).with_moments_of_eight_bits();
        assert_eq!(eight.without_cublaslt().unwrap(), own.with_moments_of_eight_bits());
        assert!(matches!(eight.with_step(LogitRoute::Fused), Err(Error::Unsupported { .. })));
        let asked = at(&Limits::H200, 4096).with_step(LogitRoute::Fused).unwrap();
        assert_eq!((of(asked), asked.step_route().why), ([LogitRoute::Fused, cublaslt], "asked for"));
        let asked = at(&Limits::H200, 100).with_step(LogitRoute::Panels(Dense::Own)).unwrap();
        assert_eq!(of(asked), [LogitRoute::Panels(Dense::Own); 2]);
    }
    // Who makes no steps with moments of eight bits has no room for their panels, here of 16 MiB.
    let problem = Problem::new(100, Shape::new(1024, 4096));
    let masked = Plan::<f32, bf16>::new(&Limits::H200, Libraries::CUBLASLT, problem, SOFT, Keep::Masked).unwrap();
    let (without, with) = (masked.workspace_bytes(), masked.with_moments_of_eight_bits().workspace_bytes());
    assert!(without < 1 << 20 && with >= 16 << 20, "{without} {with}");
    let f32s = plan::<f32, f32>(&Limits::A100, 100, (256, 256), HARD);
    assert_eq!([f32s, f32s.with_moments_of_eight_bits()].map(|plan| plan.step_route().route), [cublaslt; 2]);
    assert!(matches!(f32s.with_step(LogitRoute::Fused), Err(Error::Unsupported { .. })));
    assert!(matches!(f32s.with_weight_gradient(Dense::Own), Err(Error::Unsupported { .. })));
    // A block's share of the sums takes 56 bytes: of a tile's, or of a panel's walk, which ends with a block of moments.
    let few = plan::<f32, bf16>(&Limits::H200, 100, (300, 260), SOFT).with_panel_rows(8);
    assert_eq!(few.with_step(LogitRoute::Fused).unwrap().step_route().workspace_bytes, 9_usize * 56 + 8);
    let panels = few.with_step(cublaslt).unwrap().with_moments_of_eight_bits().step_route().workspace_bytes;
    let shares: usize = [64_usize * 65, 64 * 65, 64 * 65, 64 * 65, 44 * 65].iter().map(|g| g.div_ceil(512)).sum();
    assert_eq!(panels, 64 * 260 * 4 + (shares * 56).next_multiple_of(256));
}

#[test]
fn what_cannot_be_asked_for() {
    let refused = |result: Result<Plan<f32, bf16>, Error>| matches!(result, Err(Error::Unsupported { .. }));
    let soft = plan::<f32, bf16>(&Limits::H200, 129, (256, 256), SOFT);
    assert!(refused(soft.with_output(OutputRoute::Sampled)), "129 tokens");
    assert!(refused(soft.with_output(OutputRoute::Codes)) && refused(soft.with_input_gradient(InputRoute::Codes)));
    let frozen = plan::<f32, bf16>(&Limits::H200, 5, (256, 256), Masks::Frozen);
    assert!(refused(frozen.with_output(OutputRoute::Sampled)));
    let problem = Problem::new(5, Shape::new(8, 8));
    assert!(refused(Plan::<f32, bf16>::new(&Limits::H200, Libraries::CUBLASLT, problem, SOFT, Keep::Codes)));
    assert!(refused(Plan::<f32, bf16>::new(&Limits::H200, Libraries::CUBLASLT, problem, Masks::Frozen, Keep::Codes)));
    let keeping = Plan::<f32, bf16>::new(&Limits::H200, Libraries::CUBLASLT, problem, HARD, Keep::Codes).unwrap();
    assert!(refused(keeping.with_output(OutputRoute::Sampled)));
    let ragged = Problem::new(5, Shape::new(8, 6));
    assert!(matches!(
        Plan::<f32, bf16>::new(&Limits::H200, Libraries::CUBLASLT, ragged, SOFT, Keep::Nothing),
        Err(Error::NotGrouped { .. })
    ));
    assert_eq!(keeping.with_output(OutputRoute::Masked(Dense::Own)).unwrap().output().why, "asked for");
}

#[test]
fn a_plan_says_why() {
    let text = plan::<f32, bf16>(&Limits::H200, 4096, (4096, 4096), SOFT).to_string();
    let lines: Vec<&str> = text.lines().collect();
    let products = ["Y ", "dX ", "G ", "dlogits ", "step "];
    assert_eq!(lines.len(), products.len(), "{text}");
    assert!(lines.iter().zip(products).all(|(line, of)| line.starts_with(of) && line.contains(": ")), "{text}");
    assert_eq!(plan::<f32, bf16>(&Limits::H200, 4, (64, 64), Masks::Frozen).to_string().lines().count(), 3);
}

/// Without cuBLASLt own kernels multiply, and nobody can ask for it.
#[test]
fn a_plan_honours_its_libraries() {
    for shape in SHAPES {
        for tokens in [1, 300, 16384] {
            for masks in [SOFT, HARD, Masks::Frozen] {
                let with = plan::<f32, bf16>(&Limits::H200, tokens, shape, masks);
                let problem = with.problem();
                let without = Plan::new(&Limits::H200, Libraries::NONE, problem, masks, Keep::Nothing).unwrap();
                assert_eq!(with.without_cublaslt().unwrap(), without);
                assert_ne!(without.output().route, OutputRoute::Masked(Dense::Cublaslt));
                assert_ne!(without.input_gradient().route, InputRoute::Masked(Dense::Cublaslt));
                let eight = without.with_moments_of_eight_bits().step_route().route;
                let without_routes = [without.logit_gradient().route, without.step_route().route, eight];
                assert!(!without_routes.contains(&LogitRoute::Panels(Dense::Cublaslt)), "{without}");
                assert_eq!(without.weight_gradient().route, Dense::Own);
                let refused = |result| matches!(result, Err(Error::Unsupported { .. }));
                assert!(refused(without.with_output(OutputRoute::Masked(Dense::Cublaslt))));
                assert!(refused(without.with_input_gradient(InputRoute::Masked(Dense::Cublaslt))));
                assert!(refused(without.with_logit_gradient(LogitRoute::Panels(Dense::Cublaslt))));
                assert!(refused(without.with_step(LogitRoute::Panels(Dense::Cublaslt))));
                assert!(refused(without.with_weight_gradient(Dense::Cublaslt)));
            }
        }
    }
}

#[test]
fn parts_are_counted_in_the_workspace() {
    let few = plan::<f32, bf16>(&Limits::H200, 3, (7, 4096), SOFT);
    let bytes = |splits| few.with_output_splits(splits).unwrap().output().workspace_bytes;
    // Areas start on 256 bytes.
    assert_eq!((bytes(1), bytes(5)), (0, (3 * 7 * 5 * 4_usize).next_multiple_of(256)));
    for splits in [0, 65_536] {
        assert!(matches!(few.with_output_splits(splits), Err(Error::Scalar { what: "splits", .. })));
    }
    assert!(few.with_output_splits(65_535).is_ok());
    let many = plan::<f32, bf16>(&Limits::H200, 300, (64, 512), SOFT);
    assert!(matches!(many.with_output_splits(2), Err(Error::Unsupported { .. })), "cuBLASLt");
    let own = many.with_output(OutputRoute::Masked(Dense::Own)).unwrap();
    // Sixteen stages of 32 columns: no part is empty.
    let splits = |splits| own.with_output_splits(splits).unwrap().output().splits;
    assert_eq!((splits(3), splits(7), splits(16), splits(40)), (3, 6, 16, 16));
}
