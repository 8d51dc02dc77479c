//! Text from a model: decoding token by token is what the whole model says, and what is refused.

use super::Runs;
use crate::common::{Tiny, printed, refused};
use candle_core::Device;
use twofour_cli::model::{Model, Network};
use twofour_formats::TensorType;

/// Logits by the cache against those of the whole window, of every kind of model.
#[test]
fn a_cache_changes_nothing() {
    for tiny in [Tiny::llama3(), Tiny::mistral(), Tiny::qwen2(), Tiny::qwen3()] {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path(), &tiny.weights(3), TensorType::F32, 1);
        let model = Model::open(folder.path(), &Device::Cpu).unwrap();
        let network = Network::new(&model, |_, linear| Ok(linear)).unwrap();
        // Past the window that slides, and past the rows that attention takes at a time.
        let (tokens, prompt) = (tiny.tokens(150, 1), 135);
        let states = network.states(&tokens, tokens.len()).unwrap();
        let want = model.head().unwrap().logits(&states).unwrap();
        let mut cache = network.cache(tokens.len()).unwrap();
        let mut got = network.next(&tokens[..prompt], &mut cache).unwrap();
        for t in prompt - 1..tokens.len() {
            let difference = (want.get(t).unwrap() - &got).unwrap().abs().unwrap().max_all().unwrap();
            let difference = difference.to_scalar::<f32>().unwrap();
            assert!(difference < 1e-3, "{}: token {t} is off by {difference}", tiny.kind);
            if t + 1 < tokens.len() {
                got = network.next(&tokens[t + 1..t + 2], &mut cache).unwrap();
            }
        }
        assert_eq!(cache.tokens(), tokens.len());
        assert!(network.next(&tokens[..1], &mut cache).is_err(), "there is no more room");
        let mut cache = network.cache(9).unwrap();
        network.next(&tokens[..2], &mut cache).unwrap();
        assert!(network.next(&tokens[..2], &mut cache).is_err(), "a prompt comes first");
    }
}

#[test]
fn text_is_as_likely_as_it_is_asked_for() {
    let runs = Runs::new();
    let model = runs.model();
    let of = |more: &[&str]| {
        let out = printed(&[&["generate", &model, "--prompt", "the row", "--tokens", "20"], more].concat());
        out.lines().next().unwrap().to_owned()
    };
    let greedy = of(&[]);
    assert!(greedy.starts_with("the row"));
    assert_eq!(greedy, of(&["--temperature", "3", "--top-k", "1", "--seed", "7"]));
    assert_eq!(of(&["--temperature", "2", "--seed", "7"]), of(&["--temperature", "2", "--seed", "7"]));
    assert_ne!(of(&["--temperature", "2", "--seed", "7"]), of(&["--temperature", "2", "--seed", "8"]));
}

/// Both speeds are told.
#[test]
fn speeds_are_beside_each_other() {
    let runs = Runs::new();
    let (model, masks) = (runs.model(), runs.at("masks.npz"));
    printed(&["prune", &model, "--out", &masks]);
    let of = |more: &[&str]| printed(&[&["generate", &model, "--prompt", "a", "--tokens", "9"], more].concat());
    let both = of(&["--masks", &masks]);
    assert!(both.contains("14 layers masked, f16") && both.contains("dense, f32"), "{both}");
    let alone = of(&["--masks", &masks, "--alone"]);
    assert!(!alone.contains("dense, f32") && both.lines().next() == alone.lines().next(), "{alone}");
    let dense = of(&[]);
    assert!(dense.contains("dense, f32") && !dense.contains("masked"), "{dense}");
}

/// A model is asked for no more than it was made for, and for no more memory than there is.
#[test]
fn more_tokens_than_there_is_room_for() {
    let runs = Runs::new();
    let model = runs.model();
    let config = runs.path("model/config.json");
    let made = std::fs::read_to_string(&config).unwrap();
    let all = usize::MAX.to_string();
    let made_for = |positions: &str| {
        std::fs::write(&config, made.replace("\"max_position_embeddings\": 2048", positions)).unwrap();
    };
    made_for("\"max_position_embeddings\": 9");
    let out = printed(&["generate", &model, "--prompt", "a row", "--tokens", &all]);
    assert!(out.contains("5 tokens of a prompt, 3 read one by one"), "{out}");
    let out = printed(&["generate", &model, "--prompt", "two of it", "--tokens", "3"]);
    assert!(out.starts_with("two of it\n") && out.contains("0 read one by one"), "{out}");
    refused(&["generate", &model, "--prompt", "two of four"], &["--prompt is of 11 tokens", "made for 9"]);
    for power in [40, 60] {
        made_for(&format!("\"max_position_embeddings\": {}", 1u64 << power));
        refused(&["generate", &model, "--prompt", "a", "--tokens", &all], &["no memory", "--tokens"]);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let runs = Runs::new();
    let model = runs.model();
    let bad = |more: &[&str], parts: &[&str]| refused(&[&["generate", &model], more].concat(), parts);
    bad(&[], &["--prompt"]);
    bad(&["--prompt", ""], &["no tokens"]);
    bad(&["--prompt", "a", "--temperature", "nan"], &["--temperature"]);
    bad(&["--prompt", "a", "--top-k", "0"], &["--top-k"]);
    bad(&["--prompt", "a", "--masks", "there/is/none"], &["there/is/none"]);
    bad(&["--prompt", "a", "--compressed", &model], &["no compressed weights"]);
}
