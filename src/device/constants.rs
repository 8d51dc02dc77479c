//! Reads the constants of `cuda/`, for tests that hold together what Rust and CUDA both write down.
#![allow(clippy::panic, reason = "a constant that is not found is a failure of the test")]

use std::collections::BTreeSet;
use std::path::Path;

/// The text of a kernel file or a header and of all that it includes, without comments, each once.
pub(crate) struct Cuda(String);

impl Cuda {
    /// Of `cuda/<file>`.
    pub(crate) fn read(file: &str) -> Self {
        let (mut text, mut seen, mut pending) = (String::new(), BTreeSet::new(), vec![file.to_owned()]);
        while let Some(file) = pending.pop() {
            if !seen.insert(file.clone()) {
                continue;
            }
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda").join(&file);
            let own = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
            for line in own.lines() {
                let line = line.split("//").next().unwrap_or_default().trim();
                match line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next()) {
                    // The others are the emulator's.
                    Some(header) if header.ends_with(".cuh") => pending.push(header.to_owned()),
                    Some(_) => {}
                    None => text.extend([line.trim_end_matches('\\'), "\n"]),
                }
            }
        }
        Self(text)
    }

    /// Whether a line of it is this.
    pub(crate) fn has(&self, line: &str) -> bool {
        self.0.lines().any(|own| own == line)
    }

    /// The value of `constexpr <type> <name> = <expression>;`, of which there is exactly one.
    pub(crate) fn constant(&self, name: &str) -> u64 {
        self.constant_of(name, &[])
    }

    /// The same of one that depends on a type: what these of its expressions are for that, as `("sizeof(T)", 2)`.
    pub(crate) fn constant_of(&self, name: &str, given: &[(&str, u64)]) -> u64 {
        let of_name = |declarator: &str| {
            let (left, right) = declarator.split_once('=')?;
            (left.split_whitespace().last() == Some(name)).then(|| right.trim().to_owned())
        };
        let statements = self.0.split("constexpr ").skip(1).filter_map(|rest| rest.split(';').next());
        let found: Vec<String> = statements.flat_map(|statement| statement.split(',')).filter_map(of_name).collect();
        assert_eq!(found.len(), 1, "definitions of {name} in cuda/: {found:?}");
        let text = given.iter().fold(found[0].clone(), |text, (what, value)| text.replace(what, &value.to_string()));
        let mut expression = Expression { cuda: self, given, rest: &text };
        let value = expression.choice();
        assert!(expression.rest.is_empty(), "{name}: `{}` at the end of `{text}`", expression.rest);
        value
    }

    /// The threads of a block and the blocks an SM holds at least, of `TWOFOUR_KERNEL(<symbol>, .., threads, blocks)`,
    /// of which there is exactly one; a macro's symbol is given without its `##`.
    pub(crate) fn bounds(&self, symbol: &str) -> [u64; 2] {
        let found: Vec<Vec<&str>> = self
            .0
            .split("TWOFOUR_KERNEL(")
            .filter_map(|rest| rest.split(')').next())
            .map(|inside| inside.split(',').map(str::trim).collect::<Vec<&str>>())
            .filter(|args| args.len() == 4 && args[0].replace("##", "") == symbol)
            .collect();
        assert_eq!(found.len(), 1, "kernels in cuda/ that are called {symbol}: {found:?}");
        [found[0][2], found[0][3]].map(|text| {
            let mut expression = Expression { cuda: self, given: &[], rest: text };
            let value = expression.choice();
            assert!(expression.rest.is_empty(), "{symbol}: `{}` at the end of `{text}`", expression.rest);
            value
        })
    }
}

/// What is left to read of an expression of integers.
struct Expression<'a> {
    cuda: &'a Cuda,
    given: &'a [(&'a str, u64)],
    rest: &'a str,
}

impl Expression<'_> {
    /// Whether `token` is next, which is then read.
    fn takes(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn choice(&mut self) -> u64 {
        let left = self.shift();
        let condition = if self.takes("==") {
            u64::from(left == self.shift())
        } else if self.takes("<=") {
            u64::from(left <= self.shift())
        } else {
            left
        };
        if !self.takes("?") {
            return condition;
        }
        let then = self.choice();
        assert!(self.takes(":"), "no `:` before `{}`", self.rest);
        let otherwise = self.choice();
        if condition != 0 { then } else { otherwise }
    }

    fn shift(&mut self) -> u64 {
        let mut value = self.sum();
        loop {
            if self.takes("<<") {
                value <<= self.sum();
            } else if self.takes(">>") {
                value >>= self.sum();
            } else {
                return value;
            }
        }
    }

    fn sum(&mut self) -> u64 {
        let mut value = self.product();
        loop {
            if self.takes("+") {
                value += self.product();
            } else if self.takes("-") {
                value -= self.product();
            } else {
                return value;
            }
        }
    }

    fn product(&mut self) -> u64 {
        let mut value = self.atom();
        loop {
            if self.takes("*") {
                value *= self.atom();
            } else if self.takes("/") {
                value /= self.atom();
            } else {
                return value;
            }
        }
    }

    /// A number, a constant, or an expression in parentheses.
    fn atom(&mut self) -> u64 {
        if self.takes("(") {
            let value = self.choice();
            assert!(self.takes(")"), "no `)` before `{}`", self.rest);
            return value;
        }
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        // Of a template, its parameter; what it is has been given.
        let after = rest.strip_prefix('<').and_then(|inside| inside.split_once('>'));
        let rest = match after.filter(|(inside, _)| inside.chars().all(|c| c.is_ascii_alphanumeric())) {
            Some((_, rest)) => rest,
            None => rest,
        };
        self.rest = rest.trim_start();
        if word.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return self.cuda.constant_of(word, self.given);
        }
        let digits = word.trim_end_matches('u');
        let number = match digits.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        number.unwrap_or_else(|e| panic!("`{word}` before `{}`: {e}", self.rest))
    }
}

#[test]
fn expressions_are_read_as_a_compiler_reads_them() {
    let text = "constexpr u32 kA = 3, kB = (kA + 1) << 2;\ntemplate <typename T>\nconstexpr u32 kC = 2 * kD<T> - 1;\n\
        template <typename T>\nconstexpr u32 kD = sizeof(T) == 4 ? 0x10u : kB / 2 - 4 - 1;\n\
        #define X(T)\nTWOFOUR_KERNEL(twofour_##T##_x, Args, kB, 4) { }";
    let cuda = Cuda(text.to_owned());
    assert_eq!([cuda.constant("kA"), cuda.constant("kB")], [3, 16]);
    assert_eq!([4, 2].map(|size| cuda.constant_of("kC", &[("sizeof(T)", size)])), [31, 5]);
    assert_eq!(cuda.bounds("twofour_T_x"), [16, 4]);
}

#[test]
#[should_panic(expected = "definitions of kNone in cuda/: []")]
fn a_constant_that_is_not_there_is_a_failure() {
    Cuda::read("mask.cu").constant("kNone");
}
