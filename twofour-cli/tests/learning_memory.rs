//! What `learn` takes of memory, by a global allocator that counts: bytes that live, and their peak.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "../../tests/common/counted.rs"]
mod counted;

use candle_core::Device;
use common::Tiny;
use twofour_cli::learn::{Learning, Memory, Prior, Settings};
use twofour_cli::model::Model;
use twofour_formats::TensorType;

/// Four windows of so many tokens, and one more of each.
const LENGTH: usize = 64;

/// Four blocks, 2.8 M masked weights.
fn tiny() -> Tiny {
    Tiny { hidden: 256, wide: 640, blocks: 4, heads: 4, kv: 2, head: 64, vocabulary: 512, ..Tiny::llama() }
}

/// What is kept and what is freed again of some steps, in bytes: the first beside the model in f32.
fn measure(settings: &Settings) -> [f64; 2] {
    let (tiny, folder) = (tiny(), tempfile::tempdir().unwrap());
    tiny.write(folder.path(), &tiny.weights(1), TensorType::Bf16, 1);
    let model = Model::open(folder.path(), &Device::Cpu).unwrap();
    let masked: usize = model.linears().iter().map(|(_, shape)| shape.weights()).sum();
    let windows: Vec<u32> = (0..4).flat_map(|i| tiny.tokens(LENGTH + 1, i)).collect();
    let batches = vec![windows; usize::from(settings.accumulate)];
    let before = counted::live();
    let mut learning = Learning::new(&model, settings, &Prior::Magnitude).unwrap();
    learning.step(0, &batches, LENGTH).unwrap();
    let kept = counted::live() - before;
    let (loss, peak) = counted::peak(|| learning.step(1, &batches, LENGTH));
    loss.unwrap();
    let measured = [kept as f64 - 4.0 * model.config().weights() as f64, peak as f64];
    println!("{:?}: {:.3} bytes a masked weight are kept", settings.memory, measured[0] / masked as f64);
    println!("{:.3} MB in passing, recompute {}", measured[1] / 1e6, settings.recompute);
    [measured[0] / masked as f64, measured[1]]
}

/// One test, so that nothing else is counted.
#[test]
fn bytes_of_a_run() {
    let full = Settings::few_steps(10);
    let small = Settings { memory: Memory::Small, ..full.clone() };
    // What threads and libraries allocate once is not a run's.
    measure(&small);
    let [kept, in_passing] = measure(&small);
    assert!(kept > 6.0 && kept < 6.15, "{kept} bytes a masked weight");
    // Activations: what a backward pass needs of each token and block. Eight rows of d; q, k and v as they are made and
    // as they are turned; gate, up and their product; the weights of attention.
    let tiny = tiny();
    let heads = (tiny.heads + 2 * tiny.kv) * tiny.head;
    let (tokens, rows) = (4 * LENGTH, 8 * tiny.hidden + 2 * heads + 3 * tiny.wide + tiny.heads * LENGTH);
    let activations = (4 * tokens * rows * tiny.blocks) as f64;
    let masked = 4.0 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 640 * 256) as f64;
    let all = kept * masked + in_passing;
    println!("{:.3} bytes a masked weight beside activations of {activations}", (all - activations) / masked);
    assert!(all <= 9.0 * masked + activations, "{all} bytes of {masked} weights");

    let [again, less] = measure(&Settings { recompute: true, ..small.clone() });
    assert!((again - kept).abs() < 0.01 && less < 0.6 * in_passing, "{less} of {in_passing}");
    let [kept, _] = measure(&full);
    assert!(kept > 18.0 && kept < 18.15, "{kept} bytes a masked weight");
    let [kept, _] = measure(&Settings { accumulate: 2, ..small });
    assert!(kept > 12.0 && kept < 12.15, "{kept} bytes a masked weight");
}
