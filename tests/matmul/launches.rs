//! What `matmul` gives a device to do: kernels, grids, calls of cuBLASLt, and what is refused before.

use crate::common::emulator::works;
use crate::plans::{HARD, SHAPES, SOFT, plan};
use twofour::dense::{Call, Product};
use twofour::device::Limits;
use twofour::learn::{self, Moments, NORM_SLOTS};
use twofour::mask::{Kind, Sampling};
use twofour::matmul::{
    Backward, Dense, Forward, Keep, Layer, MAX_SMALL_TOKENS, Masks, OutputRoute, Plan, Problem, Step,
};
use twofour::pass::{self, Queue, Work};
use twofour::space::{Raw, RawSlice};
use twofour::{Error, Float, Libraries, Logit, Result, Shape, Shard, bf16, f16};

pub(crate) const SAMPLING: Sampling = Sampling { seed: 1, draw: 2, kappa: 1.0, tau: 1.0 };

fn at<T>(elements: usize) -> RawSlice<T> {
    RawSlice::new(1 << 40, elements)
}

fn layer<L: Logit, W: Float>(shape: Shape, kind: Kind) -> Layer<'static, Raw, L, W> {
    Layer::sampled(shape, kind, SAMPLING, at(shape.logits()), at(shape.weights()))
}

fn frozen<W: Float>(shape: Shape) -> Layer<'static, Raw, f32, W> {
    Layer::frozen(shape, at(shape.packed_codes()), at(shape.weights()))
}

/// What both passes of a plan queue over operands that are not there.
fn both<W: Float>(plan: &Plan<f32, W>) -> Vec<Work> {
    let (problem, shape) = (plan.problem(), plan.problem().shape);
    let layer = match plan.masks() {
        Masks::Sampled(kind) => layer(shape, kind),
        Masks::Frozen => frozen(shape),
    };
    let workspace = at(plan.workspace_bytes());
    let forward = Forward::new(plan, &layer, at(problem.inputs()), at(problem.outputs())).workspace(workspace);
    let backward = Backward::new(plan, &layer, at(problem.outputs())).input_gradient(at(problem.inputs()));
    let backward = match plan.masks() {
        Masks::Frozen => backward,
        Masks::Sampled(_) => backward.logit_gradient(at(problem.inputs()), at(shape.logits())),
    };
    let mut all = works(Limits::H200, forward).unwrap();
    all.append(&mut works(Limits::H200, backward.workspace(workspace)).unwrap());
    all
}

/// A plan for each kind of moments, and whether those have eight bits.
fn of_moments(plan: Plan<f32, bf16>) -> [(Plan<f32, bf16>, bool); 2] {
    [(plan, false), (plan.with_moments_of_eight_bits(), true)]
}

/// What every pass of a plan queues, which was made for moments of eight bits or not.
fn all(plan: &Plan<f32, bf16>, eight: bool) -> Vec<Work> {
    let (problem, shape) = (plan.problem(), plan.problem().shape);
    let (inputs, outputs, workspace) = (at(problem.inputs()), at(problem.outputs()), at(plan.workspace_bytes()));
    let layer = match plan.masks() {
        Masks::Sampled(kind) => layer(shape, kind),
        Masks::Frozen => frozen(shape),
    };
    let backward = || Backward::new(plan, &layer, outputs).workspace(workspace);
    let mut all = both(plan);
    all.append(&mut works(Limits::H200, backward().weight_gradient(inputs, at::<f32>(shape.weights()))).unwrap());
    all.append(&mut works(Limits::H200, backward().weight_gradient(inputs, at::<bf16>(shape.weights()))).unwrap());
    if plan.masks() == Masks::Frozen {
        return all;
    }
    let codes = || at::<u8>(shape.logits());
    let moments = match eight {
        false => Moments::f32(at(shape.logits()), at(shape.logits())),
        true => Moments::eight(codes(), codes(), at(Moments::scales(shape))),
    };
    let by = learn::Step::new(learn::Recipe::maskllm(9).at(1).adamw, moments);
    let pass = Step::new(plan, SAMPLING, at(shape.logits()), at(shape.weights()), outputs, inputs, by);
    all.append(&mut works(Limits::H200, pass.norm_squares(at(NORM_SLOTS)).workspace(workspace)).unwrap());
    all
}

/// What is loaded for a work: a kernel's name and its shared memory, or a product.
fn needs(work: &Work) -> (String, u32, Option<Product>) {
    match work {
        Work::Kernel(launch) => (launch.symbol.name().to_owned(), launch.shared_bytes, None),
        Work::Dense(call) => (String::new(), 0, Some(call.form.product)),
        Work::Cusparselt(_) => panic!("{work:?}"),
    }
}

