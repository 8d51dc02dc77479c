//! Which weights are layers, how they are rows of groups, and what is said of the others.

use super::cases::{bytes, folder, is_refused, numbers, run, save, succeeds};
use std::fs;
use std::path::Path;
use twofour::{E4m3, E5m2, Shape};
use twofour_formats::masks::{Fewer, Mask, Masks, Shapes};
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

/// The masks of a model by magnitude, from weights as rows of groups.
fn by_magnitude(rows: usize, cols: usize, at: impl Fn(usize, usize) -> f32) -> Mask {
    let mut flags = Vec::new();
    for row in 0..rows {
        for group in 0..cols / 4 {
            let four: Vec<f32> = (0..4).map(|j| at(row, 4 * group + j).abs()).collect();
            let mut order = [0, 1, 2, 3];
            order.sort_by(|&a, &b| four[b].total_cmp(&four[a]));
            flags.extend((0..4).map(|j| order[..2].contains(&j)));
        }
    }
    Mask::from_flags(Shape::new(rows, cols), &flags, Fewer::Refuse).unwrap()
}

/// Stacked experts, convolutions and transposed weights: masks are by rows of groups, the masked model lies as it lay.
#[test]
fn rows_of_groups() {
    let folder = folder("rows-of-groups");
    let of = |name, shape: &[usize]| (name, TensorType::F32, shape.to_vec(), numbers(shape.iter().product(), 5));
    let tensors = [
        of("a.experts.down_proj.weight", &[3, 4, 8]),
        of("b.experts.w.weight", &[2, 8, 4]),
        of("c.conv1.weight", &[4, 2, 6]),
        of("d.down.weight", &[4, 8, 3]),
        of("e.conv.weight", &[4, 3, 2, 2]),
        of("f.mlp.c_fc.weight", &[8, 12]),
        of("g.experts.up_proj", &[2, 4, 3]),
    ];
    save(&folder.join("model.safetensors"), &tensors);
    let shapes = [(12, 8), (16, 4), (4, 12), (4, 24), (4, 12), (12, 8), (6, 4)];
    let arguments = "model.safetensors --include * --transposed *c_fc* --transposed g.* --out m --weights w";
    for form in ["base6", "flags", "patch"] {
        let printed = succeeds("prune", &folder, &format!("{arguments} --form {form}"));
        assert!(
            printed.contains("f.mlp.c_fc.weight: 8 x 12, transposed: groups along the inputs, 12 rows of 8"),
            "{printed}"
        );
        let masks = Masks::open(folder.join("m")).unwrap().with_shapes(
            tensors
                .iter()
                .zip(shapes)
                .map(|(tensor, (rows, cols))| (tensor.0, Shape::new(rows, cols)))
                .collect::<Shapes>(),
        );
        let written = Reader::open(folder.join("w")).unwrap();
        for ((name, _, sizes, values), (rows, cols)) in tensors.iter().zip(shapes) {
            // Where an element of the rows lies.
            let place = |row: usize, col: usize| match *name {
                "f.mlp.c_fc.weight" => col * 12 + row,
                "g.experts.up_proj" => row / 3 * 12 + col * 3 + row % 3,
                _ => row * cols + col,
            };
            let mask = by_magnitude(rows, cols, |row, col| values[place(row, col)]);
            assert_eq!(masks.read(name).unwrap(), mask, "{name}");
            let mut expected = vec![0.0; values.len()];
            for (i, kept) in mask.flags::<bool>().unwrap().into_iter().enumerate().filter(|(_, kept)| *kept) {
                let at = place(i / cols, i % cols);
                expected[at] = if kept { values[at] } else { 0.0 };
            }
            assert_eq!(written.elements::<f32>(name).unwrap(), expected, "{name}");
            assert_eq!(written.tensor_info(name).unwrap().shape(), sizes);
            if form == "flags" {
                let own = Reader::open(folder.join("m")).unwrap();
                let flags = own.tensor(&format!("{name}.mask")).unwrap().into_owned();
                assert!(flags.iter().zip(&expected).all(|(flag, value)| (*flag == 1) == (*value != 0.0)), "{name}");
                assert_eq!(own.tensor_info(&format!("{name}.mask")).unwrap().shape(), sizes);
            }
        }
    }
    is_refused(
        "prune",
        &folder,
        "model.safetensors --out m2 --transposed *zz*",
        &["--transposed: the pattern *zz* matches none"],
    );
    let printed = succeeds("prune", &folder, "model.safetensors --out m2 --transposed e.*");
    assert!(printed.contains("left dense: e.conv.weight [4 x 3 x 2 x 2] F32: only [in, out]"), "{printed}");
}

