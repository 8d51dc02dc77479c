//! A module's text into its variables and entries. Nothing is skipped: a directive that is not known is a fault.

use super::statement::{Place, Statement};
use super::text::{Text, Token, integer, wrong};
use crate::Fault;

/// A type as far as memory and registers know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Predicate,
    /// 8 or 16 bits, kept in a word whose upper bits are zero.
    Half,
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

/// Bytes of a fundamental type: `.b8` to `.f64`; 0 for `.pred`.
pub(super) fn type_bytes(name: &str) -> Option<u32> {
    Some(match name.trim_start_matches('.') {
        "pred" => 0,
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}

/// A variable of a state space.
#[derive(Debug, Clone)]
pub(super) struct Variable<'a> {
    pub(super) name: &'a str,
    pub(super) align: u32,
    /// Nothing for `.extern .shared x[]`: what the launch gives.
    pub(super) bytes: Option<u64>,
    pub(super) values: Vec<u8>,
}

/// Registers `<name>0` to `<name>count-1`, or one of that very name.
#[derive(Debug)]
pub(super) struct Registers<'a> {
    pub(super) name: &'a str,
    pub(super) class: Class,
    pub(super) count: Option<u32>,
    pub(super) line: u32,
}

/// What an entry's body is made of, in order.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Instruction(Statement<'a>),
    Label(&'a str, u32),
    Registers(Registers<'a>),
    Open,
    Close,
}

#[derive(Debug)]
pub(super) struct EntryText<'a> {
    pub(super) name: &'a str,
    pub(super) line: u32,
    pub(super) params: Vec<Variable<'a>>,
    pub(super) max_threads: u32,
    pub(super) shared: Vec<Variable<'a>>,
    pub(super) local: Vec<Variable<'a>>,
    pub(super) items: Vec<Item<'a>>,
}

#[derive(Debug, Default)]
pub(super) struct ModuleText<'a> {
    pub(super) global: Vec<Variable<'a>>,
    pub(super) constant: Vec<Variable<'a>>,
    pub(super) shared: Vec<Variable<'a>>,
    pub(super) entries: Vec<EntryText<'a>>,
    /// Source files by their number.
    pub(super) files: Vec<(u32, String)>,
}

/// Reads a whole module.
pub(super) fn module(source: &str) -> Result<ModuleText<'_>, Fault> {
    let mut text = Text::new(source)?;
    let mut module = ModuleText::default();
    loop {
        let line = text.line();
        let word = match text.peek() {
            Token::End => return Ok(module),
            Token::Word(word) => word,
            other => return Err(wrong(line, format!("a directive must come here, found {}", other.show()))),
        };
        text.take()?;
        match word {
            ".version" => {
                text.word()?;
            }
            ".target" => drop(rest_of_line(&mut text, line)?),
            ".address_size" => {
                if text.number::<u32>()? != 64 {
                    return Err(wrong(line, "only modules with addresses of 64 bits are read"));
                }
            }
            ".file" => file(&mut text, &mut module, line)?,
            ".section" => section(&mut text)?,
            ".visible" | ".weak" | ".extern" => {}
            ".entry" => module.entries.push(entry(&mut text, line)?),
            ".global" => module.global.push(variable(&mut text, LARGEST)?),
            ".const" => module.constant.push(variable(&mut text, LARGEST)?),
            ".shared" => module.shared.push(variable(&mut text, LARGEST_OF_BLOCK)?),
            _ => return Err(wrong(line, format!("the directive `{word}` is not known"))),
        }
    }
}

/// The words up to the end of the line.
fn rest_of_line<'a>(text: &mut Text<'a>, line: u32) -> Result<Vec<Token<'a>>, Fault> {
    let mut words = Vec::new();
    while text.line() == line && text.peek() != Token::End {
        words.push(text.take()?);
    }
    Ok(words)
}

fn file(text: &mut Text, module: &mut ModuleText, line: u32) -> Result<(), Fault> {
    let number = text.number()?;
    match rest_of_line(text, line)?.first() {
        Some(Token::Quoted(path)) => {
            let name = path.rsplit('/').next().unwrap_or(path);
            module.files.push((number, name.to_owned()));
            Ok(())
        }
        _ => Err(wrong(line, "`.file` must name a file")),
    }
}

/// Sections hold what debuggers read, and nothing that runs.
fn section(text: &mut Text) -> Result<(), Fault> {
    let line = text.line();
    let name = text.word()?;
    if !name.starts_with(".debug") {
        return Err(wrong(line, format!("the section `{name}` is not known")));
    }
    text.expect('{')?;
    while !text.takes('}')? {
        if text.take()? == Token::End {
            return Err(wrong(line, "the section does not end"));
        }
    }
    Ok(())
}

