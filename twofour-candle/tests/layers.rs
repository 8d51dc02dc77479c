//! The layers: modes, shapes, export, compression, training, and errors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW};
use common::{distance, f64s, far, gumbels, largest, mask, randn, terms};
use proptest::prelude::*;
use twofour::compress::Compressed;
use twofour::learn::{Initial, Recipe, StepSettings};
use twofour::mask::{Kind, Sampling};
use twofour::{Cpu, Executor, Shape, Shard, bf16, noise};
use twofour_candle::{CompressedLinear, Engine, MaskedLinear, Mode, Sampler, Settings, ops};
use twofour_formats::{Error, Manifest, Reader, Weight};

/// A layer with normal weights and logits, of these types.
fn layer(seed: u64, shape: Shape, [weights, logits]: [DType; 2], bias: bool, sampler: &Sampler) -> MaskedLinear {
    let weight = randn(seed, 0.5, &[shape.rows, shape.cols]).to_dtype(weights).unwrap();
    let bias = bias.then(|| randn(seed ^ 8, 1.0, &[shape.rows]).to_dtype(weights).unwrap());
    let scores = randn(seed ^ 16, 0.3, &[shape.rows, shape.cols / 4, 6]).to_dtype(logits).unwrap();
    MaskedLinear::new(&weight, bias.as_ref(), Var::from_tensor(&scores).unwrap(), 3, sampler).unwrap()
}

