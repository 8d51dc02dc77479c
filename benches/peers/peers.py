#!/usr/bin/env python3
"""Compares twofour with PyTorch: both in turn, round after round, in one run; prints how many times faster ours is.

    python benches/peers/peers.py                 # on the CPU, every core
    python benches/peers/peers.py --device cuda   # on the first GPU, operands cold and hot in its cache
    python benches/peers/peers.py --learn         # a step of AdamW on the logits, and one with its masks; on a GPU too
    python benches/peers/peers.py --linear        # the masked linear layer instead of masks alone; on a GPU too
    python benches/peers/peers.py --sparse        # the product of a compressed weight; on a GPU too
    python benches/peers/peers.py --pack          # compressing a weight that is 2:4; on a GPU too
    python benches/peers/peers.py --distil        # loss and gradient of logits beside a teacher's; on a GPU too
    python benches/peers/peers.py --all --markdown report.md   # all of these, in one report
    python benches/peers/peers.py --quick         # a few minutes less, and noisier

Needs PyTorch, and cargo unless --ours names a built `peer` bench. A ratio is the median over rounds of theirs / ours
within a round, with its 20th and 80th percentile: both sides of a ratio saw the same machine. Operands are
normal-distributed. `of copy` is the share of a copy's bytes a second that our side reaches with operands read and written
once each; more than all of it means that they stay in caches.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import torch_distil
import torch_learn
import torch_mask
import torch_matmul
import torch_sparse
from torch_mask import Case
from torch_peer import Peer

ROOT = Path(__file__).resolve().parents[2]
OURS = "twofour"
Samples = dict[str, list[float]]
Result = dict[str, Any]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(24)
    ours = Ours(args.ours or build(), args.threads)
    report: dict[str, Any] = {"environment": environment(args), "results": []}
    print(describe(report["environment"]), flush=True)
    print(HEADER, flush=True)
    for device in ["cuda-cold", "cuda-hot"] if args.device == "cuda" else ["cpu"]:
        for case, peers in cases(args):
            for result in measure(ours, case, peers, device, args):
                result["of_copy"] = result["bytes_per_ns"] / report["environment"]["copy, bytes/ns"]
                report["results"].append(result)
                print(row(result), flush=True)
                save(report, args)
    report["environment"]["load at the end"] = os.getloadavg()
    save(report, args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    family = parser.add_mutually_exclusive_group()
    family.add_argument("--learn", action="store_true", help="AdamW on the logits, by itself and with masks and gradient")
    family.add_argument("--linear", action="store_true", help="the masked linear layer, and a dense one beside it")
    family.add_argument("--sparse", action="store_true", help="the product of a 2:4 weight, and a dense one beside it")
    family.add_argument("--pack", action="store_true", help="a 2:4 weight to values and metadata")
    family.add_argument("--distil", action="store_true", help="loss and gradient of logits beside a teacher's")
    family.add_argument("--all", action="store_true", help="every family, each with its own defaults")
    parser.add_argument("--quick", action="store_true", help="5 rounds, a small shape on the CPU")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write environment and every sample to OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the table to OUT")
    parser.add_argument("--ours", type=Path, metavar="PATH", help="the built `peer` bench; default: cargo builds it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both sides; default: all")
    parser.add_argument("--rounds", type=int, help="default 30")
    parser.add_argument("--budget", type=float, default=90, help="seconds a case, after 5 rounds; default 90")
    parser.add_argument("--shapes", help="such as 2048x4096,4096x4096")
    parser.add_argument("--tokens", help="of the linear layer and the product, such as 16,4096")
    parser.add_argument("--ops", help="of forward, train, or with --linear of forward, step, with --learn of update, train, with --distil of labels, forward, reverse, jsd; default all")
    parser.add_argument("--kinds", default="soft", help="of soft, hard; default soft")
    parser.add_argument("--types", help="logits:weights, of f32, f16, bf16")
    parser.add_argument("--metrics", action="store_true", help="masks with what MaskLLM logs, and its regulariser")
    parser.add_argument("--peers", help="default all")
    args = parser.parse_args()
    args.rounds = args.rounds or (5 if args.quick else 30)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("this PyTorch sees no CUDA device")
    return args


FAMILIES = ["masks", "learn", "linear", "sparse", "pack", "distil"]


def families(args: argparse.Namespace) -> list[str]:
    return FAMILIES if args.all else [name for name in FAMILIES[1:] if getattr(args, name)] or ["masks"]


def defaults(family: str, args: argparse.Namespace) -> list[dict[str, str]]:
    """What is measured where the command line says nothing: lists of cases, each all that its words combine to."""
    cpu = args.device == "cpu"
    # A PyTorch can be built without it.
    cusparselt = not cpu and torch.backends.cusparselt.is_available()
    if family == "learn":
        common = {"tokens": "0", "ops": "update,train", "peers": ",".join(torch_learn.FORMS)}
        if cpu:
            return [common | {"shapes": "1024x1024,4096x4096", "types": "f32:f32"}]
        return [common | {"shapes": "4096x4096,4096x14336", "types": "f32:f32,f32:bf16"}]
    if family == "linear":
        common = {"ops": "forward,step", "peers": ",".join(torch_matmul.FORMS)}
        if cpu:
            return [common | {"shapes": "2048x2048", "tokens": "256,2048", "types": "f32:f32"}]
        shapes = {"shapes": "4096x4096,14336x4096", "tokens": "16,512,4096,16384"}
        return [common | shapes | {"types": "f32:bf16,bf16:bf16"}]
    if family == "sparse":
        if cpu:
            common = {"ops": "product", "peers": "dense"}
            large = {"shapes": "8192x8192", "tokens": "1", "types": "f32:f32,f32:bf16,f32:i8"}
            return [common | {"shapes": "1024x1024", "tokens": "1,16,256", "types": "f32:f32"}, common | large]
        # Only Ampere and Ada have PyTorch's CUTLASS kernels.
        peers = "semi-structured-cusparselt,dense" if cusparselt else "dense"
        shapes = {"shapes": "4096x4096,14336x4096,28672x8192", "tokens": "1,16,128,4096"}
        return [shapes | {"ops": "product", "types": "f32:bf16", "peers": peers}]
    if family == "pack":
        peers = "cslt-compress,from-dense-cutlass" if cusparselt else "from-dense-cutlass"
        shapes = {"shapes": "4096x4096" if cpu else "4096x4096,14336x4096", "tokens": "0"}
        return [shapes | {"ops": "sparse", "types": "bf16:bf16", "peers": peers}]
    if family == "distil":
        common = {"tokens": "0", "ops": "labels,forward,reverse,jsd", "peers": ",".join(torch_distil.FORMS)}
        if cpu:
            return [common | {"shapes": "512x49152", "types": "f32:f32"}]
        return [common | {"shapes": "4096x49152,4096x128256", "types": "f32:f32,bf16:bf16"}]
    small = "512x1024" if args.quick else "2048x4096"
    common = {"tokens": "0", "ops": "forward,train", "peers": ",".join(torch_mask.FORMS)}
    return [common | {"shapes": small if cpu else "4096x4096,4096x14336", "types": "f32:f32,f32:bf16,bf16:bf16"}]


def cases(args: argparse.Namespace) -> list[tuple[Case, list[str]]]:
    """Each with the names of its peers."""
    found = []
    for family in families(args):
        prefix = "" if family == "masks" else f"{family}-"
        for settings in defaults(family, args):
            words = {name: (getattr(args, name) or value).split(",") for name, value in settings.items()}
            for shape, types, kind in itertools.product(words["shapes"], words["types"], args.kinds.split(",")):
                rows, cols = (int(side) for side in shape.split("x"))
                logits, weights = types.split(":")
                for tokens, op in itertools.product(map(int, words["tokens"]), words["ops"]):
                    case = Case(prefix + op, kind, logits, weights, rows, cols, tokens, args.metrics)
                    found.append((case, words["peers"]))
    return found


def build() -> Path:
    """Builds our side and gives its path."""
    print("building the `peer` bench ...", file=sys.stderr)
    command = ["cargo", "bench", "--bench", "peer", "--no-run", "--message-format=json"]
    messages = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for message in map(json.loads, messages.splitlines()):
        if message.get("executable") and message["target"]["name"] == "peer":
            return Path(message["executable"])
    sys.exit("cargo built no `peer` bench")


class Ours:
    """Our side: a process that answers a line with a line (benches/peer.rs)."""

    def __init__(self, path: Path, threads: int) -> None:
        self.threads = threads
        self.process = subprocess.Popen([path, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, case: Case, device: str, iterations: int) -> float:
        """Nanoseconds of one run on average."""
        op = case.op + ("+metrics" if case.metrics else "")
        words = [op, case.kind, case.logits, case.weights, case.rows, case.cols, case.tokens]
        words += [self.threads, device, iterations]
        assert self.process.stdin and self.process.stdout
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer or answer.startswith("error"):
            sys.exit(f"our side, asked for `{' '.join(map(str, words))}`: {answer.strip() or 'gone'}")
        return float(answer)


def measure(ours: Ours, case: Case, names: list[str], device: str, args: argparse.Namespace) -> list[Result]:
    """All sides in turn, in another order each round; a result for each peer."""
    peers = {name: Peer(name, case, device) for name in names}
    sides = {OURS: lambda iterations: ours.time(case, device, iterations)}
    sides |= {name: peer.time for name, peer in peers.items()}
    turn = 0.02 if args.quick else 0.1  # seconds
    iterations = {name: max(1, round(turn * 1e9 / side(1))) for name, side in sides.items()}
    samples: Samples = {name: [] for name in sides}
    clocks, deadline, order = [gpu_state(device)], time.monotonic() + args.budget, list(sides)
    for done in range(args.rounds):
        if done >= 5 and time.monotonic() > deadline:
            break
        random.shuffle(order)
        for name in order:
            samples[name].append(sides[name](iterations[name]))
    clocks.append(gpu_state(device))
    return [result(case, device, name, samples, clocks) for name in peers]


def result(case: Case, device: str, peer: str, samples: Samples, clocks: list[str | None]) -> Result:
    pairs = list(zip(samples[OURS], samples[peer], strict=True))
    low, *_, high = statistics.quantiles([theirs / ours for ours, theirs in pairs], n=5, method="inclusive")
    return dataclasses.asdict(case) | {
        "device": device,
        "peer": peer,
        "has_mask": case.has_mask,
        "ours_ns_per_weight": statistics.median(samples[OURS]) / case.weight_count,
        "bytes_per_ns": case.least_bytes() / statistics.median(samples[OURS]),
        "theirs_ns_per_weight": statistics.median(samples[peer]) / case.weight_count,
        "ratio": statistics.median(theirs / ours for ours, theirs in pairs),
        "ratio_p20": low,
        "ratio_p80": high,
        "ours_ns": samples[OURS],
        "theirs_ns": samples[peer],
        "gpu_before_and_after": clocks,
    }


HEADER = """\
| device | shape | op | logits, weights | peer | ours ns/weight | theirs ns/weight | ratio | p20 to p80 | of copy | rounds |
| --- | --- | --- | --- | --- | ---: | ---: | ---: | --- | ---: | ---: |"""


def row(result: Result) -> str:
    r = result
    cells = [
        r["device"],
        f"{r['rows']}x{r['cols']}{', T = ' + str(r['tokens']) if r['tokens'] else ''}",
        f"{r['kind'] + ' ' if r['has_mask'] else ''}{r['op']}{' + metrics' if r['metrics'] else ''}",
        f"{r['logits'] + ', ' if r['has_mask'] else ''}{r['weights']}",
        r["peer"],
        f"{r['ours_ns_per_weight']:.4g}",
        f"{r['theirs_ns_per_weight']:.4g}",
        f"{r['ratio']:.2f}x",
        f"{r['ratio_p20']:.2f} to {r['ratio_p80']:.2f}",
        f"{r['of_copy']:.0%}",
        str(len(r["ours_ns"])),
    ]
    return f"| {' | '.join(cells)} |"


def environment(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "threads": args.threads,
        "processor": processor(),
        "gpu": gpu_state(args.device),
        "copy, bytes/ns": copy_speed(args.device),
        "load at the start": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def describe(facts: dict[str, Any]) -> str:
    load = facts["load at the start"][0]
    sides = f"{facts['threads']} threads a side, load {load:.1f} before, {facts['date']}"
    copy = f"a copy reads and writes {facts['copy, bytes/ns']:.1f} GB/s"
    lines = [f"PyTorch {facts['torch']}; {facts['processor']}, {sides};", copy]
    if facts["gpu"]:
        lines.append(facts["gpu"])
    return "\n".join(lines) + "\n"


def copy_speed(device: str) -> float:
    """Bytes a nanosecond, read and written, of the fastest of some copies that no cache holds."""
    source = torch.ones(256 << 18, device=device)
    target = torch.empty_like(source)
    best = math.inf
    for _ in range(10):
        begun = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * source.nbytes / best / 1e9


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpu_state(device: str) -> str | None:
    """Name, driver, clocks, power, temperature and what throttles, as nvidia-smi tells; None without it."""
    if device == "cpu":
        return None
    fields = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active"
    command = ["nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def save(report: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        rows = "\n".join(map(row, report["results"]))
        args.markdown.write_text(f"{describe(report['environment'])}\n{HEADER}\n{rows}\n")


if __name__ == "__main__":
    main()
