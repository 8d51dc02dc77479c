//! Speed of `distil`: `cargo bench --bench distil`, or a part with `-- forward`.
//!
//! Loss and gradient of 512 rows of 49,152 logits, by what the student is to be like; making a top-k teacher; and
//! hidden states of as many elements as 512 tokens of 2048 have. Throughput is in bytes, the least that must move,
//! beside a plain copy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Place;
use common::distil::{Case, Does};
use common::level::Level;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twofour::DType;

criterion_group! {
    name = benches;
    config = common::config();
    targets = distil
}
criterion_main!(benches);

fn distil(criterion: &mut Criterion) {
    let (mut group, places) = (criterion.benchmark_group("distil"), Place::all());
    common::copy(&mut group, &places);
    let mut case = |does, dtype, [rows, vocab]: [usize; 2]| {
        let case = Case { does, dtype, rows, vocab };
        common::bench(&mut group, &case.name(), &places, Throughput::Bytes(case.bytes()), |at| {
            common::distil::ready(case, at)
        });
    };
    let [logits, states] = if common::smoke() { [[4, 1000], [4, 64]] } else { [[512, 49_152], [512, 2048]] };
    for does in [Does::Labels, Does::Forward] {
        case(does, DType::F32, logits);
    }
    if Level::asked() != Level::Quick {
        for does in [Does::Reverse, Does::Jsd, Does::Known, Does::TopK] {
            case(does, DType::F32, logits);
        }
        for does in [Does::Forward, Does::Known] {
            case(does, DType::Bf16, logits);
        }
    }
    case(Does::SquareHead, DType::F32, states);
}
