//! Every form that the PTX executor knows, on the cases of `data/ptx_forms.txt`: what the PTX ISA says that it gives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;

use twofour_emulator::ptx::{Launch, Module};
use twofour_emulator::{Args, Buffer, Options};

/// A form with its registers and cases, or the name of the file that tests it.
struct Form {
    name: &'static str,
    registers: &'static str,
    see: Option<&'static str>,
    /// Operands, and the result behind them.
    cases: Vec<Vec<u64>>,
}

fn number(text: &str) -> u64 {
    text.strip_prefix("0x").map_or_else(|| text.parse().unwrap(), |hex| u64::from_str_radix(hex, 16).unwrap())
}

fn forms() -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    for line in include_str!("data/ptx_forms.txt").lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split_whitespace().filter(|&word| word != "=").collect();
        if line.starts_with(' ') {
            forms.last_mut().unwrap().cases.push(words.into_iter().map(number).collect());
            continue;
        }
        let (registers, see) = if words[1] == "see" { ("", Some(words[2])) } else { (words[1], None) };
        forms.push(Form { name: words[0], registers, see, cases: Vec::new() });
    }
    forms
}

/// Instructions that load operand `i` of a lane into register `x<i>`; a predicate by way of a number.
fn load(i: usize, of: char) -> String {
    let at = format!("[%at+{}]", 8 * i);
    match of {
        'h' => format!("ld.global.u16 %h{i}, {at};"),
        'w' => format!("ld.global.u32 %w{i}, {at};"),
        'd' => format!("ld.global.u64 %d{i}, {at};"),
        'p' => format!("ld.global.u32 %w{i}, {at}; setp.ne.s32 %p{i}, %w{i}, 0;"),
        _ => panic!("no register {of}"),
    }
}

fn store(of: char) -> &'static str {
    match of {
        'h' => "st.global.u16 [%to], %h0;",
        'w' => "st.global.u32 [%to], %w0;",
        'd' => "st.global.u64 [%to], %d0;",
        'p' => "selp.u32 %w0, 1, 0, %p0; st.global.u32 [%to], %w0;",
        _ => panic!("no register {of}"),
    }
}

/// A kernel that has lane `i` do case `i`.
fn kernel(form: &Form, number: usize) -> String {
    let letters: Vec<char> = form.registers.chars().collect();
    let mut text = format!(
        ".visible .entry k{number}(.param .u64 from, .param .u64 into, .param .u32 count)
        {{
        .reg .b16 %h<8>; .reg .b32 %w<8>; .reg .b64 %d<8>; .reg .pred %p<8>;
        .reg .b32 %lane, %count; .reg .b64 %at, %to, %step; .reg .pred %out;
        ld.param.u64 %at, [from]; ld.param.u64 %to, [into]; ld.param.u32 %count, [count];
        mov.u32 %lane, %tid.x;
        setp.ge.u32 %out, %lane, %count;
        @%out ret;
        mul.wide.u32 %step, %lane, 64; add.s64 %at, %at, %step;
        mul.wide.u32 %step, %lane, 8; add.s64 %to, %to, %step;\n"
    );
    for (i, &of) in letters.iter().enumerate().skip(1) {
        writeln!(text, "{}", load(i, of)).unwrap();
    }
    let operands: Vec<_> = letters.iter().enumerate().map(|(i, of)| format!("%{of}{i}")).collect();
    writeln!(text, "{} {};\n{} ret; }}", form.name, operands.join(", "), store(letters[0])).unwrap();
    text
}

#[test]
fn every_form_gives_what_the_isa_says() {
    let forms: Vec<Form> = forms().into_iter().filter(|form| form.see.is_none()).collect();
    let mut text = ".version 9.0\n.target sm_80\n.address_size 64\n".to_owned();
    for (i, form) in forms.iter().enumerate() {
        text.push_str(&kernel(form, i));
    }
    let module = Module::new(&text).unwrap();
    let mut wrong = Vec::new();
    for (i, form) in forms.iter().enumerate() {
        assert!(!form.cases.is_empty() && form.cases.len() <= 64, "{}: {} cases", form.name, form.cases.len());
        let operands: Vec<u64> = form
            .cases
            .iter()
            .flat_map(|case| {
                let mut slots = [0; 8];
                slots[1..case.len()].copy_from_slice(&case[..case.len() - 1]);
                slots
            })
            .collect();
        let from = Buffer::input("from", &operands).unwrap();
        let into = Buffer::in_place("into", &vec![0u64; form.cases.len()]).unwrap();
        let args = Args::new().pointer(&from).pointer(&into).value(form.cases.len() as u32);
        let mut args = args.finish();
        args.truncate(20);
        let name = format!("k{i}");
        let launch = Launch { kernel: &name, grid: [1; 3], block: [64, 1, 1], shared_bytes: 0, args: &args };
        module.run(&launch, &Options::default()).unwrap_or_else(|fault| panic!("{}: {fault}", form.name));
        for (case, got) in form.cases.iter().zip(into.values::<u64>()) {
            let (expected, operands) = case.split_last().unwrap();
            if got != *expected {
                wrong.push(format!("{} {operands:#x?} is {expected:#x}, got {got:#x}", form.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A form that is tested elsewhere is named there.
#[test]
fn every_other_form_has_a_test_of_its_own() {
    for form in forms() {
        let Some(see) = form.see else { continue };
        let text = match see {
            "ptx_local" => include_str!("ptx_local.rs"),
            "ptx_memory" => include_str!("ptx_memory.rs"),
            "ptx_flow" => include_str!("ptx_flow.rs"),
            "ptx_approx" => include_str!("ptx_approx.rs"),
            "ptx_matrix" => include_str!("ptx_matrix.rs"),
            other => panic!("{}: no file {other}", form.name),
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':');
        let whole = text.match_indices(form.name).any(|(at, _)| {
            let before = text.as_bytes()[..at].last().is_none_or(|&byte| !named(byte));
            before && text.as_bytes().get(at + form.name.len()).is_none_or(|&byte| !named(byte))
        });
        assert!(whole, "{} is not tested in {see}.rs", form.name);
    }
}

/// No form is there twice, and none that is not.
#[test]
fn the_list_is_what_is_known() {
    let mut names: Vec<_> = forms().iter().map(|form| form.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    let module = |form: &str| {
        Module::new(&format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n.entry k() {{ .reg .b32 %r<4>;\n{form} %r0, %r1, %r2; }}"
        ))
    };
    assert!(module("add.s32").is_ok());
    // Known parts, but a form that nobody has tested.
    let fault = module("max.xorsign.f32").unwrap_err().to_string();
    assert!(fault.starts_with("PTX, line 5: `max.xorsign.f32`: this form is not in the list"), "{fault}");
}
