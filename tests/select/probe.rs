//! Sixty small calls at the edges of the crate: of `select`, and of what it stands beside.

use twofour::compress::{Compressed, Layout};
use twofour::learn::{Fused, Moments, Recipe, Step};
use twofour::mask::{self, Kind, Sampling};
use twofour::matmul::{Keep, Layer};
use twofour::select::{ByScore, Hessian, Squares, Statistics, Sweep};
use twofour::{Cpu, Error, Executor, Pattern, Result, Shape, bf16, f16, noise};

/// A name, and whether it is as it should be.
type Table = Vec<(String, bool)>;

#[test]
fn core_probe() {
    let mut table = Table::new();
    layouts(&mut table);
    recipes(&mut table);
    masks(&mut table);
    logits(&mut table);
    products(&mut table);
    scores(&mut table);
    activations(&mut table);
    #[cfg(feature = "sparsegpt")]
    factors(&mut table);
    threads(&mut table);
    table.push(("a step with a NaN gradient moves nothing of its group".into(), nan_step()));
    let wrong: Vec<_> = table.iter().filter(|(_, well)| !well).map(|(name, _)| name).collect();
    assert!(wrong.is_empty() && table.len() >= 60, "{wrong:#?} of {}", table.len());
}

fn layouts(table: &mut Table) {
    for layout in
        [Layout::Plain, Layout::CutlassSm80, Layout::CusparseltMma, Layout::CusparseltSm90, Layout::CutlassSm100]
    {
        for (rows, cols) in [(1, 4), (3, 20), (33, 36), (300, 100), (0, 64), (64, 0)] {
            let shape = Shape::new(rows, cols);
            let dense: Vec<bf16> = (0..rows * cols).map(|i| bf16::from_f32((i * 7919 % 1009) as f32 - 500.5)).collect();
            let compressed = Compressed::by_magnitude(shape, &dense).unwrap();
            let well = match compressed.buffer(layout) {
                Ok(buffer) => Compressed::from_buffer(shape, layout, &buffer) == Ok(compressed),
                Err(error) => matches!(error, Error::Layout { .. }),
            };
            table.push((format!("{layout} {rows} x {cols} there and back"), well));
        }
    }
}

fn recipes(table: &mut Table) {
    table.push(("a recipe of no steps".into(), Recipe::maskllm(0).at(0).tau.is_finite()));
    for recipe in [Recipe::maskllm(2000), Recipe::maskllm(u64::MAX)] {
        let [last, beyond] = [u64::MAX - 1, u64::MAX].map(|step| recipe.at(step));
        let well = [last.tau, beyond.tau, beyond.kappa].iter().all(|x| x.is_finite() && *x > 0.0);
        table.push(("a recipe's last steps".into(), well && beyond.tau <= recipe.at(0).tau));
    }
}

/// A group keeps two, or is NaN as a whole.
fn is_mask(four: &[f32]) -> bool {
    four.iter().all(|m| m.is_nan()) || (four.iter().sum::<f32>() - 2.0).abs() < 1e-5
}

