//! SparseGPT as a whole on the CPU, from activations to masks, against least squares solved densely.

use crate::case::{By, ScoreCase, SweepCase, normal, rng};
use crate::squares::{self, Square};
use rand::Rng;
use rand::rngs::StdRng;
use twofour::select::{Cholesky, Hessian, Squares};
use twofour::{Cpu, Executor, Pattern, Shape, bf16};

/// Correlated activations: a few sources, mixed, with noise; some columns always 0 if asked.
fn activations(rng: &mut StdRng, tokens: usize, cols: usize, dead: &[usize]) -> Vec<f32> {
    let sources = 1 + cols / 2;
    let mix: Vec<f32> = normal(rng, sources * cols, &[]);
    let mut x = Vec::new();
    for _ in 0..tokens {
        let (source, noise) = (normal::<f32>(rng, sources, &[]), normal::<f32>(rng, cols, &[]));
        let value = |j: usize| (0..sources).map(|s| source[s] * mix[s * cols + j]).sum::<f32>() + 0.3 * noise[j];
        x.extend((0..cols).map(|j| if dead.contains(&j) { 0.0 } else { value(j) }));
    }
    x
}

fn hessian(x: &[f32], cols: usize) -> Vec<f32> {
    let mut hessian = vec![f32::NAN; cols * cols];
    Cpu.run(Hessian::new(x.len() / cols, cols, x, 0, &mut hessian)).unwrap();
    hessian
}

fn sweep(shape: Shape, weight: &[f32], factor: &Cholesky) -> (Vec<f32>, Vec<u8>, Vec<f64>) {
    let (upper, scale) = (factor.upper().to_vec(), factor.scale().to_vec());
    let case = SweepCase { shape, weight: weight.to_vec(), upper, scale, wants: [true; 4] };
    let got = case.run(&mut Cpu);
    (got.updated.unwrap(), got.patterns.unwrap(), got.losses.unwrap())
}

/// Each row against the dense oracle, until a choice was so close that rounding may have made it.
#[test]
fn sweeps_solve_least_squares() {
    let (mut rows, mut whole) = (0, 0);
    for seed in 0..60 {
        let mut rng = rng(seed);
        let (cols, tokens) = (4 * rng.random_range(1..8), rng.random_range(10..80));
        let dead: Vec<usize> = if seed % 3 == 0 { vec![rng.random_range(0..cols), cols - 1] } else { vec![] };
        let x = activations(&mut rng, tokens, cols, &dead);
        let shape = Shape::new(6, cols);
        let weight: Vec<f32> = normal(&mut rng, shape.weights(), &[]);
        let factor = Cholesky::new(cols, &hessian(&x, cols), 0.01).unwrap();
        let (updated, patterns, losses) = sweep(shape, &weight, &factor);
        let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let (damped, is_dead) = squares::hessian(&exact, cols, 0.01);
        for row in 0..shape.rows {
            let weight: Vec<f64> = weight[row * cols..][..cols].iter().map(|&w| f64::from(w)).collect();
            let (expected, choices) = squares::sparsegpt(&damped, &is_dead, &weight);
            rows += 1;
            let clear = |g: usize| is_dead[4 * g..4 * g + 4].contains(&true) || choices[g].1 > 1e-4;
            let certain = (0..choices.len()).position(|g| !clear(g)).unwrap_or(choices.len());
            for (g, (pattern, _)) in choices[..certain].iter().enumerate() {
                assert_eq!(patterns[row * cols / 4 + g], pattern.index(), "seed {seed} row {row} group {g}");
            }
            if certain < choices.len() {
                continue;
            }
            whole += 1;
            let size = weight.iter().fold(1.0f64, |size, w| size.max(w.abs()));
            for (j, expected) in expected.iter().enumerate() {
                let got = f64::from(updated[row * cols + j]);
                assert!((got - expected).abs() < 2e-4 * size, "seed {seed} {row}.{j}: {got} for {expected}");
            }
            // The loss is that of the result, which is not how it was added up.
            let delta = |(j, w): (usize, &f64)| if is_dead[j] { 0.0 } else { f64::from(updated[row * cols + j]) - w };
            let loss = damped.loss(&weight.iter().enumerate().map(delta).collect::<Vec<_>>());
            assert!(
                (losses[row] - loss).abs() <= 1e-3 * loss + 1e-9,
                "seed {seed} row {row}: {} for {loss}",
                losses[row]
            );
        }
    }
    println!("{whole} of {rows} rows compared whole");
    assert!(rows == 360 && whole > 300, "{whole} of {rows}");
}

