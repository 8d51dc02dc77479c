//! Masks and weights under bitmasks, in whatever form they come.

use super::cases::LAYERS;
use super::make::{bytes, folder, is_refused, numbers, save, succeeds};
use std::fs;
use std::path::Path;
use twofour_formats::{Manifest, Reader, TensorType};

/// Masks of every form, where codes are taken too.
#[test]
fn masks_to_compress() {
    let folder = folder("masks-to-compress");
    let tensors = |dtype| {
        let of = |(seed, name)| (name, dtype, vec![8, 16], numbers(128, seed));
        save(&folder.join("model.safetensors"), &[of((1, LAYERS[0])), of((2, LAYERS[1])), of((3, "lm_head.weight"))]);
    };
    tensors(TensorType::Bf16);
    // Not magnitude's.
    save(
        &folder.join("act.safetensors"),
        &LAYERS.map(|name| (name, TensorType::F32, vec![2, 16], (0..32).map(|i| (1 + i * 7 % 5) as f32).collect())),
    );
    for form in ["base6", "flags", "patch", "maskllm"] {
        let wanda = "--method wanda --activations act.safetensors --include *w1*";
        succeeds("prune", &folder, &format!("model.safetensors {wanda} --form {form} --out {form} --weights dense"));
        let printed = succeeds("compress", &folder, &format!("model.safetensors --masks {form} --out {form}.out"));
        assert!(printed.contains("left dense: lm_head.weight [8 x 16] BF16: no mask was given for it"), "{printed}");
        let compressed = Reader::open(folder.join(format!("{form}.out"))).unwrap();
        let masked = Reader::open(folder.join("dense")).unwrap();
        assert_eq!(compressed.weights().len(), 2);
        for name in LAYERS {
            assert_eq!(*compressed.weight(name).unwrap().decompress_bytes(), *masked.tensor(name).unwrap());
        }
        // For one layer; and for a head, which a mask says is a layer.
        let printed =
            succeeds("compress", &folder, &format!("model.safetensors --masks {form} --out one --only *s.0*"));
        assert!(printed.contains("not used: the mask of experts.1.w1.weight"), "{printed}");
        succeeds("prune", &folder, &format!("model.safetensors --include lm* --form {form} --out head"));
        succeeds("compress", &folder, "model.safetensors --masks head --out one");
        assert!(Reader::open(folder.join("one")).unwrap().weight_info("lm_head.weight").is_some());
        for file in [form, &format!("{form}.out"), "dense", "one", "head"] {
            let _ = fs::copy(folder.join(form), folder.join(format!("{form}.kept")));
            fs::remove_file(folder.join(file)).unwrap();
        }
    }
    // Of another model, and of a type that is kept 1:2.
    let other = ("w.weight", TensorType::Bf16, vec![8, 16], numbers(128, 1));
    save(&folder.join("other"), &[other]);
    is_refused("compress", &folder, "other --masks base6.kept --out o", &["masks were given for none of"]);
    save(&folder.join("other"), &[(LAYERS[0], TensorType::Bf16, vec![16, 8], numbers(128, 1))]);
    is_refused("compress", &folder, "other --masks base6.kept --out o", &[LAYERS[0], "of 8 x 16", "of 16 x 8"]);
    tensors(TensorType::F32);
    let words = [LAYERS[0], "its mask is 2:4", "f32 is kept 1:2", "convert the model to bf16 or f16"];
    is_refused("compress", &folder, "model.safetensors --masks base6.kept --out o", &words);
    is_refused(
        "compress",
        &folder,
        "model.safetensors --masks model.safetensors --out o",
        &["neither masks nor codes"],
    );
}

/// A weight under a bitmask, and by row offsets if it is of the older format.
fn bitmask(path: &Path, dtype: TensorType, cols: usize, kept: impl Fn(usize) -> bool, older: bool) -> Vec<f32> {
    let rows = 8;
    let dense: Vec<f32> =
        numbers(rows * cols, 7).into_iter().enumerate().map(|(i, x)| if kept(i) { x } else { 0.0 }).collect();
    let mut bits = vec![0u8; rows * cols.div_ceil(8)];
    (0..rows * cols)
        .filter(|&i| kept(i))
        .for_each(|i| bits[i / cols * cols.div_ceil(8) + i % cols / 8] |= 1 << (i % cols % 8));
    let values: Vec<f32> = dense.iter().copied().filter(|&x| x != 0.0).collect();
    let before = |row: usize| (0..row * cols).filter(|&i| kept(i)).count() as i64;
    let offsets: Vec<u8> = (0..rows).flat_map(|row| before(row).to_le_bytes()).collect();
    let shape = [rows as i64, cols as i64].map(i64::to_le_bytes).concat();
    let mut manifest = Manifest::new();
    let list = if older { vec![values.len()] } else { vec![rows, cols / 2] };
    let mut tensors = vec![
        ("m.compressed", dtype, list, values.iter().flat_map(|&x| bytes(dtype, x)).collect()),
        ("m.bitmask", TensorType::U8, vec![rows, cols.div_ceil(8)], bits),
        ("m.shape", TensorType::I64, vec![2], shape),
    ];
    if older {
        tensors.push(("m.row_offsets", TensorType::I64, vec![rows], offsets));
    }
    tensors.iter().for_each(|(name, dtype, shape, _)| manifest.tensor(name, *dtype, shape).unwrap());
    let fill = |file: &mut twofour_formats::Writer<'_>| {
        tensors.iter().try_for_each(|(name, _, _, bytes)| file.tensor(name, bytes))
    };
    manifest.save::<twofour_formats::Error>(path, fill).unwrap();
    dense
}

/// Bitmasks of both formats and every kind are made dense; what cannot be compressed says why.
#[test]
fn bitmask_messages() {
    let folder = folder("bitmask-messages");
    let two_of_four = |i: usize| [true, false, false, true, true, true, false, false][i % 8];
    let any = |i: usize| i * 7 % 11 < 6;
    for (dtype, cols, older) in [
        (TensorType::F32, 64, false),
        (TensorType::Bf16, 64, false),
        (TensorType::F32, 64, true),
        (TensorType::Bf16, 64, true),
        (TensorType::F16, 30, true),
    ] {
        let dense = match older {
            true => bitmask(&folder.join("model"), dtype, cols, any, true),
            false => bitmask(&folder.join("model"), dtype, cols, two_of_four, false),
        };
        let printed = succeeds("compress", &folder, "model --decompress --out out");
        assert!(printed.contains(if older { "any" } else { "2:4" }), "{printed}");
        let expected: Vec<u8> = dense.iter().flat_map(|&x| bytes(dtype, x)).collect();
        let reader = Reader::open(folder.join("out")).unwrap();
        assert_eq!(*reader.tensor("m.weight").unwrap(), *expected);
        assert_eq!(reader.tensor_info("m.weight").unwrap().shape(), [8, cols]);
        is_refused("compress", &folder, "model --out again", &["1 weights are compressed already", "--decompress"]);
        is_refused("prune", &folder, "model --out again", &["m.weight", "compressed already", "--decompress"]);
    }
    // The f32 weight, now dense, is 2:4: the way out is named.
    bitmask(&folder.join("model"), TensorType::F32, 64, two_of_four, false);
    succeeds("compress", &folder, "model --decompress --out out");
    is_refused("compress", &folder, "out --out again", &["m.weight", "2:4 already", "bf16 or f16"]);
}