fn masks(table: &mut Table) {
    let shape = Shape::new(1, 8);
    let logits = [0.0_f32, 0.1, 0., 0., 0., 0., 10., -10., 0., 0., 0., 0.];
    let cases = [(f32::MAX, 1.0), (0.0, 1.0), (100., f32::MAX), (500., 0.05)];
    for ((kappa, tau), kind) in cases.into_iter().flat_map(|case| [Kind::Soft, Kind::Hard].map(|kind| (case, kind))) {
        let sampling = Sampling { seed: 1, draw: noise::draw(0, 0, 0), kappa, tau };
        let (weight, mut masked, mut gradient) = ([1.0_f32; 8], [9.0_f32; 8], [9.0_f32; 12]);
        let pass = mask::Forward::new(shape, kind, sampling, &logits).weight(&weight);
        let forward = Cpu.run(pass.masked(&mut masked));
        let pass = mask::Backward::new(shape, kind, sampling, &logits, &weight, &weight);
        let backward = Cpu.run(pass.logit_gradient(&mut gradient));
        let six =
            |six: &[f32]| six.iter().sum::<f32>().abs() <= 1e-3 * (1.0 + six.iter().map(|g| g.abs()).sum::<f32>());
        let groups = masked.chunks(4).all(is_mask);
        let sums = gradient.chunks(6).all(|g| six(g) || g.iter().any(|g| !g.is_finite()));
        table.push((
            format!("{kind:?} with kappa {kappa:e}, tau {tau:e}"),
            forward.is_ok() && backward.is_ok() && groups && sums,
        ));
    }
    let beyond = [(1e38, 1e-5), (100., 1e-38), (100., 1e-39)];
    let none = [(f32::NAN, 1.0), (f32::INFINITY, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, f32::NAN)];
    for (kappa, tau) in beyond.into_iter().chain(none) {
        let sampling = Sampling { seed: 1, draw: 0, kappa, tau };
        let mut codes = [0; 1];
        let run = Cpu.run(mask::Forward::<_, _, f32>::new(shape, Kind::Hard, sampling, &logits).codes(&mut codes));
        table.push((format!("kappa {kappa}, tau {tau} is refused"), matches!(run, Err(Error::Scalar { .. }))));
    }
}

fn logits(table: &mut Table) {
    for logit in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (shape, sampling) = (Shape::new(1, 4), Sampling { seed: 1, draw: 0, kappa: 100., tau: 1.0 });
        let (logits, weight) = ([0.0_f32, logit, 0., 0., 0., 0.], [1.0_f32; 4]);
        let (mut masked, mut codes) = ([9.0_f32; 4], [9u8; 1]);
        let pass = mask::Forward::new(shape, Kind::Soft, sampling, &logits).weight(&weight);
        Cpu.run(pass.masked(&mut masked).codes(&mut codes)).unwrap();
        // A pattern that can never be is one that is never chosen; without a finite largest there is no mask.
        let none = masked.iter().all(|m| m.is_nan()) && Pattern::from_code(codes[0]).is_none();
        let some = is_mask(&masked) && Pattern::from_code(codes[0]).is_some_and(|pattern| pattern.index() != 1);
        table.push((format!("one logit {logit}"), if logit == f32::NEG_INFINITY { some } else { none }));
    }
}

fn products(table: &mut Table) {
    for (tokens, rows, cols) in [(0, 8, 8), (3, 0, 8), (3, 8, 0), (0, 0, 0), (1, 1, 4), (0, 512, 512)] {
        let well = || -> Result<bool> {
            let shape = Shape::new(rows, cols);
            let sampling = Sampling { seed: 1, draw: 0, kappa: 100., tau: 1.0 };
            let (logits, weight) = (vec![0.0_f32; shape.logits()], vec![1.0_f32; shape.weights()]);
            let (x, dy) = (vec![1.0_f32; tokens * cols], vec![1.0_f32; tokens * rows]);
            let (mut y, mut dx) = (vec![7.0_f32; tokens * rows], vec![7.0_f32; tokens * cols]);
            let mut dlogits = vec![7.0_f32; shape.logits()];
            let layer = Layer::sampled(shape, Kind::Soft, sampling, &logits, &weight);
            let plan = layer.plan(&Cpu, tokens, Keep::Nothing)?;
            let mut scratch = Cpu.scratch(&plan)?;
            Cpu.run(plan.forward(&layer, &x, &mut y, &mut scratch))?;
            let pass = plan.backward(&layer, &dy, &mut scratch).input_gradient(&mut dx);
            Cpu.run(pass.logit_gradient(&x, &mut dlogits))?;
            // Each weight's mask adds up to two a group, so that Y is half of K; and nothing comes of no tokens.
            let y = y.iter().all(|y| (y - cols as f32 / 2.0).abs() < 1e-4);
            let dx = rows > 0 || dx.iter().all(|dx| *dx == 0.0);
            let dlogits = dlogits.iter().all(|d| if tokens == 0 { *d == 0.0 } else { d.abs() < 1e-2 });
            Ok(y && dx && dlogits)
        };
        table.push((format!("a product of {tokens} tokens, {rows} x {cols}"), well() == Ok(true)));
    }
}

