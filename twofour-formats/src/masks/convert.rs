//! From a file of masks to one of another form.

use super::{Form, Manifest, Masks};
use crate::error::Result;
use std::path::Path;

/// Writes the masks of a file in another form, one at a time. What a file of PATCH's says of itself goes along into
/// another of PATCH's. Masks come out equal; groups that were filled stay so.
///
/// # Errors
/// As [`Masks::read`] and [`Manifest::save`]; then nothing is written.
pub fn convert(masks: &Masks<'_>, form: Form, path: impl AsRef<Path>) -> Result<()> {
    let mut manifest = Manifest::new(form);
    for name in masks.names() {
        manifest.layer(name, masks.shape(name)?)?;
    }
    if let (Form::Patch, Some(text)) = (form, masks.text()?) {
        manifest.text(&text);
    }
    manifest.save(path, |file| masks.names().try_for_each(|name| file.mask(name, &masks.read(name)?)))
}
