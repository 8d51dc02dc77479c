//! Operands. Normal-distributed always: zeros and constants draw less power and let a GPU clock higher.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};
use std::sync::OnceLock;
use twofour::Float;

/// `len` numbers with this standard deviation. The same for the same `stream`, another part of the same million numbers
/// for another one: it is the distribution that matters, and large operands are filled at the speed of a copy.
pub fn normal<T: Float>(len: usize, deviation: f32, stream: usize) -> Vec<T> {
    let numbers = million();
    let start = stream * 7919 % numbers.len();
    numbers.iter().cycle().skip(start).take(len).map(|number| T::from_f32(number * deviation)).collect()
}

fn million() -> &'static [f32] {
    static NUMBERS: OnceLock<Vec<f32>> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        let rng = StdRng::seed_from_u64(24);
        StandardNormal.sample_iter(rng).take(1 << 20).collect()
    })
}
