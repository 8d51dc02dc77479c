//! Random tiny models of every architecture and format against plain loops in f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use common::{Tiny, gguf, oracle};
use std::collections::BTreeMap;
use std::path::Path;
use twofour_cli::model::{Kind, Model, Saved};
use twofour_formats::TensorType;

/// Longer than the tokens that attention takes at a time.
const TOKENS: usize = 150;

fn all() -> [Tiny; 6] {
    [Tiny::llama(), Tiny::llama3(), Tiny::linear(), Tiny::mistral(), Tiny::qwen2(), Tiny::qwen3()]
}

/// Logits of windows of tokens, by the model.
fn logits(model: &Model, windows: &[&[u32]]) -> Vec<Vec<f32>> {
    let tokens: Vec<u32> = windows.concat();
    let shape = (windows.len(), windows[0].len());
    let mut x = model.embed(&Tensor::from_vec(tokens, shape, model.device()).unwrap()).unwrap();
    for i in 0..model.blocks() {
        x = model.block(i).unwrap().run(&x).unwrap();
    }
    let head = model.head().unwrap();
    (0..windows.len()).flat_map(|i| head.logits(&x.get(i).unwrap()).unwrap().to_vec2::<f32>().unwrap()).collect()
}

#[track_caller]
fn check(tiny: &Tiny, path: &Path, weights: &BTreeMap<String, common::Weight>) {
    let model = Model::open(path, &Device::Cpu).unwrap();
    let (one, other) = (tiny.tokens(TOKENS, 1), tiny.tokens(TOKENS, 2));
    let got = logits(&model, &[&one, &other]);
    let want = [oracle::logits(tiny, weights, &one), oracle::logits(tiny, weights, &other)].concat();
    assert_eq!(got.len(), want.len());
    let most = want.iter().flatten().fold(0.0f64, |most, x| most.max(x.abs()));
    for (t, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.len(), want.len());
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(got) - want).abs();
            assert!(error < 2e-5 * most, "{}: token {t}, logit {i}: {got}, not {want}", tiny.kind);
        }
    }
}

#[test]
fn every_architecture_is_as_plain_loops_have_it() {
    for tiny in all() {
        let folder = tempfile::tempdir().unwrap();
        let weights = tiny.write(folder.path(), &tiny.weights(3), TensorType::F32, 1);
        check(&tiny, folder.path(), &weights);
    }
}

#[test]
fn tied_and_not_in_every_type_and_in_shards() {
    for (dtype, shards, tied) in [
        (TensorType::F16, 1, true),
        (TensorType::F16, 3, false),
        (TensorType::Bf16, 1, false),
        (TensorType::Bf16, 2, true),
        (TensorType::F32, 3, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Tiny { tied, ..Tiny::llama() };
        let weights = tiny.write(folder.path(), &tiny.weights(4), dtype, shards);
        check(&tiny, folder.path(), &weights);
    }
}

#[test]
fn gguf_files_of_every_architecture_and_several_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    for tiny in all() {
        // llama.cpp knows Mistral as a llama.
        let tiny = Tiny { kind: if tiny.kind == "mistral" { "llama" } else { tiny.kind }, ..tiny };
        let weights = gguf::save(&tiny, &path, &tiny.weights(5), GgmlDType::F32);
        check(&tiny, &path, &weights);
    }
    for dtype in [GgmlDType::F16, GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q4_0] {
        let tiny = Tiny { tied: dtype == GgmlDType::Q8_0, ..Tiny::llama() };
        let weights = gguf::save(&tiny, &path, &tiny.weights(6), dtype);
        check(&tiny, &path, &weights);
    }
}

#[test]
fn biases_of_a_llama_are_where_its_config_says() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { qkv_bias: true, ..Tiny::llama() };
    let mut weights = tiny.weights(7);
    for block in 0..tiny.blocks {
        for (part, width) in
            [("self_attn.o_proj", 64), ("mlp.gate_proj", 96), ("mlp.up_proj", 96), ("mlp.down_proj", 64)]
        {
            let values = (0..width).map(|i| (i as f32 * 0.37).sin()).collect();
            weights.insert(format!("model.layers.{block}.{part}.bias"), (vec![width], values));
        }
    }
    let weights = tiny.write(folder.path(), &weights, TensorType::F32, 1);
    let mut config = tiny.config();
    config["attention_bias"] = true.into();
    config["mlp_bias"] = true.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    check(&tiny, folder.path(), &weights);
}

#[test]
fn qwen_slides_in_the_blocks_that_its_config_names() {
    let (folder, tiny) = (tempfile::tempdir().unwrap(), Tiny::qwen2());
    tiny.write(folder.path(), &tiny.weights(8), TensorType::F32, 1);
    let mut config = tiny.config();
    for (key, value) in
        [("sliding_window", 9.into()), ("use_sliding_window", true.into()), ("max_window_layers", 1.into())]
    {
        config[key] = value;
    }
    let windows = |config: &serde_json::Value| {
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Model::open(folder.path(), &Device::Cpu).unwrap().config().windows.clone()
    };
    assert_eq!(windows(&config), [None, Some(9)]);
    config["layer_types"] = serde_json::json!(["sliding_attention", "full_attention"]);
    assert_eq!(windows(&config), [Some(9), None]);
    config["use_sliding_window"] = false.into();
    config["layer_types"] = serde_json::Value::Null;
    assert_eq!(windows(&config), [None, None]);
}

