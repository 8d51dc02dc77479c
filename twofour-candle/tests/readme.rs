//! The repository's README shows this crate by the example of its own, which is compiled and run as a doc test here.
#![allow(clippy::unwrap_used)]

#[test]
fn the_repositorys_readme_shows_the_example_that_is_tested() {
    let own = include_str!("../README.md");
    let (_, example) = own.split_once("```rust\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let shown: String = example.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert!(shown.lines().count() > 8 && shown.contains("MaskedLinear::from_linear"), "{shown}");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let root = std::fs::read_to_string(root).unwrap();
    assert!(root.contains(&format!("```rust,ignore\n{shown}```")), "README.md should show, as `rust,ignore`:\n{shown}");
}
