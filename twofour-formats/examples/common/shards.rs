//! What models of several files need: a folder that stays only if something came of it, and what was left out.

use std::path::Path;
use twofour_formats::Reader;

/// A folder for the files of a model. If it was made here and nothing is put in it, it is gone afterwards.
pub(crate) struct Folder<'a>(Option<&'a Path>);

impl<'a> Folder<'a> {
    pub(crate) fn make(path: &'a Path) -> Result<Self, String> {
        let made = !path.is_dir();
        std::fs::create_dir_all(path).map_err(|e| format!("{} cannot be made: {e}", path.display()))?;
        Ok(Self(made.then_some(path)))
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        // One that is not empty stays.
        let _ = self.0.map(std::fs::remove_dir);
    }
}

/// Prints what is in the files but not in the model.
pub(crate) fn print_left_out(readers: &[(&str, Reader<'_>)]) {
    for (file, tensor) in readers.iter().flat_map(|(file, reader)| reader.left_out().map(move |of| (file, of))) {
        println!("left out: {} in {file}, for the index does not have it there", tensor.name());
    }
}
