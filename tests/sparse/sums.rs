//! Long sums under every arithmetic of tensor cores: what they cut off must not add up.

use crate::case::{Case, Spec};
use crate::common::Emulator;
use crate::common::long::{Long, TERMS, exact};
use crate::number::Number;
use crate::oracle::columns;
use rand::SeedableRng;
use rand::rngs::StdRng;
use twofour::compress::Compressed;
use twofour::sparse::Route;
use twofour::{bf16, f16};

/// The bias is the sum, with the other sign: what is rounded to a 16-bit type in the end is little but the error.
fn check<T: Number>(long: Long, route: Route, tokens: usize, on: &mut Emulator) {
    // Of each part, where there are two, as many terms are kept.
    let splits = if route == Route::Tile { 2 } else { 1 };
    let (rows, terms) = (5, splits as usize * TERMS);
    let cols = 2 * terms;
    let mut case = Case::<T>::new(Spec { route: Some(route), ..Spec::new(tokens, rows, cols) });
    let plan = case.plan(on).unwrap();
    assert_eq!((plan.route(), plan.splits()), (route, splits));
    let rng = &mut StdRng::seed_from_u64(7);
    let mut factors = |count: usize, each: usize| -> Vec<T> {
        (0..count).map(|i| T::of(long.factor(i % cols / each, rng))).collect()
    };
    let kept = factors(rows * terms, 1);
    case.weight = Compressed::new(case.spec.shape, kept, case.weight.codes().to_vec()).unwrap();
    case.x = factors(cols, 2).repeat(tokens);
    let sums: Vec<_> = (0..rows)
        .map(|row| {
            let kept = &case.weight.values()[row * terms..];
            exact(columns(&case, row).iter().zip(kept).map(|(&k, kept)| kept.number() * case.x[k].number()))
        })
        .collect();
    case.bias = sums.iter().map(|(sum, _)| T::output(-sum as f32)).collect();
    for (i, &y) in case.run(on).unwrap().iter().enumerate() {
        let (sum, size) = sums[i % rows];
        let left = sum + T::result(case.bias[i % rows]);
        long.check(T::result(y), left, size, T::ROUNDOFF.0 * left.abs(), &format!("{on:?} {route:?} {long:?}: y[{i}]"));
    }
}

#[test]
fn long_sums_are_near_exact() {
    for (route, tokens) in [(Route::Small, 3), (Route::Small, 20), (Route::Tile, 3)] {
        Long::everywhere(|long, on| check::<f16>(long, route, tokens, on));
        Long::everywhere(|long, on| check::<bf16>(long, route, tokens, on));
    }
}
