"""Packing in PyTorch: a dense weight that is 2:4 to the values and metadata that its products read.

W [N, K] is dense with zeros where nothing is kept, as in torch_sparse. What comes out is new memory every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from torch_mask import Case
from torch_sparse import sparse_weight


@dataclass
class Operands:
    dense: torch.Tensor

    @staticmethod
    def make(case: Case, device: str) -> Operands:
        return Operands(sparse_weight(case, device))


Form = Callable[[Operands, Case], object]


def cslt_compress(x: Operands, _: Case) -> object:
    """cuSPARSELt's own compressor, into its own layout; only on a GPU, with the library."""
    return torch._cslt_compress(x.dense)


def from_dense_cutlass(x: Operands, _: Case) -> object:
    """The conversion to CUTLASS's layout for sm_80, which is the one that ours packs for, in eager operations."""
    return sparse_semi_structured_from_dense_cutlass(x.dense)


def run(form: Form, x: Operands, case: Case) -> None:
    with torch.no_grad():
        form(x, case)


FORMS: dict[str, Callable[[], Form]] = {
    "cslt-compress": lambda: cslt_compress,
    "from-dense-cutlass": lambda: from_dense_cutlass,
}
