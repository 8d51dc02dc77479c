//! Every form into every other, and what a model says of shapes.

use crate::make;
use proptest::prelude::*;
use twofour::compress::Compressed;
use twofour::{DType, Shape, bf16};
use twofour_formats::masks::{Fewer, Form, Manifest, Mask, Masks, Shapes, convert};
use twofour_formats::{Error, Index, Model, TensorType};

/// A file of this form in memory.
fn file(form: Form, masks: &[(String, Mask)]) -> Vec<u8> {
    let mut manifest = Manifest::new(form);
    masks.iter().for_each(|(name, mask)| manifest.layer(name, mask.shape()).unwrap());
    manifest.to_bytes::<Error>(|file| masks.iter().rev().try_for_each(|(name, mask)| file.mask(name, mask))).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_form_into_every_other(
        layers in prop::collection::btree_map("[a-z.]{0,12}", (0..6usize, 0..12usize, any::<u64>()), 0..5),
    ) {
        let masks: Vec<_> = layers.iter().map(|(name, &(rows, groups, seed))| {
            // A multiple of 8 weights, which all forms hold.
            (name.clone(), make::random(Shape::new(2 * rows, 4 * groups), seed))
        }).collect();
        let shapes: Shapes = masks.iter().map(|(name, mask)| (name.as_str(), mask.shape())).collect();
        for from in Form::ALL {
            let bytes = file(from, &masks);
            let read = Masks::from_bytes(&bytes).unwrap().with_shapes(shapes.clone());
            // An archive without arrays could be either's; PATCH's has its text.
            prop_assert_eq!(read.form(), from);
            for to in Form::ALL {
                let path = make::path(&format!("{from}-{to}"));
                convert(&read, to, &path).unwrap();
                let again = Masks::open(&path).unwrap().with_shapes(shapes.clone());
                prop_assert_eq!(again.form(), to);
                let found: Result<Vec<_>, _> = again.iter().map(|mask| mask.map(|(name, mask)| (name.to_owned(), mask))).collect();
                prop_assert_eq!(&found.unwrap(), &masks);
                // By whichever way, the same file.
                prop_assert!(to == Form::Patch || std::fs::read(&path).unwrap().len() == file(to, &masks).len());
            }
        }
    }
}

#[test]
fn names_of_forms() {
    for form in Form::ALL {
        assert_eq!(Form::from_name(form.name()), Some(form));
        assert_eq!(form.to_string(), form.name());
        assert_eq!(form.extension(), if form < Form::Flags { "npz" } else { "safetensors" });
    }
    assert_eq!(Form::from_name("npz"), None);
}

#[test]
fn what_patch_says_of_itself_goes_along() {
    let mask = make::random(Shape::new(2, 8), 1);
    let mut manifest = Manifest::new(Form::Patch);
    manifest.layer("w", mask.shape()).unwrap();
    manifest.text("{\"repo\": \"größe\"}");
    let bytes = manifest.to_bytes::<Error>(|file| file.mask("w", &mask)).unwrap();
    let path = make::path("text.npz");
    convert(&Masks::from_bytes(&bytes).unwrap(), Form::Patch, &path).unwrap();
    assert_eq!(Masks::open(&path).unwrap().text().unwrap().unwrap(), "{\"repo\": \"größe\"}");
    let base6 = make::path("text.safetensors");
    convert(&Masks::open(&path).unwrap(), Form::Base6, &base6).unwrap();
    assert_eq!(Masks::open(&base6).unwrap().text().unwrap(), None);
    convert(&Masks::open(&base6).unwrap(), Form::Patch, &path).unwrap();
    let text = Masks::open(&path).unwrap().text().unwrap().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["pattern"], "2:4");
    let mut manifest = Manifest::new(Form::Patch);
    manifest.text("");
    let bytes = manifest.to_bytes::<Error>(|_| Ok(())).unwrap();
    assert_eq!(Masks::from_bytes(&bytes).unwrap().text().unwrap().unwrap(), "");
}

