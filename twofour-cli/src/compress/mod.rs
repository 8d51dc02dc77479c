//! `twofour compress`: a model compressed to 2:4, or dense again.

mod file;
mod given;
mod report;

use crate::choose::{self, Can, Chosen, Which, is_float};
use crate::demo::Demo;
use crate::layer::Layer;
use crate::output::{self, Place};
use crate::{Failure, table};
use clap::Parser;
use given::Given;
pub(crate) use given::{codes, has_any_codes};
use report::Report;
use std::path::{Path, PathBuf};
use twofour_formats::{Index, Model, Reader, Staged};

/// A model compressed to 2:4, or made dense again.
///
/// Compresses the linear layers of a model to 2:4 (f32: 1:2), by magnitude or by masks that are given, or makes a
/// compressed model dense again; and reads the result back, to compare it bit for bit.
///
/// The model is a safetensors file, an index of shards, or a folder with either. Layers are the two-dimensional tensors
/// of floats named *.weight whose rows are a multiple of 4 long, without embeddings, heads, norms and routers; a line
/// says what was left dense, and why. A folder that is made gets config.json and tokenizer of the one that is given.
#[derive(Debug, Default, Parser)]
pub struct Args {
    /// The model [default: a small one is made up]
    model: Option<PathBuf>,
    /// Where to write: a file, for shards a folder [default: beside the model, with `twofour` or `dense` in its name]
    #[arg(long, value_name = "PATH", requires = "model")]
    out: Option<PathBuf>,
    /// Takes masks from this file and not by magnitude: masks of any form, a compressed model, or tensors NAME.codes;
    /// layers not in it stay dense
    #[arg(long, visible_alias = "codes", value_name = "FILE", requires = "model", conflicts_with = "decompress")]
    masks: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Compresses embeddings, heads and all else that can be, whatever its name
    #[arg(long, conflicts_with_all = ["include", "decompress"])]
    all: bool,
    /// Lets magnitude choose in weights that have been pruned already, and not to 2:4 (f32: 1:2): what is not zero in
    /// them is dropped
    #[arg(long, conflicts_with_all = ["masks", "decompress"])]
    prune_again: bool,
    /// Makes a dense model of a compressed one, also of a checkpoint in sparse-24-bitmask or sparse-bitmask
    #[arg(long, requires = "model", conflicts_with_all = ["include", "exclude", "transposed"])]
    decompress: bool,
}

/// Compresses or decompresses, and checks. Whether all is well.
///
/// # Errors
/// What is wrong with the model, the masks or the arguments.
pub fn run(args: &Args) -> Result<bool, Failure> {
    match &args.model {
        Some(model) => with(args, model),
        None => demo(args),
    }
}

fn with(args: &Args, path: &Path) -> Result<bool, Failure> {
    let model = Model::find(path)?;
    let readers = model.open_all()?;
    let task = task(args, &model, &readers)?;
    let word = if args.decompress { "dense" } else { "twofour" };
    let place = match &args.out {
        Some(to) => Place::asked(&model, path, to),
        None => Place::beside(&model, path, word)?,
    };
    let mut read = output::read(&model);
    read.extend(args.masks.clone());
    output::check(&read, &place.files(&model), place.folder())?;
    let mut report = Report::default();
    // Every byte is read to be written, and again to be checked.
    let bytes: u64 = readers.iter().flat_map(|(_, reader)| reader.all_tensors()).map(|tensor| tensor.bytes()).sum();
    let progress = table::progress_bar(2 * bytes);
    // Before the files, so that on a failure it is empty when its time comes.
    let made = place.make()?;
    // All files are written before the first takes its place.
    let (mut index, mut staged) = (Index::new(), Vec::new());
    for (file, reader) in &readers {
        let manifest = file::manifest(&task, reader)?;
        staged.push(file::write(&task, reader, &manifest, &place.file(file), &mut report, &progress)?);
        index.add(file, manifest.tensor_names(), manifest.data_bytes())?;
    }
    if let Some((name, _)) = model.index() {
        staged.push(index.stage(place.file(name))?);
    }
    staged.into_iter().try_for_each(Staged::commit)?;
    place.complete(path)?;
    drop(made);
    for (file, reader) in &readers {
        let written = Reader::open(place.file(file))?;
        file::verify(&task, reader, &written, &mut report, &progress)?;
    }
    progress.finish_and_clear();
    output::print_left_out(&readers);
    if let Task::Compress(chosen, given) = &task {
        chosen.print_dense();
        given.print_unused(chosen);
    }
    report.print(&place.path);
    Ok(report.is_well())
}

/// What to do with every tensor of the model.
enum Task {
    Compress(Chosen, Box<Given>),
    Decompress,
}

fn task(args: &Args, model: &Model, readers: &[(&str, Reader<'_>)]) -> Result<Task, Failure> {
    let compressed = readers.iter().map(|(_, reader)| reader.weights().len()).sum::<usize>();
    match (args.decompress, compressed) {
        (true, 0) => Err("there is nothing to decompress: the model has no compressed weights".into()),
        (true, _) => Ok(Task::Decompress),
        (false, 0) => {
            let given =
                Given::open(args.masks.as_deref(), args.prune_again, || choose::shapes(&args.which, model, readers))?;
            let nothing = match args.masks {
                Some(_) => "nothing to compress: masks were given for none of",
                None => "nothing to compress: no linear layer among",
            };
            // A mask says of a layer that it is one, whatever its name.
            let all = args.all || args.masks.is_some();
            let can = Can { layer: &possible, given: &|name| given.check(name), all, nothing };
            let chosen = choose::choose(&args.which, model, readers, &can)?;
            Ok(Task::Compress(chosen, Box::new(given)))
        }
        (false, _) => {
            Err(format!("{compressed} weights are compressed already: make them dense first, with --decompress").into())
        }
    }
}

/// Whether the format holds a layer.
fn possible(layer: &Layer) -> Result<(), String> {
    if !is_float(layer.dtype) {
        return Err("floats are compressed, F32, F16, BF16, F8_E4M3 and F8_E5M2".into());
    }
    match layer.is_plain() {
        true => Ok(()),
        false => Err("version 1 of the format holds weights [N, K] alone; prune makes a mask for it".into()),
    }
}

/// A small model that is made up, compressed and made dense again.
fn demo(args: &Args) -> Result<bool, Failure> {
    let demo = Demo::new()?;
    println!("A small model, made up. For one of yours: twofour compress FOLDER\n");
    let compressed = with(args, demo.model())?;
    println!("\nAnd dense again:\n");
    let back = Args { decompress: true, ..Args::default() };
    Ok(with(&back, &demo.folder().join("model.twofour.safetensors"))? && compressed)
}
