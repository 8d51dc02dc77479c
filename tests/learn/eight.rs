//! What 8-bit moments are good for: right in the mean, never at a stop, and a run much like that of `f32` moments.

use crate::adamw::gradient;
use crate::case::{Bits, Moments, USUAL, UpdateCase, normal, rng};
use crate::oracle;
use twofour::learn::{AdamW, Recipe};
use twofour::{Cpu, Shape, bf16};

/// The distance between the values about one, in units.
fn spacing(which: usize, units: f32) -> f64 {
    let values = &oracle::VALUES[which];
    let high = values.iter().position(|&value| value > units).unwrap_or(values.len() - 1);
    f64::from(values[high] - values[high - 1])
}

/// One step from the same state and gradient under many draws: moments are neighbours of what `f32` moments would be, and
/// their mean is that, to five deviations of a mean and what ten random bits resolve.
#[test]
fn moments_are_unbiased() {
    const DRAWS: u64 = 3000;
    let (rng, shape) = (&mut rng(2), Shape::new(1, 4 * 80));
    let mut case =
        UpdateCase::plain(shape, Bits::Eight, gradient(rng, shape.logits(), 6, 0), vec![0.0f32; shape.logits()]);
    case.by.step = 9;
    case.moments = Moments::any(rng, Bits::Eight, shape);
    let [m, v] = oracle::moments(&case.moments);
    let full = UpdateCase { moments: Moments::Full { m, v }, ..case.clone() }.run(&mut Cpu).moments;
    let (m, v) = full.full().unwrap();
    let exact = [m.to_vec(), v.iter().map(|v| v.sqrt()).collect::<Vec<_>>()];
    let mut sums = [vec![0.0f64; shape.logits()], vec![0.0; shape.logits()]];
    let mut units = [vec![0.0f64; shape.logits()], vec![0.0; shape.logits()]];
    for draw in 0..DRAWS {
        case.rounding.draw = draw;
        let Moments::Eight { m, v, scales } = case.run(&mut Cpu).moments else { panic!("8-bit moments") };
        for at in 0..shape.logits() {
            for (which, code) in [m[at], v[at]].into_iter().enumerate() {
                let (code, sign) = if which == 0 && code > 127 { (code & 127, -1.0) } else { (code, 1.0) };
                let unit =
                    f64::from(scales[2 * (at / 384) + which]) / f64::from(*oracle::VALUES[which].last().unwrap());
                let value = sign * f64::from(oracle::VALUES[which][usize::from(code)]) * unit;
                units[which][at] = unit;
                sums[which][at] += value;
                let off = (value - f64::from(exact[which][at])).abs() / unit;
                let expected = exact[which][at].abs() / unit as f32;
                assert!(off <= 1.001 * spacing(which, expected) + 1e-3, "moment {which} {at}: off by {off} units");
            }
        }
    }
    for which in 0..2 {
        for at in 0..shape.logits() {
            let (exact, unit) = (f64::from(exact[which][at]) / units[which][at], units[which][at]);
            // A square root is never rounded to 0, which below one unit is upwards.
            if which == 1 && exact < 1.0 {
                continue;
            }
            let spacing = spacing(which, exact.abs() as f32);
            let bound = spacing * (0.5 * 5.0 / (DRAWS as f64).sqrt() + 1.0 / 2048.0) + 1e-3;
            let mean = sums[which][at] / DRAWS as f64 / unit;
            assert!((mean - exact).abs() < bound, "moment {which} {at}: {mean} units for {exact}, {bound}");
        }
    }
}

/// Where the gradient vanishes, second moments go down as `β2^(t/2)` does, to the smallest there is, beside a neighbour that
/// keeps the scale up. Nearest rounding would leave each where it was.
#[test]
fn vanished_gradients_are_forgotten() {
    let shape = Shape::new(1, 4 * 64);
    for (beta2, steps) in [(0.95, 150), (0.999, 4000), (0.9999, 10_000)] {
        let full = normal::<f32>(&mut rng(5), shape.logits(), 1.0, &[]).iter().map(|g| g.signum()).collect();
        let mut case = UpdateCase::plain(shape, Bits::Eight, full, vec![0.0f32; shape.logits()]);
        case.by = AdamW { beta2, ..USUAL };
        for step in 0..steps {
            case.by.step = step + 1;
            case.rounding.draw = step;
            case.moments = case.run(&mut Cpu).moments;
            if step == 0 {
                // From now on the first logit alone has a gradient.
                case.gradient[1..].fill(0.0);
            }
        }
        let [m, v] = oracle::moments(&case.moments);
        let left = (1.0 - beta2).sqrt() * f64::powf(beta2, 0.5 * (steps - 1) as f64);
        let mean = v[1..].iter().map(|v| f64::from(v.sqrt())).sum::<f64>() / (v.len() - 1) as f64;
        println!("β2 {beta2}: after {steps} steps √v is {mean:.5}, by f32 {left:.5}");
        assert!((mean - left).abs() < 0.06 * left, "β2 {beta2}: {mean} for {left}");
        assert!(m[1..].iter().all(|m| m.abs() < 1e-4), "first moments are forgotten too");
        // Not one is left behind.
        assert!(v[1..].iter().all(|v| f64::from(v.sqrt()) < 6.0 * left), "β2 {beta2}");
    }
}

