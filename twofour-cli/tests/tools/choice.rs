//! Which weights are layers and which files models, and what is said of the others.

use super::make::{folder, is_refused, numbers, run, save, succeeds};
use std::fs;
use std::path::Path;
use twofour_formats::masks::Masks;
use twofour_formats::{Reader, TensorType};

const BF16: TensorType = TensorType::Bf16;

/// Names of the masks in a file, and of the tensors that a line says are left dense.
fn chosen(folder: &Path, printed: &str) -> (Vec<String>, Vec<String>) {
    let masks = Masks::open(folder.join("m")).unwrap();
    let dense = printed.lines().filter_map(|line| line.strip_prefix("left dense: "));
    let dense = dense.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    (masks.names().map(str::to_owned).collect(), dense)
}

/// Whole parts of names decide, and what is left dense is said.
#[test]
fn names() {
    let folder = folder("names");
    let layers = [
        "bert.encoder.layer.0.output.dense.weight",
        "blk.0.ffn_gate.weight",
        "block.0.attn.output.weight",
        "embed_proj.weight",
        "embedded_proj.weight",
        "fc_score_proj.weight",
        "h.0.attention.multi_head_attention.q.weight",
        "mlp.gate_proj.weight",
        "mlp.shared_expert.up_proj.weight",
        "mlp.shared_experts.gate_proj.weight",
        "norm_proj.weight",
        "normal_proj.weight",
        "overhead.weight",
        "q.weight",
        "routed_up.weight",
        "unshared.weight",
        "weight",
    ];
    let dense = [
        "Embeddings.LayerNorm2.weight",
        "bert.cls.predictions.decoder.weight",
        "blk.0.ffn_gate_inp.weight",
        "block_sparse_moe.gate.weight",
        "classifier.dense.weight",
        "decoder.embed_positions.weight",
        "emb.weight",
        "h.0.ln_1.weight",
        "head.weight",
        "heads.3.weight",
        "layer.0.SelfAttention.relative_attention_bias.weight",
        "lm_head.weight",
        "mlp.gate.weight",
        "mlp.gate.wg.weight",
        "mlp.router.layer.weight",
        "mlp.shared_expert_gate.weight",
        "norm1.linear.weight",
        "output.weight",
        "patch_embed.proj.weight",
        "pos_emb.weight",
        "score.weight",
        "shared.weight",
        "tok_emb.weight",
        "tok_embeddings.weight",
        "token_classifier.weight",
        "token_embd.weight",
        "token_type.weight",
        "transformer.output_layer.weight",
        "transformer.wte.weight",
        "v_head.weight",
    ];
    let tensor = |name| (name, BF16, vec![4, 8], numbers(32, 1));
    let all: Vec<_> = layers.into_iter().chain(dense).map(tensor).collect();
    save(&folder.join("model.safetensors"), &all);
    let printed = succeeds("prune", &folder, "model.safetensors --out m");
    assert_eq!(chosen(&folder, &printed), (layers.map(str::to_owned).into(), dense.map(str::to_owned).into()));
    assert!(printed.contains("left dense: mlp.gate.wg.weight [4 x 8] BF16: a router, by `gate` in its name"));
    assert!(printed.contains("left dense: shared.weight [4 x 8] BF16: an embedding, by `shared` in its name"));
    // The same for `compress`.
    let printed = succeeds("compress", &folder, "model.safetensors --out c");
    let reader = Reader::open(folder.join("c")).unwrap();
    assert_eq!(reader.weights().map(|info| info.name()).collect::<Vec<_>>(), layers);
    assert_eq!(chosen(&folder, &printed).1, dense);
    // Whoever asks for one gets it.
    let printed = succeeds("prune", &folder, "model.safetensors --out m --include *head.weight --exclude v*");
    assert_eq!(chosen(&folder, &printed).0, ["head.weight", "lm_head.weight", "overhead.weight"]);
    assert!(printed.contains("left dense: v_head.weight [4 x 8] BF16: --exclude v*"), "{printed}");
    assert!(printed.contains("left dense: q.weight [4 x 8] BF16: no --include matches it"), "{printed}");
}

