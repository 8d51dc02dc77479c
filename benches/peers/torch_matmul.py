"""The linear layer under a learnable 2:4 mask in PyTorch, with the masks of torch_mask, and a dense layer beside it.

X [T, K] goes through W∘M [N, K]. A step is forward, and backward to X and to the gate, with MaskLLM's regulariser
-λ Σ (W∘M)² in the loss. The weight is frozen and gets no gradient, except that of the dense layer: three products as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch._dynamo
import torch.nn.functional as F

import torch_mask
from torch_mask import LAMBDA, TYPES, Case


@dataclass
class Operands:
    mask: torch_mask.Operands
    x: torch.Tensor
    dy: torch.Tensor
    dense: torch.Tensor  # the weight again, to be learnt

    @staticmethod
    def make(case: Case, device: str) -> Operands:
        dtype = TYPES[case.weights]
        mask = torch_mask.Operands.make(case, device)
        x = torch.randn((case.tokens, case.cols), device=device).to(dtype).requires_grad_()
        dy = (torch.randn((case.tokens, case.rows), device=device) * 0.001).to(dtype)
        return Operands(mask, x, dy, mask.weight.detach().requires_grad_())


# What is given back: Y and, in a step, the regulariser's sum.
Output = tuple[torch.Tensor, torch.Tensor | None]
Form = Callable[[Operands, Case], Output]


def as_written(x: Operands, case: Case) -> Output:
    """MaskLLM to the letter, with all that it logs: the regulariser's sum is made in every forward pass."""
    masked, energy = torch_mask.as_written(x.mask, dataclasses.replace(case, metrics=True))
    return F.linear(x.x, masked), energy


def lean(x: Operands, case: Case) -> Output:
    """The same Y and gradients, and no more."""
    masked, _ = torch_mask.lean(x.mask, case)
    return F.linear(x.x, masked), masked.pow(2).sum() if case.op == "linear-step" else None


def dense(x: Operands, _: Case) -> Output:
    return F.linear(x.x, x.dense), None


def run(form: Form, x: Operands, case: Case) -> None:
    if case.op == "linear-forward":
        with torch.no_grad():
            form(x, case)
        return
    y, energy = form(x, case)
    if energy is None:
        torch.autograd.grad(y, [x.x, x.dense], x.dy)
    else:
        torch.autograd.grad([y, energy], [x.x, x.mask.gate], [x.dy, torch.full_like(energy, -LAMBDA)])


def compiled() -> Form:
    """torch.compile of the lean form, as in torch_mask."""
    torch._dynamo.reset()
    return torch.compile(lean, dynamic=False)


FORMS: dict[str, Callable[[], Form]] = {
    "eager-maskllm": lambda: as_written,
    "eager-lean": lambda: lean,
    "compile": compiled,
    "dense": lambda: dense,
}
