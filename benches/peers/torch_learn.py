"""Steps on the logits of masks in PyTorch: AdamW as people run it, and with the gradient that it steps by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import torch_mask
from torch_mask import LAMBDA, Case

# MaskLLM's numbers at the start of training (benches/common/learn.rs has the same).
SETTINGS = {"lr": 5e-4, "betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.1}


@dataclass
class Operands:
    masks: torch_mask.Operands
    optimisers: dict[str, torch.optim.Optimizer]

    @staticmethod
    def make(case: Case, device: str) -> Operands:
        masks = torch_mask.Operands.make(case, device)
        masks.gate.grad = torch.randn_like(masks.gate) * 1e-4
        return Operands(masks, {})

    def optimiser(self, name: str) -> torch.optim.Optimizer:
        """Made at its first step: one has moments of its own."""
        if name not in self.optimisers:
            self.optimisers[name] = torch.optim.AdamW([self.masks.gate], **SETTINGS, **{name: True})
        return self.optimisers[name]


Form = Callable[[Operands, Case], None]


def with_adamw(name: str) -> Form:
    def step(x: Operands, case: Case) -> None:
        if case.op == "learn-train":
            masked, _ = torch_mask.lean(x.masks, case)
            energy = masked.pow(2).sum()
            masks = x.masks
            (masks.gate.grad,) = torch.autograd.grad(
                [masked, energy], masks.gate, [masks.gradient, torch.full_like(energy, -LAMBDA)]
            )
        x.optimiser(name).step()

    return step


def run(form: Form, x: Operands, case: Case) -> None:
    form(x, case)


FORMS: dict[str, Callable[[], Form]] = {
    "adamw-fused": lambda: with_adamw("fused"),
    "adamw-foreach": lambda: with_adamw("foreach"),
}
