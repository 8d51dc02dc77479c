//! Every element of the weight, and every code, is where the kernels look for it.

use super::case::{Case, Spec, emulator};
use crate::common::runs::is_full;
use crate::number::{Number, for_kernel_types};
use rayon::prelude::*;
use twofour::compress::Layout;
use twofour::sparse::Route;
use twofour::{Pattern, Shape};
use twofour_emulator::Schedule;

/// Tokens that are each 1 at one column, from `first` on, give the columns of the weight.
fn is_the_weight<T: Number>(route: Route, tokens: usize, shape: Shape) {
    let Shape { rows, cols } = shape;
    for first in (0..cols).step_by(tokens) {
        let mut case = Case::<T>::new(Spec::new(route, tokens, rows, cols));
        case.x.fill(T::of(0.0));
        for token in 0..tokens.min(cols - first) {
            case.x[token * cols + first + token] = T::of(1.0);
        }
        let y = case.run(&mut emulator(Schedule::RoundRobin));
        for (at, &y) in y.iter().enumerate() {
            let (token, row) = (at / rows, at % rows);
            let expected = if first + token < cols { case.dense[row * cols + first + token].number() } else { 0.0 };
            assert_eq!(T::result(y), expected, "{route:?} {} [{row}, {}]", T::DTYPE, first + token);
        }
    }
}

#[test]
fn one_hot_tokens_give_the_columns_of_the_weight() {
    // Steps of a warp, stages of a block, and what is left over; rows on 16 bytes, and not.
    for shape in [Shape::new(72, 288), Shape::new(72, 140), Shape::new(130, 256)] {
        for_kernel_types!(is_the_weight(Route::Small, 8, shape));
        for_kernel_types!(is_the_weight(Route::Small, 16, shape));
        for_kernel_types!(is_the_weight(Route::Small, 128, shape));
        for_kernel_types!(is_the_weight(Route::Tile, 128, shape));
    }
}

/// With any one code another, its row of `W` alone gives another `Y`.
#[test]
fn every_code_counts_in_its_row() {
    fn check<T: Number>(route: Route, tokens: usize) {
        let spec = Spec::new(route, tokens, 35, 140);
        let mut case = Case::<T>::integers(spec);
        // Of all groups both values are ones, and columns of X differ in a group; signs keep the sums small enough for bf16.
        case.x
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = T::of([1.0, 2.0, 4.0, 7.0][i % 4] * if i / 4 % 2 == 0 { 1.0 } else { -1.0 }));
        for (group, kept) in case.kept.iter().enumerate() {
            kept.iter().for_each(|k| case.dense[4 * group + k] = T::of(1.0));
        }
        let compressed = case.compressed();
        let metadata = compressed.metadata(Layout::CutlassSm80).unwrap();
        let map = Layout::CutlassSm80.map(spec.shape, T::DTYPE).unwrap();
        let before = case.run_with(&mut emulator(Schedule::RoundRobin), compressed.values(), &metadata);
        case.compare(&before);
        let groups = spec.shape.cols / 4;
        let step = if is_full() { 3 } else { 13 };
        (0..spec.shape.groups()).into_par_iter().filter(|at| at % step == tokens % step).for_each(|at| {
            let place = map.place(at / groups, at % groups).unwrap();
            let mut changed = metadata.clone();
            let code = changed[place.byte] >> place.shift & 15;
            let other = Pattern::ALL.iter().position(|pattern| pattern.code() == code).unwrap();
            let other = Pattern::ALL[(other + 1) % 6].code();
            changed[place.byte] = changed[place.byte] & !(15 << place.shift) | other << place.shift;
            let after = case.run_with(&mut emulator(Schedule::RoundRobin), compressed.values(), &changed);
            for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                assert_eq!(before != after, i % spec.shape.rows == at / groups, "{route:?} {} {at}", T::DTYPE);
            }
        });
    }
    for_kernel_types!(check(Route::Small, 1));
    for_kernel_types!(check(Route::Small, 2));
    for_kernel_types!(check(Route::Small, 18));
    for_kernel_types!(check(Route::Tile, 1));
    for_kernel_types!(check(Route::Tile, 3));
}

/// Codes in any other layout are not what the kernels read.
#[test]
fn other_layouts_give_another_product() {
    fn check<T: Number>(route: Route) {
        let spec = Spec::new(route, 4, 64, 128);
        let case = Case::<T>::new(spec);
        let compressed = case.compressed();
        let expected = case.run(&mut emulator(Schedule::RoundRobin));
        case.compare(&expected);
        for layout in [Layout::Plain, Layout::CutlassSm100] {
            let metadata = compressed.metadata(layout).unwrap();
            // The sizes are the same, or larger, of which as much is given as a weight in the layout has.
            let of_weight = Layout::CutlassSm80.sizes(spec.shape, T::DTYPE).unwrap().metadata;
            let metadata = metadata[..of_weight].to_vec();
            let y = case.run_with(&mut emulator(Schedule::RoundRobin), compressed.values(), &metadata);
            assert!(y != expected, "{layout}");
        }
    }
    for_kernel_types!(check(Route::Small));
    for_kernel_types!(check(Route::Tile));
}