/// More global or constant memory than a variable of a module has; and more shared or local memory than a GPU has.
const LARGEST: u64 = 1 << 30;
const LARGEST_OF_BLOCK: u64 = 1 << 19;

/// `.align 8 .b8 name[21504] = {0, 1};`
fn variable<'a>(text: &mut Text<'a>, largest: u64) -> Result<Variable<'a>, Fault> {
    let line = text.line();
    let variable = declaration(text)?;
    if variable.bytes.is_some_and(|bytes| bytes > largest) {
        return Err(wrong(line, format!("`{}` has more than {largest} bytes", variable.name)));
    }
    text.expect(';')?;
    Ok(variable)
}

/// A variable or parameter without what ends it.
fn declaration<'a>(text: &mut Text<'a>) -> Result<Variable<'a>, Fault> {
    let mut align = None;
    let mut of = None;
    loop {
        let line = text.line();
        let word = text.word()?;
        match word {
            ".align" => align = Some(text.number()?),
            // What a pointer parameter points to: `.param .u64 .ptr .global .align 4 name`. The alignment is the
            // pointee's.
            ".ptr" => {
                while let Token::Word(".global" | ".const" | ".shared" | ".local" | ".align") = text.peek() {
                    if text.word()? == ".align" {
                        text.number::<u32>()?;
                    }
                }
            }
            _ if word.starts_with('.') => {
                let bytes = type_bytes(word).filter(|&bytes| bytes > 0);
                of = Some(bytes.ok_or_else(|| wrong(line, format!("`{word}` is not the type of a variable")))?);
            }
            name => {
                let size = of.ok_or_else(|| wrong(line, format!("the variable `{name}` has no type")))?;
                return sized(text, name, align.unwrap_or(size), size);
            }
        }
    }
}

fn sized<'a>(text: &mut Text<'a>, name: &'a str, align: u32, size: u32) -> Result<Variable<'a>, Fault> {
    let line = text.line();
    if !align.is_power_of_two() || align > 1024 {
        return Err(wrong(line, format!("`{name}`: an alignment of {align} is not a power of two up to 1024")));
    }
    // None once a length is left open.
    let mut bytes = Some(u64::from(size));
    while text.takes('[')? {
        if text.takes(']')? {
            bytes = None;
            continue;
        }
        let length: u32 = text.number()?;
        text.expect(']')?;
        bytes = bytes.map(|bytes| bytes.saturating_mul(length.into()));
    }
    let mut values = Vec::new();
    if text.takes('=')? {
        initial(text, size, &mut values)?;
        if bytes.is_none_or(|bytes| values.len() as u64 > bytes) {
            return Err(wrong(line, format!("`{name}` has more initial values than places")));
        }
    }
    Ok(Variable { name, align, bytes, values })
}

/// Numbers, in braces or without. Addresses of other variables are not built.
fn initial(text: &mut Text, size: u32, values: &mut Vec<u8>) -> Result<(), Fault> {
    if text.takes('{')? {
        while !text.takes('}')? {
            initial(text, size, values)?;
            text.takes(',')?;
        }
        return Ok(());
    }
    let line = text.line();
    let negative = text.takes('-')?;
    let word = text.word()?;
    let number = match (word.get(..2), word.get(2..)) {
        (Some("0f" | "0F" | "0d" | "0D"), Some(digits)) => i128::from_str_radix(digits, 16).ok(),
        _ => integer(word),
    };
    let number = number.ok_or_else(|| wrong(line, format!("the initial value `{word}` is not a number")))?;
    let number = if negative { -number } else { number };
    values.extend_from_slice(&number.to_le_bytes()[..size as usize]);
    Ok(())
}

fn entry<'a>(text: &mut Text<'a>, line: u32) -> Result<EntryText<'a>, Fault> {
    let name = text.word()?;
    let mut entry = EntryText {
        name,
        line,
        params: Vec::new(),
        max_threads: 1024,
        shared: Vec::new(),
        local: Vec::new(),
        items: Vec::new(),
    };
    if text.takes('(')? {
        while !text.takes(')')? {
            let line = text.line();
            match text.word()? {
                ".param" => entry.params.push(declaration(text)?),
                other => return Err(wrong(line, format!("expected `.param`, found `{other}`"))),
            }
            text.takes(',')?;
        }
    }
    while !text.takes('{')? {
        let line = text.line();
        match text.word()? {
            ".maxntid" | ".reqntid" => {
                entry.max_threads = text.number()?;
                while text.takes(',')? {
                    entry.max_threads = entry.max_threads.saturating_mul(text.number()?);
                }
                entry.max_threads = entry.max_threads.min(1024);
            }
            // How many registers and blocks the compiler should plan for: nothing that runs.
            ".minnctapersm" | ".maxnreg" => drop(text.number::<u32>()?),
            other => return Err(wrong(line, format!("the directive `{other}` of an entry is not known"))),
        }
    }
    body(text, &mut entry)?;
    Ok(entry)
}

