//! The layer under a mask that does not move: its outputs and gradients against candle's own operations in `f64` and
//! against central differences, training, export, and constructors.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, IndexOp, Module, Result, Tensor, Var};
use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW, SGD, VarBuilder, VarMap};
use common::{distance, f64s, far, largest, normal, randn, terms, tolerance};
use proptest::prelude::*;
use twofour::compress::Compressed;
use twofour::learn::Recipe;
use twofour::{Shape, bf16};
use twofour_candle::{CompressedLinear, Engine, FrozenMaskLinear, FusedLinear, Learner, MaskedLinear};
use twofour_candle::{Moments, Sampler, ops};
use twofour_formats::masks::{Fewer, Mask};
use twofour_formats::{Error, Manifest, Weight};

/// A mask of patterns at random.
fn mask(seed: u64, shape: Shape) -> Mask {
    let draws = normal(seed, shape.groups());
    let kept = draws.iter().map(|draw| common::KEPT[(draw.abs() * 1e4) as usize % 6]);
    let flags: Vec<bool> = kept.flat_map(|kept| (0..4).map(move |j| kept.contains(&j))).collect();
    Mask::from_flags(shape, &flags, Fewer::Refuse).unwrap()
}

/// The mask as numbers, `f64 [N, K]`.
fn flags(mask: &Mask) -> Tensor {
    let values: Vec<f64> = mask.flags::<u8>().unwrap().into_iter().map(f64::from).collect();
    Tensor::from_vec(values, (mask.shape().rows, mask.shape().cols), &Device::Cpu).unwrap()
}

/// A layer whose weight and bias train, with its variables.
fn layer(seed: u64, mask: Mask, dtype: DType, bias: bool) -> (FrozenMaskLinear, Var, Option<Var>) {
    let Shape { rows, cols } = mask.shape();
    let var = |seed: u64, scale: f32, dims: &[usize]| {
        Var::from_tensor(&randn(seed, scale, dims).to_dtype(dtype).unwrap()).unwrap()
    };
    let (weight, bias) = (var(seed ^ 1, 0.5, &[rows, cols]), bias.then(|| var(seed ^ 2, 1.0, &[rows])));
    let linear = Linear::new(weight.as_tensor().clone(), bias.as_ref().map(|bias| bias.as_tensor().clone()));
    (FrozenMaskLinear::new(&linear, mask, &Engine::default()).unwrap(), weight, bias)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Output, and gradients of input, weight and bias, are those of candle's `Linear` over `W∘M` in `f64`.
    #[test]
    fn as_candle_computes(
        seed: u64,
        (rows, groups) in (1..24_usize, 1..12_usize),
        leading in prop_oneof![
            Just(vec![]), (0..40_usize).prop_map(|t| vec![t]), Just(vec![3, 5]), Just(vec![2, 0]), Just(vec![2, 1, 7])
        ],
        dtype in prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)],
        bias: bool,
        strided: bool,
    ) {
        let shape = Shape::new(rows, 4 * groups);
        let mask = mask(seed, shape);
        let kept = flags(&mask);
        let (layer, weight, bias) = layer(seed, mask, dtype, bias);
        let dims = |last: usize| [&leading[..], &[last]].concat();
        let x = Var::from_tensor(&randn(seed ^ 3, 1.0, &dims(shape.cols)).to_dtype(dtype).unwrap()).unwrap();
        let dy = randn(seed ^ 4, 1.0, &dims(rows)).to_dtype(dtype).unwrap();
        let last = leading.len();
        // The same numbers, lying otherwise.
        let otherwise = |x: &Tensor| x.transpose(0, last)?.contiguous()?.transpose(0, last);
        let given = if strided { otherwise(&x).unwrap() } else { x.as_tensor().clone() };
        let y = layer.forward(&given).unwrap();
        let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();

        let wide = |var: &Var| Var::from_tensor(&f64s(var)).unwrap();
        let (own_x, own_weight, own_bias) = (wide(&x), wide(&weight), bias.as_ref().map(wide));
        let linear = Linear::new((own_weight.as_tensor() * &kept).unwrap(), own_bias.as_ref().map(|b| b.as_tensor().clone()));
        let tokens: usize = leading.iter().product();
        let flat = own_x.reshape((tokens, shape.cols)).unwrap();
        let own = linear.forward(&flat).unwrap();
        let flat_dy = f64s(&dy).reshape((tokens, rows)).unwrap();
        let own_grads = (&own * &flat_dy).unwrap().sum_all().unwrap().backward().unwrap();

        prop_assert_eq!(y.dims(), dims(rows));
        let biggest = bias.as_ref().map_or(0.0, |bias| largest(bias));
        let masked = (f64s(&weight) * &kept).unwrap();
        let of_y = terms(&x, &masked.t().unwrap()) + biggest;
        prop_assert!(far(&y, &own, of_y) <= tolerance(dtype), "y: {:e}", far(&y, &own, of_y));
        let pairs = [("dx", &x, &own_x, terms(&dy, &masked)), ("dw", &weight, &own_weight, if tokens == 0 { 0.0 } else { terms(&flat_dy.t().unwrap(), &flat) })];
        for (what, var, own, scale) in pairs {
            let (got, expected) = (grads.get(var).unwrap(), own_grads.get(own).unwrap());
            prop_assert_eq!((got.dims(), got.dtype()), (var.dims(), dtype));
            let far = far(got, expected, scale);
            prop_assert!(far <= tolerance(dtype), "{what}: {far:e} of {:e}", tolerance(dtype));
        }
        // Exactly nothing where the mask drops.
        let dropped = (f64s(grads.get(&weight).unwrap()) * (1.0 - kept).unwrap()).unwrap();
        prop_assert_eq!(largest(&dropped), 0.0);
        // candle has none of a bias that was added to nothing.
        if let (Some(bias), Some(own), 1..) = (&bias, &own_bias, tokens) {
            let far = far(grads.get(bias).unwrap(), own_grads.get(own).unwrap(), largest(&dy) * tokens as f64);
            prop_assert!(far <= 4.0 * tolerance(dtype), "db: {far:e}");
        }
    }
}