/// A line for every weight that was left dense, and for what a pattern asked for and cannot be.
#[test]
fn silent_skips() {
    let folder = folder("silent-skips");
    let of = |name, dtype, shape: &[usize]| (name, dtype, shape.to_vec(), numbers(shape.iter().product(), 3));
    save(
        &folder.join("model.safetensors"),
        &[
            of("q_proj.weight", BF16, &[16, 64]),
            of("q_proj.bias", BF16, &[16]),
            of("mlp.experts.gate_up_proj", BF16, &[4, 64, 32]),
            of("mlp.experts.down_proj.weight", BF16, &[4, 32, 64]),
            of("odd.weight", BF16, &[16, 30]),
            of("conv.weight", TensorType::F32, &[8, 4, 3, 3]),
            of("quantised.weight", TensorType::I8, &[8, 8]),
            of("packed.weight", TensorType::I32, &[8, 8]),
            of("empty.weight", BF16, &[0, 8]),
            of("layernorm.weight", BF16, &[16]),
            of("positions", TensorType::I64, &[2, 4]),
        ],
    );
    let printed = succeeds("prune", &folder, "model.safetensors --out m");
    let (masks, mut dense) = chosen(&folder, &printed);
    assert_eq!(masks, ["conv.weight", "mlp.experts.down_proj.weight", "q_proj.weight"]);
    dense.sort();
    let left = ["empty", "layernorm", "odd", "packed", "quantised"].map(|name| format!("{name}.weight"));
    assert_eq!(dense, [&left[..2], &["mlp.experts.gate_up_proj".to_owned()], &left[2..]].concat());
    for line in [
        "odd.weight [16 x 30] BF16: a row of its groups would be 30 long, which is no multiple of 4",
        "mlp.experts.gate_up_proj [4 x 64 x 32] BF16: its name does not end in .weight; --include takes it",
        "quantised.weight [8 x 8] I8: masks are chosen for floats",
        "empty.weight [0 x 8] BF16: it is empty",
    ] {
        assert!(printed.contains(&format!("left dense: {line}")), "no `{line}` in {printed}");
    }
    assert!(printed.contains("conv.weight: 8 x 4 x 3 x 3: 8 rows of 36"), "{printed}");
    let printed = succeeds(
        "prune",
        &folder,
        "model.safetensors --out m --include *experts* --include odd*x --include *v.w*"
            .replace(" --include odd*x", "")
            .as_str(),
    );
    assert_eq!(chosen(&folder, &printed).0.len(), 3);
    let printed = succeeds("prune", &folder, "model.safetensors --out m --include *d*.weight");
    assert!(printed.contains("left dense: odd.weight") && printed.contains("left dense: packed.weight"), "{printed}");
    is_refused(
        "prune",
        &folder,
        "model.safetensors --out m --include *odd*",
        &["*odd* matches nothing that has a mask", "odd.weight [16 x 30]", "30 long"],
    );
    is_refused(
        "prune",
        &folder,
        "model.safetensors --out m --include *none*",
        &["*none* matches none of", "q_proj.weight"],
    );
    is_refused(
        "prune",
        &folder,
        "model.safetensors --out m --exclude *none*",
        &["--exclude: the pattern *none* matches none of"],
    );
    // What the compressed format cannot hold.
    let printed = succeeds("compress", &folder, "model.safetensors --out c");
    for line in ["conv.weight [8 x 4 x 3 x 3] F32", "mlp.experts.down_proj.weight [4 x 32 x 64] BF16"] {
        let line = format!("left dense: {line}: version 1 of the format holds weights [N, K] alone");
        assert!(printed.contains(&line), "no `{line}` in {printed}");
    }
    is_refused("compress", &folder, "model.safetensors --out d --include *conv*", &["version 1 of the format holds"]);
    // A model of nothing but integers.
    save(&folder.join("int8"), &[of("a.weight", TensorType::I8, &[8, 8]), of("b.weight", TensorType::I8, &[8, 8])]);
    for command in ["prune", "compress"] {
        is_refused(command, &folder, "int8 --out d", &["a.weight [8 x 8] I8", "floats"]);
    }
}