#[test]
fn inputs_of_linear_layers_are_what_they_read() {
    let (folder, tiny) = (tempfile::tempdir().unwrap(), Tiny::qwen3());
    tiny.write(folder.path(), &tiny.weights(9), TensorType::F32, 1);
    let model = Model::open(folder.path(), &Device::Cpu).unwrap();
    assert_eq!(model.config().kind, Kind::Qwen3);
    let names: Vec<String> = model.linears().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 14);
    let x = model.embed(&Tensor::new(vec![tiny.tokens(5, 1)], &Device::Cpu).unwrap()).unwrap();
    let mut block = model.block(0).unwrap();
    let (mut seen, mut o, mut down) = (Vec::new(), None, None);
    let before = block
        .forward(&x, &mut |names, input| {
            seen.extend(names.iter().map(|name| ((*name).to_owned(), input.dims().to_vec())));
            match names {
                [name] if name.ends_with("o_proj.weight") => o = Some(input.clone()),
                [name] if name.ends_with("down_proj.weight") => down = Some(input.clone()),
                _ => {}
            }
            Ok(())
        })
        .unwrap();
    let (hidden, heads, wide) = (vec![1, 5, 64], vec![1, 5, 128], vec![1, 5, 96]);
    let dims = [&hidden, &hidden, &hidden, &heads, &hidden, &hidden, &wide];
    let want: Vec<_> = names[..7].iter().cloned().zip(dims.map(Clone::clone)).collect();
    assert_eq!(seen, want);
    // The block's residual stream is what it read, and what o and down make of their inputs.
    let product = |input: &Tensor, i: usize| {
        let weight = block.linears()[i].weight();
        input.squeeze(0).unwrap().matmul(&weight.t().unwrap()).unwrap().unsqueeze(0).unwrap()
    };
    let sum = (x.clone() + product(&o.unwrap(), 3)).unwrap().add(&product(&down.unwrap(), 6)).unwrap();
    let error = (sum - &before).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(error < 1e-5, "{error}");
    // A weight that is put in another's place is what is multiplied by.
    let zeros = Tensor::zeros((64, 96), candle_core::DType::BF16, &Device::Cpu).unwrap();
    block.set(&names[6], &zeros).unwrap();
    assert!(block.set(&names[6], &zeros.t().unwrap()).is_err());
    assert!(block.set(&names[7], &zeros).is_err());
    let after = block.run(&x).unwrap();
    assert_ne!(
        after.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        before.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    );
}

#[test]
fn what_is_saved_is_the_model_with_what_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("tiny.gguf"), folder.path().join("out"));
    for tiny in [Tiny::llama3(), Tiny::linear(), Tiny::qwen2(), Tiny::qwen3()] {
        // Llama 3's own numbers, which a GGUF file does not hold.
        let mut tiny = tiny;
        if tiny.scaling.get("rope_type").is_some() {
            tiny.scaling["original_max_position_embeddings"] = 8192.into();
            tiny.theta = 500_000.0;
        }
        let mut weights = gguf::save(&tiny, &file, &tiny.weights(10), GgmlDType::Q8_0);
        let replaced = "model.layers.1.self_attn.k_proj.weight";
        weights.get_mut(replaced).unwrap().1.iter_mut().for_each(|x| *x *= 2.0);
        let model = Model::open(&file, &Device::Cpu).unwrap();
        let twice = |name: &str, weight: Tensor| Ok(if name == replaced { (weight * 2.0)? } else { weight });
        model.save(&out, Saved::F32, &mut { twice }).unwrap();
        check(&tiny, &out, &weights);
        let saved = Model::open(&out, &Device::Cpu).unwrap();
        assert!(saved.save(&out, Saved::F32, &mut { twice }).is_err(), "onto itself");
        let text = "the 1212 <|end|> end";
        let ids = |model: &Model| model.tokenizer().unwrap().encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(ids(&saved), ids(&model));
        // A folder's config and tokenizer go along, and a type is half the size.
        let half = folder.path().join("half");
        saved.save(&half, Saved::Bf16, &mut |_, weight| Ok(weight)).unwrap();
        let rounded = weights.iter().map(|(name, (shape, values))| {
            let values = values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
            (name.clone(), (shape.clone(), values))
        });
        check(&tiny, &half, &rounded.collect());
        assert_eq!(ids(&Model::open(&half, &Device::Cpu).unwrap()), ids(&model));
    }
}

#[test]
fn a_tokenizer_comes_out_of_a_gguf_file() {
    let (folder, tiny) = (tempfile::tempdir().unwrap(), Tiny::llama());
    let path = folder.path().join("tiny.gguf");
    gguf::save(&tiny, &path, &tiny.weights(11), GgmlDType::F32);
    let tokenizer = Model::open(&path, &Device::Cpu).unwrap().tokenizer().unwrap();
    let encoded = tokenizer.encode("the 12\n<|end|>the", true).unwrap();
    // No space is put before, digits stand alone although they could merge, and special tokens are whole.
    assert_eq!(encoded.get_tokens(), ["the", "Ġ", "1", "2", "Ċ", "<|end|>", "the"]);
    assert_eq!(encoded.get_ids()[0], 257);
    assert_eq!(tokenizer.decode(encoded.get_ids(), false).unwrap(), "the 12\n<|end|>the");
}
