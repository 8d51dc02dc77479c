"""Learnable 2:4 masks in PyTorch, as people run them: the formulas of MaskLLM (arXiv 2409.17481) and leaner forms.

A weight [N, K] has a gate [N*K/4, 6], the scores of the six patterns. A peer is one way to turn gate and weight into
the masked weight; the gradient to the gate is autograd's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch._dynamo
import torch.nn.functional as F

# The six ways to keep two of four.
PATTERNS = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i8": torch.int8}
# The script's settings at the start of training (benches/common/mask.rs has the same), and its regulariser.
KAPPA, TAU, LAMBDA = 100.0, 4.0, 1e-5


@dataclass(frozen=True)
class Case:
    """What is measured: the words of a request to our side, less threads, device and iterations."""

    # Of masks: forward, or train, forward and backward; of logits: learn-update or learn-train; of the linear layer: linear-forward or linear-step; of a 2:4
    # weight: sparse-product, or pack-sparse, which makes what the product reads; of logits [rows, cols] beside a
    # teacher's: distil-labels, distil-forward, distil-reverse, distil-jsd.
    op: str
    kind: str  # soft or hard
    logits: str
    weights: str
    rows: int
    cols: int
    tokens: int = 0
    metrics: bool = False

    @property
    def weight_count(self) -> int:
        return self.rows * self.cols

    @property
    def is_learn(self) -> bool:
        return self.op.startswith("learn-")

    @property
    def is_linear(self) -> bool:
        return self.op.startswith("linear-")

    @property
    def is_sparse(self) -> bool:
        return self.op.startswith("sparse-")

    @property
    def is_pack(self) -> bool:
        return self.op.startswith("pack-")

    @property
    def is_distil(self) -> bool:
        return self.op.startswith("distil-")

    @property
    def has_mask(self) -> bool:
        """Whether the kind of mask and the type of logits matter."""
        return not (self.is_sparse or self.is_pack or self.is_distil)

    def least_bytes(self) -> int:
        """Each operand read or written once."""
        logits, weights = (TYPES[name].itemsize for name in (self.logits, self.weights))
        if self.is_distil:  # the student's read and overwritten, the teacher's read
            return self.weight_count * (2 if self.op == "distil-labels" else 3) * weights
        if self.is_sparse:
            return (self.weight_count // 2 + self.tokens * (self.rows + self.cols)) * weights
        if self.is_pack:  # dense, values, and 4 bits of metadata for each two values (f32: for each)
            codes = self.weight_count // (4 if self.weights == "f32" else 8)
            return (self.weight_count + self.weight_count // 2) * weights + codes
        if self.is_linear:  # the dense product
            return (self.weight_count + self.tokens * (self.rows + self.cols)) * weights
        if self.is_learn:  # logits and two moments, read and written, and their gradient or what it is made of
            gate = self.weight_count * 6 // 4 * (2 * logits + 4 * 4 + 4)
            return gate + (self.weight_count * 4 * weights if self.op == "learn-train" else 0)
        forward = self.weight_count * 6 // 4 * logits + self.weight_count * 2 * weights
        return forward if self.op == "forward" else 2 * forward + self.weight_count * 6


@dataclass
class Operands:
    gate: torch.Tensor
    weight: torch.Tensor
    gradient: torch.Tensor
    options: torch.Tensor
    previous: torch.Tensor  # the mask of the step before, for the metrics

    @staticmethod
    def make(case: Case, device: str) -> Operands:
        def normal(shape: tuple[int, ...], deviation: float, dtype: str) -> torch.Tensor:
            return (torch.randn(shape, device=device) * deviation).to(TYPES[dtype])

        shape = (case.rows, case.cols)
        gate = normal((case.weight_count // 4, 6), 0.02, case.logits).requires_grad_()
        weight = normal(shape, 0.02, case.weights)
        options = torch.tensor(PATTERNS, dtype=TYPES[case.logits], device=device)
        return Operands(gate, weight, normal(shape, 0.001, case.weights), options, torch.zeros_like(weight))


Masked = tuple[torch.Tensor, torch.Tensor | None]
Form = Callable[[Operands, Case], Masked]


def as_written(x: Operands, case: Case) -> Masked:
    """MaskLLM to the letter: a batched matmul with one batch a group, and a wait for the device where it logs."""
    choices = F.gumbel_softmax(x.gate * KAPPA, tau=TAU, hard=case.kind == "hard")
    if case.metrics:
        choices.max(-1)[0].mean().item()
    mask = (choices.unsqueeze(1) @ x.options.unsqueeze(0)).squeeze(1)
    return finish(x, mask, case)


def lean(x: Operands, case: Case) -> Masked:
    """The same numbers with one skinny matmul, and no wait."""
    choices = F.gumbel_softmax(x.gate * KAPPA, tau=TAU, hard=case.kind == "hard")
    if case.metrics:
        choices.max(-1)[0].mean()
    return finish(x, choices @ x.options, case)


def finish(x: Operands, mask: torch.Tensor, case: Case) -> Masked:
    """The masked weight and, with metrics, the regulariser's sum."""
    mask = mask.reshape(x.weight.shape).to(x.weight.dtype)
    masked = x.weight * mask
    if not case.metrics:
        return masked, None
    (mask.detach() - x.previous).abs().mean()
    return masked, masked.pow(2).sum()


def run(form: Form, x: Operands, case: Case) -> None:
    if case.op == "forward":
        with torch.no_grad():
            form(x, case)
        return
    masked, energy = form(x, case)
    if energy is None:
        torch.autograd.grad(masked, x.gate, x.gradient)
    else:
        torch.autograd.grad([masked, energy], x.gate, [x.gradient, torch.full_like(energy, -LAMBDA)])


def compiled() -> Form:
    """torch.compile of the lean form, which is the better one for it."""
    torch._dynamo.reset()  # else it counts the cases before as recompilations, and goes back to eager after eight
    return torch.compile(lean, dynamic=False)


FORMS: dict[str, Callable[[], Form]] = {
    "eager-maskllm": lambda: as_written,
    "eager-lean": lambda: lean,
    "compile": compiled,
}