/// Shapes of a file and of a model of shards: two-dimensional tensors, and compressed weights.
#[test]
fn shapes_of_models() {
    let folder = make::path("model");
    std::fs::create_dir(&folder).unwrap();
    let compressed = Compressed::by_magnitude(Shape::new(4, 8), &[bf16::ONE; 32]).unwrap();
    let mut manifest = twofour_formats::Manifest::new();
    manifest.tensor("a.weight", TensorType::Bf16, &[2, 8]).unwrap();
    manifest.tensor("a.bias", TensorType::Bf16, &[2]).unwrap();
    manifest
        .save::<Error>(folder.join("m-1.safetensors"), |file| {
            file.tensor("a.weight", &[0; 32])?;
            file.tensor("a.bias", &[0; 4])
        })
        .unwrap();
    let mut manifest = twofour_formats::Manifest::new();
    manifest.weight("b.weight", DType::Bf16, Shape::new(4, 8)).unwrap();
    manifest.save::<Error>(folder.join("m-2.safetensors"), |file| file.weight("b.weight", &compressed)).unwrap();
    let mut index = Index::new();
    index.add("m-1.safetensors", ["a.weight", "a.bias"], 0).unwrap();
    index.add("m-2.safetensors", ["b.weight.values", "b.weight.codes"], 0).unwrap();
    index.save(folder.join("m.safetensors.index.json")).unwrap();
    let shapes = Shapes::of_model(&Model::find(&folder).unwrap()).unwrap();
    let found: Vec<_> = shapes.iter().collect();
    assert_eq!(found, [("a.weight", Shape::new(2, 8)), ("b.weight", Shape::new(4, 8))]);
    assert_eq!((shapes.get("a.bias"), shapes.get("b.weight")), (None, Some(Shape::new(4, 8))));
}

#[test]
fn shapes_that_are_missing_or_others() {
    let mask = ("w".to_owned(), make::random(Shape::new(2, 8), 1));
    let given = |name: &str, shape: Shape| -> Shapes { [(name, shape)].into_iter().collect() };
    for form in Form::ALL {
        let bytes = file(form, std::slice::from_ref(&mask));
        let read = |shapes: Shapes| Masks::from_bytes(&bytes).unwrap().with_shapes(shapes).read("w");
        assert_eq!(read(given("w", Shape::new(2, 8))).unwrap(), mask.1);
        let fails = |shapes: Shapes, words: &str| {
            let error = read(shapes).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("`w`"), "{form}: {error}");
        };
        if form == Form::MaskLlm {
            fails(Shapes::new(), "has no shape: this file holds none");
            fails(given("w.mask", Shape::new(2, 8)), "has no shape");
            fails(given("w", Shape::new(2, 12)), "is 2 bytes of packed bits, and a mask of 2 x 12 takes 3");
            // As many weights: the bits do not say it.
            assert_eq!(read(given("w", Shape::new(4, 4))).unwrap().shape(), Shape::new(4, 4));
        } else {
            assert_eq!(read(Shapes::new()).unwrap(), mask.1);
            fails(given("w", Shape::new(4, 4)), "is of 2 x 8, and its weight of 4 x 4");
        }
        fails(given("w", Shape::new(2, 6)), if form == Form::MaskLlm { "not a multiple of 4" } else { "2 x 6" });
        let masks = Masks::from_bytes(&bytes).unwrap();
        assert!(masks.read("v").unwrap_err().to_string().contains("there is no mask `v`"));
        assert!(masks.fewer(Fewer::Fill).with_shapes(given("w", Shape::new(2, 8))).read("w").unwrap() == mask.1);
    }
}

#[test]
fn files_that_are_none() {
    let refuses = |bytes: &[u8], words: &str| {
        let error = Masks::from_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        let path = make::path("none");
        std::fs::write(&path, bytes).unwrap();
        let error = Masks::open(&path).unwrap_err().to_string();
        assert!(error.contains(words) && error.starts_with(&path.display().to_string()), "{error}");
    };
    refuses(b"", "0 bytes are no safetensors file");
    refuses(b"PK\x03\x04\x14\x00", "has no directory at its end");
    refuses(b"PK\x05\x06", "has no directory at its end");
    refuses(b"\x93NUMPY\x01\x00\x10\x00{}", "not a safetensors file");
    assert!(Masks::open(make::path("nowhere")).unwrap_err().to_string().contains("cannot be read"));
    assert!(Masks::open(env!("CARGO_TARGET_TMPDIR")).unwrap_err().to_string().contains("is not a file"));
}