/// Central differences in `f64` of a loss that plain loops compute.
#[test]
fn as_central_differences_say() {
    let (shape, tokens) = (Shape::new(3, 8), 5);
    let mask = mask(7, shape);
    let kept = mask.flags::<u8>().unwrap();
    let (layer, weight, _) = layer(7, mask, DType::F32, false);
    let x = Var::from_tensor(&randn(8, 1.0, &[tokens, 8])).unwrap();
    let loss = |x: &[f64], w: &[f64]| -> f64 {
        let y = |t: usize, n: usize| -> f64 {
            (0..8).map(|k| x[8 * t + k] * w[8 * n + k] * f64::from(kept[8 * n + k])).sum()
        };
        (0..tokens).flat_map(|t| (0..3).map(move |n| (t, n))).map(|(t, n)| y(t, n).sin() + y(t, n).powi(2)).sum()
    };
    let y = layer.forward(&x).unwrap();
    let ours = (y.sin().unwrap() + y.sqr().unwrap()).unwrap().sum_all().unwrap();
    let grads = ours.backward().unwrap();
    let flat = |t: &Tensor| f64s(t).flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let point = [flat(&x), flat(&weight)];
    for (which, var) in [&x, &weight].into_iter().enumerate() {
        for (at, got) in flat(grads.get(var).unwrap()).into_iter().enumerate() {
            let [up, down] = [1e-5, -1e-5].map(|by| {
                let mut point = point.clone();
                point[which][at] += by;
                loss(&point[0], &point[1])
            });
            let expected = (up - down) / 2e-5;
            assert!((got - expected).abs() < 2e-5 * (1.0 + expected.abs()), "{which} {at}: {got} {expected}");
        }
    }
}

