//! Plans: which way is taken where, what it takes, and what cannot be asked for.

use twofour::device::Limits;
use twofour::mask::{Kind, Sampling};
use twofour::matmul::steps::{Step, rehearse};
use twofour::matmul::{Backward, Dense, Forward, InputPath, Keep, Layer, LogitPath, Masks, OutputPath, Plan, Problem};
use twofour::space::{Raw, RawSlice};
use twofour::{Error, Float, Logit, Shape, bf16, f16};

const SOFT: Masks = Masks::Sampled(Kind::Soft);
const HARD: Masks = Masks::Sampled(Kind::Hard);
/// Layers of language models.
const SHAPES: [(usize, usize); 4] = [(4096, 4096), (11008, 4096), (14336, 4096), (28672, 8192)];

fn plan<L: Logit, W: Float>(limits: &Limits, tokens: usize, (rows, cols): (usize, usize), masks: Masks) -> Plan {
    Plan::new::<L, W>(limits, Problem::new(tokens, Shape::new(rows, cols)), masks, Keep::Nothing).unwrap()
}

#[test]
fn few_tokens_are_sampled_in_the_product() {
    for shape in SHAPES {
        for tokens in [1, 16, 128] {
            for masks in [SOFT, HARD] {
                let plan = plan::<f32, bf16>(&Limits::H200, tokens, shape, masks);
                assert_eq!(plan.output().path, OutputPath::Sampled);
                // Nothing of the weight's size.
                assert!(plan.output().workspace_bytes <= 64 << 20, "{plan}");
            }
            let plan = plan::<f32, bf16>(&Limits::H200, tokens, shape, Masks::Frozen);
            assert_eq!(plan.output().path, OutputPath::Codes);
        }
    }
}

#[test]
fn many_tokens_go_to_cublaslt_on_hopper() {
    for shape in SHAPES {
        for tokens in [4096, 16384] {
            let plan = plan::<f32, bf16>(&Limits::H200, tokens, shape, SOFT);
            assert_eq!(plan.output().path, OutputPath::Masked(Dense::BlasLt));
            assert_eq!(plan.input_gradient().path, InputPath::Masked(Dense::BlasLt));
            assert_eq!(plan.logit_gradient().path, LogitPath::Panels(Dense::BlasLt));
        }
        let plan = plan::<f32, bf16>(&Limits::A100, 4096, shape, SOFT);
        assert_eq!(plan.logit_gradient().path, LogitPath::Fused);
        let plan = self::plan::<bf16, f16>(&Limits::H200, 200, shape, HARD);
        assert_eq!((plan.output().path, plan.input_gradient().path), (OutputPath::Codes, InputPath::Codes));
        assert_eq!(plan.logit_gradient().path, LogitPath::Fused);
    }
}

/// The tokens are split where the weight's tiles are few, unless cuBLASLt takes it all.
#[test]
fn small_weights_fill_the_device_by_splitting() {
    for limits in [Limits::A100, Limits::H200] {
        let few = plan::<f32, bf16>(&limits, 600, (1024, 1024), SOFT).logit_gradient();
        assert_eq!(few.path, LogitPath::Panels(Dense::Own));
        assert!(few.splits > 1);
        let many = plan::<f32, bf16>(&limits, 16384, (1024, 1024), SOFT).logit_gradient();
        assert_eq!((many.path, many.splits), (LogitPath::Panels(Dense::BlasLt), 1));
    }
}

/// A wave and a third of blocks leave a third of the device idle in the second: three parts each do not.
#[test]
fn waves_are_filled_by_splitting() {
    let plan = plan::<f32, bf16>(&Limits::H200, 512, (11008, 4096), HARD);
    let plan = plan.with_output(OutputPath::Codes).unwrap().with_input_gradient(InputPath::Masked(Dense::Own)).unwrap();
    assert!(plan.output().splits > 1, "{plan}");
    let full = self::plan::<f32, bf16>(&Limits::H200, 4096, (16896, 4096), HARD);
    assert_eq!(full.with_output(OutputPath::Masked(Dense::Own)).unwrap().output().splits, 1);
}

/// Own kernels copy rows that are not aligned element by element: not by default.
#[test]
fn odd_sizes_are_left_to_cublaslt() {
    let odd = plan::<f32, bf16>(&Limits::A100, 200, (4097, 4096), HARD);
    assert_eq!(odd.output().path, OutputPath::Codes, "Y has odd rows, but no operand does");
    assert_eq!(odd.input_gradient().path, InputPath::Masked(Dense::BlasLt));
    assert_eq!(odd.logit_gradient().path, LogitPath::Panels(Dense::BlasLt));
    let odd = plan::<f32, bf16>(&Limits::A100, 200, (4096, 4100), HARD);
    assert_eq!(odd.output().path, OutputPath::Masked(Dense::BlasLt));
}

