//! Speed of `compress`: `cargo bench --bench compress`, or a part with `-- reorder`.
//!
//! Dense weights to values and metadata in a layout, and back (`unpack`); `reorder` takes canonical codes to a layout,
//! `restore` brings them back. Throughput is in bytes, the least that must move: each operand once. Beside it, in the
//! same run, plain copies of as many bytes, up to the next power of two. `decompress` and `violation` are of the CPU
//! alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::compress::{Case, Does, ready};
use common::data::Number;
use common::level::{Level, Levels};
use common::{Group, Place};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::collections::BTreeSet;
use twofour::compress::{Compressed, Layout, MinTileK, first_violation};
use twofour::{DType, Shape, bf16};

criterion_group! {
    name = benches;
    config = common::config();
    targets = compress
}
criterion_main!(benches);

use Layout::{CusparseltMma, CusparseltSm90, CutlassSm80, CutlassSm90, CutlassSm100, Plain};

/// Of four values two are kept: types of 16 bits.
const OF_FOUR: [Does; 6] = [Does::Codes, Does::Magnitude, Does::Sparse, Does::Logits, Does::Bf16Logits, Does::Unpack];
/// Of every type.
const OF_ANY: [Does; 4] = [Does::Codes, Does::Magnitude, Does::Sparse, Does::Unpack];
const K128: Layout = CutlassSm90(MinTileK::K128);

/// Layouts that values are packed into: of `bf16`, and of others.
const PACKED: Levels<[&[Layout]; 2]> = {
    let all: [&[Layout]; 2] = [&[Plain, CutlassSm80, CusparseltSm90], &[Plain, CutlassSm80]];
    Levels { smoke: all, quick: [&[CutlassSm80], &[]], usual: all, full: all }
};
/// Layouts of codes, of 16 bits and of 8.
const REORDERED: Levels<[&[Layout]; 2]> = {
    let all: [&[Layout]; 2] = [&[CutlassSm80, CusparseltMma, CusparseltSm90, K128, CutlassSm100], &[CutlassSm80, K128]];
    Levels { smoke: all, quick: [&[CutlassSm80, CusparseltSm90], &[]], usual: all, full: all }
};

fn cases(shape: Shape) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |does: &[Does], layouts: &[Layout], values, shape| {
        for &does in does {
            cases.extend(layouts.iter().map(|&layout| Case { does, values, layout, shape }));
        }
    };
    let ([bf16, others], both) = (PACKED.asked(), [Does::Reorder, Does::Restore]);
    add(&OF_FOUR, bf16, DType::Bf16, shape);
    add(&OF_ANY, others, DType::F32, shape);
    add(&OF_ANY, others, DType::I8, shape);
    let [sixteen, eight] = REORDERED.asked();
    add(&both, sixteen, DType::Bf16, shape);
    add(&both, eight, DType::I8, shape);
    // A ragged one, too: its rows of codes are no whole words.
    add(&both, &[CutlassSm80], DType::Bf16, Shape::new(shape.rows - 3, shape.cols - 4));
    cases
}

fn compress(criterion: &mut Criterion) {
    let (mut group, places) = (criterion.benchmark_group("compress"), Place::all());
    let mut copied = BTreeSet::new();
    for (shape, places) in common::weights(Shape::new(256, 256), &places) {
        for case in cases(shape) {
            // At least as many bytes as it moves.
            let copy = case.bytes().next_power_of_two();
            if copied.insert(copy) {
                common::copy_moving(&mut group, copy, &places);
            }
            common::bench(&mut group, &case.name(), &places, Throughput::Bytes(case.bytes()), |at| ready(case, at));
        }
        if places.contains(&Place::Cpu) {
            on_cpu::<bf16>(&mut group, shape);
            if Level::asked() != Level::Quick {
                on_cpu::<f32>(&mut group, shape);
                on_cpu::<i8>(&mut group, shape);
            }
        }
    }
}

fn on_cpu<T: Number>(group: &mut Group<'_>, shape: Shape) {
    let name = |op: &str| format!("{op}/{}/{}x{}", T::DTYPE, shape.rows, shape.cols);
    let compressed = || Compressed::by_magnitude(shape, &T::normal(shape.weights(), 0.02, 0)).unwrap();
    // Of legal codes, which are not looked at again.
    let bytes = Case { does: Does::Unpack, values: T::DTYPE, layout: Plain, shape }.bytes();
    common::on_cpu(group, &name("decompress"), Throughput::Bytes(bytes), || {
        let (mut dense, compressed) = (T::normal(shape.weights(), 0.02, 0), compressed());
        move || compressed.decompress_into(&mut dense)
    });
    let bytes = (shape.weights() * T::DTYPE.size()) as u64;
    common::on_cpu(group, &name("violation"), Throughput::Bytes(bytes), || {
        let dense = compressed().decompress();
        move || first_violation(shape, &dense).map(|_| ())
    });
}
