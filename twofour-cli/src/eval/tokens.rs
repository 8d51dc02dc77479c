//! Texts and token ids.

use crate::Failure;
use crate::model::Model;
use std::path::{Path, PathBuf};

/// Token ids of texts, which are joined by two newlines and cut by the model's tokenizer, with what it puts before a
/// text.
///
/// # Errors
/// A file cannot be read, is no UTF-8, or there is nothing in it; the model has no tokenizer.
pub fn of_texts(model: &Model, files: &[PathBuf]) -> Result<Vec<u32>, Failure> {
    let mut texts = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: cannot be read: {e}", file.display()))?;
        if text.trim().is_empty() {
            return Err(format!("{}: there is no text in it", file.display()).into());
        }
        texts.push(text);
    }
    let encoded = model.tokenizer()?.encode_fast(texts.join("\n\n"), true);
    let encoded = encoded.map_err(|e| format!("{}: its tokenizer: {e}", model.path().display()))?;
    Ok(encoded.get_ids().to_vec())
}

/// Token ids of a file of 16-bit numbers, little-endian; of 32-bit ones if its name ends in `.u32`.
///
/// # Errors
/// The file cannot be read, is empty, or ends within a number.
pub fn of_file(file: &Path) -> Result<Vec<u32>, Failure> {
    let bytes = std::fs::read(file).map_err(|e| format!("{}: cannot be read: {e}", file.display()))?;
    let size = if file.extension().is_some_and(|end| end == "u32") { 4 } else { 2 };
    if bytes.is_empty() {
        return Err(format!("{}: there are no tokens in it", file.display()).into());
    }
    if bytes.len() % size != 0 {
        return Err(format!("{}: {} bytes are no tokens of {size} bytes", file.display(), bytes.len()).into());
    }
    let little = |number: &[u8]| number.iter().rev().fold(0, |all, &byte| all << 8 | u32::from(byte));
    Ok(bytes.chunks_exact(size).map(little).collect())
}

/// Of texts, or of files of token ids, whose names end in `.u16` or `.u32`. `option` is what the files were given to.
pub(crate) fn of_files(model: &Model, files: &[PathBuf], option: &str) -> Result<Vec<u32>, Failure> {
    let is_ids = |file: &PathBuf| file.extension().is_some_and(|end| end == "u16" || end == "u32");
    if !files.iter().any(is_ids) {
        return of_texts(model, files);
    }
    if let Some(text) = files.iter().find(|file| !is_ids(file)) {
        let text = text.display();
        return Err(format!("{option} is of texts, or of token ids, and {text} is no .u16 or .u32").into());
    }
    let all = files.iter().map(|file| of_file(file)).collect::<Result<Vec<_>, _>>()?;
    Ok(all.concat())
}
