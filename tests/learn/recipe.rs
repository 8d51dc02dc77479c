//! Schedules and the recipe.

use twofour::learn::{Recipe, Schedule};
use twofour::{Error, learn};

#[test]
fn schedules_are_their_formulas() {
    assert!((0..20).all(|step| Schedule::constant(3.0).at(step, 10) == 3.0));
    let linear = Schedule::linear(4.0, 0.0);
    assert_eq!([0, 1, 5, 9, 10, 99].map(|step| linear.at(step, 10)), [4.0, 3.6, 2.0, 0.3999999999999999, 0.0, 0.0]);
    let cosine = Schedule::cosine(1.0, 0.5);
    for (step, expected) in [(0, 1.0), (25, 0.5 + 0.25 * (1.0 + 0.5f64.sqrt())), (50, 0.75), (100, 0.5)] {
        assert!((cosine.at(step, 100) - expected).abs() < 1e-12, "{step}");
    }
    // A run of no steps is at its end.
    assert_eq!(linear.at(0, 0), 0.0);
}

#[test]
fn a_warm_up_comes_before_the_schedule() {
    let rate = Schedule::linear(8.0, 0.0).warmup(4);
    let values: Vec<f64> = (0..13).map(|step| rate.at(step, 12)).collect();
    assert_eq!(values, [2.0, 4.0, 6.0, 8.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
    // Longer than the run.
    assert_eq!(Schedule::constant(8.0).warmup(16).at(1, 2), 1.0);
}

/// The released script's numbers, at the steps that MaskLLM counts.
#[test]
fn the_recipe_is_maskllms() {
    let recipe = Recipe::maskllm(2000);
    assert_eq!(recipe.check(), Ok(()));
    let first = recipe.at(0);
    assert_eq!((first.kappa, first.tau, first.regulariser), (100.0, 4.0, 1e-5));
    let expected = learn::AdamW { rate: 5e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, step: 1 };
    assert_eq!(first.adamw, expected);
    let half = recipe.at(1000);
    assert_eq!((half.kappa, half.tau, half.regulariser), (300.0, 2.025, 5e-6));
    assert!((half.adamw.rate - 2.75e-4).abs() < 1e-12);
    // The last step is one short of the end.
    let last = recipe.at(1999);
    assert!((f64::from(last.kappa) - 499.8).abs() < 1e-4 && (f64::from(last.tau) - 0.051975).abs() < 1e-7);
    assert!(last.adamw.rate > 5e-5 && last.adamw.rate < 5.0001e-5 && last.adamw.step == 2000);
    assert_eq!((recipe.max_norm, recipe.sigma, recipe.alpha), (1.0, 0.01, 3.0));
    assert!((0..2000).all(|step| recipe.at(step).adamw.check().is_ok()));
    assert_eq!(first.sampling(1, 2), twofour::mask::Sampling { seed: 1, draw: 2, kappa: 100.0, tau: 4.0 });
}

/// Masks are no more decided at the end than at the start, and the more steps the lower the rate.
#[test]
fn the_recipe_for_few_steps_goes_by_their_number() {
    for (steps, rate) in [(1, 2.5e-3), (32, 2.5e-3), (64, 2.4984e-3), (128, 2.0293e-3), (1000, 1.0953e-3)] {
        let recipe = Recipe::few_steps(steps);
        let first = recipe.at(0);
        assert!((first.adamw.rate / rate - 1.0).abs() < 1e-4, "{steps}: {}", first.adamw.rate);
        let last = recipe.at(steps - 1);
        assert_eq!([first.kappa, first.tau, last.kappa, last.tau], [1000.0, 10.0, 1000.0, 10.0]);
        assert_eq!((recipe.max_norm, recipe.sigma, recipe.alpha, first.adamw.epsilon), (f64::MAX, 0.01, 6.0, 1e-5));
        assert_eq!(recipe.check(), Ok(()));
    }
    assert!(Recipe::few_steps(0).check().is_err());
}

#[test]
fn recipes_are_checked() {
    let bad = |change: fn(&mut Recipe)| {
        let mut recipe = Recipe::maskllm(10);
        change(&mut recipe);
        match recipe.check().unwrap_err() {
            Error::Scalar { what, .. } => what,
            other => panic!("{other}"),
        }
    };
    assert_eq!(bad(|r| r.steps = 0), "steps");
    assert_eq!(bad(|r| r.kappa = Schedule::linear(-1.0, 1.0)), "kappa");
    assert_eq!(bad(|r| r.kappa = Schedule::linear(1.0, f64::NAN)), "kappa");
    assert_eq!(bad(|r| r.kappa = Schedule::constant(1e300)), "kappa");
    assert_eq!(bad(|r| r.tau = Schedule::linear(4.0, 0.0)), "tau");
    assert_eq!(bad(|r| r.tau = Schedule::linear(4.0, 1e-50)), "tau");
    assert_eq!(bad(|r| r.tau = Schedule::constant(1e-30).warmup(1 << 62)), "tau");
    assert_eq!(bad(|r| (r.kappa, r.tau) = (Schedule::constant(1e30), Schedule::linear(1.0, 1e-20))), "kappa / tau");
    assert_eq!(bad(|r| r.regulariser = Schedule::constant(f64::INFINITY)), "regulariser");
    assert_eq!(bad(|r| r.rate = Schedule::linear(1.0, -1.0)), "rate");
    assert_eq!(bad(|r| r.rate = Schedule::linear(1e-3, 20.0)), "rate * decay");
    assert_eq!(bad(|r| r.beta1 = 1.0), "beta1");
    assert_eq!(bad(|r| r.beta2 = -0.5), "beta2");
    assert_eq!(bad(|r| r.epsilon = 0.0), "epsilon");
    assert_eq!(bad(|r| r.decay = -1.0), "decay");
    assert_eq!(bad(|r| r.max_norm = 0.0), "max_norm");
    assert_eq!(bad(|r| r.sigma = -0.01), "sigma");
    assert_eq!(bad(|r| r.alpha = f64::NAN), "alpha");
}
