#!/usr/bin/env python3
"""The README's picture: perplexities of learnt and one-shot masks, on a toy model.

Reads twofour-cli/results/toy/seed-*.json and writes docs/perplexity.svg; with --check, fails if the
file there is another. Python alone.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "twofour-cli/results/toy"
PICTURE = ROOT / "docs/perplexity.svg"

# Method in the files, its name in the picture, its class.
ROWS = [
    ("magnitude", "magnitude", "shot"),
    ("Wanda", "Wanda", "shot"),
    ("SparseGPT", "SparseGPT", "shot"),
    ("SparseGPT with weight update", "SparseGPT, weights updated", "shot"),
    ("MaskLLM, no prior", "learnt, no prior", "learnt"),
    ("MaskLLM, SparseGPT prior", "learnt, SparseGPT prior", "learnt"),
    ("MaskLLM, magnitude prior", "learnt, magnitude prior", "learnt"),
    ("dense", "dense", "dense"),
    ("dense, trained on for as many bytes", "dense, trained on as long", "dense"),
]
WIDTH, TOP, STEP, LEFT, RIGHT = 760, 64, 26, 212, 700
BOTTOM = TOP + STEP * len(ROWS)

# A ground of its own, so that it can be read whatever page it is on; the colours follow what the reader prefers.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.small { font-size: 12px; fill: #59636e }
.ground { fill: #ffffff; stroke: #d1d9e0 }
.grid { stroke: #e6eaef }
.range { stroke-width: 2.5; stroke-linecap: round }
.shot { stroke: #6e7781; fill: #6e7781 }
.learnt { stroke: #0969da; fill: #0969da }
.dense { stroke: #bc4c00; fill: #bc4c00 }
.mark { stroke-dasharray: 4 4; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .ground { fill: #0d1117; stroke: #3d444d }
  .grid { stroke: #262c36 }
  .shot { stroke: #9198a1; fill: #9198a1 }
  .learnt { stroke: #4493f8; fill: #4493f8 }
  .dense { stroke: #f0883e; fill: #f0883e }
}
"""


def perplexities():
    """Of each method, the perplexity of every seed; and the number of masked weights."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("seed-*.json"))]
    of = {}
    for row in (row for run in runs for row in run["rows"] if row["domain"] == "code"):
        of.setdefault(row["method"], []).append(row["perplexity"])
    return of, runs[0]["masked_weights"]


def picture(of, weights):
    means = {method: sum(of[method]) / len(of[method]) for method, _, _ in ROWS}
    least = min(min(of[method]) for method, _, _ in ROWS)
    most = max(max(of[method]) for method, _, _ in ROWS)
    ticks = [tick / 5 for tick in range(int(least * 5), int(most * 5) + 2)]

    def x(value):
        return LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (RIGHT - LEFT)

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {BOTTOM + 46}" width="{WIDTH}" '
        f'height="{BOTTOM + 46}" role="img">'
    )
    yield "<title>Perplexity a byte of a small language model under one-shot and learnt 2:4 masks</title>"
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{BOTTOM + 45}" rx="8"/>'
    title = "Small language models, masked 2:4: perplexity a byte, less is better"
    yield f'<text class="title" x="18" y="28">{title}</text>'
    seeds = len(of["dense"])
    yield f'<text class="small" x="18" y="47">mean of {seeds} seeds; a line goes from the least to the most</text>'
    for tick in ticks:
        yield f'<path class="grid" d="M{x(tick):.1f} {TOP}V{BOTTOM}"/>'
        yield f'<text class="small" text-anchor="middle" x="{x(tick):.1f}" y="{BOTTOM + 18}">{tick:.1f}</text>'
    dense = [method for method, _, _ in ROWS].index("dense")
    yield f'<path class="dense mark" d="M{x(means["dense"]):.1f} {TOP}V{TOP + STEP * dense}"/>'
    for number, (method, name, group) in enumerate(ROWS):
        y = TOP + STEP * number + STEP / 2
        low, high = x(min(of[method])), x(max(of[method]))
        yield f'<text text-anchor="end" x="{LEFT - 14}" y="{y + 4.5:.1f}">{name}</text>'
        yield f'<path class="range {group}" d="M{low:.1f} {y}H{high:.1f}"/>'
        yield f'<circle class="{group}" cx="{x(means[method]):.1f}" cy="{y}" r="5"/>'
        yield f'<text x="{high + 10:.1f}" y="{y + 4.5:.1f}">{means[method]:.2f}</text>'
    yield (
        f'<text class="small" text-anchor="end" x="{WIDTH - 18}" y="{BOTTOM + 36}">'
        f"twofour-cli/results/toy.md, {weights / 1e6:.1f} million masked weights</text>"
    )
    yield "</svg>"


def main():
    drawn = "\n".join(picture(*perplexities())) + "\n"
    if sys.argv[1:] == ["--check"]:
        if not PICTURE.exists() or PICTURE.read_text() != drawn:
            sys.exit("docs/perplexity.svg is not what the results say: run docs/perplexity.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PICTURE.write_text(drawn)


if __name__ == "__main__":
    main()
