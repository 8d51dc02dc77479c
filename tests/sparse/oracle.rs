//! `sparse` said again in `f64`, straight from the definition, with bounds on what an executor may differ by.

use crate::case::Case;
use crate::common::TestExecutor;
use crate::number::Number;
use rayon::prelude::*;
use twofour::compress::Sparsity;

/// Columns of the values that a row keeps, in order.
pub(crate) fn columns<T: Number>(case: &Case<T>, row: usize) -> Vec<usize> {
    let sparsity = Sparsity::of(T::DTYPE);
    let groups = case.spec.shape.cols / sparsity.width();
    let of = |group: usize| {
        let code = usize::from(case.weight.code(row, group).unwrap());
        match sparsity {
            Sparsity::TwoFour => vec![4 * group + code % 4, 4 * group + code / 4],
            Sparsity::OneTwo => vec![2 * group + usize::from(code == 0xe)],
        }
    };
    (0..groups).flat_map(of).collect()
}

/// Kept values of a row.
fn kept<T: Number>(case: &Case<T>, row: usize) -> &[T] {
    let half = case.spec.shape.cols / 2;
    &case.weight.values()[row * half..][..half]
}

/// Compares an executor's `Y` with the oracle.
pub(crate) fn compare<T: Number>(case: &Case<T>, y: &[T::Output], on: &impl TestExecutor) {
    let [tokens, n, k] = [case.spec.tokens, case.spec.shape.rows, case.spec.shape.cols];
    assert_eq!(y.len(), tokens * n);
    let terms = ((k / 2) as f64 + f64::from(case.parts(on))) * case.unit(on);
    let error = terms / (1.0 - terms) + case.rounds_operands(on);
    (0..n).into_par_iter().for_each(|row| {
        let (columns, kept) = (columns(case, row), kept(case, row));
        for token in 0..tokens {
            let x = &case.x[token * k..][..k];
            let products = columns.iter().zip(kept).map(|(&column, kept)| kept.number() * x[column].number());
            let bias = case.bias().map_or(0.0, |bias| T::result(bias[row]));
            let terms = products.chain([bias]);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let got = T::result(y[token * n + row]);
            if T::ROUNDOFF.0 == 0.0 {
                assert_eq!(got, f64::from(sum as i64 as i32), "{:?}: y[{token}, {row}]", case.spec);
                continue;
            }
            let error = error * size;
            let bound = error + T::ROUNDOFF.0 * (sum.abs() + error) + T::ROUNDOFF.1;
            assert!((got - sum).abs() <= bound, "{:?}: y[{token}, {row}] is {got}, not {sum} ± {bound}", case.spec);
        }
    });
}
