//! Models of several files.

use crate::make::{file, path};
use std::fs;
use std::path::Path;
use twofour_formats::{Index, Model};

fn shard(folder: &Path, name: &str, tensors: &[&str]) {
    let tensors: Vec<_> = tensors.iter().map(|&tensor| (tensor, "U8", vec![2], vec![0; 2])).collect();
    fs::write(folder.join(name), file(&tensors, &[])).unwrap();
}

#[test]
fn an_index_and_its_shards() {
    let folder = path("sharded");
    fs::create_dir(&folder).unwrap();
    shard(&folder, "model-00001-of-00002.safetensors", &["a", "b"]);
    shard(&folder, "model-00002-of-00002.safetensors", &["c"]);
    let mut index = Index::new();
    index.add("model-00001-of-00002.safetensors", ["a", "b"], 4).unwrap();
    index.add("model-00002-of-00002.safetensors", ["c"], 2).unwrap();
    let place = folder.join("model.safetensors.index.json");
    index.save(&place).unwrap();
    assert_eq!(Index::open(&place).unwrap(), index);
    assert_eq!(index.bytes(), 6);
    assert_eq!((index.file("c"), index.file("d")), (Some("model-00002-of-00002.safetensors"), None));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&place).unwrap()).unwrap();
    assert_eq!(json["metadata"]["total_size"], 6);
    assert_eq!(json["weight_map"]["b"], "model-00001-of-00002.safetensors");

    for found in [&folder, &place] {
        let model = Model::find(found).unwrap();
        let files: Vec<_> = model.files().collect();
        assert_eq!(files, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
        assert_eq!(model.index(), Some(("model.safetensors.index.json", &index)));
        assert_eq!(model.open(files[0]).unwrap().tensors().count(), 2);
        assert_eq!(model.path(files[1]), folder.join(files[1]));
    }
    // A shard that another run left, without one of the tensors.
    shard(&folder, "model-00001-of-00002.safetensors", &["a"]);
    let model = Model::find(&folder).unwrap();
    let error = model.open("model-00001-of-00002.safetensors").unwrap_err().to_string();
    assert!(error.contains("the index says that `b` is here"), "{error}");
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    assert!(model.open("model-00002-of-00002.safetensors").is_err());
}

#[test]
fn which_model_in_a_folder() {
    let folder = path("folder");
    fs::create_dir(&folder).unwrap();
    let error = || Model::find(&folder).unwrap_err().to_string();
    assert!(error().contains("has no safetensors files"));
    shard(&folder, "one.safetensors", &["a"]);
    fs::write(folder.join("config.json"), "{}").unwrap();
    let model = Model::find(&folder).unwrap();
    assert_eq!((model.files().collect::<Vec<_>>(), model.index()), (vec!["one.safetensors"], None));
    shard(&folder, "two.safetensors", &["a"]);
    assert!(
        error().contains("one.safetensors, two.safetensors") || error().contains("two.safetensors, one.safetensors")
    );
    Index::new().save(folder.join("x.safetensors.index.json")).unwrap();
    assert_eq!(Model::find(&folder).unwrap().files().len(), 0);
    let single = Model::find(folder.join("two.safetensors")).unwrap();
    assert_eq!(single.open("two.safetensors").unwrap().tensors().count(), 1);
    assert!(Model::find(folder.join("gone.safetensors")).unwrap().open("gone.safetensors").is_err());
    assert!(Model::find(folder.join("gone.index.json")).is_err());
}

#[test]
fn indices_that_are_wrong() {
    let parse = |json: &str| Index::from_bytes(json.as_bytes());
    let good = r#"{"metadata":{"total_size":1.5e3,"other":[1]},"weight_map":{"a":"m.safetensors"},"more":{}}"#;
    assert_eq!(parse(good).unwrap().file("a"), Some("m.safetensors"));
    assert!(parse(r#"{"weight_map":{}}"#).is_ok() && parse(r#"{"weight_map":{},"metadata":null}"#).is_ok());
    for json in ["", "{}", "[]", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, r#"{"weight_map":{"a":"b"}"#] {
        assert!(parse(json).unwrap_err().to_string().contains("is not an index of shards"), "{json}");
    }
    assert!(parse(r#"{"weight_map":{"a":"b","a":"c"}}"#).unwrap_err().to_string().contains("two entries `a`"));
    // No way out of the folder.
    for name in ["../m", "/etc/passwd", "..", ".", "", "a/b", "a\\\\b", "C:m", "a/../b", "./m", "m/", "a\\u0000b"] {
        let error = parse(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#)).unwrap_err().to_string();
        assert!(error.contains("is not the name of a file"), "{name}: {error}");
    }
}