/// `Uᵀ U (H + damping) = 1`, the scale is one over the diagonal, and nothing lies below it.
#[test]
fn factors_are_those_of_the_inverse() {
    for (seed, cols) in [(1, 4), (2, 20), (3, 131 * 4), (4, 64)] {
        let mut rng = rng(seed);
        let x = activations(&mut rng, 30 + cols / 2, cols, if cols == 20 { &[3, 7] } else { &[] });
        let hessian = hessian(&x, cols);
        let factor = Cholesky::new(cols, &hessian, 0.05).unwrap();
        let live: Vec<f64> = (0..cols).map(|j| f64::from(hessian[j * cols + j])).filter(|&h| h != 0.0).collect();
        let added = 0.05 * live.iter().sum::<f64>() / live.len() as f64;
        let damped = Square::new(cols, |r, c| {
            let h = f64::from(hessian[r * cols + c]);
            if r != c {
                h
            } else if h == 0.0 {
                1.0
            } else {
                h + added
            }
        });
        assert_eq!(factor.empty(), cols - live.len());
        let u = Square::new(cols, |r, c| f64::from(factor.upper()[r * cols + c]));
        for r in 0..cols {
            assert!((0..r).all(|c| u.at(r, c) == 0.0));
            let scale = f64::from(factor.scale()[r]);
            let dead = hessian[r * cols + r] == 0.0;
            let tiny =
                scale > 0.0 && scale * 1e12 < f64::from(*factor.scale().iter().max_by(|a, b| a.total_cmp(b)).unwrap());
            assert!(if dead { tiny } else { (scale * u.at(r, r) - 1.0).abs() < 1e-6 }, "scale {r}");
        }
        // U (H Uᵀ) = 1.
        let right = Square::new(cols, |r, c| (c..cols).map(|k| damped.at(r, k) * u.at(c, k)).sum());
        let mut worst = 0.0f64;
        for r in 0..cols {
            for c in 0..cols {
                let product: f64 = (r..cols).map(|k| u.at(r, k) * right.at(k, c)).sum();
                worst = worst.max((product - f64::from(u8::from(r == c))).abs());
            }
        }
        println!("{cols} columns: U H Uᵀ is off the identity by {worst:.1e}");
        assert!(worst < 1e-4);
    }
}

#[test]
fn the_identity_keeps_magnitudes() {
    let shape = Shape::new(20, 256);
    let weight: Vec<f32> = normal(&mut rng(3), shape.weights(), &[]);
    let identity: Vec<f32> = (0..256 * 256).map(|i| f32::from(u8::from(i % 257 == 0))).collect();
    let factor = Cholesky::new(256, &identity, 0.0).unwrap();
    let case = ScoreCase { shape, by: By::Magnitude, weight: weight.clone(), wants: [true; 4] };
    let by_magnitude = case.run(&mut Cpu);
    let (updated, patterns, _) = sweep(shape, &weight, &factor);
    assert_eq!(Some(patterns), by_magnitude.patterns);
    assert_eq!(Some(updated), by_magnitude.masked);
}