fn body<'a>(text: &mut Text<'a>, entry: &mut EntryText<'a>) -> Result<(), Fault> {
    let mut place = Place::default();
    let mut depth = 0;
    loop {
        let line = text.line();
        match text.peek() {
            Token::Mark('{') => {
                text.take()?;
                depth += 1;
                entry.items.push(Item::Open);
            }
            Token::Mark('}') => {
                text.take()?;
                if depth == 0 {
                    return Ok(());
                }
                depth -= 1;
                entry.items.push(Item::Close);
            }
            Token::Word(".loc") => {
                text.take()?;
                place = [(text.number()?, text.number()?), call(&rest_of_line(text, line)?)];
            }
            Token::Word(word) if word.starts_with('.') => {
                text.take()?;
                directive(text, entry, word, line)?;
            }
            Token::Word(_) | Token::Mark('@') => instruction(text, entry, place)?,
            other => return Err(wrong(line, format!("an instruction must come here, found {}", other.show()))),
        }
    }
}

/// `..., inlined_at 1 187 3`
fn call(rest: &[Token]) -> (u32, u32) {
    let after = rest.iter().skip_while(|token| !matches!(token, Token::Word("inlined_at"))).skip(1);
    let number = |token: &Token| match token {
        Token::Word(word) => integer(word).and_then(|number| number.try_into().ok()),
        _ => None,
    };
    match after.map_while(number).collect::<Vec<u32>>()[..] {
        [file, line, ..] => (file, line),
        _ => (0, 0),
    }
}

/// An instruction, or a label.
fn instruction<'a>(text: &mut Text<'a>, entry: &mut EntryText<'a>, place: Place) -> Result<(), Fault> {
    let (line, first) = (text.line(), text.peek());
    if let Token::Word(word) = first
        && (word.starts_with(['$', '_', '%']) || word.starts_with(|c: char| c.is_ascii_uppercase()))
    {
        text.take()?;
        text.expect(':')?;
        entry.items.push(Item::Label(word, line));
        return Ok(());
    }
    entry.items.push(Item::Instruction(Statement::read(text, place)?));
    Ok(())
}

fn directive<'a>(text: &mut Text<'a>, entry: &mut EntryText<'a>, word: &str, line: u32) -> Result<(), Fault> {
    match word {
        ".reg" => registers(text, entry),
        ".shared" => {
            entry.shared.push(variable(text, LARGEST_OF_BLOCK)?);
            Ok(())
        }
        ".local" => {
            entry.local.push(variable(text, LARGEST_OF_BLOCK)?);
            Ok(())
        }
        ".pragma" => {
            match text.take()? {
                // How loops should be unrolled, and which bytes of a load are used: nothing that runs.
                Token::Quoted(hint) if hint == "nounroll" || hint.starts_with("used_bytes_mask ") => {}
                other => return Err(wrong(line, format!("the pragma {} is not known", other.show()))),
            }
            text.expect(';')
        }
        _ => Err(wrong(line, format!("the directive `{word}` in a body is not known"))),
    }
}

/// `.reg .b32 %r<321>;` or `.reg .pred p, q;`
fn registers<'a>(text: &mut Text<'a>, entry: &mut EntryText<'a>) -> Result<(), Fault> {
    let line = text.line();
    let of = text.word()?;
    let class = match type_bytes(of) {
        Some(0) => Class::Predicate,
        Some(1 | 2) => Class::Half,
        Some(4) => Class::Word,
        Some(_) => Class::Double,
        None => return Err(wrong(line, format!("registers of type `{of}` are not known"))),
    };
    loop {
        let name = text.word()?;
        let count = match text.takes('<')? {
            true => {
                let count = text.number()?;
                text.expect('>')?;
                Some(count)
            }
            false => None,
        };
        entry.items.push(Item::Registers(Registers { name, class, count, line }));
        if !text.takes(',')? {
            return text.expect(';');
        }
    }
}
