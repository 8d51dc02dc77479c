//! Every path of the CPU executor gives the same bits, on any number of threads.

use crate::case::{Case, FORMS};
use crate::common::same_on_every_path;
use crate::suite::of_type;
use twofour::{Cpu, Float, bf16, f16};

fn made<L: Float>(seed: u64) -> String {
    let bits = |loss: &[f32]| loss.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
    let got = Case::<L>::new(seed, seed / 3 % FORMS, seed.is_multiple_of(4)).run(&mut Cpu, true);
    let gradient: Vec<u32> = got.gradient.iter().flatten().map(|gradient| gradient.to_f32().to_bits()).collect();
    let (states, known) = (crate::squarehead::made::<L>(seed), crate::top_k::made::<L>(seed));
    format!("{:?} {gradient:?} {states} {known}", bits(&got.loss))
}

#[test]
fn every_path_gives_the_same_bits() {
    same_on_every_path(|seed| of_type!(seed, made(seed)));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let all = || (0..90).map(|seed| of_type!(seed, made(seed))).collect::<Vec<_>>();
    let expected = all();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(all) == expected, "{threads} threads");
    }
}
