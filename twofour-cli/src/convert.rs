//! `twofour convert`: from one form of masks to another.

use crate::choose::{self, Which};
use crate::demo::Demo;
use crate::prune::report::{self, Layer};
use crate::{Failure, output, table};
use clap::Parser;
use std::path::{Path, PathBuf};
use twofour_formats::Model;
use twofour_formats::masks::{Fewer, Form, Manifest, Masks, Shapes};

/// Masks from one form of file to another.
///
/// Forms: `maskllm` (npz, MaskLLM's mask_compressed.npz), `patch` (npz, PATCH's mask.npz), `flags` (safetensors of
/// zeros and ones), `base6` (safetensors, 0.667 bit a weight).
#[derive(Debug, Default, Parser)]
pub struct Args {
    /// The masks, of whichever form [default: those of a small model that is made up]
    masks: Option<PathBuf>,
    /// The model, for shapes: MaskLLM's files hold none
    #[arg(long, value_name = "MODEL", requires = "masks")]
    model: Option<PathBuf>,
    /// Where masks are written [default: beside the masks, with `masks` in the name]
    #[arg(long, value_name = "FILE", requires = "masks")]
    out: Option<PathBuf>,
    /// The form to write [default: base6, or patch if --out is an npz]
    #[arg(long, value_parser = form)]
    form: Option<Form>,
    /// Fills groups that keep fewer than two, at their highest free positions
    #[arg(long)]
    fill: bool,
}

/// The form of a name.
pub(crate) fn form(name: &str) -> Result<Form, String> {
    let names = || Form::ALL.map(Form::name).join(", ");
    Form::from_name(name).ok_or_else(|| format!("masks are written as one of {}", names()))
}

/// The form of masks that are to be written, and their file: as asked, or beside what they are made from, with this word
/// in its name.
pub(crate) fn masks(
    form: Option<Form>,
    out: Option<&Path>,
    from: &Path,
    word: &str,
) -> Result<(Form, PathBuf), Failure> {
    let npz = out.is_some_and(|out| out.extension().is_some_and(|extension| extension == "npz"));
    let form = form.unwrap_or(if npz { Form::Patch } else { Form::Base6 });
    let out = out.map_or_else(|| output::beside(from, word, form.extension()), |out| Ok(out.to_owned()));
    Ok((form, out?))
}

/// Converts, and reads back. Whether all is well.
///
/// # Errors
/// What is wrong with the masks, the model or the arguments.
pub fn run(args: &Args) -> Result<bool, Failure> {
    let Some(path) = &args.masks else { return demo(args) };
    let mut read = vec![path.clone()];
    let mut shapes = Shapes::new();
    if let Some(model) = &args.model {
        let model = Model::find(model)?;
        shapes = choose::shapes(&Which::default(), &model, &model.open_all()?)?;
        read.extend(output::read(&model));
    }
    let mut masks = Masks::open(path)?.with_shapes(shapes);
    if args.fill {
        masks = masks.fewer(Fewer::Fill);
    }
    if masks.names().len() == 0 {
        return Err(format!("{} has no masks", path.display()).into());
    }
    if masks.form() == Form::MaskLlm && args.model.is_none() && masks.names().any(|name| masks.shape(name).is_err()) {
        let usage = "name the model too, with --model";
        return Err(format!("{} is MaskLLM's, which holds no shapes: {usage}", path.display()).into());
    }
    let (form, out) = self::masks(args.form, args.out.as_deref(), path, "masks")?;
    output::check(&read, std::slice::from_ref(&out), None)?;
    let mut manifest = Manifest::new(form);
    let mut weights = 0;
    for name in masks.names() {
        let shape = masks.shape(name)?;
        manifest.layer(name, shape)?;
        weights += shape.weights() as u64;
    }
    if let Some(text) = masks.text()? {
        manifest.text(&text);
    }
    // As `masks::convert`, with something to look at.
    let progress = table::progress_bar(weights / 8);
    let mut layers = Vec::new();
    manifest.save::<Failure>(&out, |file| {
        for name in masks.names() {
            table::at(&progress, name);
            let mask = masks.read(name)?;
            file.mask(name, &mask)?;
            layers.push(Layer::new(name, &mask, masks.form().to_string(), None, None));
            progress.inc(mask.shape().weights() as u64 / 8);
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    report::finish(&layers, form, &out)
}

/// Masks of a small model that is made up, as MaskLLM has them, and from there.
fn demo(args: &Args) -> Result<bool, Failure> {
    let demo = Demo::new()?;
    let (model, masks) = (demo.model().to_owned(), demo.folder().join("mask_compressed.npz"));
    println!("Masks of a small model, made up, as MaskLLM has them:\n");
    let (form, out) = (["--form", "maskllm", "--out"].map(Into::into), masks.clone().into_os_string());
    let arguments = [&["prune".into(), model.clone().into_os_string()][..], &form, &[out]].concat();
    let made = crate::prune::run(&crate::prune::Args::try_parse_from(arguments)?)?;
    println!("\nConverted:\n");
    let of = Args { masks: Some(masks), model: Some(model), form: args.form, fill: args.fill, ..Args::default() };
    Ok(run(&of)? && made)
}