/// Dropped weights do not move, and whatever they are they change nothing: neither outputs, nor gradients, nor files.
#[test]
fn what_is_dropped_has_no_part_in_anything() -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mask = mask(3, Shape::new(6, 20));
        let kept = mask.flags::<bool>().unwrap();
        let run = |junk: f32| -> Result<(Vec<f32>, Vec<Tensor>)> {
            let values =
                randn(4, 0.5, &[6, 20]).to_dtype(dtype)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            let values: Vec<f32> = values.iter().zip(&kept).map(|(w, kept)| if *kept { *w } else { junk }).collect();
            let weight = Var::from_tensor(&Tensor::from_vec(values, (6, 20), &Device::Cpu)?.to_dtype(dtype)?)?;
            let linear = Linear::new(weight.as_tensor().clone(), None);
            let layer = FrozenMaskLinear::new(&linear, mask.clone(), &Engine::default())?;
            let params = ParamsAdamW { lr: 0.05, weight_decay: 0.0, ..Default::default() };
            // (In `f16` the ε of candle's AdamW is 0, so that it makes NaN of what has no gradient.)
            let mut adamw = AdamW::new(vec![weight.clone()], params)?;
            let mut sgd = SGD::new(vec![weight.clone()], 0.05)?;
            let x = Var::from_tensor(&randn(5, 1.0, &[2, 9, 20]).to_dtype(dtype)?)?;
            for _ in 0..5 {
                let loss = layer.forward(&x)?.sqr()?.mean_all()?;
                if dtype == DType::F16 { sgd.backward_step(&loss)? } else { adamw.backward_step(&loss)? }
            }
            let y = layer.forward(&x)?;
            let dx = y.sqr()?.sum_all()?.backward()?.get(&x).unwrap().clone();
            let linear = layer.to_linear()?;
            let again = linear.forward(&x)?;
            assert!(far(&again, &y, terms(&x, &linear.weight().t()?)) <= tolerance(dtype));
            let Weight::Bf16(file) = layer.compressed_as(DType::BF16)? else { unreachable!() };
            let file = Tensor::from_vec(file.decompress(), (6, 20), &Device::Cpu)?;
            assert_eq!(distance(&file, &linear.weight().to_dtype(DType::BF16)?), 0.0);
            if dtype != DType::F32 {
                let small = layer.to_compressed()?.forward(&x)?;
                assert!(far(&small, &y, terms(&x, &linear.weight().t()?)) <= tolerance(dtype));
            }
            let values = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            Ok((values, vec![y, dx, linear.weight().clone(), file]))
        };
        let (_, plain) = run(0.25)?;
        for junk in [0.25, 0.0, -32_768.0, f32::INFINITY, f32::NAN] {
            let (end, other) = run(junk)?;
            let same = |w: f32| w == junk || w.is_nan() && junk.is_nan();
            assert!(end.iter().zip(&kept).all(|(w, kept)| *kept || same(*w)), "{dtype:?} {junk} has moved");
            for (one, two) in plain.iter().zip(&other) {
                assert_eq!(far(one, two, 1.0), 0.0, "{dtype:?} {junk}");
            }
        }
    }
    Ok(())
}

/// A weight that is no variable is frozen: gradients go past it to what is before and beside it, and to nothing else.
#[test]
fn a_low_rank_delta_trains_beside_a_frozen_layer() -> Result<()> {
    let linear = Linear::new(randn(1, 0.3, &[8, 16]), Some(randn(2, 0.3, &[8])));
    let layer = FrozenMaskLinear::by_magnitude(&linear, &Engine::default())?;
    let (a, b) = (Var::from_tensor(&randn(3, 0.3, &[2, 16]))?, Var::from_tensor(&randn(4, 0.3, &[8, 2]))?);
    let before = Var::from_tensor(&randn(5, 1.0, &[7, 16]))?;
    let x = before.tanh()?;
    let y = (layer.forward(&x)? + x.matmul(&a.t()?)?.matmul(&b.t()?)?)?;
    let grads = y.sqr()?.sum_all()?.backward()?;
    assert!([&a, &b, &before].iter().all(|var| largest(grads.get(var).unwrap()) > 0.0));
    assert!(grads.get(layer.weight()).is_none() && grads.get(layer.bias().unwrap()).is_none());
    Ok(())
}

