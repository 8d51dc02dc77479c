//! Layer by layer, as the papers of Wanda and SparseGPT prune: a model runs over calibration tokens a block at a time. One
//! pass through a block as it is, with all before it pruned, says what its seven layers read; masks are chosen by
//! that, and the block, pruned, makes what the next one reads.
//!
//! What came of a block is kept in a folder until the masks are written: a run that was cut off goes on behind its last
//! block.

mod inputs;

use super::kept::Kept;
use super::{Args, Made, Method, Source, method};
use crate::choose::Layers;
use crate::eval::tokens;
use crate::layer::Layer;
use crate::model::{Block, Model};
use crate::{Failure, number, table};
use candle_core::{DType, Device, Tensor};
use indicatif::ProgressBar;
use inputs::Inputs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use twofour::select::Swaps;
use twofour::{Cpu, Executor};

/// Tokens that go through a block at a time.
const BATCH: usize = 4096;

/// Masks by a model's own activations.
pub(crate) struct Walk<'a> {
    args: &'a Args,
    model: &'a Model,
    tokens: Vec<u32>,
    /// Results, once there are any.
    kept: Option<Kept>,
}

impl<'a> Walk<'a> {
    /// Of the calibration tokens that the arguments name.
    pub(crate) fn new(args: &'a Args, model: &'a Model) -> Result<Self, Failure> {
        let mut tokens = tokens::of_files(model, &args.calibration, "--calibration")?;
        let (count, window) = (tokens.len(), args.window);
        let windows = count.checked_div(window).unwrap_or(0).min(args.windows);
        if windows == 0 {
            let problem = format!("--calibration has {count} tokens, and --window is {window}");
            return Err(format!("{problem}: there is no window to look at in --windows {}", args.windows).into());
        }
        tokens.truncate(windows * window);
        let left = count - tokens.len();
        println!("calibration: {windows} windows of {window} tokens; {left} tokens are not looked at");
        Ok(Self { args, model, tokens, kept: None })
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

    /// Through all blocks. What is kept of a block is taken, up to the first that has to be made.
    fn walk(&self, kept: &Kept, layers: &Layers, progress: &ProgressBar) -> Result<(), Failure> {
        let mut states = self.states()?;
        let (last, mut anew) = (self.last(layers), false);
        for i in 0..=last {
            let mut block = self.model.block(i)?;
            let wanted = wanted(&block, layers)?;
            let found = wanted.iter().map(|(layer, dense)| kept.get(layer, dense)).collect::<Option<Vec<_>>>();
            anew = anew || found.is_none();
            let made = match found {
                Some(found) if !anew => found,
                _ => self.make(kept, &block, &states, &wanted, progress)?,
            };
            progress.set_position(i as u64 + 1);
            if i < last {
                for ((layer, dense), made) in wanted.iter().zip(made) {
                    let pruned = number::widened(layer.dtype, &made.weight(layer, dense)?)?;
                    let shape = (layer.shape.rows, layer.shape.cols);
                    block.set(&layer.name, &Tensor::from_vec(pruned, shape, &Device::Cpu)?)?;
                }
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

    /// Makes and keeps the masks of a block's wanted layers, in their order, which is that of the walk through the
    /// block. Layers that read the same share what is known of it.
    fn make(
        &self,
        kept: &Kept,
        block: &Block,
        states: &[Tensor],
        wanted: &[Wanted<'_>],
        progress: &ProgressBar,
    ) -> Result<Vec<Made>, Failure> {
        let mut seen: Vec<(Vec<String>, Inputs)> = Vec::new();
        let mut look = |names: &[&str], x: &Tensor| {
            if !wanted.iter().any(|(layer, _)| names.contains(&layer.name.as_str())) {
                return Ok(());
            }
            if seen.iter().all(|(of, _)| of != names) {
                seen.push((names.iter().map(|&name| name.to_owned()).collect(), Inputs::new(x)?));
            }
            seen.iter_mut().filter(|(of, _)| of == names).try_for_each(|(_, inputs)| inputs.add(x))
        };
        for state in states {
            block.forward(state, &mut |names, x| look(names, x).map_err(|e| reads(names[0], &e)))?;
        }
        let mut all = Vec::new();
        for (names, inputs) in seen {
            let of = inputs.known(self.args).map_err(|e| reads(&names[0], &e))?;
            for (layer, dense) in wanted.iter().filter(|(layer, _)| names.contains(&layer.name)) {
                table::at(progress, &layer.name);
                let made = choose(self.args, layer, dense, &of)?;
                kept.put(layer, dense, &made)?;
                all.push(made);
            }
        }
        Ok(all)
    }
}

/// A layer that is wanted, and its weight as it is in the file.
type Wanted<'l> = (&'l Layer, Vec<u8>);

/// Those of a block, in its order.
fn wanted<'l>(block: &Block, layers: &'l Layers) -> Result<Vec<Wanted<'l>>, Failure> {
    let wanted = block.linears().iter().filter_map(|linear| Some((layers.get(linear.name())?, linear.weight())));
    wanted.map(|(layer, weight)| Ok((layer, narrowed(layer, weight)?))).collect()
}

/// What is wrong with the input of a layer.
fn reads(layer: &str, problem: &Failure) -> Failure {
    format!("what `{layer}` reads: {problem}").into()
}

impl Source for Walk<'_> {
    fn check(&mut self, layers: &Layers) -> Result<(), Failure> {
        let known: Vec<_> = (0..self.model.blocks()).flat_map(|i| self.names(i)).collect();
        if let Some(name) = layers.keys().find(|name| !known.contains(name)) {
            let path = self.model.path().display();
            let why = "is not a linear layer of a block, and nothing is known of its inputs";
            return Err(format!("{path}: `{name}` {why}: leave it out with --exclude").into());
        }
        let folder = match &self.args.keep {
            Some(folder) => folder.clone(),
            None => {
                let masks =
                    crate::convert::masks(self.args.form, self.args.out.as_deref(), self.model.path(), "masks")?.1;
                let mut folder = masks.into_os_string();
                folder.push(".partial");
                folder.into()
            }
        };
        // What a layer reads depends on which layers before it are pruned.
        let mut names = DefaultHasher::new();
        layers.keys().for_each(|name| name.hash(&mut names));
        let kept = Kept::open(&folder, format!("{} layers {:016x}", self.by()?, names.finish()))?;
        let progress = table::progress_of_blocks(self.last(layers) + 1);
        let walked = self.walk(&kept, layers, &progress);
        walked.map_err(|e| kept.left_after(&e))?;
        progress.finish_and_clear();
        self.kept = Some(kept);
        Ok(())
    }

    fn by(&self) -> Result<String, Failure> {
        let Args { method, damping, as_is, swaps, window, .. } = self.args;
        let mut hasher = DefaultHasher::new();
        self.tokens.hash(&mut hasher);
        for file in files(self.model.path())? {
            let about = std::fs::metadata(&file)?;
            (file, about.len(), about.modified().ok()).hash(&mut hasher);
        }
        let seen = hasher.finish();
        Ok(format!("{method:?} damping {damping} as-is {as_is} swaps {swaps} window {window} seen {seen:016x}"))
    }

    fn layer(&mut self, layer: &Layer, dense: &[u8]) -> Result<Made, Failure> {
        let kept = self.kept.as_ref().ok_or_else(|| format!("`{}` was not pruned yet", layer.name))?;
        let folder = kept.folder().display();
        kept.get(layer, dense).ok_or_else(|| format!("{folder}: what was kept of `{}` is gone", layer.name).into())
    }

    fn forget(&self, layers: &Layers) {
        self.kept.iter().for_each(|kept| kept.remove(layers.values()));
    }
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
fn choose(args: &Args, layer: &Layer, dense: &[u8], of: &inputs::Known) -> Result<Made, Failure> {
    let mut made = match (args.method, &of.factor, &of.norms) {
        (Method::Magnitude, _, _) => method::by_score(layer, dense, None)?,
        (Method::Wanda, _, Some(norms)) => {
            Made { empty: norms.empty(), ..method::by_score(layer, dense, Some(norms.scale()))? }
        }
        (Method::Sparsegpt, Some(factor), _) => method::sparsegpt(args, layer, dense, factor)?,
        _ => return Err("Wanda needs norms, and SparseGPT a factor".into()),
    };
    let wide = number::widened(layer.dtype, dense)?;
    if args.swaps {
        swap(layer, &wide, of, &mut made)?;
    }
    let pruned = number::widened(layer.dtype, &made.weight(layer, dense)?)?;
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
