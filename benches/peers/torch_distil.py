"""Losses of logits beside a teacher's in PyTorch, with the gradient to the student's: T = 1, the mean over rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from torch_mask import TYPES, Case

BETA = 0.5


@dataclass
class Operands:
    student: torch.Tensor
    teacher: torch.Tensor
    labels: torch.Tensor

    @staticmethod
    def make(case: Case, device: str) -> Operands:
        def normal() -> torch.Tensor:
            return (2 * torch.randn((case.rows, case.cols), device=device)).to(TYPES[case.weights])

        labels = torch.randint(case.cols, (case.rows,), device=device)
        return Operands(normal().requires_grad_(), normal(), labels)


def loss(op: str, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if op == "distil-labels":
        return F.cross_entropy(student, labels)
    p, q = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    if op == "distil-forward":
        return F.kl_div(p, q, reduction="batchmean", log_target=True)
    if op == "distil-reverse":
        return F.kl_div(q, p, reduction="batchmean", log_target=True)
    m = torch.log(BETA * q.exp() + (1 - BETA) * p.exp())
    far = (F.kl_div(m, log, reduction="batchmean", log_target=True) for log in (q, p))
    return BETA * next(far) + (1 - BETA) * next(far)


Form = Callable[[Operands, Case], torch.Tensor]


def with_loss(loss: Callable[..., torch.Tensor]) -> Form:
    def form(x: Operands, case: Case) -> torch.Tensor:
        return torch.autograd.grad(loss(case.op, x.student, x.teacher, x.labels), x.student)[0]

    return form


def run(form: Form, x: Operands, case: Case) -> None:
    form(x, case)


FORMS: dict[str, Callable[[], Form]] = {
    "eager": lambda: with_loss(loss),
    "compile": lambda: with_loss(torch.compile(loss)),
}
