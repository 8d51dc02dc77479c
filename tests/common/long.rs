//! Long sums: data whose products lose most where tensor cores cut off what they add, and what may be lost.

use super::Emulator;
use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;
use rayon::prelude::*;
use twofour_emulator::Schedule;
use twofour_emulator::tensor::Arithmetic;

/// Of a sum.
pub const TERMS: usize = 16384;

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Long {
    Normal,
    /// All of one sign: what is cut off adds up.
    Positive,
    /// A group of large products, then ones that are just below what is cut off beside those (on sm_80).
    LargeFirst,
}

impl Long {
    pub const ALL: [Self; 3] = [Self::Normal, Self::Positive, Self::LargeFirst];

    /// A factor of the term of this number; the same in all 16-bit types but for `Normal` and `Positive`.
    pub fn factor(self, term: usize, rng: &mut StdRng) -> f32 {
        match self {
            Self::Normal => rng.sample(StandardNormal),
            Self::Positive => rng.random_range(0.0..1.0),
            Self::LargeFirst if term % TERMS < 4 => 64.0,
            Self::LargeFirst => (1.0 - 1.0 / 256.0) / 64.0,
        }
    }

    /// Asserts that a sum is as near to the exact one as it must be, beside a rounding of it.
    pub fn check(self, got: f64, exact: f64, magnitudes: f64, rounding: f64, what: &str) {
        let share = if self == Self::LargeFirst { 1e-4 } else { 1e-5 };
        let error = (got - exact).abs();
        assert!(error <= share * magnitudes + rounding, "{what}: {got}, not {exact}: {:e}", error / magnitudes);
    }

    /// All of them under every arithmetic.
    pub fn everywhere(property: impl Fn(Self, &mut Emulator) + Sync) {
        let arithmetics = [Arithmetic::InOrder, Arithmetic::Ampere, Arithmetic::Hopper];
        let cases = Self::ALL.into_iter().flat_map(|long| arithmetics.map(|arithmetic| (long, arithmetic)));
        cases.collect::<Vec<_>>().into_par_iter().for_each(|(long, arithmetic)| {
            property(long, &mut Emulator { arithmetic, ..Emulator::new(Schedule::RoundRobin) });
        });
    }
}

/// The sum of products, and of their magnitudes.
pub fn exact(products: impl Iterator<Item = f64>) -> (f64, f64) {
    products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
}