#[test]
fn frozen_masks_have_no_type_of_logits() {
    let problem = Problem::new(5, Shape::new(8, 16));
    let of = |plan: Result<Plan, Error>| plan.unwrap();
    let as_f32 = of(Plan::new::<f32, bf16>(&Limits::H200, problem, Masks::Frozen, Keep::Nothing));
    assert_eq!(of(Plan::new::<bf16, bf16>(&Limits::H200, problem, Masks::Frozen, Keep::Nothing)), as_f32);
}

#[test]
fn f32_is_multiplied_by_cublaslt() {
    let plan = plan::<bf16, f32>(&Limits::A100, 16, (4096, 4096), HARD);
    assert_eq!(plan.output().path, OutputPath::Masked(Dense::BlasLt));
    assert_eq!(plan.input_gradient().path, InputPath::Masked(Dense::BlasLt));
    assert_eq!(plan.logit_gradient().path, LogitPath::Panels(Dense::BlasLt));
    assert!(matches!(plan.without_blaslt(), Err(Error::Path { .. })));
    assert!(matches!(plan.with_output(OutputPath::Sampled), Err(Error::Path { .. })));
    assert!(matches!(plan.with_logit_gradient(LogitPath::Fused), Err(Error::Path { .. })));
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
                    let plan = Plan::new::<f32, bf16>(&limits, problem, masks, keep).unwrap();
                    let extra = plan.kept_bytes() + plan.workspace_bytes();
                    assert!(extra <= 2 * rows * cols + BOUNDED, "{extra} bytes\n{plan}");
                    let kept = if keep == Keep::Masked { 2 * rows * cols } else { 0 };
                    assert_eq!(plan.kept_bytes(), kept);
                }
            }
        }
    }
}

#[test]
fn without_the_library_there_is_none_in_any_step() {
    for (rows, cols) in SHAPES {
        for tokens in [1, 300, 16384] {
            for masks in [SOFT, HARD, Masks::Frozen] {
                let plan = plan::<f32, bf16>(&Limits::H200, tokens, (rows, cols), masks).without_blaslt().unwrap();
                let steps = steps(&plan, tokens, Shape::new(rows, cols), masks);
                assert!(!steps.iter().any(|step| matches!(step, Step::BlasLt(..))), "{plan}");
            }
        }
    }
}

/// All steps of both passes over operands that are not there.
fn steps(plan: &Plan, tokens: usize, shape: Shape, masks: Masks) -> Vec<Step> {
    let problem = Problem::new(tokens, shape);
    let raw = |elements| RawSlice { address: 1 << 40, elements };
    let sampling = Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 };
    let weight = raw(shape.weights());
    let layer = match masks {
        Masks::Sampled(kind) => Layer::<Raw, f32, bf16>::new(shape, kind, sampling, raw(shape.logits()), weight),
        Masks::Frozen => Layer::frozen(shape, raw(shape.packed_codes()), weight),
    };
    let workspace = raw(plan.workspace_bytes());
    let forward = Forward::new(layer, tokens, raw(problem.inputs()), raw(problem.outputs())).workspace(workspace);
    let backward = Backward::new(layer, tokens, raw(problem.outputs())).input_gradient(raw(problem.inputs()));
    let backward = match masks {
        Masks::Frozen => backward,
        Masks::Sampled(_) => backward.logit_gradient(raw(problem.inputs()), raw(shape.logits())),
    };
    let mut steps = forward.steps(plan).unwrap();
    steps.append(&mut backward.workspace(workspace).steps(plan).unwrap());
    steps
}

/// What is loaded ahead of time is what the passes run.
#[test]
fn a_rehearsal_has_the_steps_of_the_passes() {
    let needs = |steps: &[Step]| -> Vec<_> {
        let product = |step: &Step| if let Step::BlasLt(product, _) = step { Some(*product) } else { None };
        steps.iter().map(|step| (step.kernel(), product(step))).collect()
    };
    for tokens in [3, 200, 5000] {
        for masks in [SOFT, HARD, Masks::Frozen] {
            let shape = Shape::new(4096, 4096);
            let plan = plan::<f32, bf16>(&Limits::H200, tokens, (shape.rows, shape.cols), masks);
            for plan in [plan, plan.without_blaslt().unwrap()] {
                let rehearsed = rehearse::<f32, bf16>(&plan).unwrap();
                assert_eq!(needs(&rehearsed), needs(&steps(&plan, tokens, shape, masks)), "{plan}");
                assert!(rehearsed.len() >= 2);
            }
            assert!(matches!(rehearse::<bf16, f16>(&plan), Err(Error::Unplanned { .. })));
        }
    }
}

