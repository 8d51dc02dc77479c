//! The whole story in one command: a small language model, 2:4 masks of it by five methods, and what each costs.
//!
//! See README.md beside this file.

mod args;
mod float;
mod layers;
mod learn;
mod logits;
mod masks;
mod memory;
mod model;
mod ops;
mod optimiser;
mod phase;
mod plots;
mod prune;
mod results;
mod rows;
mod settings;
mod store;
mod story;
mod text;
mod train;

use args::Args;
use clap::Parser;
use phase::Going;
use results::{Results, summary, table};
use settings::Settings;
use std::path::Path;
use std::process::ExitCode;
use story::{Stage, Story};
use text::{Domain, Text};

type Failure = Box<dyn std::error::Error>;

/// Exit code 0 if all is done, 130 if it was stopped and can be continued, 2 if something is wrong.
fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.report {
        Some(folder) => Results::of_folder(folder).map(|all| print!("{}", table(&all))),
        None => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is::<Stopped>() => {
            eprintln!("{failure}");
            ExitCode::from(130)
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Was asked to stop, and has saved where it is.
#[derive(Debug)]
struct Stopped {
    phase: String,
    step: usize,
    of: usize,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped at step {} of {} of {}, and saved; --resume continues it", self.step, self.of, self.phase)
    }
}

impl std::error::Error for Stopped {}

fn run(args: &Args) -> Result<(), Failure> {
    memory::keep();
    let mut settings = args.settings();
    settings.check()?;
    let code = Text::read(Domain::Code, args.text.as_deref(), settings.text_bytes)?;
    let prose = || Text::read(Domain::Prose, args.prose.as_deref(), settings.text_bytes);
    let prose = args.transfer.then(prose).transpose()?;
    for text in [Some(&code), prose.as_ref()].into_iter().flatten() {
        settings.text.push(text.identity());
        println!("{}", text.description());
    }
    settings.model = args.model.as_deref().map(text::identity_of_file).transpose()?;
    let (out, device) = (args.out(), args.device()?);
    take_folder(&out, &settings, args.resume)?;
    let going = Going::new(args.stop_after)?;
    let stage = Stage {
        settings: &settings,
        device: &device,
        going: &going,
        code: &code,
        prose: prose.as_ref(),
        model: args.model.as_deref(),
        save_every: args.save_every as usize,
    };
    for &seed in &args.seeds {
        Story::run(&stage, seed, out.join(format!("seed-{seed}")))?;
    }
    let all = Results::of_folder(&out)?;
    store::save_json(
        &out.join("results.json"),
        &serde_json::json!({ "settings": settings, "seeds": all.len(), "methods": summary(&all) }),
    )?;
    plots::bars(&out.join("perplexity.svg"), &all)?;
    println!("\n{}\nmasks, results and plots are in {}", table(&all), out.display());
    Ok(())
}

/// Makes the folder this run's; another run's is left alone.
fn take_folder(out: &Path, settings: &Settings, resume: bool) -> Result<(), Failure> {
    let path = out.join("settings.json");
    match store::load_json::<Settings>(&path)? {
        Some(there) if there != *settings => {
            let differences = settings.differences(&there)?.join("; ");
            Err(format!("{} has a run with other settings ({differences}): name another --out", out.display()).into())
        }
        Some(_) if !resume => {
            Err(format!("{} has a run of these settings: --resume continues it, --out makes another", out.display())
                .into())
        }
        Some(_) => Ok(()),
        None => {
            std::fs::create_dir_all(out).map_err(|e| format!("{} cannot be made: {e}", out.display()))?;
            store::save_json(&path, settings)
        }
    }
}
