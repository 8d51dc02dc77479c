//! Every path of the CPU executor gives the same bits.

use crate::case::{BackwardCase, ForwardCase, Wants};
use crate::common::{convert, normal, same_on_every_path};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use twofour::mask::{GradientOf, Kind, Sampling};
use twofour::{Cpu, Float, Logit, Shape, Shard, bf16, f16};

const SPECIAL: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-40, 3e38, -3e38];

fn values<T: Float>(rng: &mut StdRng, count: usize, spread: f32) -> Vec<T> {
    let special = rng.random_ratio(1, 3);
    convert(&normal(rng, count, spread, if special { &SPECIAL } else { &[] }))
}

fn made<L: Logit, W: GradientOf<W>>(seed: u64) -> String {
    let mut rng = StdRng::seed_from_u64(seed);
    let shape = Shape::new(rng.random_range(1..5), 4 * rng.random_range(1..70));
    let spread = [0.01, 0.1, 1.0][rng.random_range(0..3)];
    let (logits, weight) = (values::<L>(&mut rng, shape.logits(), spread), values::<W>(&mut rng, shape.weights(), 1.0));
    let kind = [Kind::Soft, Kind::Hard, Kind::Argmax][rng.random_range(0..3)];
    let tau = [0.05, 1.0, 4.0][rng.random_range(0..3)];
    let sampling = Sampling { seed: rng.random(), draw: rng.random(), kappa: rng.random_range(0.0..500.0), tau };
    let global_cols = shape.cols as u64 + 8;
    let shard = Shard { row_offset: rng.random::<u32>().into(), col_offset: 4, global_cols };
    let previous_codes = Some(values::<f32>(&mut rng, shape.packed_codes(), 99.0).iter().map(|x| *x as u8).collect());
    let forward = ForwardCase {
        shape,
        shard,
        kind,
        sampling,
        logits: logits.clone(),
        weight: Some(weight.clone()),
        previous_codes,
        wants: Wants::ALL,
    };
    let gradient = values::<W>(&mut rng, shape.weights(), 1e-3);
    let before = rng.random::<bool>().then(|| values(&mut rng, shape.logits(), 1e-3));
    let kind = if kind == Kind::Argmax { Kind::Hard } else { kind };
    let backward = BackwardCase { shape, shard, kind, sampling, logits, weight, gradient, regulariser: 1e-4, before };
    format!("{:?} {:?}", forward.run(&mut Cpu), backward.run(&mut Cpu))
}

#[test]
fn every_path_gives_the_same_bits() {
    same_on_every_path(|seed| match seed % 4 {
        0 => made::<f32, f32>(seed),
        1 => made::<f32, bf16>(seed),
        2 => made::<bf16, f16>(seed),
        _ => made::<bf16, bf16>(seed),
    });
}
