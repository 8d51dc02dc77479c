//! What is meant, in the plainest form: scores sorted, sums in `f64`.

use twofour::{Float, Pattern, Shape};

/// The pattern of the two best scores, or `None` if one is NaN: positions sorted by score, equal ones by position.
pub(crate) fn choose(scores: &[f32]) -> Option<Pattern> {
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut positions = [0usize, 1, 2, 3];
    positions.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
    Pattern::from_bits(1 << positions[0] | 1 << positions[1])
}

/// The best of six by exact sums, ties to the lowest index; for scores whose sums are exact.
pub(crate) fn best_of_six(scores: &[f32]) -> Pattern {
    let sum = |pattern: Pattern| pattern.kept().map(|j| f64::from(scores[usize::from(j)])).iter().sum::<f64>();
    Pattern::ALL
        .into_iter()
        .fold(Pattern::ALL[0], |best, pattern| if sum(pattern) > sum(best) { pattern } else { best })
}

/// The code of group `g`.
pub(crate) fn code(codes: &[u8], g: usize) -> u8 {
    codes[g / 2] >> (4 * (g % 2)) & 15
}

/// `W∘M` of a group.
pub(crate) fn masked<W: Float>(pattern: Option<Pattern>, weight: &[W]) -> Vec<W> {
    let of = |(j, &w): (usize, &W)| match pattern {
        None => W::from_f32(f32::NAN),
        Some(pattern) if pattern.keeps(j) => w,
        Some(_) => W::from_f32(0.0),
    };
    weight.iter().enumerate().map(of).collect()
}

/// The group's place in its row, for messages.
pub(crate) fn place(shape: Shape, group: usize) -> String {
    format!("group {} of row {}", group % (shape.cols / 4), group / (shape.cols / 4))
}
