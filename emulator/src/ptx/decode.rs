//! One entry's text into instructions: names become rows, forms become operations. Happens once, as the module is read.

use std::collections::HashMap;

use super::kinds::{W2, W2D};
use super::op::{Address, File, Guard, Instruction, NONE, Op, Row};
use super::parse::{Class, Item, Registers};
use super::statement::{Operand, Place, Statement};
use super::table::plain;
use super::text::wrong;
use super::{forms, special};
use crate::Fault;

pub(super) use special::Special;

/// More registers than any compiler gives an entry.
const MOST_ROWS: u32 = 1 << 20;

/// What is declared: registers in scopes, and the addresses of variables and parameters.
pub(super) struct Decoder<'a> {
    scopes: Vec<HashMap<&'a str, Declared>>,
    symbols: &'a HashMap<&'a str, u64>,
    labels: HashMap<&'a str, u32>,
    /// Rows in use, file by file.
    pub(super) counts: [u32; 3],
    pub(super) words: HashMap<u32, Row>,
    pub(super) doubles: HashMap<u64, Row>,
    pub(super) predicates: HashMap<bool, Row>,
    pub(super) specials: HashMap<Special, Row>,
}

#[derive(Clone, Copy)]
struct Declared {
    class: Class,
    first: Row,
    /// Nothing for a single register.
    count: Option<u32>,
}

