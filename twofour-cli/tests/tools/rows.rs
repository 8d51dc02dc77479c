//! Weights of every shape and type as rows of groups.

use super::make::{bytes, folder, is_refused, numbers, save, succeeds};
use std::fs;
use twofour::{E4m3, E5m2, Shape};
use twofour_formats::masks::{Fewer, Mask, Masks, Shapes};
use twofour_formats::{Reader, TensorType};

const BF16: TensorType = TensorType::Bf16;

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