/// GPT-2's weights are known to be transposed: by what the configuration says, or by the shape of its first layer.
#[test]
fn conv1d_of_gpt2() {
    let folder = folder("conv1d");
    let of = |name, shape: &[usize]| (name, BF16, shape.to_vec(), numbers(shape.iter().product(), 5));
    let model = |attention: &[usize]| {
        let names =
            ["h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight", "h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight"];
        let sizes = [attention, &[8, 8], &[8, 32], &[32, 8]];
        let mut tensors: Vec<_> = names.into_iter().zip(sizes).map(|(name, sizes)| of(name, sizes)).collect();
        tensors.push(of("wte.weight", &[16, 8]));
        save(&folder.join("model.safetensors"), &tensors);
    };
    let transposed = |arguments: &str| {
        let printed = succeeds("prune", &folder, &format!("{arguments} --out m"));
        printed.lines().filter(|line| line.contains(", transposed: groups along the inputs")).count()
    };
    model(&[8, 24]);
    assert_eq!(transposed("model.safetensors"), 4);
    // Shapes that a file of masks does not hold are those of its rows.
    succeeds("prune", &folder, "model.safetensors --out m.npz --form maskllm");
    succeeds("convert", &folder, "m.npz --model model.safetensors --out converted");
    let [one, other] = ["m", "converted"].map(|file| Masks::open(folder.join(file)).unwrap());
    assert!(one.iter().eq(other.iter()) && one.names().len() == 4);
    is_refused("compress", &folder, "model.safetensors --masks m.npz --out c", &["masks were given for none of"]);
    fs::write(folder.join("config.json"), r#"{"model_type":"gpt_bigcode"}"#).unwrap();
    assert_eq!(transposed("model.safetensors"), 0);
    fs::write(folder.join("config.json"), r#"{"model_type":"gpt2","n_layer":1}"#).unwrap();
    assert_eq!(transposed("."), 4);
    fs::remove_file(folder.join("config.json")).unwrap();
    model(&[24, 8]);
    assert_eq!(transposed("model.safetensors"), 0);
    fs::write(folder.join("config.json"), "[").unwrap();
    is_refused("prune", &folder, "model.safetensors --out n", &["config.json: is not a model's configuration"]);
}

/// Weights of fp8: masks by their values, written as they were.
#[test]
fn fp8() {
    let folder = folder("fp8");
    for dtype in [TensorType::F8E4m3, TensorType::F8E5m2] {
        // Eight magnitudes of either sign, none of them twice in a group.
        let values: Vec<f32> = (0..64).map(|i| [1.0, -8.0, 4.0, -0.5, 16.0, 2.0, -32.0, 0.25][i * 5 % 8]).collect();
        save(&folder.join("model.safetensors"), &[("a.weight", dtype, vec![4, 16], values.clone())]);
        let wide: Vec<f32> = match dtype {
            TensorType::F8E4m3 => Reader::open(folder.join("model.safetensors"))
                .unwrap()
                .elements::<E4m3>("a.weight")
                .unwrap()
                .into_iter()
                .map(E4m3::to_f32)
                .collect(),
            _ => Reader::open(folder.join("model.safetensors"))
                .unwrap()
                .elements::<E5m2>("a.weight")
                .unwrap()
                .into_iter()
                .map(E5m2::to_f32)
                .collect(),
        };
        assert_eq!(wide, values);
        let printed = succeeds("prune", &folder, "model.safetensors --out m --weights w");
        assert!(printed.contains(&dtype.name().to_lowercase()), "{printed}");
        let mask = by_magnitude(4, 16, |row, col| values[row * 16 + col]);
        assert_eq!(Masks::open(folder.join("m")).unwrap().read("a.weight").unwrap(), mask);
        let kept = mask.flags::<bool>().unwrap();
        let expected: Vec<u8> = values
            .iter()
            .zip(&kept)
            .flat_map(|(&value, &kept)| if kept { bytes(dtype, value) } else { vec![0] })
            .collect();
        assert_eq!(*Reader::open(folder.join("w")).unwrap().tensor("a.weight").unwrap(), *expected);
        succeeds("compress", &folder, "model.safetensors --masks m --out c");
        assert_eq!(*Reader::open(folder.join("c")).unwrap().weight("a.weight").unwrap().decompress_bytes(), *expected);
        // SparseGPT's masks alone.
        save(&folder.join("act"), &[("a.weight", TensorType::F32, vec![40, 16], numbers(640, 1))]);
        let sparsegpt = "model.safetensors --method sparsegpt --activations act --out s";
        is_refused("prune", &folder, sparsegpt, &["a.weight", "--as-is"]);
        succeeds("prune", &folder, &format!("{sparsegpt} --as-is"));
        fs::remove_file(folder.join("s")).unwrap();
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