/// The terms of which an output is the sum: what its rounding goes by.
fn scale(layer: &MaskedLinear, x: &Tensor) -> f64 {
    terms(x, &layer.weight().t().unwrap()) + layer.bias().map_or(0.0, largest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Every mode is the product by what it says, for any leading dimensions, strides and types.
    #[test]
    fn every_mode_is_what_it_says(
        seed: u64,
        (rows, groups) in (1..20_usize, 1..10_usize),
        (a, b) in (1..5_usize, 1..6_usize),
        mode in prop_oneof![Just(Mode::Soft), Just(Mode::Hard), Just(Mode::Argmax), Just(Mode::Dense)],
        types in prop_oneof![
            Just([DType::F32, DType::F32]), Just([DType::BF16, DType::BF16]),
            Just([DType::F16, DType::F32]), Just([DType::F32, DType::BF16]),
        ],
        bias: bool,
        strided: bool,
    ) {
        let sampler = Sampler::new(seed);
        let shape = Shape::new(rows, 4 * groups);
        let layer = layer(seed, shape, types, bias, &sampler);
        sampler.set(Settings { mode, step: 5, micro_batch: 2, kappa: 4.0, tau: 0.7, regulariser: 0.1 }).unwrap();
        let x = randn(seed ^ 4, 1.0, &[a, b, shape.cols]).to_dtype(types[0]).unwrap();
        // The same numbers, lying otherwise.
        let given = if strided { x.transpose(0, 2).unwrap().contiguous().unwrap().transpose(0, 2).unwrap() } else { x.clone() };
        let y = layer.forward(&given).unwrap();
        prop_assert_eq!(y.dims(), [a, b, rows]);

        let sampling = Sampling { seed, draw: noise::draw(3, 5, 2), kappa: 4.0, tau: 0.7 };
        let noise = gumbels(shape, Shard::whole(shape.cols as u64), sampling);
        let of = |kind| mask(&f64s(layer.logits()), &noise, kind, sampling).unwrap();
        let weight = f64s(layer.weight());
        let weight = match mode {
            Mode::Soft => (weight * of(Kind::Soft)).unwrap(),
            Mode::Hard => (weight * of(Kind::Hard)).unwrap(),
            Mode::Argmax => (weight * of(Kind::Argmax)).unwrap(),
            Mode::Dense => weight,
        };
        let expected = Linear::new(weight, layer.bias().map(f64s)).forward(&f64s(&x)).unwrap();
        let allowed = if types[0] == DType::F32 { 2e-6 } else { 1.2e-2 };
        let far = far(&y, &expected, scale(&layer, &x));
        prop_assert!(far < allowed, "{far:e}");
    }

    /// Evaluation, the dense layer, the compressed layer and a file of it are the same layer.
    #[test]
    fn export_is_what_evaluation_computes(
        seed: u64,
        (rows, groups) in (1..40_usize, 1..20_usize),
        tokens in prop_oneof![Just(1_usize), 2..30_usize, Just(70)],
        dtype in prop_oneof![Just(DType::BF16), Just(DType::F16)],
        bias: bool,
    ) {
        let sampler = Sampler::new(seed);
        let shape = Shape::new(rows, 4 * groups);
        let layer = layer(seed, shape, [dtype, DType::F32], bias, &sampler);
        sampler.update(|now| now.mode = Mode::Argmax).unwrap();
        let x = randn(seed ^ 4, 1.0, &[tokens, shape.cols]).to_dtype(dtype).unwrap();
        let y = layer.forward(&x).unwrap();

        // Products differ in their order of summation, and the compressed one rounds once with its bias.
        let (allowed, scale) = (if dtype == DType::BF16 { 1.2e-2 } else { 2e-3 }, scale(&layer, &x));
        let dense = layer.to_linear().unwrap();
        let of_dense = far(&y, &dense.forward(&x).unwrap(), scale);
        prop_assert!(of_dense < allowed, "{of_dense:e}");
        let compressed = layer.to_compressed().unwrap();
        let small = compressed.forward(&x).unwrap();
        prop_assert!(far(&small, &y, scale) < allowed, "{:e}", far(&small, &y, scale));
        prop_assert_eq!(small.dims(), y.dims());

        // The weight itself to the bit, through a file.
        let weight = layer.compressed().unwrap();
        let mut manifest = Manifest::new();
        manifest.weight("w", weight.value_type(), shape).unwrap();
        let bytes = manifest.to_bytes::<Error>(|file| file.any_weight("w", &weight)).unwrap();
        let read = Reader::from_bytes(&bytes).unwrap().weight("w").unwrap();
        prop_assert_eq!(read.codes(), layer.codes().unwrap());
        let flat = dense.weight().to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let decompressed = match &read {
            Weight::Bf16(w) => w.decompress().into_iter().map(f32::from).collect::<Vec<_>>(),
            Weight::F16(w) => w.decompress().into_iter().map(f32::from).collect(),
            _ => unreachable!(),
        };
        prop_assert!(flat.iter().zip(&decompressed).all(|(a, b)| a == b));
        let again = CompressedLinear::new(&read, layer.bias(), &Device::Cpu, &Engine::default()).unwrap();
        prop_assert_eq!(distance(&again.forward(&x).unwrap(), &small), 0.0);
    }
}

/// Another step, micro-batch, layer or seed draws other masks, whichever of its bits is another; the same ones draw the
/// same.
#[test]
fn draws_differ() -> Result<()> {
    let draw = |[seed, step, micro_batch, number]: [u64; 4]| -> Result<Tensor> {
        let sampler = Sampler::new(seed);
        let (step, micro_batch) = (step as u32, micro_batch as u16);
        sampler.update(|now| (now.step, now.micro_batch, now.mode) = (step, micro_batch, Mode::Hard))?;
        let linear = Linear::new(randn(1, 1.0, &[32, 64]), None);
        MaskedLinear::from_linear(&linear, number as u32, &sampler)?.forward(&randn(2, 1.0, &[3, 64]))
    };
    // Layers 4, 260 and 65,540 among them: twenty bits of layer leave 28 of step.
    let first = [1, 2, 3, 4];
    let others = [(0, 64), (1, 28), (2, 16), (3, 20)].into_iter().flat_map(|(which, bits)| {
        (0..bits).map(move |bit| {
            let mut other = first;
            other[which] ^= 1 << bit;
            other
        })
    });
    let mut drawn = vec![draw(first)?];
    assert_eq!(distance(&draw(first)?, &drawn[0]), 0.0);
    for origin in others.chain([[4, 3, 2, 1], [2, 1, 4, 3], [3, 4, 1, 2]]) {
        let masked = draw(origin)?;
        assert!(drawn.iter().all(|other| distance(&masked, other) > 0.1), "{origin:?}");
        drawn.push(masked);
    }
    Ok(())
}

/// A step that begins is the sampler's whole moment but for the mode: micro-batches begin with 0.
#[test]
fn begin_resets_the_micro_batch() -> Result<()> {
    let sampler = Sampler::new(1);
    sampler.update(|now| (now.micro_batch, now.mode) = (7, Mode::Hard))?;
    let at = Recipe::maskllm(100).at(30);
    sampler.begin(30, &at)?;
    let (StepSettings { kappa, tau, regulariser, .. }, mode) = (at, Mode::Hard);
    assert_eq!(sampler.settings(), Settings { mode, step: 30, micro_batch: 0, kappa, tau, regulariser });
    Ok(())
}

/// Slices of a layer have the masks of the whole.
#[test]
fn shards_are_slices() -> Result<()> {
    let sampler = Sampler::new(6);
    // The whole and its slices are two weights, and of one number: of two samplers.
    let of_whole = Sampler::new(6);
    let whole = layer(1, Shape::new(12, 32), [DType::F32; 2], false, &of_whole);
    let x = randn(2, 1.0, &[5, 32]);
    for mode in [Mode::Soft, Mode::Hard, Mode::Argmax] {
        for sampler in [&sampler, &of_whole] {
            sampler.update(|now| (now.mode, now.kappa, now.tau) = (mode, 2.0, 0.5))?;
        }
        let part = |row: usize, rows: usize, col: usize, cols: usize| -> Result<Tensor> {
            let weight = whole.weight().narrow(0, row, rows)?.narrow(1, col, cols)?;
            let logits = whole.logits().narrow(0, row, rows)?.narrow(1, col / 4, cols / 4)?.contiguous()?;
            let shard = Shard { row_offset: row as u64, col_offset: col as u64, global_cols: 32 };
            let logits = Var::from_tensor(&logits)?;
            MaskedLinear::new(&weight, None, logits, 3, &sampler)?.with_shard(shard)?.forward(&x.narrow(1, col, cols)?)
        };
        let by_rows = Tensor::cat(&[part(0, 5, 0, 32)?, part(5, 7, 0, 32)?], 1)?;
        let by_cols = (part(0, 12, 0, 12)? + part(0, 12, 12, 20)?)?;
        let y = whole.forward(&x)?;
        assert!(distance(&by_rows, &y) < 1e-6 && distance(&by_cols, &y) < 1e-5, "{mode:?}");
    }
    Ok(())
}

/// Two layers learn masks with one of candle's optimisers: the loss of evaluation falls below that of magnitude masks.
#[test]
fn a_model_learns() -> Result<()> {
    let device = &Device::Cpu;
    let [first, second] = [(1, [32, 16]), (2, [8, 32])].map(|(seed, dims)| Linear::new(randn(seed, 0.4, &dims), None));
    // Inputs of very different sizes, which magnitude does not see.
    let scales = Tensor::from_iter((0..16).map(|i| if i % 4 < 2 { 0.05_f32 } else { 2.0 }), device)?;
    let x = randn(3, 1.0, &[256, 16]).broadcast_mul(&scales)?;
    let dense = second.forward(&first.forward(&x)?.relu()?)?;
    let sampler = Sampler::new(9);
    let layers = [MaskedLinear::from_linear(&first, 0, &sampler)?, MaskedLinear::from_linear(&second, 1, &sampler)?];
    let loss =
        || -> Result<Tensor> { (layers[1].forward(&layers[0].forward(&x)?.relu()?)? - &dense)?.sqr()?.mean_all() };
    let evaluate = || -> Result<f32> {
        let before = sampler.settings();
        sampler.update(|now| now.mode = Mode::Argmax)?;
        let value = loss()?.to_scalar();
        sampler.set(before)?;
        value
    };
    let by_magnitude = {
        let pruned = |linear: &Linear| -> Result<Linear> {
            let shape = Shape::new(linear.weight().dim(0)?, linear.weight().dim(1)?);
            let weight = linear.weight().to_dtype(DType::BF16)?.flatten_all()?.to_vec1::<bf16>()?;
            let kept = Compressed::by_magnitude(shape, &weight).unwrap().decompress();
            Ok(Linear::new(Tensor::from_vec(kept, (shape.rows, shape.cols), device)?.to_dtype(DType::F32)?, None))
        };
        (pruned(&second)?.forward(&pruned(&first)?.forward(&x)?.relu()?)? - &dense)?
            .sqr()?
            .mean_all()?
            .to_scalar::<f32>()?
    };
    let before = evaluate()?;
    let vars = layers.iter().map(|layer| layer.logits().clone()).collect();
    let mut optimiser = AdamW::new(vars, ParamsAdamW { lr: 0.02, weight_decay: 0.0, ..Default::default() })?;
    for step in 0..150 {
        sampler.update(|now| (now.step, now.kappa, now.tau) = (step, 10.0, 2.0 - step as f32 / 100.0))?;
        optimiser.backward_step(&loss()?)?;
    }
    let after = evaluate()?;
    println!("loss {before} before, {after} after, {by_magnitude} by magnitude");
    assert!(after < 0.3 * before && after < 0.7 * by_magnitude, "{before} {after} {by_magnitude}");
    Ok(())
}

/// Logits to begin with are those of `learn`, and the prior's mask is the one that they choose.
#[test]
fn initial_logits() -> Result<()> {
    let sampler = Sampler::new(31);
    for logits in [DType::F32, DType::BF16] {
        let layer = layer(1, Shape::new(16, 64), [DType::BF16, logits], false, &sampler);
        let weight = layer.weight().flatten_all()?.to_vec1::<bf16>()?;
        let codes = Compressed::by_magnitude(layer.shape(), &weight).unwrap().into_parts().1;
        layer.initialise(0.01, Some((&codes, 8.0)))?;
        assert_eq!(layer.codes()?, codes);
        let values = layer.logits().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let expected = {
            let mut expected = vec![0.0_f32; values.len()];
            let seed = 31 ^ noise::draw(3, 0, 0);
            Cpu.run(Initial::new(layer.shape(), seed, 0.01, &mut expected).prior(&codes, 8.0)).unwrap();
            expected
        };
        let close = |a: &f32, b: &f32| if logits == DType::F32 { a == b } else { (a - b).abs() <= b.abs() / 128.0 };
        assert!(values.iter().zip(&expected).all(|(a, b)| close(a, b)));
        assert!(layer.initialise(f64::NAN, None).is_err() && layer.initialise(0.01, Some((&codes[1..], 1.0))).is_err());
    }
    Ok(())
}

/// What does not fit is an error with a message that says what to do, never a panic.
#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let device = &Device::Cpu;
    let sampler = Sampler::new(1);
    let says = |result: Result<Tensor>, what: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(what), "`{message}` should say `{what}`");
    };
    let none = |_: MaskedLinear| Tensor::zeros((), DType::F32, device).unwrap();
    let linear =
        |rows: usize, cols: usize, dtype| Linear::new(Tensor::zeros((rows, cols), dtype, device).unwrap(), None);
    let from = |linear: &Linear| MaskedLinear::from_linear(linear, 0, &sampler).map(none);
    says(from(&linear(2, 6, DType::F32)), "not a multiple of 4");
    says(from(&linear(2, 8, DType::F64)), "must be f32 or bf16, the weight f32, f16 or bf16");
    says(
        from(&Linear::new(Tensor::zeros((2, 8), DType::F32, device)?, Some(Tensor::zeros(3, DType::F32, device)?))),
        "[2] f32",
    );

    let layer = MaskedLinear::from_linear(&linear(2, 8, DType::F32), 0, &sampler)?;
    says(layer.forward(&Tensor::zeros((3, 4), DType::F32, device)?), "must be [.., 8]");
    says(layer.forward(&Tensor::zeros((3, 8), DType::BF16, device)?), "dtype mismatch");
    says(layer.forward(&Tensor::zeros((), DType::F32, device)?), "scalar");
    says(layer.compressed().map(|_| unreachable!()), "compressed_as(DType::BF16)");
    let logits = |dims: [usize; 3], dtype| Var::zeros(dims.to_vec(), dtype, device).unwrap();
    let of = |logits| MaskedLinear::new(layer.weight(), None, logits, 0, &sampler).map(none);
    says(of(logits([2, 1, 6], DType::F32)), "must be [2, 2, 6]");
    says(of(logits([2, 2, 6], DType::F16)), "logits must be f32 or bf16");
    let trained = Var::from_tensor(layer.weight())?;
    let masks = ops::Masks::new(Kind::Soft, Sampling { seed: 0, draw: 0, kappa: 1.0, tau: 1.0 });
    let x = Tensor::zeros((3, 8), DType::F32, device)?;
    says(ops::masked_linear(&x, &trained, layer.logits(), masks, &Engine::default()), "frozen");
    says(ops::codes(&Tensor::zeros((2, 2, 5), DType::F32, device)?, masks), "[N, K/4, 6]");

    for (what, change) in
        [("kappa", [f32::NAN, 1.0, 0.0]), ("tau", [1.0, 0.0, 0.0]), ("regulariser", [1.0, 1.0, f32::INFINITY])]
    {
        let before = sampler.settings();
        let [kappa, tau, lambda] = change;
        let refused = sampler.update(|now| (now.kappa, now.tau, now.regulariser) = (kappa, tau, lambda));
        assert!(refused.unwrap_err().to_string().contains(what) && sampler.settings() == before);
    }

    // A group without a choice: evaluation shows it, export names it.
    let mut scores = vec![0.0_f32; 24];
    scores[13] = f32::NAN;
    layer.logits().set(&Tensor::from_vec(scores, (2, 2, 6), device)?)?;
    says(layer.codes().map(|_| unreachable!()), "group 0 of row 1");
    sampler.update(|now| now.mode = Mode::Argmax)?;
    let y = layer.forward(&Tensor::ones((1, 8), DType::F32, device)?)?.to_vec2::<f32>()?;
    assert!(y[0][0] == 0.0 && y[0][1].is_nan());
    assert!(layer.clone().with_shard(Shard { row_offset: 0, col_offset: 2, global_cols: 16 }).is_err());
    Ok(())
}

/// Nothing, and the least there can be.
#[test]
fn small_and_empty() -> Result<()> {
    let sampler = Sampler::new(2);
    let layer = layer(1, Shape::new(3, 4), [DType::F32; 2], true, &sampler);
    assert_eq!(layer.forward(&Tensor::zeros((0, 4), DType::F32, &Device::Cpu)?)?.dims(), [0, 3]);
    assert_eq!(layer.forward(&Tensor::zeros((2, 0, 4), DType::F32, &Device::Cpu)?)?.dims(), [2, 0, 3]);
    for mode in [Mode::Soft, Mode::Hard, Mode::Argmax, Mode::Dense] {
        sampler.update(|now| now.mode = mode)?;
        assert_eq!(layer.forward(&randn(2, 1.0, &[4]))?.dims(), [3]);
    }
    let wide =
        MaskedLinear::from_linear(&Linear::new(Tensor::zeros((2, 0), DType::F32, &Device::Cpu)?, None), 0, &sampler)?;
    assert_eq!(
        wide.forward(&Tensor::zeros((5, 0), DType::F32, &Device::Cpu)?)?.to_vec2::<f32>()?,
        vec![vec![0.0; 2]; 5]
    );
    Ok(())
}
