//! Floats in JSON, which has no NaN and no infinity: those are written as strings. Used as
//! `#[serde(with = "crate::float")]`.

use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { to.serialize_f64(*value) } else { to.serialize_str(&value.to_string()) }
}

pub(crate) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(f64),
        Text(String),
    }
    match Option::<Form>::deserialize(from)? {
        Some(Form::Number(value)) => Ok(value),
        Some(Form::Text(text)) => text.parse().map_err(serde::de::Error::custom),
        // What is not finite was written so once.
        None => Ok(f64::NAN),
    }
}
