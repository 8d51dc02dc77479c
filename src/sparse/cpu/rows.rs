//! The product by walking over rows of the compressed weight: each kept value is multiplied by the activations of its
//! column, of several tokens at once, which lie side by side for it.

use super::Canonical;
use crate::element::Factor;

use crate::element::factor::arithmetic::Arithmetic;
use multiversion::multiversion;
use rayon::prelude::*;

/// Tokens side by side.
const LANES: usize = 8;
/// Tokens at a time: what is written of `Y` before it is transposed.
const BLOCK: usize = 8 * LANES;
/// Sums of each token that do not wait for one another.
const CHAINS: usize = 4;
/// Rows of a task.
const ROWS: usize = 16;

type Sum<T> = <T as Arithmetic<<T as Factor>::Output>>::Sum;

/// Writes the rows of `y` of these tokens.
pub(super) fn multiply<T: Factor>(
    weight: &Canonical<'_, T>,
    x: &[T],
    bias: Option<&[T::Output]>,
    y: &mut [T::Output],
    tokens: impl ExactSizeIterator<Item = usize>,
) {
    let (n, k) = (weight.shape.rows, weight.shape.cols);
    if n == 0 {
        return;
    }
    let tokens: Vec<usize> = tokens.collect();
    for tokens in tokens.chunks(BLOCK) {
        let lanes = if tokens.len() <= 2 { 1 } else { LANES };
        let sides: Vec<Vec<Sum<T>>> =
            tokens.par_chunks(lanes).map(|tokens| side_by_side(x, k, tokens, lanes)).collect();
        // `Y` transposed, [N, tokens], so that a task has its own part.
        let mut turned = vec![bytemuck::Zeroable::zeroed(); n * tokens.len()];
        turned.par_chunks_mut(ROWS * tokens.len()).enumerate().for_each_init(
            Scratch::<T>::default,
            |scratch, (task, out)| {
                for (i, out) in out.chunks_mut(tokens.len()).enumerate() {
                    let row = task * ROWS + i;
                    scratch.load(weight, row);
                    let bias = bias.map(|bias| bias[row]);
                    for (side, out) in sides.iter().zip(out.chunks_mut(lanes)) {
                        match lanes {
                            1 => scratch.row::<1>(side, bias, out),
                            _ => scratch.row::<LANES>(side, bias, out),
                        }
                    }
                }
            },
        );
        for (at, &token) in tokens.iter().enumerate() {
            y[token * n..(token + 1) * n]
                .iter_mut()
                .zip(turned.chunks(tokens.len()))
                .for_each(|(y, sums)| *y = sums[at]);
        }
    }
}

/// `[K, lanes]`; zeros where there is no token.
fn side_by_side<T: Factor>(x: &[T], k: usize, tokens: &[usize], lanes: usize) -> Vec<Sum<T>> {
    let mut row = vec![bytemuck::Zeroable::zeroed(); k];
    let mut sides = vec![bytemuck::Zeroable::zeroed(); k * lanes];
    for (lane, token) in tokens.iter().enumerate() {
        T::widen(&x[token * k..(token + 1) * k], &mut row);
        sides.chunks_exact_mut(lanes).zip(&row).for_each(|(sides, x)| sides[lane] = *x);
    }
    sides
}

/// A row of the weight.
struct Scratch<T: Factor> {
    values: Vec<Sum<T>>,
    columns: Vec<u32>,
}

impl<T: Factor> Default for Scratch<T> {
    fn default() -> Self {
        Self { values: Vec::new(), columns: Vec::new() }
    }
}

impl<T: Factor> Scratch<T> {
    fn load(&mut self, weight: &Canonical<'_, T>, row: usize) {
        let values = weight.values(row);
        self.values.resize(values.len(), bytemuck::Zeroable::zeroed());
        self.columns.resize(values.len(), 0);
        T::widen(values, &mut self.values);
        weight.columns(row, 0, &mut self.columns);
    }

    /// The row's `Y` of so many tokens, of which `out` may have fewer.
    fn row<const L: usize>(&self, side: &[Sum<T>], bias: Option<T::Output>, out: &mut [T::Output]) {
        let sums = dot::<T, L>(&self.values, &self.columns, side.as_chunks::<L>().0);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = T::finish(bias.map_or(sum, |bias| T::add(sum, T::bias(bias))));
        }
    }
}

/// Sums over the values of a row; the same order for every `L`.
#[multiversion(targets("x86_64+avx2"))]
fn dot<T: Factor, const L: usize>(values: &[Sum<T>], columns: &[u32], side: &[[Sum<T>; L]]) -> [Sum<T>; L] {
    let mut chains = [[bytemuck::Zeroable::zeroed(); L]; CHAINS];
    let (fours, last) = values.as_chunks::<CHAINS>();
    let (four_columns, last_columns) = columns.as_chunks::<CHAINS>();
    for (values, columns) in fours.iter().zip(four_columns) {
        for chain in 0..CHAINS {
            add_product::<T, L>(&mut chains[chain], values[chain], &side[columns[chain] as usize]);
        }
    }
    for ((chain, value), column) in chains.iter_mut().zip(last).zip(last_columns) {
        add_product::<T, L>(chain, *value, &side[*column as usize]);
    }
    let [a, b, c, d] = chains;
    std::array::from_fn(|lane| T::add(T::add(a[lane], b[lane]), T::add(c[lane], d[lane])))
}

#[inline(always)]
fn add_product<T: Factor, const L: usize>(sums: &mut [Sum<T>; L], value: Sum<T>, x: &[Sum<T>; L]) {
    for lane in 0..L {
        sums[lane] = T::add(sums[lane], T::multiply(value, x[lane]));
    }
}
