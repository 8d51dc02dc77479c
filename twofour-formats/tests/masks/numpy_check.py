"""Files of masks by NumPy, from the description of the formats alone: what Rust must read, and must have written.

    python numpy_check.py write FOLDER    # NumPy writes; `tests/data/masks` is what it wrote
    python numpy_check.py read FOLDER     # checks what Rust wrote, bit for bit

Ends with status 1 if anything is not as it should be.
"""

import io
import json
import pathlib
import struct
import sys
import zipfile

import numpy as np

KEPT = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]

# Names and shapes; those of the second list are not whole bytes of 8, which MaskLLM's reader wants.
LAYERS = [
    ("model.layers.0.mlp.up_proj.weight", (16, 64)),
    ("model.layers.0.mlp.down_proj.weight", (3, 8)),
    ("model.layers.0.self_attn.q_proj.weight", (128, 352)),
    ("model.layers.1.empty.weight", (0, 8)),
]
ODD = [("model.layers.1.odd.weight", (5, 4)), ("model.layers.1.größe.weight", (7, 12))]
META = {"repo": "someone/a \"mask\"", "pattern": "2:4", "sparsity": 0.5, "note": "größe 😀"}


def patterns(name, shape):
    """Pattern indices of a layer, which Rust makes by the same rule."""
    groups = np.arange(shape[0] * shape[1] // 4, dtype=np.int64)
    return (groups * 5 + groups // 7 + len(name)) % 6


def mask(name, shape):
    table = np.zeros((6, 4), dtype=bool)
    for index, kept in enumerate(KEPT):
        table[index, list(kept)] = True
    return table[patterns(name, shape)].reshape(shape)


def packed(name, shape):
    return np.packbits(mask(name, shape))


def base6(name, shape):
    indices = patterns(name, shape)
    indices = np.concatenate([indices, np.zeros(-len(indices) % 3, dtype=np.int64)]).reshape(-1, 3)
    return (indices @ np.array([1, 6, 36])).astype(np.uint8)


class Unseekable(io.RawIOBase):
    """A pipe: zipfile writes sizes behind each member."""

    def __init__(self, file):
        self.file = file

    def writable(self):
        return True

    def write(self, data):
        return self.file.write(data)


def safetensors(path, tensors, metadata=None):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, array) in tensors.items():
        array = np.ascontiguousarray(array)
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def of_version(path, arrays, version):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(name + ".npy", "w") as member:
                np.lib.format.write_array(member, array, version=version)


def write(folder):
    llm = {name + ".mask": packed(name, shape) for name, shape in LAYERS}
    np.savez_compressed(folder / "maskllm.npz", **llm)
    np.savez(folder / "maskllm-stored.npz", **llm)
    with open(folder / "maskllm-piped.npz", "wb") as file:
        np.savez_compressed(Unseekable(file), **llm)
    of_version(folder / "maskllm-2.0.npz", llm, (2, 0))
    of_version(folder / "maskllm-3.0.npz", llm, (3, 0))
    np.savez_compressed(folder / "maskllm-bools.npz", **{n + ".mask": mask(n, s) for n, s in LAYERS + ODD})
    np.savez_compressed(folder / "maskllm-flat-bools.npz", **{n + ".mask": mask(n, s).ravel() for n, s in LAYERS})
    name, shape = LAYERS[0]
    np.savez_compressed(folder / "refused-fortran.npz", **{name + ".mask": np.asfortranarray(mask(name, shape))})
    np.savez_compressed(folder / "refused-floats.npz", **{name + ".mask": mask(name, shape).astype(np.float32)})
    pickled = np.empty(1, dtype=object)
    np.savez_compressed(folder / "refused-pickled.npz", **{name + ".mask": pickled})

    patch = {name: packed(name, shape) for name, shape in LAYERS + ODD}
    patch |= {name + ".__shape__": np.array(shape, dtype=np.int64) for name, shape in LAYERS + ODD}
    np.savez_compressed(folder / "patch-no-meta.npz", **patch)
    np.savez_compressed(folder / "patch.npz", **patch, __meta__=np.array(json.dumps(META, ensure_ascii=False)))
    name, shape = LAYERS[0]
    hybrid = mask(name, shape).copy()
    hybrid[2, 8:16] = True
    hybrid = {name: np.packbits(hybrid), name + ".__shape__": np.array(shape)}
    np.savez_compressed(folder / "refused-hybrid.npz", **hybrid)

    bf16 = lambda array: (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    types = {"BOOL": np.uint8, "U8": np.uint8, "F16": np.float16, "F32": np.float32}
    small = LAYERS[:2] + LAYERS[3:] + ODD
    for dtype, of in types.items():
        tensors = {name + ".mask": (dtype, mask(name, shape).astype(of)) for name, shape in small}
        safetensors(folder / f"flags-{dtype.lower()}.safetensors", tensors)
    tensors = {name + ".mask": ("BF16", bf16(mask(name, shape))) for name, shape in small}
    safetensors(folder / "flags-bf16.safetensors", tensors)

    tensors = {name + ".base6": ("U8", base6(name, shape)) for name, shape in LAYERS + ODD}
    metadata = {"twofour_masks.shape." + name: json.dumps(list(shape)) for name, shape in LAYERS + ODD}
    safetensors(folder / "base6.safetensors", tensors, metadata | {"twofour_masks.version": "1"})


def same(what, found, expected):
    if found.dtype != expected.dtype or found.shape != expected.shape or not np.array_equal(found, expected):
        sys.exit(f"{what}: {found.dtype} {found.shape} is not as it should be")


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert entry["dtype"] in ("U8", "BOOL"), entry
        tensors[name] = np.frombuffer(data[8 + length + begin : 8 + length + end], np.uint8).reshape(entry["shape"])
    return tensors, metadata


def read(folder):
    checked = 0
    # As MaskLLM's `eval_llama_ppl.py` reads: no count, and the shape is the parameter's.
    with np.load(folder / "maskllm.npz") as file:
        assert sorted(file.files) == sorted(name + ".mask" for name, _ in LAYERS), file.files
        for name, shape in LAYERS:
            bits = file[name + ".mask"]
            assert bits.dtype == np.uint8 and bits.ndim == 1
            same(name, np.unpackbits(bits).reshape(shape).astype(bool), mask(name, shape))
            checked += 1
    with np.load(folder / "patch.npz") as file:
        assert len(file.files) == 2 * len(LAYERS + ODD) + 1, file.files
        meta = json.loads(str(file["__meta__"]))
        if meta != META or file["__meta__"].ndim != 0:
            sys.exit(f"__meta__ is {meta}")
        for name, shape in LAYERS + ODD:
            sizes = file[name + ".__shape__"]
            same(name, sizes, np.array(shape, dtype=np.int64))
            count = int(np.prod(sizes))
            same(name, np.unpackbits(file[name], count=count).reshape(tuple(sizes)).astype(bool), mask(name, shape))
            checked += 1
    for form in ("flags", "bools"):
        tensors, _ = read_safetensors(folder / f"{form}.safetensors")
        assert len(tensors) == len(LAYERS + ODD)
        for name, shape in LAYERS + ODD:
            same(name, tensors[name + ".mask"], mask(name, shape).astype(np.uint8))
            checked += 1
    tensors, metadata = read_safetensors(folder / "base6.safetensors")
    assert len(tensors) == len(LAYERS + ODD) and metadata["twofour_masks.version"] == "1"
    for name, shape in LAYERS + ODD:
        assert json.loads(metadata["twofour_masks.shape." + name]) == list(shape)
        same(name, tensors[name + ".base6"], base6(name, shape))
        checked += 1
    print(f"{checked} masks written by Rust are as they should be, bit for bit (NumPy {np.__version__})")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](pathlib.Path(sys.argv[2]))