/// A folder may be given again and again: what is made of it lies beside it, and what lies in it does not count.
#[test]
fn compress_folder_twice() {
    let folder = folder("folder-twice");
    let model = folder.join("model");
    fs::create_dir(&model).unwrap();
    save(&model.join("model.safetensors"), &[("a.weight", BF16, vec![8, 16], numbers(128, 1))]);
    let there = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for _ in 0..2 {
        succeeds("compress", &folder, "model");
        succeeds("prune", &folder, "model");
        succeeds("prune", &model, ".");
        succeeds("compress", &folder, "model.twofour.safetensors --decompress");
        assert_eq!(there(&model), ["model.safetensors"]);
        assert_eq!(
            there(&folder),
            ["model", "model.dense.safetensors", "model.masks.safetensors", "model.twofour.safetensors"]
        );
    }
    // By its file, everything lies in the folder, which is a model's still.
    for _ in 0..2 {
        succeeds("compress", &folder, "model/model.safetensors");
        succeeds("prune", &folder, "model/model.safetensors");
        succeeds("compress", &folder, "model/model.twofour.safetensors --decompress");
        assert_eq!(there(&model).len(), 4);
        succeeds("compress", &folder, "model");
    }
    // Two models are two.
    save(&model.join("other.safetensors"), &[("a.weight", BF16, vec![8, 16], numbers(128, 1))]);
    is_refused(
        "compress",
        &folder,
        "model",
        &["which model in this folder? Name one of model.safetensors, other.safetensors"],
    );
    fs::remove_file(model.join("model.safetensors")).unwrap();
    fs::remove_file(model.join("other.safetensors")).unwrap();
    // Hugging Face's cache knows all that is in it.
    let snapshot = folder.join("hub/models--org--name/snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    save(&snapshot.join("model.safetensors"), &[("a.weight", BF16, vec![8, 16], numbers(128, 1))]);
    for path in ["hub/models--org--name/snapshots/0123", "hub/models--org--name/snapshots/0123/model.safetensors"] {
        for _ in 0..2 {
            succeeds("compress", &folder, path);
            succeeds("prune", &folder, path);
        }
        assert_eq!(there(&snapshot), ["model.safetensors"]);
        for file in ["name.twofour.safetensors", "name.masks.safetensors"] {
            fs::remove_file(folder.join(file)).unwrap();
        }
    }
}

/// A weight that somebody has pruned is not pruned once more, unless that was asked for.
#[test]
fn pruned_already() {
    let folder = folder("pruned-already");
    // Half of it, but for the columns of one group in every row: 4:8.
    let zeros = |kept: &dyn Fn(usize) -> bool| -> Vec<f32> {
        numbers(128, 1).into_iter().enumerate().map(|(i, x)| if kept(i) { x } else { 0.0 }).collect()
    };
    for dtype in [BF16, TensorType::F16, TensorType::F32] {
        let tensors = [
            ("a.weight", dtype, vec![8, 16], numbers(128, 2)),
            ("b.weight", dtype, vec![8, 16], zeros(&|i| i % 8 < 4)),
        ];
        save(&folder.join("model.safetensors"), &tensors);
        let words =
            ["b.weight", "64 of its 128 values are zero already", "32 values that are not zero would be dropped"];
        is_refused(
            "compress",
            &folder,
            "model.safetensors --out out",
            &[&words[..], &["twofour prune", "--prune-again"]].concat(),
        );
        let printed = succeeds("compress", &folder, "model.safetensors --out out --exclude b.*");
        assert!(printed.contains("left dense: b.weight"));
        succeeds("compress", &folder, "model.safetensors --out out --prune-again");
        fs::remove_file(folder.join("out")).unwrap();
        // One value too many, in one group of many.
        let kept = |i: usize| i % 4 == 1 || i % 4 == 3 && dtype != TensorType::F32 || i == 16;
        save(&folder.join("model.safetensors"), &[("b.weight", dtype, vec![8, 16], zeros(&kept))]);
        is_refused("compress", &folder, "model.safetensors --out out", &["b.weight", "would", "--prune-again"]);
        // A few are a dense weight's chance.
        save(&folder.join("model.safetensors"), &[("b.weight", dtype, vec![8, 16], zeros(&|i| i % 8 < 5))]);
        succeeds("compress", &folder, "model.safetensors --out out");
        fs::remove_file(folder.join("out")).unwrap();
    }
    // And so a 2:4 one of f32 is cut when it was asked for.
    save(&folder.join("model.safetensors"), &[("b.weight", TensorType::F32, vec![8, 16], zeros(&|i| i % 4 < 2))]);
    is_refused("compress", &folder, "model.safetensors --out out", &["2:4 already", "--prune-again"]);
    succeeds("compress", &folder, "model.safetensors --out out --prune-again");
    let reader = Reader::open(folder.join("out")).unwrap();
    let kept = reader.compressed::<f32>("b.weight").unwrap();
    assert_eq!(kept.values().iter().filter(|value| **value != 0.0).count(), 32);
}

/// Names and paths that a terminal would obey, or that are not UTF-8.
#[cfg(unix)]
#[test]
fn names_that_are_wild() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder("wild");
    let wild = "a\u{1b}[2J\u{7}\n\u{202e}b.weight";
    let of = |name, shape: &[usize]| (name, BF16, shape.to_vec(), numbers(shape.iter().product(), 5));
    save(&folder.join("model.safetensors"), &[of(wild, &[4, 8]), of("\u{1b}]0;x\u{7}.weight", &[4, 6])]);
    let printed = succeeds("prune", &folder, "model.safetensors --out m --form flags");
    let compressed = succeeds("compress", &folder, "model.safetensors --out c");
    let converted = succeeds("convert", &folder, "m --out n");
    for printed in [&printed, &compressed, &converted] {
        assert!(printed.contains("a\\u{1b}[2J\\u{7}\\n\\u{202e}b.weight"), "{printed:?}");
        assert!(!printed.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{printed:?}");
    }
    save(&folder.join("model.safetensors"), &[of("\u{1b}]0;x\u{7}.weight", &[4, 6])]);
    let (code, printed) = run("prune", &folder, "model.safetensors --out x");
    assert!(code == Some(2) && printed.contains("\\u{1b}]0;x") && !printed.contains('\u{1b}'), "{printed:?}");

    let name = std::ffi::OsStr::from_bytes(b"m\xffdel.safetensors");
    save(&folder.join("sound"), &[of("a.weight", &[4, 8])]);
    let inner = folder.join(std::ffi::OsStr::from_bytes(b"f\xfflder"));
    fs::create_dir(&inner).unwrap();
    fs::copy(folder.join("sound"), inner.join("model.safetensors")).unwrap();
    // A folder may have any name; so may what is written.
    let output = super::command("prune").current_dir(&folder).arg(&inner).arg("--out").arg(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(folder.join(name), inner.join(name)).unwrap();
    fs::remove_file(inner.join("model.safetensors")).unwrap();
    for path in [inner.join(name), inner] {
        for command in ["prune", "compress"] {
            let output = super::command(command).arg(&path).output().unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(2) && message.contains("the file's name is not UTF-8"), "{message}");
        }
    }
}

/// Masks and codes of logits that are NaN.
#[test]
fn masks_of_nan() {
    let folder = folder("nan");
    save(&folder.join("model.safetensors"), &[("a.weight", BF16, vec![2, 8], numbers(16, 1))]);
    let nan = |i: usize| if i < 12 { [1.0, 1.0, 0.0, 0.0][i % 4] } else { f32::NAN };
    save(&folder.join("masks"), &[("a.weight.mask", TensorType::F32, vec![2, 8], (0..16).map(nan).collect())]);
    let words = ["a.weight", "row 1, column 4 is NaN, as of logits that are NaN"];
    is_refused("convert", &folder, "masks --out n", &words);
    is_refused("compress", &folder, "model.safetensors --masks masks --out n", &words);
    save(&folder.join("codes"), &[("a.weight.codes", TensorType::U8, vec![2], vec![68.0, 4.0])]);
    let words = ["a.weight", "group 1 of row 1 has code 0x0", "groups whose logits are NaN have code 0"];
    is_refused("compress", &folder, "model.safetensors --masks codes --out n", &words);
}
