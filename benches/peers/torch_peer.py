"""A form of PyTorch's with its operands, ready to be timed."""

from __future__ import annotations

import time

import torch

import torch_distil
import torch_learn
import torch_mask
import torch_matmul
import torch_pack
import torch_sparse
from torch_mask import Case

# Operands that take turns so that none is in the GPU's level-2 cache: bytes of all together.
COLD_BYTES = 192 << 20


class Peer:
    def __init__(self, name: str, case: Case, device: str) -> None:
        families = [
            (case.is_learn, torch_learn),
            (case.is_linear, torch_matmul),
            (case.is_sparse, torch_sparse),
            (case.is_pack, torch_pack),
            (case.is_distil, torch_distil),
        ]
        module = next((module for holds, module in families if holds), torch_mask)
        self.case, self.device, self.run = case, device, module.run
        self.form = module.FORMS[name]()
        place = "cpu" if device == "cpu" else "cuda"
        count = max(1, -(-COLD_BYTES // case.least_bytes())) if device == "cuda-cold" else 1
        self.sets = [module.Operands.make(case, place) for _ in range(count)]
        for _ in range(3):  # compiles, and fills the allocator's caches
            self.time(len(self.sets))

    def time(self, iterations: int) -> float:
        """Nanoseconds of one run on average."""
        seconds = self._on_cpu(iterations) if self.device == "cpu" else self._on_cuda(iterations)
        return seconds / iterations * 1e9

    def _repeat(self, iterations: int) -> None:
        for i in range(iterations):
            self.run(self.form, self.sets[i % len(self.sets)], self.case)

    def _on_cpu(self, iterations: int) -> float:
        begun = time.perf_counter()
        self._repeat(iterations)
        return time.perf_counter() - begun

    def _on_cuda(self, iterations: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        self._repeat(iterations)
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
