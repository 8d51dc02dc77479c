//! Speed of `glu`: `cargo bench --bench glu`, or a part with `-- forward`.
//!
//! h and its mask, and both gradients by the mask, of 512 tokens and the feed-forward of a 7B model (11,008 neurons),
//! with normal-distributed gate and up: of dReLU's a quarter are on. Throughput is in bytes, the least that must move were
//! every neuron looked at, beside a plain copy.
//!
//! Decode of the whole feed-forward, a tenth of its neurons on: all rows read, those of neurons that are off skipped, and
//! by a mask that is given, on dense and 2:4 weights. Throughput is of the bytes that it reads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::decode::{self, Reads};
use common::glu::{Case, Does};
use common::level::Level;
use common::{At, Op, Place};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::DType;
use twofour::glu::Activation;

criterion_group! {
    name = benches;
    config = common::config();
    targets = glu
}
criterion_main!(benches);

fn glu(criterion: &mut Criterion) {
    let (mut group, places) = (criterion.benchmark_group("glu"), Place::all());
    common::copy(&mut group, &places);
    let [tokens, neurons] = if common::smoke() { [4, 100] } else { [512, 11_008] };
    let mut case = |does, activation, dtype| {
        let case = Case { does, activation, dtype, tokens, neurons };
        common::bench(&mut group, &case.name(), &places, Throughput::Bytes(case.bytes()), |at| {
            common::glu::ready(case, at)
        });
    };
    for does in [Does::Forward, Does::Backward] {
        case(does, Activation::DRelu, DType::Bf16);
        case(does, Activation::SwiGlu, DType::Bf16);
        if Level::asked() != Level::Quick {
            case(does, Activation::DRelu, DType::F32);
            case(does, Activation::Cats(0.2), DType::Bf16);
        }
    }

    let [width, neurons] = if common::smoke() { [64, 100] } else { [4096, 11_008] };
    let mut case = |reads, kept, tokens| {
        let case = decode::Case { reads, kept, tokens, width, neurons };
        common::bench(&mut group, &case.name(), &places, Throughput::Bytes(case.bytes()), |at| at.ready(&case));
    };
    for reads in [Reads::Whole, Reads::Skip, Reads::Given] {
        [false, true].into_iter().for_each(|kept| case(reads, kept, 1));
        if Level::asked() != Level::Quick {
            [false, true].into_iter().for_each(|kept| case(reads, kept, 4));
        }
    }
}
