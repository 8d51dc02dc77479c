//! Plans: every line of the table, what a route takes, and what cannot be asked for.

use twofour::compress::Layout;
use twofour::device::Limits;
use twofour::pass::{self, Queue, Work};
use twofour::sparse::{Given, Plan, Problem, Route};
use twofour::{E4m3, Error, Factor, Libraries, Shape, bf16, f16};

/// Layers of language models.
const SHAPES: [(usize, usize); 4] = [(4096, 4096), (11008, 4096), (14336, 4096), (28672, 8192)];
const CUSPARSELT: Libraries = Libraries { cublaslt: false, cusparselt: true };
const DENSE: Given = Given { dense: true, ..Given::WEIGHT };
const BIAS: Given = Given { bias: true, ..Given::WEIGHT };
const PLAIN: Given = Given { layout: Layout::Plain, ..Given::WEIGHT };

fn new<T: Factor>(
    limits: &Limits,
    tokens: usize,
    (rows, cols): (usize, usize),
    given: Given,
    libraries: Libraries,
) -> Result<Plan<T>, Error> {
    Plan::new(limits, Problem::new(tokens, Shape::new(rows, cols)), given, libraries)
}

fn plan<T: Factor>(
    limits: &Limits,
    tokens: usize,
    shape: (usize, usize),
    given: Given,
    libraries: Libraries,
) -> Plan<T> {
    new::<T>(limits, tokens, shape, given, libraries).unwrap()
}

/// That route, and a reason with these words.
#[track_caller]
fn takes<T: Factor>(plan: Plan<T>, route: Route, because: &str) {
    assert_eq!(plan.route(), route, "{plan}");
    assert!(plan.why().contains(because), "{plan}");
}

#[track_caller]
fn refused<T: Factor>(plan: Result<Plan<T>, Error>, words: &str) {
    let Err(Error::Unsupported { because, .. }) = plan else { panic!("{plan:?}") };
    assert!(because.contains(words), "{because}");
}

#[test]
fn few_tokens_read_the_weight_once() {
    for (limits, shape) in [Limits::A100, Limits::H200].iter().flat_map(|limits| SHAPES.map(|shape| (limits, shape))) {
        for tokens in [0, 1, 16, 128] {
            for libraries in [Libraries::NONE, Libraries::CUBLASLT, Libraries::ALL] {
                takes(plan::<bf16>(limits, tokens, shape, Given::WEIGHT, libraries), Route::Small, "9/16");
                takes(plan::<f16>(limits, tokens, shape, DENSE, libraries), Route::Small, "9/16");
                takes(plan::<i8>(limits, tokens, shape, BIAS, libraries), Route::Small, "5/8");
            }
        }
    }
}

#[test]
fn many_tokens_go_to_cusparselt_where_they_fill_its_tiles() {
    for (limits, least) in [(Limits::H200, 512), (Limits::A100, 1024)] {
        for shape in SHAPES {
            for given in [Given::WEIGHT, BIAS, DENSE] {
                let of = |tokens| plan::<bf16>(&limits, tokens, shape, given, CUSPARSELT);
                takes(of(least), Route::Cusparselt, "fill the library's tiles");
                takes(of(16384), Route::Cusparselt, "fill the library's tiles");
                takes(of(least - 8), Route::Tile, "");
                // It wants tokens in multiples of 8.
                takes(of(least + 4), Route::Tile, "");
            }
        }
        // Small weights fill them with many tokens only, and the smallest never.
        let of = |tokens, side| plan::<bf16>(&limits, tokens, (side, side), Given::WEIGHT, CUSPARSELT);
        takes(of(2048, 2048), Route::Tile, "");
        takes(of(4096, 2048), Route::Cusparselt, "");
        takes(of(16384, 1024), Route::Tile, "");
    }
}