/// Masks by magnitude, of what is not zero, of codes; and what none can be made of.
#[test]
fn masks_of_a_weight() -> Result<()> {
    let engine = Engine::default();
    let linear = |values: [f32; 8]| Linear::new(Tensor::from_slice(&values, (1, 8), &Device::Cpu).unwrap(), None);
    let kept = |layer: Result<FrozenMaskLinear>| layer.map(|layer| layer.mask().flags::<u8>().unwrap());
    let weight = linear([1.0, -4.0, 2.0, 3.0, 0.0, 0.0, 0.0, 5.0]);
    assert_eq!(kept(FrozenMaskLinear::by_magnitude(&weight, &engine))?, [0, 1, 0, 1, 1, 0, 0, 1]);
    let pruned = linear([0.0, -4.0, 0.0, 3.0, 0.0, 0.0, 0.0, 5.0]);
    assert_eq!(kept(FrozenMaskLinear::from_sparse(&pruned, &engine))?, [0, 1, 0, 1, 0, 0, 1, 1]);
    assert_eq!(kept(FrozenMaskLinear::with_codes(&weight, vec![0xe4], &engine))?, [1, 1, 0, 0, 0, 0, 1, 1]);

    let says = |layer: Result<FrozenMaskLinear>, what: &str| {
        let message = layer.unwrap_err().to_string();
        assert!(message.contains(what), "`{message}` should say `{what}`");
    };
    says(FrozenMaskLinear::from_sparse(&weight, &engine), "group 0 of row 0");
    says(FrozenMaskLinear::with_codes(&weight, vec![0xe3], &engine), "group 0 of row 0");
    says(FrozenMaskLinear::with_codes(&weight, vec![0xe4; 2], &engine), "codes");
    says(FrozenMaskLinear::by_magnitude(&linear([f32::NAN; 8]), &engine), "group 0 of row 0");
    says(FrozenMaskLinear::new(&weight, mask(1, Shape::new(2, 4)), &engine), "[2, 4], and must be of one [1, 8]");
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::Cpu).unwrap();
    let of = |weight, bias| FrozenMaskLinear::new(&Linear::new(weight, bias), mask(1, Shape::new(1, 8)), &engine);
    says(of(zeros(&[1, 8], DType::F64), None), "the weight is f64, and must be f32, f16 or bf16");
    says(of(zeros(&[1, 8], DType::F16), Some(zeros(&[1], DType::F32))), "must be [1] f16");
    says(FrozenMaskLinear::by_magnitude(&Linear::new(zeros(&[1, 6], DType::F32), None), &engine), "multiple of 4");
    let codes = zeros(&[2], DType::U8);
    let refused = ops::frozen_weight(weight.weight(), &codes).unwrap_err().to_string();
    assert!(refused.contains("codes are [2] u8, and those of a weight [1, 8] must be [1] u8"), "{refused}");
    Ok(())
}

/// From a builder over variables: what it makes is trained and saved with it.
#[test]
fn layers_of_a_builder_of_variables() -> Result<()> {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let (sampler, engine) = (Sampler::new(1), Engine::default());
    let frozen = FrozenMaskLinear::load(8, 4, true, vb.pp("a"), mask(1, Shape::new(4, 8)), &engine)?;
    let masked = MaskedLinear::load(8, 4, false, vb.pp("b"), 0, &sampler)?;
    let learner = Learner::new(&sampler, Moments::F32);
    let fused = FusedLinear::load(8, 4, true, vb.pp("c"), 1, &learner)?;
    learner.begin(0, &Recipe::maskllm(100).at(0))?;
    let mut names: Vec<String> = vars.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    let wanted = ["a.bias", "a.weight", "b.logits", "b.weight", "c.bias", "c.logits", "c.weight"];
    assert_eq!(names, wanted);
    let x = randn(2, 1.0, &[3, 8]);
    let all = frozen.forward(&x)?.add(&masked.forward(&x)?)?.add(&fused.forward(&x)?)?;
    let grads = all.sqr()?.sum_all()?.backward()?;
    let of = |name: &str| grads.get(&vars.data().lock().unwrap()[name]).map(largest);
    for name in ["a.bias", "a.weight", "b.logits", "c.bias"] {
        assert!(of(name).unwrap() > 0.0, "{name}");
    }
    assert!(of("b.weight").is_none() && of("c.weight").is_none());
    // The layer's logits are the map's.
    vars.data().lock().unwrap()["b.logits"].set(&Tensor::ones((4, 2, 6), DType::F32, &Device::Cpu)?)?;
    assert_eq!(masked.logits().i((0, 0, 0))?.to_scalar::<f32>()?, 1.0);
    Ok(())
}

