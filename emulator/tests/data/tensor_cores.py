#!/usr/bin/env python3
"""Makes tensor_cores.txt: what MMA-Sim says that tensor cores compute.

    python3 -m venv .venv && . .venv/bin/activate && pip install mmasim==2.1.1 torch==2.15.0 numpy==2.4.6
    emulator/tests/data/tensor_cores.py > emulator/tests/data/tensor_cores.txt

MMA-Sim (arXiv 2511.10909, MIT licence) is a bit-accurate model of the dense instructions, compared by its authors with
ten GPUs. It has no mma.sp. tests/tensor_cores.rs makes the same inputs and must get the same results. The gate needs no
Python: this script runs when a form or a kind of numbers is added. It takes some minutes.

A line of the file is a batch of instructions over numbers of one kind:

    architecture form kind seed instructions inputs' hash, results' hash: the first result's row of A; column of B; c; d

A batch's words are SplitMix64's: word i is mix(seed + (i + 1) gamma). An instruction takes 16 K words for A, row by row,
8 K for B, row by row, and 128 for C. `element` below makes a number of a word. The hash of numbers x_i, in this order,
is the sum of mix(x_i + (i + 1) gamma) modulo 2^64.
"""

import sys

import numpy as np
import torch
from mmasim.nv_ptx.sim import MMA

GAMMA = np.uint64(0x9E3779B97F4A7C15)
COUNT = 730
ARCHITECTURES = ["Ampere", "Ada Lovelace", "Hopper", "Blackwell", "RTX Blackwell"]
# Form, K, and of A's and B's elements: bits of the exponent's field and of the fraction.
FORMS = [
    ("m16n8k16.f32.f16.f16.f32", 16, 5, 10),
    ("m16n8k16.f32.bf16.bf16.f32", 16, 8, 7),
    ("m16n8k8.f32.tf32.tf32.f32", 8, 8, 23),
]
KINDS = ["normal", "positive", "wide", "any", "zeros", "subnormal", "tiny", "special", "huge", "powers", "bottom"]


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_of(numbers):
    numbers = numbers.reshape(-1).astype(np.uint64)
    places = np.arange(1, numbers.size + 1, dtype=np.uint64) * GAMMA
    return int(mix(numbers + places).sum(dtype=np.uint64))


def normal(words, exponent_bits, fraction_bits):
    """Nearly normal: the sum of four uniform numbers, an integer of 18 bits over 2^15, rounded to nearest even."""
    parts = sum(((words >> np.uint64(16 * i)) & np.uint64(0xFFFF)).astype(np.int64) for i in range(4))
    numbers = torch.from_numpy(((parts - 131070) / 32768).astype(np.float32))
    if exponent_bits == 5:
        return numbers.to(torch.float16).view(torch.int16).numpy().view(np.uint16).astype(np.uint64)
    if fraction_bits == 7:
        return numbers.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16).astype(np.uint64)
    return numbers.numpy().view(np.uint32).astype(np.uint64)


