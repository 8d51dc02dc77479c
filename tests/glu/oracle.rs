//! A neuron by the formulas, in `f64`.

use twofour::glu::Activation;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Neuron {
    pub(crate) on: bool,
    pub(crate) lost: bool,
    pub(crate) h: f64,
    pub(crate) dgate: f64,
    /// Of the terms that it is the sum of.
    pub(crate) size: f64,
    pub(crate) dup: f64,
}

/// 0 of −∞.
pub(crate) fn silu(g: f64) -> f64 {
    if g == f64::NEG_INFINITY { 0.0 } else { g / (1.0 + (-g).exp()) }
}

/// And the size of its terms.
fn slope_of_silu(g: f64) -> [f64; 2] {
    if g.is_infinite() {
        return [f64::from(g > 0.0); 2];
    }
    let share = 1.0 / (1.0 + (-g).exp());
    [g, g.abs()].map(|g| share * (1.0 + g * (1.0 - share)))
}

/// With the gradient of `λ |h|`.
pub(crate) fn neuron(activation: Activation, l1: f64, [g, u, dh]: [f64; 3]) -> Neuron {
    let lost = (g * u).is_nan();
    let (inside, a, [slope, terms]) = match activation {
        Activation::SwiGlu => (true, silu(g), slope_of_silu(g)),
        Activation::DRelu => (g > 0.0 && u > 0.0, g, [1.0; 2]),
        Activation::ReGlu => (g > 0.0, g, [1.0; 2]),
        Activation::FatRelu(threshold) => (g >= f64::from(threshold), g, [1.0; 2]),
        Activation::Cats(threshold) => (silu(g).abs() > f64::from(threshold), silu(g), slope_of_silu(g)),
    };
    if lost || !inside {
        return Neuron { on: false, lost, h: 0.0, dgate: 0.0, size: 0.0, dup: 0.0 };
    }
    let sign = if g == 0.0 || u == 0.0 { 0.0 } else { g.signum() * u.signum() };
    let d = dh + l1 * sign;
    Neuron { on: true, lost, h: a * u, dgate: d * u * slope, size: (d * u * terms).abs(), dup: d * a }
}