#[test]
fn cublaslt_makes_up_for_the_larger_weight_on_hopper_alone() {
    for shape in SHAPES {
        let of = |tokens, given| plan::<bf16>(&Limits::H200, tokens, shape, given, Libraries::CUBLASLT);
        takes(of(1792, Given::WEIGHT), Route::Dense, "wgmma");
        takes(of(1791, Given::WEIGHT), Route::Tile, "sparse tensor cores");
        takes(of(384, DENSE), Route::Dense, "wgmma");
        takes(of(383, DENSE), Route::Tile, "sparse tensor cores");
        takes(of(384, DENSE).without_cublaslt().unwrap(), Route::Tile, "would be faster");
        for tokens in [256, 1792, 16384] {
            takes(
                plan::<bf16>(&Limits::A100, tokens, shape, DENSE, Libraries::CUBLASLT),
                Route::Tile,
                "sparse tensor cores",
            );
        }
    }
}

/// No route is silently slow: it says so.
#[test]
fn rows_off_whole_accesses_go_to_cublaslt() {
    for (limits, tokens) in [(Limits::A100, 200), (Limits::H200, 200), (Limits::A100, 4096)] {
        let odd = |libraries| plan::<bf16>(&limits, tokens, (4096, 4100), Given::WEIGHT, libraries);
        takes(odd(Libraries::CUBLASLT), Route::Dense, "kernels would be slow");
        takes(odd(Libraries::NONE), Route::Tile, "slow, for rows");
    }
    takes(plan::<i8>(&Limits::A100, 200, (4096, 4112), Given::WEIGHT, Libraries::CUBLASLT), Route::Dense, "slow");
}

/// The library's i32 sums are known to be exact up to 2^24 only.
#[test]
fn integers_go_to_cusparselt_where_sums_are_short() {
    let of = |limits: &Limits, cols| plan::<i8>(limits, 4096, (4096, cols), Given::WEIGHT, Libraries::ALL);
    takes(of(&Limits::H200, 2048), Route::Cusparselt, "");
    takes(of(&Limits::H200, 2080), Route::Dense, "");
    takes(of(&Limits::A100, 2080), Route::Tile, "");
    let asked = of(&Limits::A100, 4096).with_route(Route::Cusparselt).unwrap();
    takes(asked, Route::Cusparselt, "asked for");
    // Not even where nothing else serves, unless it is asked for.
    takes(plan::<i8>(&Limits::A100, 16, (4096, 2048), PLAIN, CUSPARSELT), Route::Cusparselt, "nothing else");
    refused(new::<i8>(&Limits::A100, 16, (4096, 4096), PLAIN, CUSPARSELT), "ask for it");
    let problem = Problem::new(16, Shape::new(4096, 4096));
    let asked = Plan::<i8>::by(Route::Cusparselt, &Limits::A100, problem, PLAIN, CUSPARSELT);
    takes(asked.unwrap(), Route::Cusparselt, "asked for");
    // Neither library adds a bias of ours to them.
    takes(plan::<i8>(&Limits::H200, 4096, (4096, 2048), BIAS, Libraries::ALL), Route::Tile, "does not serve");
}

#[test]
fn another_layout_leaves_the_libraries() {
    let of = |tokens, libraries| new::<bf16>(&Limits::A100, tokens, (4096, 4096), PLAIN, libraries);
    takes(of(16, Libraries::CUBLASLT).unwrap(), Route::Dense, "do not read this layout");
    takes(of(16, Libraries::ALL).unwrap(), Route::Dense, "do not read this layout");
    takes(of(16, CUSPARSELT).unwrap(), Route::Cusparselt, "nothing else");
    takes(of(1024, Libraries::ALL).unwrap(), Route::Cusparselt, "fill");
    refused(of(16, Libraries::NONE), "layout cutlass-sm80, and no library");
    refused(of(15, CUSPARSELT), "layout cutlass-sm80, and no library");
    let held = Given { layout: Layout::CusparseltSm90, ..Given::WEIGHT };
    let error = new::<bf16>(&Limits::H200, 8, (60, 64), held, Libraries::ALL).unwrap_err();
    assert!(matches!(error, Error::Layout { layout: "cusparselt-sm90", rows: 60, .. }), "{error}");
}

