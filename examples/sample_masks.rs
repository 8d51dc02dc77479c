//! Samples 2:4 masks from logits and prints them: `cargo run --example sample_masks`.

use twofour::mask::{Forward, Kind, Sampling};
use twofour::{Cpu, Executor, Shape, noise};

fn main() -> twofour::Result<()> {
    // A weight of 2 rows and 8 columns has 2 x 2 groups of four, each with one logit for each of six patterns.
    let shape = Shape::new(2, 8);
    let mut logits = vec![0.0_f32; shape.logits()];
    logits[5] = 0.05; // The first group leans towards pattern 5, which keeps its last two weights.

    for step in 0..3 {
        let sampling = Sampling { seed: 1, draw: noise::draw(0, step, 0), kappa: 100.0, tau: 1.0 };
        let (mut soft, mut hard) = (vec![0.0_f32; 16], vec![0.0_f32; 16]);
        Cpu.run(Forward::new(shape, Kind::Soft, sampling, &logits).mask(&mut soft))?;
        Cpu.run(Forward::new(shape, Kind::Hard, sampling, &logits).mask(&mut hard))?;
        println!("step {step}: first row soft {:.2?}\n                  hard {:?}", &soft[..8], &hard[..8]);
    }
    Ok(())
}
