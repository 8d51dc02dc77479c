#!/usr/bin/env python3
"""The README's picture: perplexities of SmolLM2-135M under one-shot 2:4 masks, and how they fall while masks are learnt.

Reads twofour-cli/results/smollm2/one-shot.json and the reports of `twofour learn` beside it, and writes
docs/perplexity.svg; with --check, fails if the file there is another. Python alone.
"""

import json
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "twofour-cli/results/smollm2"
PICTURE = ROOT / "docs/perplexity.svg"

# Of one-shot.json, what is drawn at the left, a line each.
SHOTS = [["Wanda", "SparseGPT"], ["SparseGPT with swaps"], ["SparseGPT, weights updated"]]
# Report, what its line is called, its class.
LEARNT = [("few-512k.json", "learnt", "learnt")]
WIDTH, TOP, LEFT, RIGHT, BOTTOM = 760, 66, 262, 540, 376
LEAST, MOST = 38, 320

# A ground of its own, so that it can be read whatever page it is on; the colours follow what the reader prefers.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.small { font-size: 12px; fill: #59636e }
.ground { fill: #ffffff; stroke: #d1d9e0 }
.grid { stroke: #e6eaef }
.curve { stroke-width: 2.5; fill: none; stroke-linejoin: round }
.shot { fill: #6e7781 }
.learnt { stroke: #0969da }
.end.learnt { fill: #0969da }
.dense { stroke: #bc4c00; stroke-dasharray: 4 4; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .ground { fill: #0d1117; stroke: #3d444d }
  .grid { stroke: #262c36 }
  .shot { fill: #9198a1 }
  .learnt { stroke: #4493f8 }
  .end.learnt { fill: #4493f8 }
  .dense { stroke: #f0883e }
}
"""


def y(perplexity):
    return BOTTOM - math.log(perplexity / LEAST) / math.log(MOST / LEAST) * (BOTTOM - TOP)


def picture(shots, reports):
    most_tokens = max(point["tokens"] for curve in reports.values() for point in curve)

    def x(tokens):
        return LEFT + tokens / most_tokens * (RIGHT - LEFT)

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {BOTTOM + 62}" width="{WIDTH}" '
        f'height="{BOTTOM + 62}" role="img">'
    )
    yield "<title>Perplexity of SmolLM2-135M under one-shot and learnt 2:4 masks</title>"
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{BOTTOM + 61}" rx="8"/>'
    title = "SmolLM2-135M with 2:4 masks: perplexity a token, less is better"
    yield f'<text class="title" x="18" y="28">{title}</text>'
    yield f'<text class="small" x="18" y="47">log scale; magnitude’s mask is at {shots["magnitude"]:.0f}</text>'
    for tick in range(0, most_tokens + 1, 128_000):
        yield f'<path class="grid" d="M{x(tick):.1f} {TOP}V{BOTTOM}"/>'
        label = f"{tick // 1000} k" if tick else "0"
        yield f'<text class="small" text-anchor="middle" x="{x(tick):.1f}" y="{BOTTOM + 18}">{label}</text>'
    yield f'<text class="small" text-anchor="middle" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 37}">tokens learnt from</text>'

    ends = [(shots["dense"], "dense")]
    yield f'<path class="dense" d="M{LEFT} {y(shots["dense"]):.1f}H{RIGHT}"/>'
    for file, name, group in LEARNT:
        points = [(x(point["tokens"]), y(point["perplexity"])) for point in reports[file]]
        yield f'<path class="curve {group}" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>'
        yield f'<circle class="end {group}" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="4"/>'
        ends.append((reports[file][-1]["perplexity"], name))
    above = BOTTOM
    for value, name in sorted(ends):
        above = min(y(value) + 4.5, above - 17)
        yield f'<text x="{RIGHT + 12}" y="{above:.1f}"><tspan font-weight="600">{value:.1f}</tspan> {name}</text>'
    for names in SHOTS:
        for name in names:
            yield f'<circle class="shot" cx="{LEFT}" cy="{y(shots[name]):.1f}" r="5"/>'
        text = ", ".join(f"{name} {shots[name]:.0f}" for name in names)
        middle = sum(y(shots[name]) for name in names) / len(names)
        yield f'<text text-anchor="end" x="{LEFT - 14}" y="{middle + 4.5:.1f}">{text}</text>'
    yield f'<text class="small" text-anchor="end" x="{WIDTH - 18}" y="{BOTTOM + 52}">twofour-cli/results/smollm2.md</text>'
    yield "</svg>"


def main():
    shots = json.loads((RESULTS / "one-shot.json").read_text())
    reports = {file: json.loads((RESULTS / file).read_text())["curve"] for file, _, _ in LEARNT}
    drawn = "\n".join(picture(shots, reports)) + "\n"
    if sys.argv[1:] == ["--check"]:
        if not PICTURE.exists() or PICTURE.read_text() != drawn:
            sys.exit("docs/perplexity.svg is not what the results say: run docs/perplexity.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PICTURE.write_text(drawn)


if __name__ == "__main__":
    main()
