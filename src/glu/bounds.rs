//! Where a neuron is on, as bounds of its gate: one form of all activations, which compares nothing approximate.

use super::Activation;

/// On where `from ≤ g`, or `low ≤ g ≤ high`; and, if `both`, `u > 0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    pub(super) from: f32,
    pub(super) low: f32,
    pub(super) high: f32,
    /// Up must be above zero too.
    pub(super) both: bool,
    /// Whether `a` is SiLU, or else the gate itself.
    pub(super) smooth: bool,
}

/// Above zero.
const POSITIVE: f32 = f32::from_bits(1);
/// Where SiLU is least.
const LEAST: f32 = -1.278_464_5;

impl Bounds {
    pub(super) fn new(activation: Activation) -> Self {
        let plain = Self { from: POSITIVE, low: f32::INFINITY, high: f32::NEG_INFINITY, both: false, smooth: false };
        match activation {
            Activation::SwiGlu => Self { from: f32::NEG_INFINITY, smooth: true, ..plain },
            Activation::DRelu => Self { both: true, ..plain },
            Activation::ReGlu => plain,
            Activation::FatRelu(threshold) => Self { from: threshold, ..plain },
            Activation::Cats(threshold) => {
                let above = |gate: f32| silu(gate).abs() > f64::from(threshold);
                let from = f32::from_bits(first(0, f32::INFINITY.to_bits(), |bits| above(f32::from_bits(bits))));
                let cats = Self { from, smooth: true, ..plain };
                if !above(LEAST) {
                    return cats;
                }
                // Magnitudes of negative gates: above from the one on, up to the last before the other.
                let minus = |bits| -f32::from_bits(bits);
                let top = LEAST.abs().to_bits();
                let high = first(0, top, |bits| above(minus(bits)));
                let beyond = first(top, f32::INFINITY.to_bits(), |bits| !above(minus(bits)));
                Self { low: minus(beyond - 1), high: minus(high), ..cats }
            }
        }
    }

    /// Whether a gate is, by itself.
    pub(super) fn is_inside(&self, gate: f32) -> bool {
        gate >= self.from || (gate >= self.low && gate <= self.high)
    }

    /// Whether a neuron is on.
    pub(super) fn is_on(&self, gate: f32, up: f32) -> bool {
        self.is_inside(gate) && (!self.both || up > 0.0) && !(gate * up).is_nan()
    }
}

/// In `f64`; 0 of −∞.
fn silu(gate: f32) -> f64 {
    let gate = f64::from(gate);
    if gate == f64::NEG_INFINITY { 0.0 } else { gate / (1.0 + (-gate).exp()) }
}

/// The first number from `low` on of which `holds` is true, as of all from there to `high`; `high` if of none before.
fn first(mut low: u32, mut high: u32, holds: impl Fn(u32) -> bool) -> u32 {
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::{Activation, Bounds, LEAST, POSITIVE, silu};

    #[test]
    fn bounds_of_cats_are_the_last_gates_above_the_threshold() {
        for threshold in [0.0f32, 1e-30, 0.01, 0.1, 0.278, 0.279, 3.0, 1e30] {
            let Bounds { from, low, high, .. } = Bounds::new(Activation::Cats(threshold));
            let above = |gate: f32| silu(gate).abs() > f64::from(threshold);
            assert!(above(from) && !above(from.next_down()), "{threshold}");
            if threshold > 0.2785 {
                assert!(low > high, "{threshold}");
                continue;
            }
            assert!(low < LEAST && LEAST < high && high < 0.0, "{threshold}: {low} {high}");
            assert!(above(low) && !above(low.next_down()) && above(high) && !above(high.next_up()), "{threshold}");
        }
        assert_eq!(Bounds::new(Activation::Cats(0.0)).from, POSITIVE);
        // SiLU of the largest float is itself.
        assert_eq!(Bounds::new(Activation::Cats(f32::MAX)).from, f32::INFINITY);
    }
}
