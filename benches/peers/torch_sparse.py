"""The product of a 2:4 weight in PyTorch: its semi-structured tensors, and a dense layer beside them.

X [T, K] goes through W [N, K], of which every group of four keeps its two largest values (f32: of two, the larger one).
Packing is not timed (torch_pack).
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
        x = normal((case.tokens, case.cols), 1.0, case, device)
        return Operands(x, sparse_weight(case, device), None)


def sparse_weight(case: Case, device: str) -> torch.Tensor:
    """Dense, and zero where a group does not keep its largest. Tensor cores take f32 as 1:2 alone."""
    group = 2 if case.weights == "f32" else 4
    groups = normal((case.rows, case.cols), 0.02, case, device).view(-1, group)
    largest = groups.abs().topk(group // 2, dim=1).indices
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, largest, True)
    return torch.where(mask, groups, torch.zeros_like(groups)).view(case.rows, case.cols)


def normal(shape: tuple[int, int], deviation: float, case: Case, device: str) -> torch.Tensor:
    values = torch.randn(shape, device=device)
    if case.weights == "i8":  # to scale
        return (values * 32).clamp(-127, 127).to(torch.int8)
    return (values * deviation).to(TYPES[case.weights])


Form = Callable[[Operands, Case], torch.Tensor]


def dense(x: Operands, _: Case) -> torch.Tensor:
    if x.dense.dtype == torch.int8:
        return torch._int_mm(x.x, x.dense.t())
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