/// From a builder over a file: what is there, in its type; what is not, or does not fit, is said by its name.
#[test]
fn layers_of_a_file() -> Result<()> {
    let (shape, device, engine) = (Shape::new(4, 16), &Device::Cpu, Engine::default());
    let dense: Vec<bf16> = normal(3, shape.weights()).into_iter().map(bf16::from_f32).collect();
    let compressed = Compressed::by_magnitude(shape, &dense).unwrap();
    let mut manifest = Manifest::new();
    manifest.weight("up.weight", compressed.value_type(), shape).unwrap();
    let file = manifest.to_bytes::<Error>(|file| file.weight("up.weight", &compressed)).unwrap();
    let vb = VarBuilder::from_buffered_safetensors(file, DType::BF16, device)?;
    let by_file = CompressedLinear::load(16, 4, false, vb.pp("up"), &engine)?;

    let tensor = |values: Vec<bf16>| Tensor::from_vec(values, (4, 16), device).unwrap();
    let checkpoint = |weight: Tensor| [("up.weight".to_owned(), weight), ("up.bias".to_owned(), randn(1, 1.0, &[4]))];
    let of = |weight| VarBuilder::from_tensors(checkpoint(weight).into(), DType::BF16, device);
    let by_zeros = CompressedLinear::load(16, 4, false, of(tensor(compressed.decompress())).pp("up"), &engine)?;
    let x = randn(2, 1.0, &[5, 16]).to_dtype(DType::BF16)?;
    let frozen = FrozenMaskLinear::load(
        16,
        4,
        true,
        of(tensor(dense.clone())).pp("up"),
        Mask::new(shape, compressed.codes().to_vec()).unwrap(),
        &engine,
    )?;
    let y = by_file.forward(&x)?;
    assert_eq!(distance(&by_zeros.forward(&x)?, &y), 0.0);
    let with_bias = CompressedLinear::load(16, 4, true, of(tensor(compressed.decompress())).pp("up"), &engine)?;
    assert!(distance(&frozen.forward(&x)?, &with_bias.forward(&x)?) < 1.2e-2);
    assert!(distance(&with_bias.forward(&x)?, &y) > 0.05, "or there is no bias");

    let says = |message: String, what: &[&str]| {
        assert!(what.iter().all(|what| message.contains(what)), "`{message}` should say `{what:?}`");
    };
    let load = |[k, n]: [usize; 2], bias, vb: VarBuilder<'_>| {
        CompressedLinear::load(k, n, bias, vb, &engine).unwrap_err().to_string()
    };
    says(load([16, 4], false, of(tensor(dense.clone())).pp("up")), &["group 0 of row 0"]);
    says(load([8, 4], false, of(tensor(dense.clone())).pp("up")), &["up.weight", "[4, 8]", "[4, 16]"]);
    says(load([16, 8], false, vb.pp("up")), &["up.weight.values", "[8, 8]", "[4, 8]"]);
    says(load([16, 4], true, vb.pp("up")), &["up.bias"]);
    says(load([6, 4], false, vb.pp("up")), &["multiple of 4"]);
    says(load([16, 4], false, vb.pp("up").to_dtype(DType::F32)), &["f32", "to_dtype(DType::BF16)"]);
    let masked = |[k, n]: [usize; 2], vb: VarBuilder<'_>| MaskedLinear::load(k, n, false, vb, 0, &Sampler::new(1));
    says(masked([16, 4], vb.pp("down")).unwrap_err().to_string(), &["down.weight"]);
    says(masked([16, 2], of(tensor(dense.clone())).pp("up")).unwrap_err().to_string(), &["up.weight", "[2, 16]"]);

    // Logits of a run before; and none of another weight.
    let with_logits = |dims: &[usize]| {
        let mut all: std::collections::HashMap<_, _> = checkpoint(tensor(dense.clone())).into();
        all.insert("up.logits".to_owned(), randn(5, 1.0, dims));
        VarBuilder::from_tensors(all, DType::BF16, device)
    };
    let layer = masked([16, 4], with_logits(&[4, 4, 6]).pp("up"))?;
    assert_eq!((layer.logits().dtype(), distance(layer.logits(), &randn(5, 1.0, &[4, 4, 6]))), (DType::F32, 0.0));
    says(masked([16, 4], with_logits(&[4, 3, 6]).pp("up")).unwrap_err().to_string(), &["up.logits", "[4, 4, 6]"]);
    Ok(())
}

/// The example: much of what pruning cost is won back, and more of it by all kept weights than by deltas of rank 2.
#[test]
fn the_example_recovers_what_pruning_cost() {
    // Examples lie beside the folder of tests.
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let path = folder.join(format!("recover{}", std::env::consts::EXE_SUFFIX));
    let missing =
        "is not built: `cargo test` builds it, with `--test frozen` alone `cargo build --examples` comes first";
    assert!(path.exists(), "{} {missing}", path.display());
    let output = std::process::Command::new(path).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let losses = printed.lines().filter_map(|line| line.split_once(" loss ")).map(|(_, loss)| loss.parse().unwrap());
    let losses: Vec<f64> = losses.collect();
    let [dense, pruned, delta, trained] = losses[..] else { unreachable!("{printed}") };
    assert!(dense < 0.2 * pruned && delta < 0.8 * pruned && trained < 0.5 * delta && dense < trained, "{printed}");
    assert!(printed.ends_with("compressed: 3456 bytes instead of 6144\n"), "{printed}");
}