#[test]
fn f32_and_8_bit_floats_have_one_route_each() {
    for tokens in [1, 4096] {
        let of = |libraries| new::<f32>(&Limits::A100, tokens, (4096, 4096), BIAS, libraries);
        takes(of(Libraries::ALL).unwrap(), Route::Dense, "IEEE f32");
        refused(of(CUSPARSELT), "not available");
    }
    let asked = Plan::<f32>::by(Route::Cusparselt, &Limits::A100, problem(8, 64, 64), Given::WEIGHT, CUSPARSELT);
    takes(asked.unwrap(), Route::Cusparselt, "asked for");
    let of = |limits, tokens, libraries| new::<E4m3>(limits, tokens, (4096, 4096), BIAS, libraries);
    takes(of(&Limits::H200, 16, Libraries::ALL).unwrap(), Route::Cusparselt, "alone");
    refused(of(&Limits::A100, 16, Libraries::ALL), "8.9 and later");
    refused(of(&Limits::H200, 16, Libraries::CUBLASLT), "not available");
    refused(of(&Limits::H200, 8, Libraries::ALL), "16 (8 bits)");
}

fn problem(tokens: usize, rows: usize, cols: usize) -> Problem {
    Problem::new(tokens, Shape::new(rows, cols))
}

/// Each reason why a route does not serve.
#[test]
fn what_cannot_be_asked_for() {
    fn by<T: Factor>(route: Route, problem: Problem, given: Given, libraries: Libraries) -> Result<Plan<T>, Error> {
        Plan::<T>::by(route, &Limits::H200, problem, given, libraries)
    }
    let (p, all) = (problem(64, 64, 64), Libraries::ALL);
    refused(by::<bf16>(Route::Small, problem(129, 64, 64), Given::WEIGHT, all), "at most 128");
    for route in [Route::Small, Route::Tile] {
        refused(by::<bf16>(route, p, PLAIN, all), "reorder the metadata");
        refused(by::<f32>(route, p, Given::WEIGHT, all), "f16, bf16 and i8");
        refused(by::<E4m3>(route, p, Given::WEIGHT, all), "f16, bf16 and i8");
    }
    let library = |problem, given| by::<bf16>(Route::Cusparselt, problem, given, all);
    refused(by::<bf16>(Route::Cusparselt, p, Given::WEIGHT, Libraries::CUBLASLT), "not available");
    refused(library(problem(0, 64, 64), Given::WEIGHT), "nothing to multiply");
    refused(library(problem(64, 72, 64), Given::WEIGHT), "N and K");
    refused(library(problem(64, 64, 72), Given::WEIGHT), "N and K");
    refused(library(problem(4, 64, 64), Given::WEIGHT), "T must be");
    refused(library(problem(64, 1 << 16, 1 << 15), Given::WEIGHT), "2^32 bytes");
    refused(by::<i8>(Route::Cusparselt, p, BIAS, all), "ours is i32");
    refused(by::<i8>(Route::Cusparselt, problem(16, 32, 1 << 18), Given::WEIGHT, all), "do not wrap");
    refused(by::<bf16>(Route::Dense, p, Given::WEIGHT, CUSPARSELT), "not available");
    refused(by::<E4m3>(Route::Dense, p, Given::WEIGHT, all), "8-bit floating point");
    refused(by::<i8>(Route::Dense, problem(16, 66, 64), Given::WEIGHT, all), "multiples of 4");
    refused(by::<i8>(Route::Dense, p, BIAS, all), "no bias");
    refused(by::<f32>(Route::Dense, problem(16, 64, 0), BIAS, all), "the bias remains");
    let error = by::<bf16>(Route::Tile, problem(4, 8, 6), Given::WEIGHT, all).unwrap_err();
    assert_eq!(error, Error::NotGrouped { what: "the weight", cols: 6 });
    refused(new::<f32>(&Limits::H200, 8, (64, 64), Given::WEIGHT, all).unwrap().without_cublaslt(), "not available");
}