def element(kind, role, words, exponent_bits, fraction_bits):
    """The bits of numbers. role: 0 in A, 1 in B, 2 in C (always an f32)."""
    top, bias = (1 << exponent_bits) - 1, (1 << (exponent_bits - 1)) - 1
    ones = (1 << fraction_bits) - 1
    sign, fraction = words >> np.uint64(63), words & np.uint64(ones)
    t = ((words >> np.uint64(40)) & np.uint64(0xFFFF)).astype(np.int64)
    draw = ((words >> np.uint64(32)) & np.uint64(255)).astype(np.int64)
    field = None
    if kind == "positive":
        return normal(words, exponent_bits, fraction_bits) & np.uint64((1 << (exponent_bits + fraction_bits)) - 1)
    if kind == "wide":
        field = np.clip(bias - 20 + t % 41, 1, top - 1)
    elif kind == "any":
        field = t % top
    elif kind == "subnormal":
        field = [t % 3, bias + t % bias, t % 4][role]
    elif kind == "tiny":
        field = [t % 40, np.clip(bias - 30 + t % 40, 1, top - 1), t % 4][role]
        field = np.clip(field, 0, top - 1)
        fraction = np.where((role == 2) & (draw % 2 == 0), 0, fraction)
        field = np.where((role == 2) & (draw % 2 == 0), 0, field)
    elif kind == "huge":
        field = 254 - t % 4 if role == 2 else bias + bias // 2 - t % 8
    elif kind == "powers":
        field = np.clip(bias - 12 + t % 25, 1, top - 1)
        fraction = np.where(draw % 4 == 0, 1 << (fraction_bits - 1), 0)
    elif kind == "bottom":
        # Products about the smallest f32, and no sum yet.
        field = 0 * t if role == 2 else np.clip(bias - 81 + t % 14, 1, top - 1)
        fraction = np.where((role < 2) & (draw % 4 == 0), fraction, 0)
    if field is not None:
        return (
            sign << np.uint64(exponent_bits + fraction_bits)
            | field.astype(np.uint64) << np.uint64(fraction_bits)
            | fraction.astype(np.uint64)
        )
    numbers = normal(words, exponent_bits, fraction_bits)
    signed = sign << np.uint64(exponent_bits + fraction_bits)
    if kind == "zeros":
        return np.where(draw % 2 == 0, signed, numbers)
    if kind == "special":
        infinity = signed | np.uint64(top << fraction_bits)
        numbers = np.where(draw % 8 == 0, signed, numbers)
        numbers = np.where(draw % 128 == 1, infinity, numbers)
        return np.where(draw % 256 == 2, infinity | fraction, numbers)
    return numbers


def tensor(bits, exponent_bits, fraction_bits):
    if exponent_bits == 5:
        return torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(torch.float16)
    if fraction_bits == 7:
        return torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32))


def main():
    seed = 0
    for form, k, exponent_bits, fraction_bits in FORMS:
        for kind in KINDS:
            seed += 1
            each = 24 * k + 128
            with np.errstate(over="ignore"):
                words = mix(np.uint64(seed) + np.arange(1, COUNT * each + 1, dtype=np.uint64) * GAMMA)
                words = words.reshape(COUNT, each)
                a = element(kind, 0, words[:, : 16 * k], exponent_bits, fraction_bits)
                b = element(kind, 1, words[:, 16 * k : 24 * k], exponent_bits, fraction_bits)
                c = element(kind, 2, words[:, 24 * k :], 8, 23)
                inputs = hash_of(np.concatenate([a, b, c], axis=1))
            a_tensor = tensor(a, exponent_bits, fraction_bits).view(COUNT, 16, 1, k)
            b_tensor = tensor(b, exponent_bits, fraction_bits).view(COUNT, k, 8).transpose(1, 2).unsqueeze(1)
            c_tensor = tensor(c, 8, 23).view(COUNT, 16, 8)
            for architecture in ARCHITECTURES:
                operation = MMA(architecture, form)
                shape = (COUNT, 16, 8, k)
                d = operation.dpa(a_tensor.expand(shape), b_tensor.expand(shape), c_tensor.clone())
                whole = operation(a_tensor[0, :, 0], b_tensor[0, 0].T, c_tensor[0])
                assert torch.equal(whole.view(torch.int32), d[0].view(torch.int32)), "a batch is not its instructions"
                d = d.contiguous().view(torch.int32).numpy().view(np.uint32)
                with np.errstate(over="ignore"):
                    results = hash_of(d)
                row = " ".join(f"{x:x}" for x in a[0, :k])
                column = " ".join(f"{x:x}" for x in b[0, ::8])
                name = architecture.replace(" ", "")
                print(
                    f"{name} {form} {kind} {seed} {COUNT} {inputs:016x} {results:016x}: "
                    f"{row}; {column}; {int(c[0, 0]):08x}; {int(d[0, 0, 0]):08x}"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
