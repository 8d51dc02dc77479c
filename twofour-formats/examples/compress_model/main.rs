//! Compresses a model: makes 2:4 masks for its linear layers, by magnitude or from codes given, writes the compressed
//! model beside it, says what it takes and how much of each layer's energy is kept, and reads it back to check it
//! against the original bit for bit. Or makes a dense model of a compressed one again.
//!
//! A layer is in memory at a time, not the model. Without arguments a small model is made up and shown.
//!
//! Exit code 0 if all is well, 1 if what was read back is not what was written, 2 if the arguments or a file are wrong.

mod choose;
mod demo;
mod file;
#[path = "../common/names.rs"]
mod names;
mod number;
mod output;
mod report;
#[path = "../common/shards.rs"]
mod shards;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use report::Report;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use twofour_formats::{Model, Reader};

type Failure = Box<dyn std::error::Error>;

/// Compresses the linear layers of a model to 2:4 (f32: 1:2), or decompresses one.
///
/// The model is a safetensors file, an index of shards, or a folder with either. Layers are the two-dimensional tensors
/// of floats named *.weight whose rows are a multiple of 4 long, without embeddings, heads and norms. Other files of a
/// folder (config.json, tokenizer) are not copied.
#[derive(Debug, Default, Parser)]
#[command(name = "compress_model")]
struct Args {
    /// The model [default: a small one is made up]
    model: Option<PathBuf>,
    /// Where to write: a file, for shards a folder [default: beside the model, with `twofour` or `dense` in its name]
    #[arg(long, value_name = "PATH", requires = "model")]
    out: Option<PathBuf>,
    /// Takes masks from this file and not by magnitude: a compressed model, or tensors <name>.codes; layers not in
    /// it stay dense
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with = "decompress")]
    codes: Option<PathBuf>,
    /// Compresses only layers of such names, where * stands for anything; embeddings and heads too, if they match
    #[arg(long, value_name = "PATTERN", conflicts_with = "decompress")]
    only: Vec<String>,
    /// Compresses embeddings, heads and all else that can be, whatever its name
    #[arg(long, conflicts_with_all = ["only", "decompress"])]
    all: bool,
    /// Makes a dense model of a compressed one, also of a sparse-24-bitmask checkpoint
    #[arg(long, requires = "model")]
    decompress: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.model {
        Some(model) => run(&args, model),
        None => demo::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Compresses or decompresses, and checks. Whether all is well.
fn run(args: &Args, path: &Path) -> Result<bool, Failure> {
    let model = Model::find(path)?;
    let readers = model.open_all()?;
    let task = task(args, &readers)?;
    let output = output::Output::new(&model, args.out.as_deref(), args.codes.as_deref(), args.decompress)?;
    let mut report = Report::default();
    // Every byte is read to be written, and again to be checked.
    let bytes: u64 = readers.iter().flat_map(|(_, reader)| reader.all_tensors()).map(|tensor| tensor.bytes()).sum();
    let progress = progress_bar(2 * bytes);
    // Before the files, so that on a failure it is empty when its time comes.
    let made = model.index().map(|_| shards::Folder::make(&output.path)).transpose()?;
    // All files are written before the first takes its place.
    let (mut index, mut staged) = (twofour_formats::Index::new(), Vec::new());
    for (file, reader) in &readers {
        let manifest = file::manifest(&task, reader)?;
        staged.push(file::write(&task, reader, &manifest, &output.path(file), &mut report, &progress)?);
        index.add(file, manifest.tensor_names(), manifest.data_bytes())?;
    }
    if let Some((name, _)) = model.index() {
        staged.push(index.stage(output.path(name))?);
    }
    staged.into_iter().try_for_each(twofour_formats::Staged::commit)?;
    drop(made);
    for (file, reader) in &readers {
        let written = Reader::open(output.path(file))?;
        file::verify(&task, reader, &written, &mut report, &progress)?;
    }
    progress.finish_and_clear();
    shards::print_left_out(&readers);
    report.print(&output);
    Ok(report.is_well())
}

/// What to do with every tensor of the model.
enum Task {
    Compress(choose::Layers),
    Decompress,
}

fn task(args: &Args, readers: &[(&str, Reader<'_>)]) -> Result<Task, Failure> {
    let compressed = readers.iter().map(|(_, reader)| reader.weights().len()).sum::<usize>();
    match (args.decompress, compressed) {
        (true, 0) => {
            let mut tensors = readers.iter().flat_map(|(_, reader)| reader.tensors());
            let other = "as `sparse-bitmask`, which need not be 2:4 and is not read here: `sparse-24-bitmask` is";
            Err(match tensors.find_map(|tensor| tensor.name().strip_suffix("row_offsets")) {
                Some(module) => format!("{module}weight is compressed {other}").into(),
                None => "there is nothing to decompress: the model has no compressed weights".into(),
            })
        }
        (true, _) => Ok(Task::Decompress),
        (false, 0) => Ok(Task::Compress(choose::Layers::new(args, readers)?)),
        (false, _) => {
            Err(format!("{compressed} weights are compressed already: make them dense first, with --decompress").into())
        }
    }
}

/// On a terminal; else nothing is drawn.
fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
