//! What each route gives a device to do: properties hold of any route, and so would not see one taken for another.

use crate::case::{Case, Spec};
use crate::common::Emulator;
use crate::common::emulator::{CUBLASLT, works};
use crate::number::Number;
use twofour::compress::Layout;
use twofour::device::Limits;
use twofour::pass::Work;
use twofour::space::{Raw, RawSlice};
use twofour::sparse::{Multiply, Route, Weight};
use twofour::{E4m3, bf16, f16};
use twofour_emulator::Schedule;

/// What a case runs on an A100 with cuBLASLt, in order; `None` where nothing serves.
fn runs<T: Number>(spec: Spec) -> Option<Vec<String>> {
    let case = Case::<T>::new(spec);
    let plan = case.plan(&Emulator::new(Schedule::RoundRobin).limits(Limits::A100))?;
    let (shape, problem, sizes) = (spec.shape, spec.problem(), case.layout().sizes(spec.shape, T::DTYPE).unwrap());
    let (values, metadata) = (RawSlice::new(1 << 20, sizes.values), RawSlice::new(1 << 21, sizes.metadata));
    let weight = Weight::<Raw, T>::new(shape, case.layout(), values, metadata);
    let (x, y) = (RawSlice::new(1 << 22, problem.inputs()), RawSlice::new(1 << 23, problem.outputs()));
    let pass = Multiply::new(&weight, spec.tokens, x, y).plan(&plan);
    let pass = if spec.bias { pass.bias(RawSlice::new(1 << 24, shape.rows)) } else { pass };
    let pass = if spec.dense { pass.dense(RawSlice::new(1 << 25, shape.weights())) } else { pass };
    let pass = pass.workspace(RawSlice::new(1 << 26, plan.workspace_bytes()));
    let name = |work| match work {
        Work::Kernel(launch) => launch.symbol.name().to_owned(),
        Work::Dense(call) => {
            assert_eq!((call.a, call.c, call.bias), (1 << 22, 1 << 23, spec.bias.then_some(1 << 24)));
            CUBLASLT.to_owned()
        }
        other => panic!("{other:?}"),
    };
    Some(works(Limits::A100, pass).unwrap().into_iter().map(name).collect())
}

/// Of few tokens, of more, and of a long sum in parts: kernels of `[16 tokens, 128 tokens, any number, sums]`.
fn own<T: Number>([few, more, many, sum]: [&'static str; 4]) {
    let of =
        |route, tokens, rows, cols| runs::<T>(Spec { route: Some(route), ..Spec::new(tokens, rows, cols) }).unwrap();
    for tokens in [1, 16] {
        assert_eq!(of(Route::Small, tokens, 20, 68), [few]);
    }
    for tokens in [17, 128] {
        assert_eq!(of(Route::Small, tokens, 20, 68), [more]);
    }
    for tokens in [1, 128, 129] {
        assert_eq!(of(Route::Tile, tokens, 20, 68), [many]);
    }
    assert_eq!(of(Route::Small, 3, 16, 8192), [few, sum]);
    assert_eq!(of(Route::Small, 17, 16, 8192), [more, sum]);
    assert_eq!(of(Route::Tile, 9, 16, 8192), [many, sum]);
}

#[test]
fn this_crates_routes_run_their_kernels() {
    own::<f16>([
        "twofour_sparse_small_f16_16",
        "twofour_sparse_small_f16_128",
        "twofour_sparse_tile_f16",
        "twofour_sparse_sum_f16",
    ]);
    own::<bf16>([
        "twofour_sparse_small_bf16_16",
        "twofour_sparse_small_bf16_128",
        "twofour_sparse_tile_bf16",
        "twofour_sparse_sum_bf16",
    ]);
    own::<i8>([
        "twofour_sparse_small_i8_16",
        "twofour_sparse_small_i8_128",
        "twofour_sparse_tile_i8",
        "twofour_sparse_sum_i32",
    ]);
}

/// The weight is decompressed unless there is a copy, whatever its layout.
#[test]
fn the_dense_route_decompresses_for_cublaslt() {
    fn dense<T: Number>(unpack: &'static str) {
        for layout in [Layout::CutlassSm80, Layout::Plain] {
            let spec = Spec { route: Some(Route::Dense), bias: false, layout, ..Spec::new(5, 20, 68) };
            assert_eq!(runs::<T>(spec).unwrap(), [CUBLASLT]);
            assert_eq!(runs::<T>(Spec { dense: false, ..spec }).unwrap(), [unpack, CUBLASLT]);
        }
    }
    dense::<f16>("twofour_compress_unpack_b16");
    dense::<bf16>("twofour_compress_unpack_b16");
    dense::<i8>("twofour_compress_unpack_b8");
    dense::<f32>("twofour_compress_unpack_b32");
}

#[test]
fn the_plans_own_route_is_of_few_tokens_or_tiles() {
    let of = |tokens, layout| runs::<bf16>(Spec { layout, dense: false, ..Spec::new(tokens, 20, 64) }).unwrap();
    assert_eq!(of(128, Layout::CutlassSm80), ["twofour_sparse_small_bf16_128"]);
    assert_eq!(of(129, Layout::CutlassSm80), ["twofour_sparse_tile_bf16"]);
    assert_eq!(of(5, Layout::Plain), ["twofour_compress_unpack_b16", CUBLASLT]);
    assert_eq!(runs::<E4m3>(Spec::new(16, 32, 64)), None);
}
