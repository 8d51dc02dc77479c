//! Which tensors of a model are its linear layers, by their names; patterns of names; and names as they are printed.
//!
//! A name is modules with dots between them, a module is parts with underscores between them: `h.0.mlp.fc_in.weight`.
//! Only whole parts and whole modules count, without the digits at a part's end and without regard to case: `norm` is a
//! part of `q_norm`, `norm1` and `norm`, and none of `normal_proj`.
//!
//! Left dense is what is looked up and not multiplied, or decides over every token:
//!
//! | | where in the name | |
//! | --- | --- | --- |
//! | embeddings | a part, anywhere, but in projections | `embed` `embeds` `embedding` `embeddings` `embedder` `emb` `embs` `embd` `wte` `wpe` |
//! | | the last module | `shared` `token_type` `position` `positions` `codebook` |
//! | position biases | the last part of the last module | `bias` |
//! | norms | a part, anywhere, but in projections | `norm` `norms` `layernorm` `rmsnorm` `groupnorm` `batchnorm` `ln` |
//! | heads | a module, anywhere | `head` `heads` `classifier` `cls` |
//! | | the last part of a module, anywhere | `head`, as in `lm_head`; `classifier` |
//! | | the last module | `output_layer` `score` `qa_outputs` |
//! | | the last module, in no numbered block | `output` |
//! | routers | a module, anywhere | `gate` `gating` `router` `routers` |
//! | | the last parts of the last module | `expert_gate` `experts_gate` `router_gate` `moe_gate` `gate_inp` |
//!
//! A projection is a module of several parts of which the last is one of `proj`, `projection`, `linear`, `dense` and
//! `fc`: `embed_proj` multiplies, `patch_embed.proj` is an embedding.

use std::borrow::Cow;

/// What a name says of a tensor, and the words that say it.
struct Rule {
    what: &'static str,
    place: Place,
    words: &'static [&'static str],
}

/// Where a word must be.
enum Place {
    /// But not of a projection.
    Part,
    Module,
    LastModule,
    /// The last module, if no module is a number.
    Outside,
    /// The end of a module.
    Ending,
    /// The end of the last module.
    LastEnding,
}

const RULES: [Rule; 10] = [
    Rule {
        what: "an embedding",
        place: Place::Part,
        words: &["embed", "embeds", "embedding", "embeddings", "embedder", "emb", "embs", "embd", "wte", "wpe"],
    },
    Rule {
        what: "an embedding",
        place: Place::LastModule,
        words: &["shared", "token_type", "position", "positions", "codebook"],
    },
    Rule { what: "a bias of positions", place: Place::LastEnding, words: &["bias"] },
    Rule {
        what: "a norm",
        place: Place::Part,
        words: &["norm", "norms", "layernorm", "rmsnorm", "groupnorm", "batchnorm", "ln"],
    },
    Rule { what: "a head", place: Place::Module, words: &["head", "heads", "classifier", "cls"] },
    Rule { what: "a head", place: Place::Ending, words: &["head", "classifier"] },
    Rule { what: "a head", place: Place::LastModule, words: &["output_layer", "score", "qa_outputs"] },
    Rule { what: "a head", place: Place::Outside, words: &["output"] },
    Rule { what: "a router", place: Place::Module, words: &["gate", "gating", "router", "routers"] },
    Rule {
        what: "a router",
        place: Place::LastEnding,
        words: &["expert_gate", "experts_gate", "router_gate", "moe_gate", "gate_inp"],
    },
];

/// Whether a tensor is a weight, by its name.
pub(crate) fn is_weight(name: &str) -> bool {
    name == "weight" || name.ends_with(".weight")
}

/// What a weight is, by its name, if it is better left dense, and the word that says so.
pub(crate) fn left_dense(name: &str) -> Option<(&'static str, &'static str)> {
    let name = name.to_lowercase();
    let modules: Vec<Vec<&str>> = modules(name.strip_suffix(".weight").unwrap_or(&name)).collect();
    RULES.iter().find_map(|rule| Some((rule.what, rule.word(&modules)?)))
}

/// Whether a name has a part that begins so.
pub(crate) fn has_part(name: &str, beginning: &str) -> bool {
    let name = name.to_lowercase();
    modules(&name).flatten().any(|part| part.starts_with(beginning))
}

/// The parts of each module, without the digits at their ends.
fn modules(name: &str) -> impl Iterator<Item = Vec<&str>> {
    let part = |part: &'_ str| -> usize { part.trim_end_matches(|c: char| c.is_ascii_digit()).len() };
    name.split('.').map(move |module| {
        // What is a number altogether stays one.
        module.split('_').map(|p| if part(p) == 0 { p } else { &p[..part(p)] }).collect()
    })
}

impl Rule {
    /// The word of the rule that is in its place.
    fn word(&self, modules: &[Vec<&str>]) -> Option<&'static str> {
        let last = modules.last()?;
        let is = |module: &[&str], word: &str| module.iter().copied().eq(word.split('_'));
        let ends = |module: &[&str], word: &str| {
            let parts = word.split('_').count();
            module.len() >= parts && is(&module[module.len() - parts..], word)
        };
        let number = |module: &[&str]| module.iter().all(|part| part.parse::<u64>().is_ok());
        self.words.iter().copied().find(|word| match self.place {
            Place::Part => {
                let named = modules.iter().filter(|module| !is_projection(module));
                named.flatten().any(|part| part == word)
            }
            Place::Module => modules.iter().any(|module| is(module, word)),
            Place::LastModule => is(last, word),
            Place::Outside => is(last, word) && !modules.iter().any(|module| number(module)),
            Place::Ending => modules.iter().any(|module| ends(module, word)),
            Place::LastEnding => ends(last, word),
        })
    }
}

fn is_projection(module: &[&str]) -> bool {
    let last = module.last().copied().unwrap_or_default();
    module.len() > 1 && ["proj", "projection", "linear", "dense", "fc"].contains(&last)
}

/// Whether a name is one of the patterns'.
pub(crate) fn any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// Whether a name is a pattern's, in which `*` stands for anything. One pass over the name: what is between two `*` may
/// be taken where it is found first, for all that follows may begin there or later.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = name.strip_prefix(first).and_then(|name| name.strip_suffix(last)) else { return false };
    middle.split('*').all(|part| match left.split_once(part) {
        Some((_, behind)) => {
            left = behind;
            true
        }
        None => false,
    })
}

/// The first of many, or what there is instead of any.
pub(crate) fn some<'n>(names: impl ExactSizeIterator<Item = &'n str>, none: &str) -> String {
    const MOST: usize = 12;
    let more = names.len().saturating_sub(MOST);
    let list = names.take(MOST).collect::<Vec<_>>().join(", ");
    match (list.as_str(), more) {
        ("", _) => none.to_owned(),
        (_, 0) => list,
        _ => format!("{list}, and {more} more"),
    }
}

/// A name as it is printed: a terminal does what some characters say, so they are written out. Names come from files.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    plain_but(text, &[])
}

/// The same, but for these characters, which stay.
pub(crate) fn plain_but<'t>(text: &'t str, stay: &[char]) -> Cow<'t, str> {
    // Controls, line ends among them, and what changes the direction of text or is nothing to look at.
    let wild = |c: char| {
        let hidden =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        (c.is_control() || hidden) && !stay.contains(&c)
    };
    if !text.contains(wild) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if wild(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}