/// A run of 2000 steps with both kinds of moments, with `f32` logits so that only moments differ: every logit's changes
/// are right in the mean to a few percent, and logits end up where they would.
#[test]
fn a_run_is_much_like_that_of_f32_moments() {
    const STEPS: u64 = 2000;
    let (rng, shape, recipe) = (&mut rng(3), Shape::new(2, 4 * 96), Recipe::maskllm(STEPS));
    let logits: Vec<f32> = normal(rng, shape.logits(), 0.01, &[]);
    let mut full = UpdateCase::plain(shape, Bits::Full, vec![], logits.clone());
    let mut eight = UpdateCase::plain(shape, Bits::Eight, vec![], logits.clone());
    for step in 0..STEPS {
        full.gradient = gradient(rng, shape.logits(), 3, step);
        eight.gradient.clone_from(&full.gradient);
        for case in [&mut full, &mut eight] {
            case.by = recipe.at(step).adamw;
            case.rounding.draw = step;
            let stepped = case.run(&mut Cpu);
            (case.logits, case.moments) = (stepped.logits, stepped.moments);
        }
    }
    let (mut off, mut moved, mut bias) = (0.0, 0.0, 0.0);
    for ((e, f), start) in eight.logits.iter().zip(&full.logits).zip(&logits) {
        let (off_by, way) = (f64::from(e - f), f64::from(f - start));
        (off, moved, bias) = (off + off_by.powi(2), moved + way.powi(2), bias + off_by);
    }
    let (ratio, count) = ((off / moved).sqrt(), shape.logits() as f64);
    let bias = bias.abs() / count / (moved / count).sqrt();
    println!("{STEPS} steps: off by {:.2} % of the way (rms), {:.3} % in the mean", 100.0 * ratio, 100.0 * bias);
    assert!(ratio < 0.08 && bias < 0.02, "{ratio} {bias}");
}

/// `bf16` logits and 8-bit moments together, against all in `f32`.
#[test]
fn a_run_of_eight_bytes_is_much_like_one_of_twenty() {
    const STEPS: u64 = 2000;
    let (rng, shape, recipe) = (&mut rng(4), Shape::new(2, 4 * 96), Recipe::maskllm(STEPS));
    let logits: Vec<bf16> = normal(rng, shape.logits(), 0.01, &[]);
    let mut full = UpdateCase::plain(shape, Bits::Full, vec![], logits.iter().map(|l| l.to_f32()).collect());
    let mut small = UpdateCase::plain(shape, Bits::Eight, vec![], logits.clone());
    for step in 0..STEPS {
        full.gradient = gradient(rng, shape.logits(), 3, step);
        small.gradient.clone_from(&full.gradient);
        (full.by, small.by) = (recipe.at(step).adamw, recipe.at(step).adamw);
        small.rounding.draw = step;
        let stepped = full.run(&mut Cpu);
        (full.logits, full.moments) = (stepped.logits, stepped.moments);
        let stepped = small.run(&mut Cpu);
        (small.logits, small.moments) = (stepped.logits, stepped.moments);
    }
    let (mut off, mut moved) = (0.0, 0.0);
    for ((s, f), start) in small.logits.iter().zip(&full.logits).zip(&logits) {
        off += f64::from(s.to_f32() - f).powi(2);
        moved += f64::from(f - start.to_f32()).powi(2);
    }
    let ratio = (off / moved).sqrt();
    println!("{STEPS} steps: off by {:.2} % of the way (rms)", 100.0 * ratio);
    assert!(ratio < 0.25, "{ratio}");
}

/// What rounding at every step leaves of noise, where gradients are within three powers of ten: `Moments` says how much.
#[test]
fn rounding_leaves_some_noise() {
    for (beta2, of_m, of_v) in [(0.95, 0.09, 0.06), (0.999, 0.09, 0.11)] {
        let (rng, shape) = (&mut rng(6), Shape::new(2, 4 * 96));
        let mut full = UpdateCase::plain(shape, Bits::Full, vec![], vec![0.0f32; shape.logits()]);
        let mut eight = UpdateCase::plain(shape, Bits::Eight, vec![], vec![0.0f32; shape.logits()]);
        let [mut m_off, mut m_size, mut v_off, mut count] = [0.0f64; 4];
        for step in 0..3000 {
            full.gradient = gradient(rng, shape.logits(), 3, 0);
            eight.gradient.clone_from(&full.gradient);
            for case in [&mut full, &mut eight] {
                case.by = AdamW { beta2, step: step + 1, ..USUAL };
                case.rounding.draw = step;
                case.moments = case.run(&mut Cpu).moments;
            }
            if step % 100 < 99 || step < 1000 {
                continue;
            }
            let [[m, v], [m8, v8]] = [oracle::moments(&full.moments), oracle::moments(&eight.moments)];
            for at in 0..m.len() {
                m_off += f64::from((m8[at] - m[at]) / v[at].sqrt()).powi(2);
                m_size += f64::from(m[at] / v[at].sqrt()).powi(2);
                v_off += f64::from((v8[at] / v[at]).sqrt() - 1.0).powi(2);
                count += 1.0;
            }
        }
        let (m, v) = ((m_off / m_size).sqrt(), (v_off / count).sqrt());
        println!("β2 {beta2}: deviation of m {m:.3}, of √v {v:.3}");
        assert!((m / of_m - 1.0).abs() < 0.3 && (v / of_v - 1.0).abs() < 0.3, "β2 {beta2}: {m} {v}");
    }
}