/// `‖(W − Ŵ)X‖²/T` of masks by magnitude, by Wanda, and SparseGPT's with and without update: each better than the one
/// before.
#[test]
fn the_loss_is_less_than_that_of_magnitude() {
    let (shape, tokens) = (Shape::new(48, 160), 300);
    let mut rng = rng(11);
    let x = activations(&mut rng, tokens, shape.cols, &[]);
    let weight: Vec<f32> = normal(&mut rng, shape.weights(), &[]);
    let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let (plain, _) = squares::hessian(&exact, shape.cols, 0.0);
    let loss = |masked: &[f32]| -> f64 {
        let delta: Vec<f64> = weight.iter().zip(masked).map(|(w, m)| f64::from(m - w)).collect();
        delta.chunks(shape.cols).map(|row| plain.loss(row)).sum()
    };
    let masked = |by: By| {
        let case = ScoreCase { shape, by, weight: weight.clone(), wants: [true, false, false, false] };
        loss(&case.run(&mut Cpu).masked.unwrap())
    };
    let (mut sums, mut norms) = (vec![0.0; shape.cols], vec![0.0; shape.cols]);
    Cpu.run(Squares::new(tokens, shape.cols, &x, &mut sums).norms(&mut norms)).unwrap();
    let factor = Cholesky::new(shape.cols, &hessian(&x, shape.cols), Cholesky::DAMPING).unwrap();
    let magnitude = masked(By::Magnitude);
    let wanda = masked(By::Scaled(norms));
    let without = masked(By::Scaled(factor.scale().to_vec()));
    let with = loss(&sweep(shape, &weight, &factor).0);
    println!("loss: magnitude {magnitude:.1}, Wanda {wanda:.1}, SparseGPT without update {without:.1}, with {with:.1}");
    assert!(wanda < magnitude && without < magnitude && with < 0.5 * magnitude && with < without);
}

#[test]
fn hessians_add_up_over_batches() {
    for (seed, cols) in [(1, 12), (2, 300), (3, 132)] {
        let mut rng = rng(seed);
        let x: Vec<bf16> = normal(&mut rng, 700 * cols, &[]);
        let mut whole = vec![f32::NAN; cols * cols];
        Cpu.run(Hessian::new(700, cols, &x, 0, &mut whole)).unwrap();
        let mut parts = vec![f32::NAN; cols * cols];
        let mut before = 0;
        for tokens in [0, 1, 99, 0, 600] {
            let batch = &x[before * cols..][..tokens * cols];
            Cpu.run(Hessian::new(tokens, cols, batch, before as u64, &mut parts)).unwrap();
            before += tokens;
            assert!(before > 0 || parts.iter().all(|&h| h == 0.0), "no tokens yet");
        }
        for (i, (&whole, &parts)) in whole.iter().zip(&parts).enumerate().step_by(if cols < 100 { 1 } else { 7 }) {
            let (r, c) = (i / cols, i % cols);
            let exact =
                (0..700).map(|t| x[t * cols + r].to_f64() * x[t * cols + c].to_f64()).sum::<f64>() * 2.0 / 700.0;
            for got in [whole, parts] {
                assert!((f64::from(got) - exact).abs() < 1e-5, "{r}.{c}: {got} for {exact}");
            }
        }
        for i in 0..cols * cols {
            assert_eq!(whole[i], whole[i % cols * cols + i / cols], "symmetric");
        }
    }
}

/// Twice the activations are four times the Hessian: the same masks, and the same weights.
#[test]
fn the_unit_of_activations_does_not_matter() {
    let shape = Shape::new(9, 64);
    let mut rng = rng(21);
    let x = activations(&mut rng, 100, shape.cols, &[5, 40]);
    let weight: Vec<f32> = normal(&mut rng, shape.weights(), &[]);
    let of = |by: f32| {
        let x: Vec<f32> = x.iter().map(|x| x * by).collect();
        let (updated, patterns, _) =
            sweep(shape, &weight, &Cholesky::new(shape.cols, &hessian(&x, shape.cols), 0.01).unwrap());
        (updated, patterns)
    };
    assert_eq!(of(1.0), of(2f32.powi(-12)));
    assert!(of(1.0).1.iter().all(|&index| index < Pattern::ALL.len() as u8));
    // What is kept of an empty column is as it was.
    let updated = of(1.0).0;
    let (mut kept, as_it_was) = (0, |at: usize| updated[at] == weight[at] || updated[at] == 0.0);
    for at in (0..shape.rows).flat_map(|row| [row * 64 + 5, row * 64 + 40]) {
        assert!(as_it_was(at), "{} of {}", updated[at], weight[at]);
        kept += usize::from(updated[at] != 0.0);
    }
    assert_eq!(kept, 0, "three others of each group saw inputs");
}