/// The pattern of a group by scores: of weights and scales, or as they are.
fn chosen(weight: Option<&[f32; 4]>, scores: &[f32; 4]) -> Result<u8> {
    let mut patterns = [9; 1];
    let pass = match weight {
        Some(weight) => ByScore::scaled(Shape::new(1, 4), weight, scores),
        None => ByScore::given(Shape::new(1, 4), scores),
    };
    Cpu.run(pass.patterns(&mut patterns))?;
    Ok(patterns[0])
}

fn scores(table: &mut Table) {
    let mut statistics = vec![Statistics { groups: 9, ..Default::default() }; Statistics::SLOTS];
    let none = Cpu.run(ByScore::<_, f32>::magnitude(Shape::new(3, 0), &[]).statistics(&mut statistics));
    table.push(("no columns".into(), none.is_ok() && statistics[0] == Statistics::default()));
    let same = chosen(None, &[f32::NEG_INFINITY; 4]);
    table.push(("scores that are all -inf".into(), same == Ok(0)));
    let weight = [f32::INFINITY, 1., 2., 3.];
    let wild = chosen(Some(&weight), &[0., 1., 1., 1.]);
    table.push(("an infinite weight in an empty column".into(), wild == Ok(Pattern::POISON)));
    let underflow = chosen(Some(&[1e-20, 2e-20, 3e-20, 4e-20]), &[1e-30; 4]);
    table.push(("products below the smallest number are equal".into(), underflow == Ok(0)));
    let zeros = chosen(Some(&weight), &[0.0; 4]);
    table.push(("norms that are all 0".into(), matches!(zeros, Err(Error::NoInput { cols: 4, .. }))));
    let rows = Compressed::<bf16>::by_magnitude(Shape::new(usize::MAX, 16), &[]);
    table.push(("more rows than there are numbers".into(), matches!(rows, Err(Error::Overflow { .. }))));
}

fn activations(table: &mut Table) {
    let (mut sums, mut norms) = ([0.0; 4], [0.0; 4]);
    let large = vec![f16::MAX; 128 * 4];
    Cpu.run(Squares::new(128, 4, &large, &mut sums).norms(&mut norms)).unwrap();
    let exact = 128.0 * 65_504.0_f64.powi(2);
    let well = sums.iter().all(|sum| (sum / exact - 1.0).abs() < 1e-5) && norms.iter().all(|norm| norm.is_finite());
    table.push(("squares of f16's largest".into(), well));
    let beyond = vec![bf16::from_f32(1e20); 8];
    Cpu.run(Squares::new(2, 4, &beyond, &mut [0.0; 4]).norms(&mut norms)).unwrap();
    let refused = chosen(Some(&[1.0; 4]), &norms);
    table.push(("squares beyond f32 are refused".into(), matches!(refused, Err(Error::Column { column: 0, .. }))));
    let mut hessian = Hessian::zeros(4).unwrap();
    Cpu.run(Hessian::new(2, 4, &beyond, 0, &mut hessian)).unwrap();
    let refused = twofour::select::check_hessian(4, &hessian);
    table.push(("a Hessian beyond f32 is refused".into(), matches!(refused, Err(Error::Scalar { .. }))));
}