/// An entry's instructions, with the line of each in the text and its place in the source.
#[derive(Default)]
pub(super) struct Code {
    pub(super) instructions: Vec<Instruction>,
    pub(super) lines: Vec<u32>,
    pub(super) places: Vec<Place>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(symbols: &'a HashMap<&'a str, u64>) -> Decoder<'a> {
        Decoder {
            scopes: vec![HashMap::new()],
            symbols,
            labels: HashMap::new(),
            counts: [0; 3],
            words: HashMap::new(),
            doubles: HashMap::new(),
            predicates: HashMap::new(),
            specials: HashMap::new(),
        }
    }

    /// The whole body.
    pub(super) fn decode(&mut self, items: &'a [Item<'a>]) -> Result<Code, Fault> {
        let mut next = 0;
        for item in items {
            match item {
                Item::Instruction(_) => next += 1,
                Item::Label(name, line) if self.labels.insert(name, next).is_some() => {
                    return Err(wrong(*line, format!("the label `{name}` is there twice")));
                }
                _ => {}
            }
        }
        let mut code = Code::default();
        for item in items {
            match item {
                Item::Instruction(statement) => {
                    code.instructions.push(self.instruction(statement)?);
                    code.lines.push(statement.line);
                    code.places.push(statement.place);
                }
                Item::Registers(registers) if self.declare(registers) => {}
                Item::Registers(Registers { name, line, .. }) => {
                    return Err(wrong(*line, format!("`{name}`: more than {MOST_ROWS} registers")));
                }
                Item::Open => self.scopes.push(HashMap::new()),
                Item::Close => drop(self.scopes.pop()),
                Item::Label(..) => {}
            }
        }
        let last = code.instructions.last();
        let falls = !matches!(last, Some(Instruction { guard: None, op: Op::Return | Op::Jump(_) }));
        if falls || self.labels.values().any(|&at| at as usize == code.instructions.len()) {
            // The end of the body is an end of the thread.
            code.instructions.push(Instruction { guard: None, op: Op::Return });
            code.lines.push(code.lines.last().copied().unwrap_or(0));
            code.places.push(code.places.last().copied().unwrap_or_default());
        }
        Ok(code)
    }

    /// Gives whether there are rows for so many.
    fn declare(&mut self, registers: &Registers<'a>) -> bool {
        let count = registers.count.unwrap_or(1);
        if count > MOST_ROWS - self.counts.iter().sum::<u32>().min(MOST_ROWS) {
            return false;
        }
        let first = self.fresh(file_of(registers.class), count);
        let declared = Declared { class: registers.class, first, count: registers.count };
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(registers.name, declared);
        }
        true
    }

    /// New rows of a file; gives the first.
    pub(super) fn fresh(&mut self, file: File, count: u32) -> Row {
        let counter = &mut self.counts[file as usize];
        let first = *counter;
        *counter += count;
        first
    }

    fn instruction(&mut self, statement: &Statement<'a>) -> Result<Instruction, Fault> {
        let guard = match statement.guard {
            Some((name, negated)) => {
                let row = self.result(statement, &Operand::Name(name), 'p')?;
                Some(Guard { row, negated })
            }
            None => None,
        };
        if !forms::is_known(statement.form) {
            return Err(statement.wrong("this form is not in the list of known forms: give it semantics and a test"));
        }
        let op = self.op(statement)?;
        Ok(Instruction { guard, op })
    }

    fn op(&mut self, statement: &Statement<'a>) -> Result<Op, Fault> {
        let operands = &statement.operands;
        if let ("mov.b32" | "mov.b64", [to, from]) = (statement.form, operands.as_slice()) {
            if let Operand::Vector(parts) = to {
                return self.unpack(statement, parts, from);
            }
            if let Operand::Vector(parts) = from {
                return self.pack(statement, to, parts);
            }
        }
        let Some((signature, make)) = plain(statement.form) else {
            return self.structured(statement);
        };
        if signature.len() != operands.len() {
            let text = format!("takes {} operands, found {}", signature.len(), operands.len());
            return Err(statement.wrong(&text));
        }
        let mut rows = [NONE; 5];
        for (i, (letter, operand)) in signature.chars().zip(operands).enumerate() {
            rows[i] = match i {
                0 => self.result(statement, operand, letter)?,
                _ => self.value(statement, operand, letter)?,
            };
        }
        Ok(make.op(&rows[..signature.len()]))
    }

    /// `mov.b32 %r, {lo, hi}`
    fn pack(&mut self, statement: &Statement<'a>, to: &Operand, parts: &[Operand]) -> Result<Op, Fault> {
        let (whole, part) = if statement.form == "mov.b32" { ('w', 'h') } else { ('d', 'w') };
        let [low, high] = parts else {
            return Err(statement.wrong("only two parts are packed"));
        };
        let to = self.result(statement, to, whole)?;
        let (low, high) = (self.value(statement, low, part)?, self.value(statement, high, part)?);
        let rows = [to, low, high];
        Ok(if whole == 'w' { Op::W2(W2::Pack, rows) } else { Op::W2D(W2D::Pack, rows) })
    }

    /// `mov.b32 {lo, hi}, %r`
    fn unpack(&mut self, statement: &Statement<'a>, parts: &[Operand], from: &Operand) -> Result<Op, Fault> {
        let (whole, part) = if statement.form == "mov.b32" { ('w', 'h') } else { ('d', 'w') };
        let [low, high] = parts else {
            return Err(statement.wrong("only two parts are unpacked"));
        };
        let (low, high) = (self.result(statement, low, part)?, self.result(statement, high, part)?);
        let rows = [low, high, self.value(statement, from, whole)?];
        Ok(if whole == 'w' { Op::UnpackW(rows) } else { Op::UnpackD(rows) })
    }

    /// The row of a register that is written (or of a guard).
    pub(super) fn result(&mut self, statement: &Statement, operand: &Operand, letter: char) -> Result<Row, Fault> {
        match operand {
            Operand::Name(name) => {
                let (row, class) = self.register(name).ok_or_else(|| unknown(statement, name))?;
                self.agree(statement, name, class, letter)?;
                Ok(row)
            }
            Operand::Sink => Ok(self.fresh(file_of_letter(letter), 1)),
            _ => Err(statement.wrong("the result must be a register")),
        }
    }

    /// The row of an operand that is read; constants and special registers get rows of their own.
    pub(super) fn value(&mut self, statement: &Statement, operand: &Operand, letter: char) -> Result<Row, Fault> {
        match (operand, letter) {
            (Operand::Name(name), _) => {
                if let Some((row, class)) = self.register(name) {
                    self.agree(statement, name, class, letter)?;
                    return Ok(row);
                }
                if let Some(special) = Special::named(name) {
                    if letter != 'w' {
                        return Err(statement.wrong(&format!("`{name}` has 32 bits")));
                    }
                    return Ok(self.special(special));
                }
                let address = *self.symbols.get(name).ok_or_else(|| unknown(statement, name))?;
                self.constant(statement, i128::from(address), letter)
            }
            (Operand::Integer(value), _) => self.constant(statement, *value, letter),
            (Operand::Float(bits), 'w') => Ok(self.word(*bits)),
            (Operand::Double(bits), 'd') => Ok(self.double(*bits)),
            _ => Err(statement.wrong("an operand is not of the kind that belongs there")),
        }
    }

    fn special(&mut self, special: Special) -> Row {
        if let Some(&row) = self.specials.get(&special) {
            return row;
        }
        let row = self.fresh(File::Words, 1);
        self.specials.insert(special, row);
        row
    }

    /// The row that holds a word.
    pub(super) fn word(&mut self, bits: u32) -> Row {
        if let Some(&row) = self.words.get(&bits) {
            return row;
        }
        let row = self.fresh(File::Words, 1);
        self.words.insert(bits, row);
        row
    }

    fn double(&mut self, bits: u64) -> Row {
        if let Some(&row) = self.doubles.get(&bits) {
            return row;
        }
        let row = self.fresh(File::Doubles, 1);
        self.doubles.insert(bits, row);
        row
    }

    fn constant(&mut self, statement: &Statement, value: i128, letter: char) -> Result<Row, Fault> {
        let bits = match letter {
            'h' => 16,
            'w' | 'x' => 32,
            'd' => 64,
            _ => 1,
        };
        if value >= 1 << bits || value < -(1 << (bits - 1)) {
            return Err(statement.wrong(&format!("{value} does not fit into {bits} bits")));
        }
        let low = value & ((1 << bits) - 1);
        Ok(match letter {
            'd' => self.double(low as u64),
            'p' => match self.predicates.get(&(low == 1)) {
                Some(&row) => row,
                None => {
                    let row = self.fresh(File::Predicates, 1);
                    self.predicates.insert(low == 1, row);
                    row
                }
            },
            _ => self.word(low as u32),
        })
    }

    /// A predicate, or its opposite.
    pub(super) fn predicate(&mut self, statement: &Statement, operand: &Operand) -> Result<Guard, Fault> {
        match operand {
            Operand::Not(name) => {
                let row = self.value(statement, &Operand::Name(name), 'p')?;
                Ok(Guard { row, negated: true })
            }
            _ => Ok(Guard { row: self.value(statement, operand, 'p')?, negated: false }),
        }
    }

    /// `[base+offset]`
    pub(super) fn address(&mut self, statement: &Statement, operand: &Operand) -> Result<Address, Fault> {
        let Operand::Address(base, offset) = operand else {
            return Err(statement.wrong("an address in brackets must come"));
        };
        let (file, row) = match &**base {
            Operand::Name(name) => match self.register(name) {
                Some((row, Class::Word)) => (File::Words, row),
                Some((row, Class::Double)) => (File::Doubles, row),
                Some(_) => return Err(statement.wrong(&format!("`{name}` cannot hold an address"))),
                None => (File::Doubles, self.value(statement, base, 'd')?),
            },
            other => (File::Doubles, self.value(statement, other, 'd')?),
        };
        Ok(Address { file, row, offset: *offset })
    }

    /// Where a label is.
    pub(super) fn label(&self, statement: &Statement, operand: &Operand) -> Result<u32, Fault> {
        let Operand::Name(name) = operand else {
            return Err(statement.wrong("a label must come"));
        };
        self.labels.get(name).copied().ok_or_else(|| unknown(statement, name))
    }

    /// A register's row and class, the innermost scope first.
    pub(super) fn register(&self, name: &str) -> Option<(Row, Class)> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u32>().ok();
        self.scopes.iter().rev().find_map(|scope| {
            if let Some(Declared { class, first, count: None }) = scope.get(name) {
                return Some((*first, *class));
            }
            match (scope.get(prefix)?, number?) {
                (Declared { class, first, count: Some(count) }, number) if number < *count => {
                    Some((first + number, *class))
                }
                _ => None,
            }
        })
    }

    fn agree(&self, statement: &Statement, name: &str, class: Class, letter: char) -> Result<(), Fault> {
        let fits = match letter {
            'h' => class == Class::Half,
            'w' => class == Class::Word,
            'd' => class == Class::Double,
            'p' => class == Class::Predicate,
            _ => matches!(class, Class::Half | Class::Word),
        };
        let text = || statement.wrong(&format!("`{name}` is a register of another size"));
        if fits { Ok(()) } else { Err(text()) }
    }
}

fn unknown(statement: &Statement, name: &str) -> Fault {
    statement.wrong(&format!("`{name}` is not declared"))
}

fn file_of(class: Class) -> File {
    match class {
        Class::Predicate => File::Predicates,
        Class::Half | Class::Word => File::Words,
        Class::Double => File::Doubles,
    }
}

fn file_of_letter(letter: char) -> File {
    match letter {
        'p' => File::Predicates,
        'd' => File::Doubles,
        _ => File::Words,
    }
}