#[test]
fn a_masked_weight_that_is_there_is_only_multiplied_by() {
    let (shape, tokens) = (Shape::new(256, 512), 200);
    let problem = Problem::new(tokens, shape);
    // At addresses that tell them apart.
    let masked = RawSlice::new(3 << 20, shape.weights());
    let (x, y) = (RawSlice::new(4 << 20, problem.inputs()), RawSlice::new(5 << 20, problem.outputs()));
    let layer = layer::<f32, bf16>(shape, Kind::Soft);
    let plan = |keep| Plan::new(&Limits::H200, Libraries::CUBLASLT, problem, SOFT, keep).unwrap();
    let keeping = plan(Keep::Masked);
    let forward = || Forward::new(&keeping, &layer, x, y);

    let made = works(Limits::H200, forward().use_masked(masked)).unwrap();
    let form = Product::output(problem, twofour::DType::Bf16).into();
    assert_eq!(made, [Work::Dense(Call { form, a: x.address, b: masked.address, c: y.address, bias: None })]);
    let making = works(Limits::H200, forward().save_masked(masked)).unwrap();
    assert_eq!(needs(&making[0]).0, "twofour_mask_soft_f32_bf16");
    assert_eq!(making[1..], made);

    let short = RawSlice::new(masked.address, masked.elements - 1);
    let length = Error::Length { what: "masked", expected: 256 * 512, got: 256 * 512 - 1 };
    assert_eq!(works(Limits::H200, forward().use_masked(short)), Err(length));
    let other = plan(Keep::Nothing);
    let pass = Forward::new(&other, &layer, x, y).use_masked(masked);
    assert!(matches!(works(Limits::H200, pass), Err(Error::Unplanned { .. })));
}

#[test]
fn without_the_library_there_is_none_in_any_work() {
    for shape in SHAPES {
        for tokens in [1, 300, 16384] {
            for masks in [SOFT, HARD, Masks::Frozen] {
                let plan = plan::<f32, bf16>(&Limits::H200, tokens, shape, masks).without_cublaslt().unwrap();
                for (plan, eight) in of_moments(plan) {
                    assert!(!all(&plan, eight).iter().any(|work| matches!(work, Work::Dense(_))), "{plan}");
                }
            }
        }
    }
}

/// What is loaded ahead of time is what the passes run.
#[test]
fn a_rehearsal_has_the_works_of_the_passes() {
    for tokens in [3, 200, 5000] {
        for masks in [SOFT, HARD, Masks::Frozen] {
            let plan = plan::<f32, bf16>(&Limits::H200, tokens, (4096, 4096), masks);
            for (plan, eight) in [plan, plan.without_cublaslt().unwrap()].into_iter().flat_map(of_moments) {
                let mut queue = Queue::new(Limits::H200);
                pass::Plan::rehearse(&plan, &mut queue).unwrap();
                let rehearsed: Vec<_> = queue.works().map(needs).collect();
                assert_eq!(rehearsed, all(&plan, eight).iter().map(needs).collect::<Vec<_>>(), "{plan}");
                assert!(rehearsed.len() >= 2);
            }
        }
    }
}