#[test]
fn a_route_without_the_library_stays() {
    let all = plan::<bf16>(&Limits::H200, 4096, (4096, 4096), Given::WEIGHT, Libraries::ALL);
    takes(all, Route::Cusparselt, "fill");
    takes(all.without_cublaslt().unwrap(), Route::Cusparselt, "fill");
    takes(all.without_cusparselt().unwrap(), Route::Dense, "wgmma");
    takes(all.without_cusparselt().unwrap().without_cublaslt().unwrap(), Route::Tile, "would be faster");
    let asked = all.with_route(Route::Tile).unwrap();
    assert_eq!(asked.without_cusparselt().and_then(Plan::without_cublaslt).map(|plan| plan.why()), Ok("asked for"));
    assert!(matches!(all.without_cusparselt().unwrap().with_route(Route::Cusparselt), Err(Error::Unsupported { .. })));
}

/// Nothing of the weight's size, but for a dense product that has to write it.
#[test]
fn workspace_is_what_a_route_takes() {
    for (limits, (rows, cols)) in
        [Limits::A100, Limits::H200].iter().flat_map(|limits| SHAPES.map(|shape| (limits, shape)))
    {
        for tokens in [1, 64, 128, 512, 4096] {
            let plan = plan::<bf16>(limits, tokens, (rows, cols), Given::WEIGHT, Libraries::CUBLASLT);
            let own = plan.with_route(Route::Tile).unwrap();
            // The parts of a split product, in f32.
            assert_eq!(own.splits() > 1, own.workspace_bytes() > 0);
            assert!(own.workspace_bytes() <= 4 * tokens * rows * own.splits() as usize + 255, "{own}");
            assert_eq!(plan.with_route(Route::Dense).unwrap().workspace_bytes(), 2 * rows * cols);
            let copy = Plan::<bf16>::by(Route::Dense, limits, plan.problem(), DENSE, Libraries::CUBLASLT).unwrap();
            assert_eq!((copy.workspace_bytes(), copy.splits()), (0, 1));
        }
    }
}

#[test]
fn a_dense_product_is_one_call() {
    fn rehearsed<P: pass::Plan>(plan: &P) -> Vec<Work> {
        let mut queue = Queue::new(Limits::H200);
        plan.rehearse(&mut queue).unwrap();
        queue.works().copied().collect()
    }
    let given = Given { bias: true, ..DENSE };
    let plan = Plan::<bf16>::by(Route::Dense, &Limits::H200, problem(9, 33, 20), given, Libraries::CUBLASLT).unwrap();
    let works = rehearsed(&plan);
    let [Work::Dense(call)] = &works[..] else { panic!("{works:?}") };
    assert_eq!((call.form.product.rows, call.form.product.depth, call.form.product.cols), (9, 20, 33));
    assert!(call.form.bias && call.bias.is_some());
    let library = Plan::<f32>::by(Route::Cusparselt, &Limits::H200, problem(8, 64, 64), BIAS, CUSPARSELT).unwrap();
    let works = rehearsed(&library);
    let [Work::Cusparselt(call)] = &works[..] else { panic!("{works:?}") };
    assert_eq!((call.form.tokens, call.form.shape, call.form.bias), (8, Shape::new(64, 64), true));
    assert_eq!((call.origin, call.form.problem().check()), (None, Ok(())));
}

#[test]
fn a_plan_reads_as_a_line() {
    let plan = plan::<bf16>(&Limits::H200, 2048, (4096, 4096), Given::WEIGHT, Libraries::CUBLASLT);
    assert_eq!(
        plan.to_string(),
        "Y Dense       1 part(s),    33554432 bytes of workspace: so many tokens that cuBLASLt makes up for the larger \
         weight: it has wgmma"
    );
}
