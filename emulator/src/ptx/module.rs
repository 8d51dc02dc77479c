//! A module as it is executed, and what it is made from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::decode::{Decoder, Special};
use super::op::{Instruction, LOCAL, PARAMS, Row, SHARED};
use super::parse::{self, EntryText, Item, ModuleText, Variable};
use super::statement::{Operand, Place};
use super::text::wrong;
use crate::fault::Source;
use crate::{Buffer, Fault};

/// Bytes between variables of shared memory, so that a step beyond one is not a step into the next.
const GAP: u64 = 64;

/// The file whose functions are one instruction each.
const WRAPPERS: &str = "ptx.cuh";

/// A PTX module that can be executed. Its global variables live as long as it does, and keep what kernels store there.
pub struct Module {
    pub(super) entries: BTreeMap<String, Arc<Entry>>,
    /// Global and constant memory.
    _variables: Vec<Buffer>,
}

/// A kernel of a module.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) args_size: usize,
    pub(super) max_threads: u32,
    pub(super) code: Vec<Instruction>,
    /// Rows of the three files.
    pub(super) counts: [u32; 3],
    pub(super) words: Vec<(Row, u32)>,
    pub(super) doubles: Vec<(Row, u64)>,
    pub(super) predicates: Vec<(Row, bool)>,
    pub(super) specials: Vec<(Row, Special)>,
    pub(super) shared: Vec<SharedVariable>,
    pub(super) local_bytes: u64,
    /// The line of each instruction in the text, and its file and line in the source.
    lines: Vec<u32>,
    places: Vec<Place>,
    files: Arc<HashMap<u32, String>>,
}

/// A variable in the window of shared memory.
pub(super) struct SharedVariable {
    pub(super) name: String,
    pub(super) address: u64,
    /// Nothing for the dynamic one.
    pub(super) bytes: Option<u64>,
}

impl Module {
    /// Reads a module's text: every instruction of every entry is decoded.
    ///
    /// # Errors
    ///
    /// [`Fault::Ptx`] names the first line that is not known or not right; [`Fault::Host`] if there is no memory for
    /// the module's variables.
    pub fn new(text: &str) -> Result<Module, Fault> {
        let text = parse::module(text)?;
        let mut variables = Vec::new();
        let mut symbols = HashMap::new();
        let writable = text.global.iter().map(|variable| (variable, false));
        for (variable, read_only) in writable.chain(text.constant.iter().map(|variable| (variable, true))) {
            let buffer = hold(variable, read_only)?;
            symbols.insert(variable.name, buffer.address());
            variables.push(buffer);
        }
        let files = Arc::new(text.files.iter().cloned().collect());
        let entries = text.entries.iter().map(|entry| {
            let entry = Entry::new(&text, entry, symbols.clone(), &files)?;
            Ok((entry.name.clone(), Arc::new(entry)))
        });
        Ok(Module { entries: entries.collect::<Result<_, Fault>>()?, _variables: variables })
    }

    /// The names of the module's kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(super) fn entry(&self, name: &str) -> Result<&Arc<Entry>, Fault> {
        self.entries.get(name).ok_or_else(|| Fault::UnknownKernel {
            name: name.to_owned(),
            known: self.kernels().map(str::to_owned).collect(),
        })
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kernels()).finish()
    }
}

/// Memory for a variable, with its initial values and zeros.
fn hold(variable: &Variable, read_only: bool) -> Result<Buffer, Fault> {
    let bytes = variable.bytes.unwrap_or(0);
    let mut values = variable.values.clone();
    values.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
    if read_only { Buffer::input(variable.name, &values) } else { Buffer::in_place(variable.name, &values) }
}

