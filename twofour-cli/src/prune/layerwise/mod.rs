//! Layer by layer, as the papers of Wanda and SparseGPT prune: a model runs over calibration tokens a block at a time. One
//! pass through a block as it is, with all before it pruned, says what its seven layers read; masks are chosen by
//! that, and the block, pruned, makes what the next one reads.
//!
//! What came of a block is kept in a folder until the masks are written: a run that was cut off goes on behind its last
//! block.

mod inputs;
mod store;

use super::{Args, Made, Method, Source, method};
use crate::choose::Layers;
use crate::eval::tokens;
use crate::layer::Layer;
use crate::model::{Block, Model};
use crate::{Failure, number, table};
use candle_core::{DType, Device, Tensor};
use indicatif::ProgressBar;
use inputs::Inputs;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use store::Store;
use twofour::select::Swaps;
use twofour::{Cpu, Executor};

/// Tokens that go through a block at a time.
const BATCH: usize = 4096;

/// Masks by a model's own activations.
pub(crate) struct Walk<'a> {
    args: &'a Args,
    model: &'a Model,
    tokens: Vec<u32>,
    /// Of the layers that are wanted.
    store: Option<Store>,
}

impl<'a> Walk<'a> {
    /// Of the calibration tokens that the arguments name.
    pub(crate) fn new(args: &'a Args, model: &'a Model) -> Result<Self, Failure> {
        let mut tokens = tokens(args, model)?;
        let (count, window) = (tokens.len(), args.window);
        let windows = count.checked_div(window).unwrap_or(0).min(args.windows);
        if windows == 0 {
            let problem = format!("--calibration has {count} tokens, and --window is {window}");
            return Err(format!("{problem}: there is no window to look at in --windows {}", args.windows).into());
        }
        tokens.truncate(windows * window);
        let left = count - tokens.len();
        println!("calibration: {windows} windows of {window} tokens; {left} tokens are not looked at");
        Ok(Self { args, model, tokens, store: None })
    }

    /// Removes what was kept: the masks are written.
    pub(crate) fn forget(self) -> Result<(), Failure> {
        self.store.map_or(Ok(()), Store::remove)
    }

    /// Hidden states before the first block, some windows at a time.
    fn states(&self) -> Result<Vec<Tensor>, Failure> {
        let window = self.args.window;
        let batches = self.tokens.chunks((BATCH / window).max(1) * window);
        let embedded = batches.map(|batch| {
            self.model.embed(&Tensor::from_slice(batch, (batch.len() / window, window), self.model.device())?)
        });
        embedded.collect()
    }

    /// What makes this run another than others, in words.
    fn describe(&self, layers: &Layers) -> Result<String, Failure> {
        let Args { method, damping, as_is, swaps, window, .. } = self.args;
        let mut hasher = DefaultHasher::new();
        (&self.tokens, layers.keys().collect::<Vec<_>>()).hash(&mut hasher);
        for file in files(self.model.path())? {
            let about = std::fs::metadata(&file)?;
            (file, about.len(), about.modified().ok()).hash(&mut hasher);
        }
        let seen = hasher.finish();
        Ok(format!("{method:?} damping {damping} as-is {as_is} swaps {swaps} window {window}\n{seen:016x}\n"))
    }

    /// Through all blocks.
    fn walk(&self, store: &Store, layers: &Layers, progress: &ProgressBar) -> Result<(), Failure> {
        let mut states = self.states()?;
        let last = self.last(layers);
        for i in 0..=last {
            let mut block = self.model.block(i)?;
            if !store.has(i) {
                let made = self.block(&block, &states, layers, progress)?;
                store.put(i, &made)?;
            }
            progress.set_position(i as u64 + 1);
            if i < last {
                put_masks(store, &mut block, layers)?;
                states.iter_mut().try_for_each(|state| block.run(state).map(|next| *state = next))?;
            }
        }
        Ok(())
    }

    /// The last block with a layer that is wanted.
    fn last(&self, layers: &Layers) -> usize {
        let wanted = |&i: &usize| self.names(i).iter().any(|name| layers.contains_key(name));
        (0..self.model.blocks()).rfind(wanted).unwrap_or(0)
    }

    fn names(&self, block: usize) -> Vec<String> {
        self.model.config().linears(block).into_iter().map(|(name, _)| name).collect()
    }

    /// The masks of a block's layers. Layers that read the same share what is known of it.
    fn block(
        &self,
        block: &Block,
        states: &[Tensor],
        layers: &Layers,
        progress: &ProgressBar,
    ) -> Result<Vec<(String, Made)>, Failure> {
        let mut seen: BTreeMap<Vec<String>, Inputs> = BTreeMap::new();
        for state in states {
            block.forward(state, &mut |names, x| {
                if !names.iter().any(|name| layers.contains_key(*name)) {
                    return Ok(());
                }
                let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
                let of = |e: Failure| format!("what `{}` reads: {e}", names[0]);
                if !seen.contains_key(&names) {
                    seen.insert(names.clone(), Inputs::new(x).map_err(of)?);
                }
                let Some(inputs) = seen.get_mut(&names) else { return Ok(()) };
                inputs.add(x).map_err(of)?;
                Ok(())
            })?;
        }
        let mut made = Vec::new();
        for (names, inputs) in seen {
            let of = inputs.known(self.args).map_err(|e| format!("what `{}` reads: {e}", names[0]))?;
            for layer in names.iter().filter_map(|name| layers.get(name)) {
                table::at(progress, &layer.name);
                let linear = block.linears().iter().find(|linear| linear.name() == layer.name);
                let linear = linear.ok_or_else(|| format!("block {} has no `{}`", block.index(), layer.name))?;
                made.push((layer.name.clone(), choose(self.args, layer, linear.weight(), &of)?));
            }
        }
        Ok(made)
    }
}

