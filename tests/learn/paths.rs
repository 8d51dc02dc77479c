//! Every path of the CPU executor gives the same bits.

use crate::case::{Bits, FusedCase, InitialCase, UpdateCase};
use crate::common::same_on_every_path;
use twofour::{Cpu, Float, Logit, bf16};

fn made<L: Logit, W: Float>(seed: u64, bits: Bits) -> String
where
    f32: twofour::mask::GradientOf<W>,
{
    let (update, wild) = (UpdateCase::<L>::random(seed, bits), UpdateCase::<L>::wild(seed, bits));
    let fused = FusedCase::<L, W, f32>::random(seed, bits);
    let initial = InitialCase::random(seed).run::<L, _>(&mut Cpu).unwrap();
    let steps = format!("{:?} {:?} {:?}", update.run(&mut Cpu), wild.run(&mut Cpu), fused.run(&mut Cpu));
    format!("{steps} {:?} {} {initial:?}", fused.measure(&mut Cpu, 1.0), update.norm(&mut Cpu, 1.0))
}

#[test]
fn every_path_gives_the_same_bits() {
    same_on_every_path(|seed| match seed % 4 {
        0 => made::<f32, f32>(seed, Bits::Full),
        1 => made::<bf16, bf16>(seed, Bits::Full),
        2 => made::<f32, bf16>(seed, Bits::Eight),
        _ => made::<bf16, f32>(seed, Bits::Eight),
    });
}
