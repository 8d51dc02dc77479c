//! Which kernels each way runs: properties hold of any way, and so would not see one taken for another.

use crate::case::{Case, Executor, Spec};
use crate::emulated::{CUBLASLT, Emulated, RUNS};
use crate::number::Number;
use twofour::compress::Layout;
use twofour::sparse::Path;
use twofour::{E4m3, bf16, f16};

/// What a case runs, in order; `None` where nothing serves.
fn runs<T: Number>(spec: Spec) -> Option<Vec<&'static str>> {
    RUNS.take();
    let y = Emulated::A100.run(&Case::<T>::new(spec));
    y.map(|_| RUNS.take())
}

/// Of few tokens, of more, and of a long sum in parts: kernels of `[16 tokens, 128 tokens, any number, sums]`.
fn own<T: Number>([few, more, many, sum]: [&'static str; 4]) {
    let of = |path, tokens, rows, cols| runs::<T>(Spec { path: Some(path), ..Spec::new(tokens, rows, cols) }).unwrap();
    for tokens in [1, 16] {
        assert_eq!(of(Path::Small, tokens, 20, 68), [few]);
    }
    for tokens in [17, 128] {
        assert_eq!(of(Path::Small, tokens, 20, 68), [more]);
    }
    for tokens in [1, 128, 129] {
        assert_eq!(of(Path::Tile, tokens, 20, 68), [many]);
    }
    assert_eq!(of(Path::Small, 3, 16, 8192), [few, sum]);
    assert_eq!(of(Path::Small, 17, 16, 8192), [more, sum]);
    assert_eq!(of(Path::Tile, 9, 16, 8192), [many, sum]);
}

#[test]
fn own_ways_run_their_own_kernels() {
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
fn the_dense_way_decompresses_for_cublaslt() {
    fn dense<T: Number>(unpack: &'static str) {
        for layout in [Layout::CutlassSm80, Layout::Plain] {
            let spec = Spec { path: Some(Path::Dense), bias: false, layout, ..Spec::new(5, 20, 68) };
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
fn the_plans_own_way_is_of_few_tokens_or_tiles() {
    let of = |tokens, layout| runs::<bf16>(Spec { layout, dense: false, ..Spec::new(tokens, 20, 64) }).unwrap();
    assert_eq!(of(128, Layout::CutlassSm80), ["twofour_sparse_small_bf16_128"]);
    assert_eq!(of(129, Layout::CutlassSm80), ["twofour_sparse_tile_bf16"]);
    assert_eq!(of(5, Layout::Plain), ["twofour_compress_unpack_b16", CUBLASLT]);
    assert_eq!(runs::<E4m3>(Spec::new(16, 32, 64)), None);
}
