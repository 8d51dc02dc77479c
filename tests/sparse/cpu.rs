//! What only the CPU can get wrong.

use crate::case::{Case, Spec, Values};
use crate::number::{Number, for_all_types, same};
use crate::oracle::compare;
use twofour::compress::{Compressed, Layout};
use twofour::sparse::{Multiply, Weight};
use twofour::{Cpu, Error, Executor, Shape, bf16};

/// Few tokens take another route than many, with other orders of summation; a part of the rows does not.
#[test]
fn both_routes_are_within_their_bounds() {
    fn check<T: Number>() {
        let sizes = [1, 2, 3, 8, 9, 16, 17, 23, 24, 25, 64, 65, 257].map(|tokens| (tokens, 261, 1100));
        for (tokens, rows, cols) in sizes.into_iter().chain([(280, 70, 132), (3, 5, 28), (3, 5, 60)]) {
            let case = Case::<T>::new(Spec { seed: tokens as u64, ..Spec::new(tokens, rows, cols) });
            compare(&case, &case.run(&mut Cpu).unwrap(), &Cpu);
        }
    }
    for_all_types!(check());
}

#[test]
fn every_layout_gives_the_same_bits() {
    fn check<T: Number>() {
        for (shape, tokens) in [(Shape::new(256, 192), 5), (Shape::new(128, 64), 40), (Shape::new(7, 12), 3)] {
            let spec = Spec { shape, ..Spec::new(tokens, 0, 0) };
            let of = |layout| Case::<T>::new(Spec { layout, ..spec }).run(&mut Cpu).unwrap();
            let plain = of(Layout::Plain);
            let fitting = Layout::ALL.into_iter().filter(|layout| layout.check(shape, T::DTYPE).is_ok());
            let layouts: Vec<Layout> = fitting.collect();
            assert!(layouts.len() >= 3);
            assert!(layouts.into_iter().all(|layout| same::<T>(&of(layout), &plain)));
        }
    }
    for_all_types!(check());
}

#[test]
fn threads_do_not_change_the_results() {
    fn check<T: Number>() {
        for tokens in [5, 300] {
            let case = Case::<T>::new(Spec::new(tokens, 270, 1200));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| case.run(&mut Cpu).unwrap())
            };
            assert!(same::<T>(&run(1), &run(5)));
        }
    }
    for_all_types!(check());
}

/// Sums of few multiples of the least subnormal number are exact: in the weight, in `X` and in the bias.
#[test]
fn subnormals_are_exact() {
    fn check<T: Number>(least: f32) {
        let number = f64::from(least);
        assert!(number > 0.0 && T::of(least).number() == number && T::of(least / 2.0).number() == 0.0);
        // Both of the CPU's routes, with rows that no vector divides; times 2²⁴, results are normal again.
        for (tokens, factor) in [(1, 1.0), (3, 1.0), (40, 1.0), (1, 16_777_216.0), (40, 16_777_216.0)] {
            let case = Case::<T>::new(Spec { values: Values::Integers, ..Spec::new(tokens, 21, 108) });
            let scaled = |values: &[T], by: f64| -> Vec<T> {
                values.iter().map(|value| T::of((value.number() * by) as f32)).collect()
            };
            let weight = |by| {
                let (kept, codes) = (scaled(case.weight.values(), by), case.weight.codes().to_vec());
                Compressed::new(case.spec.shape, kept, codes).unwrap()
            };
            let tiny = number * factor;
            let bias: Vec<_> = case.bias.iter().map(|bias| T::output((T::result(*bias) * tiny) as f32)).collect();
            let plain = case.run(&mut Cpu).unwrap();
            let expected: Vec<f64> = plain.iter().map(|&y| T::result(y) * tiny).collect();
            assert!(expected.iter().any(|&y| y != 0.0));
            let in_weight =
                Case { weight: weight(number), x: scaled(&case.x, factor), bias: bias.clone(), ..case.clone() };
            let in_x = Case { weight: weight(factor), x: scaled(&case.x, number), bias, ..case.clone() };
            for case in [in_weight, in_x] {
                let y: Vec<f64> = case.run(&mut Cpu).unwrap().iter().map(|&y| T::result(y)).collect();
                assert_eq!(y, expected, "{:?} times {factor}", case.spec);
            }
        }
    }
    check::<bf16>(bf16::from_bits(1).to_f32());
    check::<f32>(f32::from_bits(1));
}

/// More than `i32` holds, by products alone.
#[test]
fn long_sums_of_integers_wrap() {
    let mut case = Case::<i8>::new(Spec { bias: false, ..Spec::new(3, 1, 1 << 18) });
    let codes = case.weight.codes().to_vec();
    case.weight = Compressed::new(case.spec.shape, vec![-128; 1 << 17], codes).unwrap();
    case.x.fill(-128);
    assert_eq!(case.run(&mut Cpu).unwrap(), [i32::MIN; 3]);
}

/// Columns are counted in 32 bits there; nothing of such rows need be in memory to see it.
#[test]
fn rows_that_are_too_long_are_refused() {
    let shape = Shape::new(0, 1 << 33);
    let weight = Weight::new(shape, Layout::Plain, &[bf16::ZERO; 0], &[]);
    let error = Cpu.run(Multiply::new(&weight, 0, &[], &mut [])).unwrap_err();
    assert_eq!(error, Error::Overflow { what: "a row of the weight", rows: 1, cols: 1 << 33 });
}