impl Source for Walk<'_> {
    fn check(&mut self, layers: &Layers) -> Result<(), Failure> {
        let known: Vec<_> = (0..self.model.blocks()).flat_map(|i| self.names(i)).collect();
        if let Some(name) = layers.keys().find(|name| !known.contains(name)) {
            let path = self.model.path().display();
            let why = "is not a linear layer of a block, and nothing is known of its inputs";
            return Err(format!("{path}: `{name}` {why}: leave it out with --exclude").into());
        }
        let (_, out) = crate::convert::masks(self.args.form, self.args.out.as_deref(), self.model.path())?;
        let store = Store::open(&out, &self.describe(layers)?)?;
        let progress = table::progress_of_blocks(self.last(layers) + 1);
        if let Err(failure) = self.walk(&store, layers, &progress) {
            return Err(store.leave(&failure));
        }
        progress.finish_and_clear();
        self.store = Some(store);
        Ok(())
    }

    fn layer(&mut self, layer: &Layer, _: &[u8]) -> Result<Made, Failure> {
        let place = (0..self.model.blocks()).find(|&i| self.names(i).contains(&layer.name));
        let (Some(place), Some(store)) = (place, &self.store) else {
            return Err(format!("no block that was pruned has `{}`", layer.name).into());
        };
        store.get(place, &layer.name)
    }
}

/// The weights of a block as pruned.
fn put_masks(store: &Store, block: &mut Block, layers: &Layers) -> Result<(), Failure> {
    let dense: Vec<_> = block.linears().iter().map(|of| (of.name().to_owned(), of.weight().clone())).collect();
    for (name, weight) in dense {
        let Some(layer) = layers.get(&name) else { continue };
        let pruned = store.get(block.index(), &name)?.weight(layer, &narrowed(layer, &weight)?)?;
        let pruned = number::widened(layer.dtype, &pruned)?;
        block.set(&name, &Tensor::from_vec(pruned, weight.shape(), &Device::Cpu)?)?;
    }
    Ok(())
}

/// Of texts, or of files of token ids.
fn tokens(args: &Args, model: &Model) -> Result<Vec<u32>, Failure> {
    let is_ids = |file: &PathBuf| file.extension().is_some_and(|end| end == "u16" || end == "u32");
    if !args.calibration.iter().any(is_ids) {
        return tokens::of_texts(model, &args.calibration);
    }
    if let Some(text) = args.calibration.iter().find(|file| !is_ids(file)) {
        return Err(
            format!("--calibration is of texts, or of token ids, and {} is no .u16 or .u32", text.display()).into()
        );
    }
    let all = args.calibration.iter().map(|file| tokens::of_file(file)).collect::<Result<Vec<_>, _>>()?;
    Ok(all.concat())
}

/// A model's files.
fn files(model: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !model.is_dir() {
        return Ok(vec![model.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A weight that was read as f32, as it is in the file.
fn narrowed(layer: &Layer, weight: &Tensor) -> Result<Vec<u8>, Failure> {
    let values = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    number::narrowed(layer.dtype, &values)
}

/// The mask of a layer, and what it costs.
fn choose(args: &Args, layer: &Layer, weight: &Tensor, of: &inputs::Known) -> Result<Made, Failure> {
    let dense = narrowed(layer, weight)?;
    let mut made = match (args.method, &of.factor, &of.norms) {
        (Method::Magnitude, _, _) => method::by_score(layer, &dense, None)?,
        (Method::Wanda, _, Some(norms)) => {
            Made { empty: norms.empty(), ..method::by_score(layer, &dense, Some(norms.scale()))? }
        }
        (Method::Sparsegpt, Some(factor), _) => method::sparsegpt(args, layer, &dense, factor)?,
        _ => return Err("Wanda needs norms, and SparseGPT a factor".into()),
    };
    let wide = number::widened(layer.dtype, &dense)?;
    if args.swaps {
        swap(layer, &wide, of, &mut made)?;
    }
    let pruned = number::widened(layer.dtype, &made.weight(layer, &dense)?)?;
    made.error = Some(of.error(layer.shape, &wide, &pruned)?);
    Ok(made)
}

/// Swaps what is kept and dropped until no single swap is better.
fn swap(layer: &Layer, weight: &[f32], of: &inputs::Known, made: &mut Made) -> Result<(), Failure> {
    let name = &layer.name;
    let (mut codes, mut swaps) = (vec![0; layer.shape.packed_codes()], vec![0; layer.shape.rows]);
    let mut before = vec![0.0; layer.shape.rows];
    let pass = Swaps::new(layer.shape, weight, &of.hessian, made.mask.codes());
    let pass = pass.codes(&mut codes).swaps(&mut swaps).losses_before(&mut before);
    Cpu.run(pass).map_err(|e| format!("`{name}`: {e}"))?;
    made.mask = method::mask(name, layer.shape, codes)?;
    made.unswapped = Some(of.share(layer.shape, weight, before.iter().sum())?);
    // The score is of the mask before.
    made.score = None;
    Ok(())
}