#[test]
fn panels_cover_all_rows() {
    let (tokens, shape) = (16384, Shape::new(28672, 8192));
    let plan = plan::<f32, bf16>(&Limits::H200, tokens, (shape.rows, shape.cols), SOFT);
    let steps = steps(&plan, tokens, shape, SOFT);
    let panels = steps.iter().filter_map(|step| match step {
        Step::BlasLt(product, addresses) if product.a_transposed => Some((product.rows, addresses[0])),
        _ => None,
    });
    let panels: Vec<_> = panels.collect();
    assert!(panels.len() > 1);
    let mut row = 0;
    for (rows, dy) in panels {
        assert_eq!(dy, (1 << 40) + 2 * row as u64);
        row += rows;
    }
    assert_eq!(row, shape.rows);
}

#[test]
fn what_cannot_be_asked_for() {
    let path = |result: Result<Plan, Error>| matches!(result, Err(Error::Path { .. }));
    let soft = plan::<f32, bf16>(&Limits::H200, 129, (256, 256), SOFT);
    assert!(path(soft.with_output(OutputPath::Sampled)), "129 tokens");
    assert!(path(soft.with_output(OutputPath::Codes)) && path(soft.with_input_gradient(InputPath::Codes)));
    let frozen = plan::<f32, bf16>(&Limits::H200, 5, (256, 256), Masks::Frozen);
    assert!(path(frozen.with_output(OutputPath::Sampled)));
    let problem = Problem::new(5, Shape::new(8, 8));
    assert!(path(Plan::new::<f32, bf16>(&Limits::H200, problem, SOFT, Keep::Codes)));
    assert!(path(Plan::new::<f32, bf16>(&Limits::H200, problem, Masks::Frozen, Keep::Codes)));
    let keeping = Plan::new::<f32, bf16>(&Limits::H200, problem, HARD, Keep::Codes).unwrap();
    assert!(path(keeping.with_output(OutputPath::Sampled)));
    let ragged = Problem::new(5, Shape::new(8, 6));
    assert!(matches!(
        Plan::new::<f32, bf16>(&Limits::H200, ragged, SOFT, Keep::Nothing),
        Err(Error::NotGrouped { .. })
    ));
    assert_eq!(keeping.with_output(OutputPath::Masked(Dense::Own)).unwrap().output().why, "asked for");
}

#[test]
fn arguments_must_be_those_of_the_plan() {
    let shape = Shape::new(256, 256);
    let raw = |elements| RawSlice { address: 1 << 40, elements };
    let sampling = Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 };
    let layer = Layer::<Raw, f32, bf16>::new(shape, Kind::Soft, sampling, raw(shape.logits()), raw(shape.weights()));
    let of = |tokens: usize| Forward::new(layer, tokens, raw(256 * tokens), raw(256 * tokens));
    let plan = plan::<f32, bf16>(&Limits::H200, 300, (256, 256), SOFT);
    let needed = plan.output().workspace_bytes;
    assert_eq!(needed, 2 * 256 * 256);
    assert!(matches!(of(301).workspace(raw(1 << 30)).steps(&plan), Err(Error::Unplanned { .. })));
    let keeping = of(300).keep_masked(raw(shape.weights()));
    assert!(matches!(keeping.steps(&plan), Err(Error::Unplanned { .. })));
    let error = of(300).steps(&plan).unwrap_err();
    assert_eq!(error, Error::Workspace { needed: needed as u64, got: 0 });
    let error = of(300).workspace(raw(needed - 1)).steps(&plan).unwrap_err();
    assert_eq!(error, Error::Workspace { needed: needed as u64, got: needed as u64 - 1 });
    assert!(of(300).workspace(raw(needed)).steps(&plan).is_ok());
    let other = self::plan::<bf16, bf16>(&Limits::H200, 300, (256, 256), SOFT);
    assert!(matches!(of(300).workspace(raw(1 << 30)).steps(&other), Err(Error::Unplanned { .. })));
}

#[test]
fn a_plan_says_why() {
    let text = plan::<f32, bf16>(&Limits::H200, 4096, (4096, 4096), SOFT).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines.iter().zip(["Y", "dX", "dlogits"]).all(|(line, of)| line.starts_with(of) && line.contains(": ")),
        "{text}"
    );
    assert_eq!(plan::<f32, bf16>(&Limits::H200, 4, (64, 64), Masks::Frozen).to_string().lines().count(), 2);
}
