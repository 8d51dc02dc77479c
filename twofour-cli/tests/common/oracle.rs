//! A model by plain loops, in f64.

use super::Tiny;
use std::collections::BTreeMap;
use std::f64::consts::PI;

type Rows = Vec<Vec<f64>>;
/// Shapes and values by name, in f32 or f64.
type Weights<V> = BTreeMap<String, (Vec<usize>, Vec<V>)>;

/// Logits of each token.
pub(crate) fn logits<V: Copy + Into<f64>>(tiny: &Tiny, weights: &Weights<V>, tokens: &[u32]) -> Rows {
    let row = |name: &str, i: usize| -> Vec<f64> {
        let (shape, values) = &weights[name];
        let cols = shape[1];
        values[i * cols..(i + 1) * cols].iter().map(|&x| x.into()).collect()
    };
    let mut x: Rows = tokens.iter().map(|&id| row("model.embed_tokens.weight", id as usize)).collect();
    for block in 0..tiny.blocks {
        let name = |part: &str| format!("model.layers.{block}.{part}");
        let h = norm(&x, &weights[&name("input_layernorm.weight")].1, tiny.eps);
        let project = |part: &str, h: &Rows| linear(weights, &name(part), h);
        let mut q = split(project("self_attn.q_proj", &h), tiny.head);
        let mut k = split(project("self_attn.k_proj", &h), tiny.head);
        let v = split(project("self_attn.v_proj", &h), tiny.head);
        for (heads, part) in [(&mut q, "self_attn.q_norm.weight"), (&mut k, "self_attn.k_norm.weight")] {
            for (t, heads) in heads.iter_mut().enumerate() {
                if tiny.qk_norm {
                    *heads = norm(heads, &weights[&name(part)].1, tiny.eps);
                }
                heads.iter_mut().for_each(|head| rotate(tiny, head, t));
            }
        }
        let mixed: Rows = (0..tokens.len()).map(|t| attention(tiny, &q[t], &k, &v, t)).collect();
        add(&mut x, project("self_attn.o_proj", &mixed));
        let h = norm(&x, &weights[&name("post_attention_layernorm.weight")].1, tiny.eps);
        let (gate, up) = (project("mlp.gate_proj", &h), project("mlp.up_proj", &h));
        let silu = |g: f64| g / (1.0 + (-g).exp());
        let gated: Rows = (gate.iter().zip(&up))
            .map(|(gate, up)| gate.iter().zip(up).map(|(&g, &u)| silu(g) * u).collect())
            .collect();
        add(&mut x, project("mlp.down_proj", &gated));
    }
    let x = norm(&x, &weights["model.norm.weight"].1, tiny.eps);
    linear(weights, if tiny.tied { "model.embed_tokens" } else { "lm_head" }, &x)
}

/// Negative log-likelihood of a token by a row of logits.
pub(crate) fn loss(logits: &[f64], target: u32) -> f64 {
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln() - logits[target as usize]
}

/// Perplexity of windows without overlap; of each all tokens but the first are predicted.
pub(crate) fn perplexity<V: Copy + Into<f64>>(tiny: &Tiny, weights: &Weights<V>, tokens: &[u32], window: usize) -> f64 {
    let mut losses = Vec::new();
    for window in tokens.chunks_exact(window) {
        let logits = logits(tiny, weights, window);
        losses.extend((1..window.len()).map(|t| loss(&logits[t - 1], window[t])));
    }
    (losses.iter().sum::<f64>() / losses.len() as f64).exp()
}

fn norm<V: Copy + Into<f64>>(x: &Rows, weight: &[V], eps: f64) -> Rows {
    let of = |row: &Vec<f64>| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        row.iter().zip(weight).map(|(x, &w)| x / (mean + eps).sqrt() * w.into()).collect()
    };
    x.iter().map(of).collect()
}

fn linear<V: Copy + Into<f64>>(weights: &Weights<V>, name: &str, x: &Rows) -> Rows {
    let (shape, weight) = &weights[&format!("{name}.weight")];
    let bias = weights.get(&format!("{name}.bias"));
    let of = |row: &Vec<f64>| {
        assert_eq!(row.len(), shape[1]);
        let y = |n: usize| -> f64 {
            let dot: f64 = (0..shape[1]).map(|k| row[k] * weight[n * shape[1] + k].into()).sum();
            dot + bias.map_or(0.0, |(_, bias)| bias[n].into())
        };
        (0..shape[0]).map(y).collect()
    };
    x.iter().map(of).collect()
}

/// Tokens, heads, values.
fn split(x: Rows, head: usize) -> Vec<Rows> {
    x.into_iter().map(|row| row.chunks(head).map(<[f64]>::to_vec).collect()).collect()
}

fn add(x: &mut Rows, y: Rows) {
    x.iter_mut().flatten().zip(y.into_iter().flatten()).for_each(|(x, y)| *x += y);
}

/// Halves of a head are rotated against each other.
fn rotate(tiny: &Tiny, head: &mut [f64], t: usize) {
    let half = head.len() / 2;
    for i in 0..half {
        let angle = t as f64 * frequency(tiny, i);
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * angle.cos() - b * angle.sin();
        head[i + half] = b * angle.cos() + a * angle.sin();
    }
}

/// Radians a token.
pub(crate) fn frequency(tiny: &Tiny, i: usize) -> f64 {
    let plain = 1.0 / tiny.theta.powf(2.0 * i as f64 / tiny.head as f64);
    let number = |key: &str| tiny.scaling[key].as_f64().unwrap();
    if tiny.scaling.get("type").is_some() {
        return plain / number("factor");
    }
    if tiny.scaling.is_null() {
        return plain;
    }
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let original = number("original_max_position_embeddings");
    let wave = 2.0 * PI / plain;
    if wave < original / high {
        plain
    } else if wave > original / low {
        plain / number("factor")
    } else {
        let smooth = (original / wave - low) / (high - low);
        (1.0 - smooth) * plain / number("factor") + smooth * plain
    }
}

fn attention(tiny: &Tiny, q: &Rows, k: &[Rows], v: &[Rows], t: usize) -> Vec<f64> {
    let first = tiny.window.map_or(0, |window| (t + 1).saturating_sub(window));
    let mut out = Vec::new();
    for (h, q) in q.iter().enumerate() {
        let shared = h / (tiny.heads / tiny.kv);
        let score = |s: usize| {
            let dot: f64 = q.iter().zip(&k[s][shared]).map(|(q, k)| q * k).sum();
            dot / (tiny.head as f64).sqrt()
        };
        let scores: Vec<f64> = (first..=t).map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let all: f64 = weights.iter().sum();
        let mixed = |i: usize| weights.iter().zip(first..).map(|(w, s)| w / all * v[s][shared][i]).sum();
        out.extend((0..tiny.head).map(mixed).collect::<Vec<f64>>());
    }
    out
}
