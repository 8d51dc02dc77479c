//! The words of a PTX text, one after another, with their lines.

use crate::Fault;

/// A word of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name, number, directive or opcode with its modifiers: `%r1`, `-` not included, `.reg`, `ld.global.u32`.
    Word(&'a str),
    /// What stands between quotes.
    Quoted(&'a str),
    /// Any other character.
    Mark(char),
    /// Nothing more.
    End,
}

impl Token<'_> {
    /// For messages.
    pub(super) fn show(self) -> String {
        match self {
            Token::Word(word) => format!("`{word}`"),
            Token::Quoted(text) => format!("\"{text}\""),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the text".to_owned(),
        }
    }
}

/// Reads one word ahead.
pub(super) struct Text<'a> {
    rest: &'a str,
    at_line: u32,
    next: Token<'a>,
    line: u32,
}

/// A fault of the text itself.
pub(super) fn wrong(line: u32, what: impl Into<String>) -> Fault {
    Fault::Ptx { line, what: what.into() }
}

impl<'a> Text<'a> {
    pub(super) fn new(text: &'a str) -> Result<Text<'a>, Fault> {
        let mut words = Text { rest: text, at_line: 1, next: Token::End, line: 1 };
        words.advance()?;
        Ok(words)
    }

    /// The next word, which stays.
    pub(super) fn peek(&self) -> Token<'a> {
        self.next
    }

    /// The line of the next word.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// Takes the next word.
    pub(super) fn take(&mut self) -> Result<Token<'a>, Fault> {
        let token = self.next;
        self.advance()?;
        Ok(token)
    }

    /// Takes the next word if it is this mark.
    pub(super) fn takes(&mut self, mark: char) -> Result<bool, Fault> {
        let found = self.next == Token::Mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Takes this mark, which must come.
    pub(super) fn expect(&mut self, mark: char) -> Result<(), Fault> {
        if self.takes(mark)? {
            return Ok(());
        }
        Err(wrong(self.line, format!("expected `{mark}`, found {}", self.next.show())))
    }

    /// Takes a name, number or directive, which must come.
    pub(super) fn word(&mut self) -> Result<&'a str, Fault> {
        match self.next {
            Token::Word(word) => {
                self.advance()?;
                Ok(word)
            }
            other => Err(wrong(self.line, format!("expected a name or number, found {}", other.show()))),
        }
    }

    /// Takes a whole number, which must come and fit.
    pub(super) fn number<T: TryFrom<i128>>(&mut self) -> Result<T, Fault> {
        let line = self.line;
        let negative = self.takes('-')?;
        let word = self.word()?;
        let value = integer(word).map(|value| if negative { -value } else { value });
        let fits = value.and_then(|value| T::try_from(value).ok());
        fits.ok_or_else(|| wrong(line, format!("`{word}` is not a number that fits here")))
    }

    fn advance(&mut self) -> Result<(), Fault> {
        self.skip_blanks()?;
        self.line = self.at_line;
        let mut characters = self.rest.chars();
        let Some(first) = characters.next() else {
            self.next = Token::End;
            return Ok(());
        };
        if first == '"' {
            let end = self.rest[1..].find('"').ok_or_else(|| wrong(self.at_line, "a quoted text does not end"))?;
            self.next = Token::Quoted(&self.rest[1..=end]);
            self.at_line += self.rest[1..=end].matches('\n').count() as u32;
            self.rest = &self.rest[end + 2..];
            return Ok(());
        }
        let length = word_length(self.rest.as_bytes());
        if length == 0 {
            self.next = Token::Mark(first);
            self.rest = characters.as_str();
        } else {
            self.next = Token::Word(&self.rest[..length]);
            self.rest = &self.rest[length..];
        }
        Ok(())
    }

    /// Blanks and comments.
    fn skip_blanks(&mut self) -> Result<(), Fault> {
        loop {
            let blanks = self.rest.bytes().take_while(u8::is_ascii_whitespace).count();
            self.at_line += self.rest.as_bytes()[..blanks].iter().filter(|&&byte| byte == b'\n').count() as u32;
            self.rest = &self.rest[blanks..];
            if self.rest.starts_with("//") {
                self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
            } else if self.rest.starts_with("/*") {
                let end = self.rest.find("*/").ok_or_else(|| wrong(self.at_line, "a comment does not end"))?;
                self.at_line += self.rest[..end].matches('\n').count() as u32;
                self.rest = &self.rest[end + 2..];
            } else {
                return Ok(());
            }
        }
    }
}

/// Letters, digits and `_ $ % .`, and a `::` inside.
fn word_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    while let Some(&byte) = bytes.get(length) {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.') {
            length += 1;
        } else if length > 0 && bytes[length..].starts_with(b"::") {
            length += 2;
        } else {
            break;
        }
    }
    length
}

/// A whole number as PTX writes it: decimal, `0x`, `0b` or a leading 0 for octal, with an optional `U`.
pub(super) fn integer(word: &str) -> Option<i128> {
    let bare = word.strip_suffix('U').unwrap_or(word);
    let (digits, radix) = match bare.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&bare[2..], 16),
        [b'0', b'b' | b'B', ..] => (&bare[2..], 2),
        [b'0', _, ..] => (&bare[1..], 8),
        _ => (bare, 10),
    };
    i128::from_str_radix(digits, radix).ok().filter(|_| bare.starts_with(|first: char| first.is_ascii_digit()))
}
