"""The product of a 2:4 weight in PyTorch: its semi-structured tensors, and a dense layer beside them.

X [T, K] goes through W [N, K], of which every group of four keeps its two largest values. Packing is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from torch_mask import TYPES, Case


@dataclass
class Operands:
    x: torch.Tensor
    dense: torch.Tensor
    packed: torch.Tensor | None

    @staticmethod
    def make(case: Case, device: str) -> Operands:
        dtype = TYPES[case.weights]
        weight = (torch.randn((case.rows, case.cols), device=device) * 0.02).to(dtype)
        largest = weight.abs().view(-1, 4).topk(2, dim=1).indices
        mask = torch.zeros((case.weight_count // 4, 4), dtype=torch.bool, device=device).scatter_(1, largest, True)
        dense = weight * mask.view(case.rows, case.cols)
        x = torch.randn((case.tokens, case.cols), device=device).to(dtype)
        return Operands(x, dense, None)


Form = Callable[[Operands, Case], torch.Tensor]


def dense(x: Operands, _: Case) -> torch.Tensor:
    return F.linear(x.x, x.dense)


def semi_structured(cutlass: bool) -> Callable[[], Form]:
    """One of the two libraries behind the tensor subclass; only on a GPU that has it."""

    def made() -> Form:
        def form(x: Operands, _: Case) -> torch.Tensor:
            if x.packed is None:
                SparseSemiStructuredTensor._FORCE_CUTLASS = cutlass
                x.packed = to_sparse_semi_structured(x.dense)
            return F.linear(x.x, x.packed)

        return form

    return made


def run(form: Form, x: Operands, case: Case) -> None:
    with torch.no_grad():
        form(x, case)


FORMS: dict[str, Callable[[], Form]] = {
    "semi-structured-cusparselt": semi_structured(cutlass=False),
    "semi-structured-cutlass": semi_structured(cutlass=True),
    "dense": lambda: dense,
}
