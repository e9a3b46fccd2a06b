"""A method on the tiny network in float64, in training mode: its terms, and every tap they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.data.batch import Batch
from edgekd.distill.cast import assemble
from edgekd.distill.compose import build_program
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.participant import Participant
from edgekd.distill.program import Program, Term
from edgekd.distill.settings import DistillSettings
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_images, tiny_participant
from edgekd.train.precision import Precision
from tests.distill.methods.answers import Array


class TinyScene:
    """One update of the only turn of a method's program on 10 images."""

    def __init__(self, method: Mapping[str, Any], student: Participant | None = None) -> None:
        student = student or tiny_participant()
        settings = DistillSettings(method=method)
        self.program: Program = build_program(settings, student_taps=tuple(student.taps))
        (self.turn,) = self.program.turns
        cast = assemble(self.program, {"student": student}, IMAGE_SHAPE, seed=0)
        modules = [role.module for role in cast.roles.values()]
        modules += [adapter for adapters in cast.adapters.values() for adapter in adapters.values()]
        for module in modules:
            module.double().train()
        images, labels = tiny_images(10, seed=3)
        self.labels = labels.numpy()
        live = Live(cast, Precision("fp32", "cpu"), 0, {}, {})
        batch = Batch({"x": images.double()}, labels, torch.arange(10))
        self.context = Context(live, self.turn, Progress(0, 0, 0.0), batch, OutputCache())

    @cached_property
    def role(self) -> str:
        """The one that learns."""
        (role,) = self.turn.trained
        return role

    @property
    def module(self) -> nn.Module:
        return self.context.module(self.role)

    def term(self, name: str) -> Term:
        return next(term for term in self.turn.terms if term.name == name)

    def value(self, name: str) -> Tensor:
        term = self.term(name)
        return term.compute(TermContext(self.context, term))

    def tap(self, tap: str) -> Tensor:
        """Of the same forward pass that the terms see."""
        return self.context.outputs(self.role)[tap]

    def array(self, tap: str) -> Array:
        return numbers(self.tap(tap))

    def gradients(self, *names: str) -> dict[str, Tensor]:
        """Parameters of the learning role -> gradient of the sum of the named terms, where there is one."""
        self.module.zero_grad(set_to_none=True)
        torch.stack([self.value(name) for name in names]).sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        return {key: p.grad for key, p in self.module.named_parameters() if p.grad is not None}


def numbers(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy())
