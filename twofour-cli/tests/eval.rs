//! `twofour eval`: against perplexities by hand, under masks and compressed weights; and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Tiny, Weight, oracle, perplexity, printed, refused, write_tokens};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use twofour::Shape;
use twofour::compress::Compressed;
use twofour_formats::masks::{Form, Manifest, Mask};
use twofour_formats::{Model, TensorType};

/// A model in a folder, its weights, and tokens in a file.
struct Case {
    folder: TempDir,
    tiny: Tiny,
    weights: BTreeMap<String, Weight>,
    tokens: Vec<u32>,
}

impl Case {
    fn new(tiny: Tiny, shards: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let weights = tiny.write(&folder.path().join("model"), &tiny.weights(1), TensorType::F32, shards);
        let tokens = tiny.tokens(100, 2);
        write_tokens(&folder.path().join("tokens.u16"), &tokens);
        Self { folder, tiny, weights, tokens }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Arguments of `eval` of the model and tokens, and these.
    fn args(&self, more: &[&str]) -> Vec<String> {
        let (model, tokens) = (self.at("model"), self.at("tokens.u16"));
        let own = ["eval", "--model", &model, "--tokens", &tokens];
        own.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    fn prints(&self, more: &[&str]) -> String {
        let args = self.args(more);
        printed(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[track_caller]
    fn refuses(&self, more: &[&str], parts: &[&str]) {
        let args = self.args(more);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    }

    /// Random masks of these layers, and the weights under them.
    fn masked(&self, layers: &[&str]) -> (BTreeMap<String, Mask>, BTreeMap<String, Weight>) {
        let mut rng = StdRng::seed_from_u64(3);
        let (mut masks, mut weights) = (BTreeMap::new(), self.weights.clone());
        for name in layers {
            let (shape, values) = weights.get_mut(*name).unwrap();
            let shape = Shape::new(shape[0], shape[1]);
            let codes = [0x4u8, 0x8, 0xc, 0x9, 0xd, 0xe];
            let codes =
                (0..shape.groups() / 2).map(|_| codes.choose(&mut rng).unwrap() | codes.choose(&mut rng).unwrap() << 4);
            let mask = Mask::new(shape, codes.collect()).unwrap();
            values.iter_mut().zip(mask.flags::<bool>().unwrap()).filter(|(_, kept)| !kept).for_each(|(x, _)| *x = 0.0);
            masks.insert((*name).to_owned(), mask);
        }
        (masks, weights)
    }

    fn layers(&self) -> Vec<&str> {
        self.weights.keys().filter(|name| name.contains("_proj.weight")).map(String::as_str).collect()
    }
}

fn save_masks(path: &Path, form: Form, masks: &BTreeMap<String, Mask>) {
    let mut manifest = Manifest::new(form);
    for (name, mask) in masks {
        manifest.layer(name, mask.shape()).unwrap();
    }
    manifest.save(path, |file| masks.iter().try_for_each(|(name, mask)| file.mask(name, mask))).unwrap();
}

#[track_caller]
fn near(got: f64, want: f64) {
    // Printed with four digits behind the point.
    assert!((got / want - 1.0).abs() < 2e-5, "{got}, and by hand {want}");
}

#[test]
fn perplexity_is_what_it_is_by_hand() {
    let case = Case::new(Tiny::llama(), 1);
    let out = case.prints(&["--window", "32"]);
    near(perplexity(&out), oracle::perplexity(&case.tiny, &case.weights, &case.tokens, 32));
    assert!(out.contains("96 in 3 windows of 32, 93 of them predicted; 4 at the end"), "{out}");
    assert!(out.contains("tokens/s") && out.contains("MB at most"), "{out}");
    // The only window is not left out.
    let out = case.prints(&["--window", "512"]);
    near(perplexity(&out), oracle::perplexity(&case.tiny, &case.weights, &case.tokens, 100));
    assert!(out.contains("100 in 1 windows of 100, 99 of them predicted\n"), "{out}");
}

#[test]
fn sliding_windows_predict_every_token_once() {
    let case = Case::new(Tiny::mistral(), 1);
    for (window, stride) in [(32, 16), (40, 7), (100, 50), (32, 32)] {
        let out = case.prints(&["--window", &window.to_string(), "--stride", &stride.to_string()]);
        // As Hugging Face's guide has it: of each window what ends later than the window before.
        let (mut losses, mut done, mut start) = (Vec::new(), 1, 0);
        while done < 100 {
            let end = (start + window).min(100);
            let logits = oracle::logits(&case.tiny, &case.weights, &case.tokens[start..end]);
            let first = done.max(start + 1);
            losses.extend((first..end).map(|t| oracle::loss(&logits[t - 1 - start], case.tokens[t])));
            (done, start) = (end, start + stride);
        }
        if stride < window {
            assert_eq!(losses.len(), 99);
        }
        near(perplexity(&out), (losses.iter().sum::<f64>() / losses.len() as f64).exp());
    }
}

#[test]
fn masks_of_every_form_over_shards() {
    let case = Case::new(Tiny::qwen2(), 3);
    let (masks, masked) = case.masked(&case.layers());
    let want = oracle::perplexity(&case.tiny, &masked, &case.tokens, 50);
    for form in Form::ALL {
        let file = case.path(&format!("{form}.{}", form.extension()));
        save_masks(&file, form, &masks);
        let out = case.prints(&["--window", "50", "--masks", file.to_str().unwrap()]);
        near(perplexity(&out), want);
        assert!(out.contains("14 of 14 linear layers"), "{out}");
    }
}

#[test]
fn masks_of_some_layers_leave_others_dense() {
    let case = Case::new(Tiny::llama(), 1);
    let (masks, masked) = case.masked(&["model.layers.1.mlp.down_proj.weight"]);
    save_masks(&case.path("masks.safetensors"), Form::Base6, &masks);
    let out = case.prints(&["--window", "50", "--masks", &case.at("masks.safetensors")]);
    near(perplexity(&out), oracle::perplexity(&case.tiny, &masked, &case.tokens, 50));
    assert!(out.contains("1 of 14 linear layers"), "{out}");
}

#[test]
fn compressed_weights_take_the_place_of_the_models() {
    let case = Case::new(Tiny::llama(), 1);
    let (masks, mut masked) = case.masked(&case.layers());
    let mut manifest = twofour_formats::Manifest::new();
    for (name, mask) in &masks {
        manifest.weight(name, twofour::DType::Bf16, mask.shape()).unwrap();
    }
    let file = case.path("compressed.safetensors");
    let save = |file: &mut twofour_formats::Writer<'_>| -> twofour_formats::Result<()> {
        for (name, mask) in &masks {
            let (_, values) = masked.get_mut(name).unwrap();
            let rounded: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
            values.iter_mut().zip(&rounded).for_each(|(x, rounded)| *x = rounded.to_f32());
            file.weight(name, &Compressed::with_codes(mask.shape(), &rounded, mask.codes())?)?;
        }
        Ok(())
    };
    manifest.save(&file, save).unwrap();
    let out = case.prints(&["--window", "50", "--compressed", file.to_str().unwrap()]);
    near(perplexity(&out), oracle::perplexity(&case.tiny, &masked, &case.tokens, 50));
    // A folder of a model whose layers are compressed is read as it is.
    let model = case.path("model");
    let dense = Model::find(&model).unwrap().open("model.safetensors").unwrap();
    for tensor in dense.tensors().filter(|tensor| !masks.contains_key(tensor.name())) {
        manifest.tensor(tensor.name(), tensor.dtype(), tensor.shape()).unwrap();
    }
    let whole = case.path("whole");
    fs::create_dir(&whole).unwrap();
    fs::copy(model.join("config.json"), whole.join("config.json")).unwrap();
    let compressed = twofour_formats::Reader::open(&file).unwrap();
    manifest
        .save::<twofour_formats::Error>(whole.join("model.safetensors"), |file| {
            for tensor in dense.tensors().filter(|tensor| !masks.contains_key(tensor.name())) {
                file.tensor(tensor.name(), &dense.tensor(tensor.name())?)?;
            }
            masks.keys().try_for_each(|name| file.any_weight(name, &compressed.weight(name)?))
        })
        .unwrap();
    let again = printed(&["eval", "--model", &case.at("whole"), "--tokens", &case.at("tokens.u16"), "--window", "50"]);
    assert_eq!(perplexity(&again), perplexity(&out));
}

#[test]
fn without_arguments_a_model_is_made_up() {
    let out = printed(&["eval"]);
    assert!(perplexity(&out) > 2.0 && out.contains("made up"), "{out}");
}

#[test]
fn texts_are_cut_by_the_tokenizer() {
    let demo = twofour_cli::demo::Demo::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [one, other, tokens] = ["one", "other", "tokens.u32"].map(|name| folder.path().join(name));
    fs::write(&one, "two of four").unwrap();
    fs::write(&other, "keeps two\n").unwrap();
    let model = twofour_cli::model::Model::open(demo.model(), &candle_core::Device::Cpu).unwrap();
    let ids = model.tokenizer().unwrap().encode("two of four\n\nkeeps two\n", true).unwrap().get_ids().to_vec();
    fs::write(&tokens, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let [model, one, other, tokens] = [demo.model(), &one, &other, &tokens].map(|path| path.to_str().unwrap());
    let of_text = printed(&["eval", "--model", model, "--text", one, other]);
    assert_eq!(perplexity(&of_text), perplexity(&printed(&["eval", "--model", model, "--tokens", tokens])));
    assert!(of_text.contains("23 in 1 windows"), "{of_text}");
}

#[test]
fn bad_arguments_and_texts_are_a_sentence() {
    let case = Case::new(Tiny::llama(), 1);
    let file = |name: &str, bytes: &[u8]| {
        fs::write(case.path(name), bytes).unwrap();
        case.at(name)
    };
    let model = case.at("model");
    let with = |more: &[&str], parts: &[&str]| refused(&[&["eval", "--model", &model], more].concat(), parts);
    with(&[], &["--text or --tokens"]);
    with(&["--tokens", &file("empty.u16", b"")], &["empty.u16", "no tokens"]);
    with(&["--tokens", &file("odd.u16", b"abc")], &["odd.u16", "3 bytes"]);
    with(&["--tokens", &file("one.u16", &[1, 0])], &["1 tokens"]);
    with(&["--tokens", &file("far.u16", &[1, 0, 4, 1])], &["token 1 is 260", "259", "another model"]);
    with(&["--tokens", "nowhere.u16"], &["nowhere.u16"]);
    with(&["--text", &file("text", b"some text")], &["tokenizer.json", "--tokens"]);
    with(&["--text", &file("blank", b" \n")], &["blank", "no text"]);
    with(&["--text", &file("binary", b"\xff\xfe")], &["binary", "UTF-8"]);
    case.refuses(&["--window", "1"], &["--window 1"]);
    case.refuses(&["--stride", "0"], &["--stride 0"]);
    case.refuses(&["--window", "8", "--stride", "9"], &["--stride 9"]);
}

#[test]
fn masks_and_weights_of_other_models_are_a_sentence() {
    let case = Case::new(Tiny::llama(), 1);
    let (masks, _) = case.masked(&case.layers());
    let name = "model.layers.0.mlp.up_proj.weight";
    let one = |name: &str, shape: Shape| {
        BTreeMap::from([(name.to_owned(), Mask::new(shape, vec![0x44; shape.packed_codes()]).unwrap())])
    };
    let file = case.path("masks");
    let refuses = |form: Form, masks: &BTreeMap<String, Mask>, parts: &[&str]| {
        save_masks(&file, form, masks);
        case.refuses(&["--masks", file.to_str().unwrap()], parts);
    };
    for form in Form::ALL {
        refuses(
            form,
            &one("model.layers.2.mlp.up_proj.weight", Shape::new(96, 64)),
            &["model.layers.2", "another model"],
        );
        refuses(form, &one("model.embed_tokens.weight", Shape::new(260, 64)), &["embed_tokens", "no linear layer"]);
        refuses(form, &one(name, Shape::new(96, 32)), &["up_proj"]);
    }
    case.refuses(&["--masks", &case.at("tokens.u16")], &["tokens.u16"]);
    case.refuses(&["--masks", &case.at("model/model.safetensors")], &["model.safetensors"]);
    case.refuses(&["--masks", "nowhere.npz"], &["nowhere.npz"]);
    // What is no compressed model, and one of another.
    case.refuses(&["--compressed", &case.at("model")], &["no compressed weights"]);
    let shape = Shape::new(8, 8);
    let mut manifest = twofour_formats::Manifest::new();
    manifest.weight(name, twofour::DType::Bf16, shape).unwrap();
    let weight = Compressed::by_magnitude(shape, &[half::bf16::ONE; 64]).unwrap();
    manifest.save::<twofour_formats::Error>(case.path("other.safetensors"), |file| file.weight(name, &weight)).unwrap();
    case.refuses(&["--compressed", &case.at("other.safetensors")], &["8 x 8", "96 x 64"]);
    assert_eq!(masks.len(), 14);
}

#[test]
fn masks_of_rows_that_are_no_groups_are_a_sentence() {
    let case = Case::new(Tiny { wide: 98, ..Tiny::llama() }, 1);
    let name = "model.layers.0.mlp.down_proj.weight";
    let flags = vec![1u8; 64 * 98];
    let mut manifest = twofour_formats::Manifest::new();
    manifest.tensor(&format!("{name}.mask"), TensorType::U8, &[64, 98]).unwrap();
    let file = case.path("masks.safetensors");
    manifest.save::<twofour_formats::Error>(&file, |file| file.tensor(&format!("{name}.mask"), &flags)).unwrap();
    case.refuses(&["--masks", file.to_str().unwrap()], &["down_proj", "98", "4"]);
    // Dense it runs.
    near(
        perplexity(&case.prints(&["--window", "50"])),
        oracle::perplexity(&case.tiny, &case.weights, &case.tokens, 50),
    );
}

/// A folder with one thing wrong is refused with what it is.
#[test]
fn bad_folders_are_a_sentence() {
    let shard = |i: usize| format!("model-0000{i}-of-00003.safetensors");
    let config = |case: &Case, key: &str, value: serde_json::Value| {
        let mut config = case.tiny.config();
        config[key] = value;
        fs::write(case.path("model/config.json"), config.to_string()).unwrap();
    };
    let bad = |harm: &dyn Fn(&Case), parts: &[&str]| {
        let case = Case::new(Tiny::llama(), 3);
        harm(&case);
        case.refuses(&[], parts);
    };
    let text = |text: &str| serde_json::Value::String(text.to_owned());
    bad(&|case| fs::remove_file(case.path("model").join(shard(2))).unwrap(), &[&shard(2)]);
    bad(&|case| fs::remove_dir_all(case.path("model")).unwrap(), &["model"]);
    bad(&|case| fs::remove_file(case.path("model/config.json")).unwrap(), &["config.json"]);
    bad(&|case| fs::remove_file(case.path("model/model.safetensors.index.json")).unwrap(), &["which model"]);
    bad(&|case| fs::write(case.path("model").join(shard(1)), b"short").unwrap(), &[&shard(1)]);
    bad(&|case| fs::write(case.path("model/config.json"), b"{").unwrap(), &["config.json"]);
    bad(&|case| fs::write(case.path("model/config.json"), b"{}").unwrap(), &["model_type"]);
    bad(&|case| config(case, "model_type", text("gpt2")), &["`gpt2`", "llama, mistral, qwen2, qwen3"]);
    bad(&|case| config(case, "hidden_act", text("gelu")), &["gelu"]);
    bad(&|case| config(case, "hidden_size", 72.into()), &["embed_tokens", "[260, 64]", "[260, 72]"]);
    bad(&|case| config(case, "hidden_size", (-1).into()), &["config.json"]);
    bad(&|case| config(case, "num_hidden_layers", 3.into()), &["no weight `model.layers.2."]);
    bad(&|case| config(case, "num_attention_heads", 0.into()), &["heads"]);
    bad(&|case| config(case, "num_key_value_heads", 3.into()), &["4 heads", "3"]);
    bad(&|case| config(case, "attention_bias", true.into()), &["q_proj.bias"]);
    let scaling = serde_json::json!({"rope_type": "yarn", "factor": 2.0});
    bad(&|case| config(case, "rope_scaling", scaling.clone()), &["`yarn`"]);
    let scaling = serde_json::json!({"rope_type": "llama3", "factor": 2.0});
    bad(&|case| config(case, "rope_scaling", scaling.clone()), &["low_freq_factor"]);
    let quantised = serde_json::json!({"quant_method": "gptq", "bits": 4});
    bad(&|case| config(case, "quantization_config", quantised.clone()), &["quantised", "gptq"]);
    bad(&|case| retyped(case, TensorType::I32), &["I32", "BF16"]);
}

/// The first shard with a type that is not read.
fn retyped(case: &Case, dtype: TensorType) {
    let model = Model::find(case.path("model")).unwrap();
    let (file, reader) = model.open_all().unwrap().swap_remove(0);
    let mut manifest = twofour_formats::Manifest::new();
    for tensor in reader.tensors() {
        manifest.tensor(tensor.name(), dtype, tensor.shape()).unwrap();
    }
    let tensors = |file: &mut twofour_formats::Writer<'_>| {
        reader.tensors().try_for_each(|tensor| file.tensor(tensor.name(), &reader.tensor(tensor.name())?))
    };
    manifest.save::<twofour_formats::Error>(model.path(file), tensors).unwrap();
}

#[test]
fn bad_gguf_files_are_a_sentence() {
    let case = Case::new(Tiny::llama(), 1);
    let path = case.path("tiny.gguf");
    common::gguf::save(&case.tiny, &path, &case.weights, candle_core::quantized::GgmlDType::F32);
    let (whole, tokens) = (fs::read(&path).unwrap(), case.at("tokens.u16"));
    let bad = |bytes: &[u8], parts: &[&str]| {
        fs::write(&path, bytes).unwrap();
        refused(&["eval", "--model", path.to_str().unwrap(), "--tokens", &tokens], parts);
    };
    bad(&whole[..whole.len() / 2], &["tiny.gguf"]);
    bad(&whole[..100], &["tiny.gguf", "cut short"]);
    bad(b"something else", &["neither"]);
    bad(b"", &["neither"]);
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|bytes| bytes == from.as_bytes()).unwrap();
        [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat()
    };
    bad(&replaced("blk.1.ffn_up.weight", "blk.7.ffn_up.weight"), &["blk.1.ffn_up.weight"]);
    bad(&replaced("llama.block_count", "llama.block_taunt"), &["llama.block_count"]);
    let kind = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama";
    let at = whole.windows(kind.len()).position(|bytes| bytes == kind).unwrap() + kind.len();
    bad(&[&whole[..at - 5], b"gemma", &whole[at..]].concat(), &["`gemma`"]);
    fs::write(&path, replaced("smollm", "smellm")).unwrap();
    refused(&["eval", "--model", path.to_str().unwrap(), "--text", &tokens], &["UTF-8"]);
    fs::write(case.path("text"), "two of four").unwrap();
    refused(&["eval", "--model", path.to_str().unwrap(), "--text", &case.at("text")], &["`smellm`", "--tokens"]);
}