impl Entry {
    fn new<'a>(
        module: &ModuleText<'a>,
        text: &EntryText<'a>,
        mut symbols: HashMap<&'a str, u64>,
        files: &Arc<HashMap<u32, String>>,
    ) -> Result<Entry, Fault> {
        let args_size = place(&text.params, PARAMS, 0, &mut symbols, text.line)?;
        let local_bytes = place(&text.local, LOCAL, 0, &mut symbols, text.line)?;
        let used = names(text);
        let whole = module.shared.iter().filter(|variable| used.contains(variable.name));
        let shared = lay_out(whole.chain(&text.shared), &mut symbols);
        let mut decoder = Decoder::new(&symbols);
        let code = decoder.decode(&text.items)?;
        let mut entry = Entry {
            name: text.name.to_owned(),
            args_size: args_size as usize,
            max_threads: text.max_threads,
            code: code.instructions,
            counts: decoder.counts,
            words: decoder.words.iter().map(|(&value, &row)| (row, value)).collect(),
            doubles: decoder.doubles.iter().map(|(&value, &row)| (row, value)).collect(),
            predicates: decoder.predicates.iter().map(|(&value, &row)| (row, value)).collect(),
            specials: decoder.specials.iter().map(|(&special, &row)| (row, special)).collect(),
            shared,
            local_bytes,
            lines: code.lines,
            places: code.places,
            files: Arc::clone(files),
        };
        entry.share_rows();
        Ok(entry)
    }

    /// Bytes that the window of shared memory has, gaps included.
    pub(super) fn shared_bytes(&self, dynamic: u32) -> u64 {
        let end = |variable: &SharedVariable| variable.address + variable.bytes.unwrap_or(dynamic.into());
        self.shared.iter().map(end).max().unwrap_or(SHARED) - SHARED
    }

    /// The line of an instruction in the text.
    pub(super) fn line(&self, at: u32) -> u32 {
        self.lines.get(at as usize).copied().unwrap_or_default()
    }

    /// Where an instruction is, in the source if that is known, else in the text; of a wrapper, where it is called.
    pub(super) fn source(&self, at: u32) -> Source {
        let place = self.places.get(at as usize).copied().unwrap_or_default();
        let [own, call] = place.map(|(file, line)| Some((self.files.get(&file)?, line)).filter(|_| line > 0));
        match own.filter(|(name, _)| *name != WRAPPERS).or(call).or(own) {
            Some((name, line)) => Source::Line(name.clone(), line),
            _ => Source::Line("PTX".to_owned(), self.line(at)),
        }
    }
}

/// Gives variables addresses from `base` on, each behind the one before, and says how many bytes they are.
fn place<'a>(
    variables: &[Variable<'a>],
    base: u64,
    gap: u64,
    symbols: &mut HashMap<&'a str, u64>,
    line: u32,
) -> Result<u64, Fault> {
    let mut end = 0u64;
    for variable in variables {
        let bytes = variable.bytes.ok_or_else(|| wrong(line, format!("`{}` has no size", variable.name)))?;
        let start = end.next_multiple_of(variable.align.into());
        symbols.insert(variable.name, base + start);
        end = start + bytes + gap;
    }
    Ok(end)
}

/// Lays out shared memory: the variables of a size, then the dynamic ones, which all begin at one place.
fn lay_out<'v, 'a: 'v>(
    variables: impl Iterator<Item = &'v Variable<'a>>,
    symbols: &mut HashMap<&'a str, u64>,
) -> Vec<SharedVariable> {
    let (fixed, dynamic): (Vec<_>, Vec<_>) = variables.partition(|variable| variable.bytes.is_some());
    let (mut laid_out, mut end) = (Vec::new(), SHARED);
    let mut add = |variable: &Variable<'a>, address: u64| {
        symbols.insert(variable.name, address);
        laid_out.push(SharedVariable { name: variable.name.to_owned(), address, bytes: variable.bytes });
    };
    for variable in fixed {
        let address = end.next_multiple_of(variable.align.into());
        add(variable, address);
        end = address + variable.bytes.unwrap_or(0) + GAP;
    }
    let align = dynamic.iter().map(|variable| variable.align).max().unwrap_or(1).max(16);
    let address = end.next_multiple_of(align.into());
    dynamic.into_iter().for_each(|variable| add(variable, address));
    laid_out
}

/// All names that an entry's instructions mention.
fn names<'a>(text: &EntryText<'a>) -> HashSet<&'a str> {
    fn add<'a>(operand: &Operand<'a>, names: &mut HashSet<&'a str>) {
        match operand {
            Operand::Name(name) => drop(names.insert(name)),
            Operand::Address(base, _) => add(base, names),
            Operand::Vector(parts) => parts.iter().for_each(|part| add(part, names)),
            _ => {}
        }
    }
    let mut names = HashSet::new();
    for item in &text.items {
        if let Item::Instruction(statement) = item {
            statement.operands.iter().for_each(|operand| add(operand, &mut names));
        }
    }
    names
}
