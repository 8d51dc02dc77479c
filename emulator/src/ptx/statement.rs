//! One instruction as the text has it, before anything is known about it.

use super::text::{Text, Token, integer, wrong};
use crate::Fault;

/// An operand as written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand<'a> {
    /// A register, variable, parameter, label or special register.
    Name(&'a str),
    /// `!%p1`.
    Not(&'a str),
    /// A whole number.
    Integer(i128),
    /// `0f3F800000`.
    Float(u32),
    /// `0d3FF0000000000000`.
    Double(u64),
    /// `[base+offset]`.
    Address(Box<Operand<'a>>, i64),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `%r1|%p1`.
    Pair(&'a str, &'a str),
    /// `_`: a result that is not wanted.
    Sink,
}

/// Where a statement is in the source that the compiler was given, and where the call is that was inlined there: file
/// and line, 0 if not known.
pub(super) type Place = [(u32, u32); 2];

/// An instruction with its guard.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    pub(super) line: u32,
    pub(super) place: Place,
    /// The predicate's name, and whether it is negated.
    pub(super) guard: Option<(&'a str, bool)>,
    /// The opcode with all its modifiers.
    pub(super) form: &'a str,
    pub(super) operands: Vec<Operand<'a>>,
}

impl<'a> Statement<'a> {
    /// Reads an instruction up to and with its semicolon.
    pub(super) fn read(text: &mut Text<'a>, place: Place) -> Result<Statement<'a>, Fault> {
        let line = text.line();
        let guard = match text.takes('@')? {
            true => {
                let negated = text.takes('!')?;
                Some((text.word()?, negated))
            }
            false => None,
        };
        let form = text.word()?;
        let mut operands = Vec::new();
        while text.peek() != Token::Mark(';') {
            if !operands.is_empty() {
                text.expect(',')?;
            }
            operands.push(operand(text)?);
        }
        text.expect(';')?;
        Ok(Statement { line, place, guard, form, operands })
    }

    /// A fault of this instruction, naming it.
    pub(super) fn wrong(&self, what: &str) -> Fault {
        wrong(self.line, format!("`{}`: {what}", self.form))
    }
}

fn operand<'a>(text: &mut Text<'a>) -> Result<Operand<'a>, Fault> {
    if text.takes('{')? {
        let mut parts = Vec::new();
        loop {
            parts.push(operand(text)?);
            if text.takes('}')? {
                return Ok(Operand::Vector(parts));
            }
            text.expect(',')?;
        }
    }
    if text.takes('[')? {
        let base = operand(text)?;
        let offset = match text.takes('+')? {
            true => text.number()?,
            false if text.peek() == Token::Mark('-') => text.number()?,
            false => 0,
        };
        text.expect(']')?;
        return Ok(Operand::Address(Box::new(base), offset));
    }
    if text.takes('!')? {
        return Ok(Operand::Not(text.word()?));
    }
    if text.peek() == Token::Mark('-') {
        return Ok(Operand::Integer(text.number()?));
    }
    let line = text.line();
    let word = text.word()?;
    if word == "_" {
        return Ok(Operand::Sink);
    }
    if text.takes('|')? {
        return Ok(Operand::Pair(word, text.word()?));
    }
    if !word.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok(Operand::Name(word));
    }
    number(word).ok_or_else(|| wrong(line, format!("`{word}` is not a number")))
}

fn number(word: &str) -> Option<Operand<'static>> {
    match word.as_bytes() {
        [b'0', b'f' | b'F', digits @ ..] if digits.len() == 8 => {
            u32::from_str_radix(&word[2..], 16).ok().map(Operand::Float)
        }
        [b'0', b'd' | b'D', digits @ ..] if digits.len() == 16 => {
            u64::from_str_radix(&word[2..], 16).ok().map(Operand::Double)
        }
        _ => integer(word).map(Operand::Integer),
    }
}
