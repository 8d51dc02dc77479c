//! What a kernel must reach of its roof, and why some do not.

use super::table::Row;

/// Ops whose kernels must be near their roofs.
const OPS: [&str; 5] = ["mask", "learn", "compress", "select", "distil"];

/// The least share of the roof on H200: of a weight of 4096 x 4096, and of one of 14336 x 4096.
pub(super) const LEAST: [f64; 2] = [0.85, 0.90];

/// The beginning of cases' names, and what binds them and why no more can be had, or what is left to do.
pub(super) const REASONS: &[(&str, &str)] = &[
    (
        "mask/metrics/",
        "codes, the choice and sums beside the masked weight are 220 to 260 instructions, which come beside memory's
        clocks; and the grid is 1,024 blocks on every device, so that sums do not depend on it: two to four rounds of
        blocks, each with the way to the noise table. Left: a kernel for masked weight and codes without sums.",
    ),
    (
        "mask/soft_forward/",
        "L1. Of 32 groups the look-ups in the noise table are 36 wavefronts, for they fall where the noise falls, and
        logits, weight and result 13 to 24 lines: together 0.76 to 0.99 of the clocks of their 28 to 48 bytes a group. A
        table of fewer wavefronts would be another noise; whole lines of logits would go through shared memory, which
        takes the wavefronts that it saves lines.",
    ),
    ("mask/hard_forward/", "L1, as the soft forward pass."),
    ("mask/soft_backward/bf16", "L1, as the soft forward pass, with 48 bytes of gradient a thread by three stores."),
    (
        "mask/hard_backward/",
        "L1 and issue: the hard choice beside the soft gradient, 290 to 320 instructions, for both scales of scores.",
    ),
    (
        "learn/update/f32_8bit",
        "issue: 24 codes a group are decoded and encoded by random bits, with a root and a quotient for each pair:
        590 instructions for 96 bytes a group.",
    ),
    (
        "learn/update/bf16_8bit",
        "issue, as with f32 logits: 630 instructions of 72 bytes a group.",
    ),
    (
        "learn/fused/",
        "issue: 800 to 850 instructions, of which two Philox calls are 130 (the noise's and that of all rounding, of ten
        rounds), the mask's gradient 220, the codes of both moments 130, roots and quotients 80. They were 1,083. What
        would lift it: fewer bits to a rounding than ten, or moments that are encoded every second step.",
    ),
    (
        "compress/magnitude/cutlass-sm80/i8",
        "the ALU: 52 instructions for 6.5 bytes a group, comparisons of bytes that the instruction set has no pair of.",
    ),
    ("compress/sparse/cutlass-sm80/i8", "the ALU, as by magnitude: what is not zero is counted byte by byte."),
    ("compress/logits/", "L1, as the hard forward pass of mask, with codes through shared memory."),
    ("compress/bf16logits/", "L1 and issue, as from f32 logits, with a third fewer bytes to hide them behind."),
    (
        "compress/reorder/",
        "the ALU: a byte a group moves, half in and half out, and its place in the layout is 17 to 21 instructions. It
        is 3 µs for 16 million weights, once a packing.",
    ),
    ("compress/restore/", "the ALU, as the way there."),
    (
        "select/magnitude/bf16",
        "issue: 8.5 bytes a group leave 16 clocks for the 70 instructions of a choice that breaks ties by position and
        finds NaN.",
    ),
    (
        "select/scaled_masked/",
        "L1: each group's 16 bytes of column scale come from there again for every row, and latency, for they are
        asked for when the scores are. Left to do.",
    ),
    (
        "select/squares/",
        "latency: a warp goes down 16 rows of its columns with four loads under way, and a block then waits for all
        of its warps. Left to do: eight loads under way.",
    ),
    (
        "distil/labels/",
        "two sweeps over a row by one block, 512 rows on 264 blocks at once: the last rounds are not full, and bf16 has
        half of f32's bytes for as many exponentials, which alone take longer than its bytes.",
    ),
    (
        "distil/forward/",
        "exponentials: three for each pair of logits and sweep, which for bf16 take longer than its bytes do.",
    ),
    ("distil/reverse/", "exponentials, as forward."),
    (
        "distil/jsd/",
        "issue: two logarithms of a quotient near 1 for each pair of logits in the second sweep, one in the third,
        two thirds of the instructions that they were with IEEE's divisions.",
    ),
    (
        "distil/known/",
        "latency and issue, as of labels, with the known tokens marked in shared memory before.",
    ),
    (
        "distil/top_k/",
        "it searches for the k-th largest bit by bit: 32 sweeps over a row in L2, 16 of bf16, which is no walk over
        memory. A teacher is made once, and kept. Left to do: several bits a sweep.",
    ),
];

/// Cases that are below, and of which no reason speaks; and reasons that speak of none.
pub(super) fn missing(rows: &[Row]) -> Vec<String> {
    let mut complaints = Vec::new();
    for row in rows.iter().filter(|row| is_below(row)) {
        if reason(row).is_none() {
            let [usual, large] = [row.usual.share, row.large.share].map(|share| format!("{:.0} %", 100.0 * share));
            complaints.push(format!("{}: {usual} and {large} of its roof, and no reason is given", row.name()));
        }
    }
    for (case, _) in REASONS {
        if !rows.iter().any(|row| is_below(row) && row.name().starts_with(case)) {
            complaints.push(format!("a reason is given for {case}, which needs none"));
        }
    }
    complaints
}

fn is_below(row: &Row) -> bool {
    let of_op = row.name().split('/').next().is_some_and(|op| OPS.contains(&op));
    of_op && (row.usual.share < LEAST[0] || row.case.name.contains("4096x4096") && row.large.share < LEAST[1])
}

fn reason(row: &Row) -> Option<&'static str> {
    REASONS.iter().find(|(case, _)| row.name().starts_with(case)).map(|&(_, reason)| reason)
}

/// The reasons, below the table.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "## Below {:.0} % of the roof at 4096 x 4096, or {:.0} % at 14336 x 4096\n\n",
        100.0 * LEAST[0],
        100.0 * LEAST[1]
    );
    for (case, reason) in REASONS.iter().filter(|(case, _)| rows.iter().any(|row| row.name().starts_with(case))) {
        let words: Vec<&str> = reason.split_whitespace().collect();
        text += &wrapped(&format!("- `{case}`: {}", words.join(" ")));
    }
    text + HALF_SECTORS
}

/// Why sectors and wavefronts are more than the fewest, below all.
const HALF_SECTORS: &str = "
## Sectors and wavefronts beyond the fewest

Where a thread has 48 bytes of logits or of their gradient it takes them by three accesses of 16 bytes, each over half
of 32 sectors (`mask`, the epilogue of `matmul`). L1 holds what the three loads share, and L2 joins the three stores:
no byte goes to memory twice, and the lines that it costs L1 count above. `learn` stores whole lines through shared
memory. Bank conflicts are the look-ups in the noise table, six a group, of 4.5 to 6 wavefronts each, for they fall
where the noise falls; the codes of `compress`, a byte or less a lane; and the columns of `select`'s squares.
";

/// In lines of at most 120 columns, those after the first a little in.
fn wrapped(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > 120 {
            lines += &format!("{}\n", line.trim_end());
            line = "  ".into();
        }
        line += &format!("{word} ");
    }
    lines + line.trim_end() + "\n"
}
