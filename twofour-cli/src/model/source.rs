//! Where a model's weights come from.

use super::config::Config;
use super::gguf::Gguf;
use crate::{Failure, number};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use tokenizers::Tokenizer;
use twofour_formats::{Model as Files, Reader, TensorType};

/// Files with weights of Hugging Face's names.
#[derive(Debug)]
pub(super) enum Source {
    Folder(Folder),
    Gguf(Gguf),
}

#[derive(Debug)]
pub(super) struct Folder {
    label: String,
    readers: Vec<Reader<'static>>,
    /// Which of them has a tensor.
    places: HashMap<String, usize>,
}

/// Opens a checkpoint of either format.
pub(super) fn open(path: &Path) -> Result<(Config, Source), Failure> {
    if path.is_dir() {
        let config = Config::of_json(&path.join("config.json"))?;
        return Ok((config, Source::Folder(Folder::open(path)?)));
    }
    if !is_gguf(path)? {
        let found = path.display();
        return Err(format!("{found}: is neither a folder with config.json and safetensors nor a GGUF file").into());
    }
    let (config, gguf) = Gguf::open(path)?;
    Ok((config, Source::Gguf(gguf)))
}

/// Whether a file is a GGUF file, by its first bytes.
pub(crate) fn is_gguf(path: &Path) -> Result<bool, Failure> {
    let unreadable = |e| format!("{}: cannot be read: {e}", path.display());
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("{}: is neither a folder nor a file", path.display()).into());
    }
    let mut start = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(4).read_to_end(&mut start)).map_err(unreadable)?;
    Ok(start == b"GGUF")
}

impl Source {
    /// Checks that there is a tensor, of this shape and a type that is read.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), Failure> {
        match self {
            Self::Folder(folder) => folder.check(name, shape),
            Self::Gguf(gguf) => gguf.check(name, shape),
        }
    }

    /// A tensor, f32, on the CPU.
    pub(super) fn read(&self, name: &str) -> Result<Tensor, Failure> {
        match self {
            Self::Folder(folder) => folder.read(name),
            Self::Gguf(gguf) => gguf.read(name),
        }
    }

    /// Whether a tensor is a compressed weight.
    pub(super) fn is_compressed(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.reader(name).is_ok_and(|reader| reader.weight_info(name).is_some()),
            Self::Gguf(_) => false,
        }
    }

    pub(super) fn tokenizer(&self, path: &Path) -> Result<Tokenizer, Failure> {
        match self {
            Self::Gguf(gguf) => gguf.tokenizer(),
            Self::Folder(_) => {
                let path = path.join("tokenizer.json");
                if !path.exists() {
                    return Err(format!("{}: is not there, so give token ids by --tokens", path.display()).into());
                }
                let read = Tokenizer::from_file(&path);
                let mut tokenizer = read.map_err(|e| format!("{}: is no tokenizer: {e}", path.display()))?;
                // Both are for batches of sentences.
                tokenizer.with_padding(None);
                tokenizer.with_truncation(None).map_err(|e| format!("{}: {e}", path.display()))?;
                Ok(tokenizer)
            }
        }
    }
}

impl Folder {
    fn open(path: &Path) -> Result<Self, Failure> {
        let files = Files::find(path)?;
        let readers: Vec<Reader<'static>> = files.open_all()?.into_iter().map(|(_, reader)| reader).collect();
        let mut places = HashMap::new();
        for (i, reader) in readers.iter().enumerate() {
            let compressed = reader.weights().map(|weight| weight.name());
            for name in reader.tensors().map(|tensor| tensor.name()).chain(compressed) {
                places.insert(name.to_owned(), i);
            }
        }
        Ok(Self { label: path.display().to_string(), readers, places })
    }

    fn reader(&self, name: &str) -> Result<&Reader<'static>, Failure> {
        let place = self.places.get(name).and_then(|&i| self.readers.get(i));
        place.ok_or_else(|| format!("{}: has no weight `{name}`", self.label).into())
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<(), Failure> {
        let reader = self.reader(name)?;
        let (dtype, found) = match (reader.weight_info(name), reader.tensor_info(name)) {
            (Some(weight), _) => {
                let shape = weight.shape();
                (TensorType::of_values(weight.value_type()), vec![shape.rows, shape.cols])
            }
            (None, Some(tensor)) => (Some(tensor.dtype()), tensor.shape().to_vec()),
            (None, None) => return Err(format!("{}: has no weight `{name}`", self.label).into()),
        };
        if found != shape {
            let label = &self.label;
            return Err(format!("{label}: `{name}` is of {found:?}, and by config.json it is of {shape:?}").into());
        }
        match dtype {
            Some(TensorType::F32 | TensorType::F16 | TensorType::Bf16) => Ok(()),
            Some(other) => {
                let label = &self.label;
                Err(format!("{label}: `{name}` is of type {other}, and F32, F16 and BF16 are read").into())
            }
            None => Err(format!("{}: `{name}` is of a type that is not read", self.label).into()),
        }
    }

    fn read(&self, name: &str) -> Result<Tensor, Failure> {
        let reader = self.reader(name)?;
        if reader.weight_info(name).is_some() {
            return dense(&reader.weight(name)?);
        }
        let Some(info) = reader.tensor_info(name) else {
            return Err(format!("{}: has no weight `{name}`", self.label).into());
        };
        Ok(Tensor::from_vec(number::widened(info.dtype(), &reader.tensor(name)?)?, info.shape(), &Device::Cpu)?)
    }
}

/// A compressed weight made dense, `[N, K]`, f32, on the CPU.
pub(crate) fn dense(weight: &twofour_formats::Weight) -> Result<Tensor, Failure> {
    let dtype = TensorType::of_values(weight.value_type()).ok_or("a weight of a type that is not read")?;
    let shape = weight.shape();
    let values = number::widened(dtype, &weight.decompress_bytes())?;
    Ok(Tensor::from_vec(values, (shape.rows, shape.cols), &Device::Cpu)?)
}
