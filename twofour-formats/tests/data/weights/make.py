#!/usr/bin/env python3
"""Writes the golden files beside it, from the description of the formats alone: `python3 tests/data/weights/make.py`.

Needs nothing but Python. The crate must read these files, and make `version-1.safetensors` byte for byte.
"""

import json
import struct
from pathlib import Path

# Falling alignment, then by name: how the safetensors library lays out files.
ORDER = ["U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8"]
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def safetensors(tensors, metadata):
    """The bytes of a file; a tensor is (type, shape, bytes)."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    for name, (dtype, shape, raw) in sorted(tensors.items(), key=lambda item: (ORDER.index(item[1][0]), item[0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def bits(i, size):
    """The bits of dense value i: made up, none of them special."""
    return (i * 40503 + 12345) % (1 << (8 * size - 1))


def kept(group, one_of_two):
    """Which positions a group keeps: made up, all ways among them."""
    return ((group * 7 // 3) % 2,) if one_of_two else PAIRS[(group * 5 + 1) % 6]


def weight(name, dtype, safetensors_dtype, size, rows, cols):
    """A weight's tensors and its entry."""
    one_of_two = dtype == "f32"
    width = 2 if one_of_two else 4
    values, codes = b"", []
    for group in range(rows * cols // width):
        positions = kept(group, one_of_two)
        for j in positions:
            values += bits(group * width + j, size).to_bytes(size, "little")
        codes.append((4, 14)[positions[0]] if one_of_two else positions[0] + 4 * positions[1])
    codes += [0] * (len(codes) % 2)
    packed = bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2]))
    entry = {"shape": [rows, cols], "dtype": dtype, "sparsity": "1:2" if one_of_two else "2:4", "axis": 1}
    tensors = {
        f"{name}.values": (safetensors_dtype, [rows, cols // 2], values),
        f"{name}.codes": ("U8", [len(packed)], packed),
    }
    return tensors, {f"twofour.weight.{name}": json.dumps(entry, separators=(",", ":"))}


def version_1():
    tensors = {
        "a.bias": ("F16", [3], bytes(range(6))),
        "ids": ("I64", [2, 1], bytes(range(16))),
        "flag": ("U8", [], b"\x01"),
        "nothing": ("F32", [0, 7], b""),
    }
    metadata = {"format": "pt", "quote": 'a "ü" \\ b\n', "twofour.version": "1"}
    for arguments in [
        ("a.weight", "f16", "F16", 2, 3, 12),
        ("b.weight", "bf16", "BF16", 2, 2, 8),
        ("c.weight", "f32", "F32", 4, 3, 4),
        ("d.weight", "i8", "I8", 1, 5, 4),
        ("e.weight", "e4m3", "F8_E4M3", 1, 1, 20),
        ("f.weight", "e5m2", "F8_E5M2", 1, 4, 4),
        ("g.weight", "f16", "F16", 2, 0, 8),
    ]:
        some, entry = weight(*arguments)
        tensors.update(some)
        metadata.update(entry)
    return safetensors(tensors, metadata)


def bitmask():
    """A checkpoint in `sparse-24-bitmask`, with columns that do not fill the last byte, and a scale."""
    rows, cols, tensors = 3, 12, {}
    mlp = "model.layers.0.mlp"
    for name, dtype, size in [(f"{mlp}.up_proj", "BF16", 2), (f"{mlp}.down_proj", "F8_E4M3", 1)]:
        values, masks = b"", b""
        for row in range(rows):
            mask = 0
            for group in range(cols // 4):
                for j in kept(row * cols // 4 + group, False):
                    column = 4 * group + j
                    mask |= 1 << column
                    values += bits(row * cols + column, size).to_bytes(size, "little")
            masks += mask.to_bytes((cols + 7) // 8, "little")
        tensors[f"{name}.compressed"] = (dtype, [rows, cols // 2], values)
        tensors[f"{name}.bitmask"] = ("U8", [rows, (cols + 7) // 8], masks)
        tensors[f"{name}.shape"] = ("I64", [2, 1], struct.pack("<qq", rows, cols))
    tensors[f"{mlp}.down_proj.weight_scale"] = ("F32", [rows, 1], struct.pack("<3f", 0.5, 1.5, 2.5))
    return safetensors(tensors, {"format": "pt"})


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "version-1.safetensors").write_bytes(version_1())
    (here / "bitmask.safetensors").write_bytes(bitmask())