#[cfg(feature = "sparsegpt")]
fn factors(table: &mut Table) {
    use twofour::select::Cholesky;
    let diagonal = |h: f32| (0..16).map(|i| if i % 5 == 0 { h } else { 0.0 }).collect::<Vec<_>>();
    let scales = |hessian: &[f32], damping| Cholesky::new(4, hessian, damping).map(|factor| factor.scale().to_vec());
    table.push(("the factor of nothing".into(), Cholesky::new(0, &[], 0.01).is_ok()));
    let zeros = scales(&[0.0; 16], 0.01);
    table.push(("the factor of zeros".into(), matches!(zeros, Err(Error::NoInput { cols: 4, .. }))));
    let alike = scales(&[1.0; 16], 0.0);
    table.push(("columns that are the same, undamped".into(), matches!(alike, Err(Error::NotPositiveDefinite { .. }))));
    let damped = scales(&[1.0; 16], 0.01);
    table.push(("the same, damped".into(), damped.is_ok_and(|s| s.iter().all(|s| *s > 0.0 && s.is_finite()))));
    for small in [1e-38_f32, 1e-44] {
        let well = scales(&diagonal(small), 0.01).is_ok_and(|scales| {
            let expected = (1.01 * f64::from(small)).sqrt();
            scales.iter().all(|s| (f64::from(*s) / expected - 1.0).abs() < 1e-5)
        });
        table.push((format!("a diagonal of {small:e}"), well));
    }
    let mut dead: Vec<f32> = diagonal(1.0).iter().map(|h| if *h == 0.0 { 0.5 } else { *h }).collect();
    dead[5] = 0.0;
    let refused = scales(&dead, 0.01);
    table.push(("a zero on the diagonal with neighbours".into(), matches!(refused, Err(Error::NotProducts { .. }))));
    (0..4).for_each(|j| (dead[4 + j], dead[4 * j + 1]) = (0.0, 0.0));
    let factor = Cholesky::new(4, &dead, 0.01).unwrap();
    let own = (0..4).all(|j| j == 1 || (factor.upper()[4 + j], factor.upper()[4 * j + 1]) == (0.0, 0.0));
    table.push(("an empty column".into(), factor.empty() == 1 && own && factor.upper()[5] == 1.0));
}

/// The bits of a Hessian, of sums, and of a sweep, on so many threads.
fn on_threads(count: usize) -> (Vec<u32>, Vec<u64>, Vec<u32>, Vec<u8>) {
    let shape = Shape::new(67, 260);
    let weight: Vec<f32> = (0..shape.weights()).map(|i| ((i * 7919 % 1009) as f32 - 500.) / 300.).collect();
    let x: Vec<f32> = (0..100 * 260_usize).map(|i| ((i * 104_729 % 997) as f32 - 498.) / 300.).collect();
    let run = || {
        let (mut hessian, mut sums) = (Hessian::zeros(260).unwrap(), vec![0.0; 260]);
        Cpu.run(Hessian::new(100, 260, &x, 0, &mut hessian)).unwrap();
        Cpu.run(Squares::new(100, 260, &x, &mut sums)).unwrap();
        let upper: Vec<f32> = (0..260 * 260).map(|i| if i % 261 == 0 { 1.0 } else { 1e-3 * hessian[i] }).collect();
        let (mut updated, mut codes) = (vec![0.0; weight.len()], vec![0; shape.packed_codes()]);
        Cpu.run(Sweep::new(shape, &weight, &upper, &vec![1.0; 260]).updated(&mut updated).codes(&mut codes)).unwrap();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        (bits(hessian), sums.into_iter().map(f64::to_bits).collect(), bits(updated), codes)
    };
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run)
}

fn threads(table: &mut Table) {
    let one = on_threads(1);
    for count in [2, 7] {
        table.push((format!("results on {count} threads are those on one"), on_threads(count) == one));
    }
}

fn nan_step() -> bool {
    let (shape, at) = (Shape::new(1, 64), Recipe::maskllm(10).at(0));
    // All the same, gradients would be no pattern's.
    let (weight, mut gradient) = (vec![1.0_f32; 64], (0..64).map(|i| i as f32).collect::<Vec<_>>());
    gradient[5] = f32::NAN;
    let mut logits = vec![0.0_f32; shape.logits()];
    let (mut m, mut v) = (vec![0.0; shape.logits()], vec![0.0; shape.logits()]);
    let by = Step::new(at.adamw, Moments::f32(&mut m, &mut v));
    Cpu.run(Fused::new(shape, Kind::Soft, at.sampling(1, 0), &mut logits, &weight, &gradient, by)).unwrap();
    let still = |range: std::ops::Range<usize>| logits[range].iter().all(|logit| *logit == 0.0);
    // Others move, unless one pattern has nearly all of its group.
    still(6..12) && !still(12..logits.len()) && logits.iter().all(|logit| logit.is_finite())
}