#[test]
fn panels_cover_all_rows() {
    let shape = Shape::new(28672, 8192);
    let plan = plan::<f32, bf16>(&Limits::H200, 16384, (shape.rows, shape.cols), SOFT);
    let panels = both(&plan).into_iter().filter_map(|work| match work {
        Work::Dense(call) if call.form.product.a_transposed => Some((call.form.product.rows, call.a)),
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
fn the_workspace_is_as_large_as_the_plan_says() {
    let layer = layer::<f32, bf16>(Shape::new(256, 256), Kind::Soft);
    let plan = plan::<f32, bf16>(&Limits::H200, 300, (256, 256), SOFT);
    let needed = plan.output().workspace_bytes;
    assert_eq!(needed, 2 * 256 * 256);
    let forward = || Forward::new(&plan, &layer, at(256 * 300), at(256 * 300));
    let error = works(Limits::H200, forward()).unwrap_err();
    assert_eq!(error, Error::Workspace { needed: needed as u64, got: 0 });
    let error = works(Limits::H200, forward().workspace(at(needed - 1))).unwrap_err();
    assert_eq!(error, Error::Workspace { needed: needed as u64, got: needed as u64 - 1 });
    assert!(works(Limits::H200, forward().workspace(at(needed))).is_ok());
}

/// The first work of `Y` for few tokens, on the route that samples or masks by frozen codes in the product.
fn small<L: Logit>(
    layer: &Layer<'_, Raw, L, f16>,
    [tokens, rows, cols]: [usize; 3],
    splits: u32,
) -> (String, [u32; 3]) {
    let problem = Problem::new(tokens, Shape::new(rows, cols));
    let plan = Plan::new(&Limits::A100, Libraries::NONE, problem, layer.masks(), Keep::Nothing).unwrap();
    assert!(matches!(plan.output().route, OutputRoute::Sampled | OutputRoute::Codes), "{plan}");
    let plan = plan.with_output_splits(splits).unwrap();
    let pass = Forward::new(&plan, layer, at(problem.inputs()), at(problem.outputs()));
    let works = works(Limits::A100, pass.workspace(at(plan.workspace_bytes()))).unwrap();
    assert_eq!(works.len(), if splits > 1 { 2 } else { 1 });
    let Work::Kernel(launch) = works[0] else { panic!("{works:?}") };
    assert_eq!(launch.symbol.file(), "matmul_small");
    (launch.symbol.name().to_owned(), launch.grid)
}

#[test]
fn few_tokens_are_one_launch() {
    let sampled = |kind, sizes: [usize; 3], splits| {
        small(&layer::<f32, f16>(Shape::new(sizes[1], sizes[2]), kind), sizes, splits)
    };
    let named = |name: &str, grid| (format!("twofour_matmul_small_{name}"), grid);
    assert_eq!(sampled(Kind::Soft, [5, 20, 64], 1), named("soft_f32_f16_16", [2, 1, 1]));
    assert_eq!(sampled(Kind::Soft, [5, 20, 64], 3), named("soft_f32_f16_16", [2, 3, 1]));
    assert_eq!(sampled(Kind::Argmax, [16, 20, 64], 1), named("hard_f32_f16_16", [2, 1, 1]));
    assert_eq!(sampled(Kind::Hard, [MAX_SMALL_TOKENS, 65, 64], 1), named("hard_f32_f16_128", [2, 1, 1]));
    let of_bf16 = small(&layer::<bf16, f16>(Shape::new(65, 64), Kind::Soft), [17, 65, 64], 1);
    assert_eq!(of_bf16, named("soft_bf16_f16_128", [2, 1, 1]));
    assert_eq!(small(&frozen(Shape::new(20, 64)), [5, 20, 64], 1), named("codes_f16_16", [2, 1, 1]));
    // Frozen codes are the slice's own, wherever that lies.
    let shard = Shard { row_offset: 9, col_offset: 9, global_cols: 9 };
    assert_eq!(small(&frozen(Shape::new(20, 64)).shard(shard), [5, 20, 64], 1).1, [2, 1, 1]);
    for (tokens, rows) in [(0, 5), (5, 0)] {
        assert_eq!(sampled(Kind::Soft, [tokens, rows, 8], 1).1[0], 0);
        assert_eq!(small(&frozen(Shape::new(rows, 8)), [tokens, rows, 8], 1).1[0], 0);
    }
}

/// What a pass of 5 tokens through [20, 64] says where one operand starts at another address.
fn misaligned(operand: &str, address: u64) -> Result<Vec<Work>> {
    fn at<T>(moved: Option<u64>, elements: usize) -> RawSlice<T> {
        RawSlice::new(moved.unwrap_or(1 << 40), elements)
    }
    let (shape, problem) = (Shape::new(20, 64), Problem::new(5, Shape::new(20, 64)));
    let moved = |name| (operand == name).then_some(address);
    let (codes, weight) = (at(moved("codes"), shape.packed_codes()), at::<f16>(moved("weight"), shape.weights()));
    let (x, y) = (at(moved("x"), problem.inputs()), at(moved("y"), problem.outputs()));
    if operand == "codes" {
        let layer = Layer::<Raw, f32, f16>::frozen(shape, codes, weight);
        let plan = Plan::new(&Limits::A100, Libraries::NONE, problem, layer.masks(), Keep::Nothing)?;
        return works(Limits::A100, Forward::new(&plan, &layer, x, y));
    }
    let logits = at::<f32>(moved("logits"), shape.logits());
    let layer = Layer::<Raw, f32, f16>::sampled(shape, Kind::Hard, SAMPLING, logits, weight);
    let plan = Plan::new(&Limits::A100, Libraries::NONE, problem, layer.masks(), Keep::Nothing)?;
    let plan = plan.with_output_splits(2)?;
    let workspace = at(moved("workspace"), plan.workspace_bytes());
    works(Limits::A100, Forward::new(&plan, &layer, x, y).workspace(workspace))
}

#[test]
fn operands_start_on_16_bytes() {
    for (operand, address) in [("logits", 8), ("codes", 4), ("x", 8), ("weight", 8), ("y", 2), ("workspace", 4)] {
        let expected = Error::Misaligned { what: operand, address, align: 16 };
        assert_eq!(misaligned(operand, address), Err(expected));
        assert!(misaligned(operand, 1 << 30).is_ok());
    }
}

/// A product by own tiles in parts is two launches, the second of which adds.
#[test]
fn parts_are_added_up() {
    let plan = plan::<f32, bf16>(&Limits::H200, 512, (11008, 4096), HARD);
    let plan = plan.with_output(OutputRoute::Masked(Dense::Own)).unwrap().with_output_splits(3).unwrap();
    let names: Vec<_> = both(&plan).iter().map(|work| needs(work).0).take(3).collect();
    assert_eq!(names, ["twofour_mask_hard_f32_bf16", "twofour_matmul_output_dense_bf16", "twofour_matmul_sum_bf16"]);
}
