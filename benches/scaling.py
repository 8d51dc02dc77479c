#!/usr/bin/env python3
"""Time and memory on the CPU from a million weights to a billion, on one thread and on all: a Markdown table.

    cargo bench --bench peer --no-run        # names the program
    python benches/scaling.py PROGRAM > scaling.md

Each line is a process of its own (benches/peer.rs), with soft masks; its time is the median of at least five runs, its
memory the most that it held, with the operands of every op of the kind. What does not fit into memory is left out.
"""

import itertools
import os
import statistics
import subprocess
import sys

OPS = {"forward": 7, "train": 7, "learn-update": 10}  # numbers a weight
TYPES = {"f32": 4, "bf16": 2}  # bytes
SIDES = [1024, 3200, 10240, 32000]  # square matrices


def main() -> None:
    program, threads = sys.argv[1], len(os.sched_getaffinity(0))
    with open("/proc/meminfo") as memory:
        available = next(1024 * int(line.split()[1]) for line in memory if line.startswith("MemAvailable"))
    print("| op | logits, weights | weights | threads | ns a weight | bytes a weight | GB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (op, numbers), (type_, size), side in itertools.product(OPS.items(), TYPES.items(), SIDES):
        weights = side**2
        if numbers * size * weights > 0.9 * available or (op == "learn-update" and type_ != "f32"):
            continue
        for count in sorted({1, threads}):
            nanoseconds, peak = measure(program, f"{op} soft {type_} {type_} {side} {side} 0 {count} cpu", side)
            cells = [op, type_, f"{weights:.3g}", count, *(f"{n:.3g}" for n in (nanoseconds / weights, peak / weights, peak / 1e9))]
            print("|", " | ".join(map(str, cells)), "|", flush=True)


def measure(program: str, request: str, side: int) -> tuple[float, int]:
    """Nanoseconds of a run, and bytes."""
    with subprocess.Popen([program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        iterations = max(1, 10_000_000 // side**2)
        samples = []
        for _ in range(5 if side > 5000 else 30):
            print(request, iterations, file=process.stdin, flush=True)
            samples.append(float(process.stdout.readline()))
        with open(f"/proc/{process.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        process.stdin.close()
    return statistics.median(samples), peak * 1024


if __name__ == "__main__":
    main()
