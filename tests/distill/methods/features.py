"""A method's loss for features given as tables: networks whose taps hold the rows of parameters.

An image of these tests holds the number of a row, so every term, weight, tap and need runs as in training
while the features are known to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.data.batch import Batch
from edgekd.distill.cast import assemble
from edgekd.distill.compose import build_program
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.launch import given_roles
from edgekd.distill.participant import Participant
from edgekd.distill.program import LOGITS, Program
from edgekd.distill.settings import DistillSettings
from edgekd.distill.weights import weight_at
from edgekd.networks.tap import Tap
from edgekd.train.precision import Precision

Array = npt.NDArray[np.float64]
Features = Mapping[str, Array]
"""Tap (`logits` is one) -> [rows, ...]."""
IMAGE_SHAPE = (1, 1, 1)


class FeatureTable(nn.Module):
    """Shows the rows whose numbers the images hold at every tap."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        tables = {tap: torch.tensor(rows, dtype=torch.float64) for tap, rows in features.items()}
        self.tables = nn.ParameterDict({tap: nn.Parameter(rows) for tap, rows in tables.items()})
        self.points = nn.ModuleDict({tap: nn.Identity() for tap in tables})

    def forward(self, images: Tensor) -> Tensor:
        rows = images[:, 0, 0, 0].long()
        values = {tap: point(self.tables[tap][rows]) for tap, point in self.points.items()}
        logits: Tensor = values[LOGITS]
        return logits


def participant(features: Features) -> Participant:
    count = len(next(iter(features.values())))
    module = FeatureTable({LOGITS: np.zeros((count, 2)), **features})
    return Participant(module, taps={tap: Tap(f"points.{tap}") for tap in features if tap != LOGITS})


class Scene:
    """A method on a student and a teacher whose features are known, update by update."""

    def __init__(
        self, method: Any, student: Features, teacher: Features, labels: Sequence[int] | None = None
    ) -> None:
        networks = participant(student), participant(teacher)
        self.program: Program = build_program(
            DistillSettings(method=method),
            num_teachers=1,
            student_taps=tuple(networks[0].taps),
            teacher_taps=[tuple(networks[1].taps)],
        )
        cast = assemble(self.program, given_roles(networks[0], [networks[1]]), IMAGE_SHAPE, seed=0)
        self.roles, self.adapters = cast.roles, cast.adapters
        for adapters in self.adapters.values():
            for adapter in adapters.values():
                adapter.double()
        self.live = Live(cast, Precision("fp32", "cpu"), 0, {}, {})
        count = len(next(iter(student.values())))
        self._labels = torch.tensor(labels if labels is not None else [0] * count)
        self._step = 0

    def adapter(self, term: str, name: str) -> dict[str, Array]:
        """An adapter's weights."""
        state = self.adapters[term][name].state_dict()
        return {key: value.numpy().copy() for key, value in state.items()}

    def loss(self, rows: Sequence[int] | None = None, *, phase: int = -1) -> dict[str, float]:
        """Unweighted value of every term but the task's; leaves the gradient of the weighted sum behind."""
        rows = range(len(self._labels)) if rows is None else rows
        images = torch.tensor(list(rows), dtype=torch.float64).view(-1, *IMAGE_SHAPE)
        indices = torch.tensor(list(rows))
        batch = Batch({"x": images}, self._labels[indices], indices)
        turn = self.program.phases[phase].turns[-1]
        context = Context(self.live, turn, Progress(self._step, 0, 0.0), batch, OutputCache())
        self._step += 1
        terms = [term for term in turn.terms if term.name != "task"]
        values = {term.name: term.compute(TermContext(context, term)) for term in terms}
        weighted = [weight_at(term.weight, 0.0) * values[term.name] for term in terms]
        self.roles["student"].module.zero_grad(set_to_none=True)
        torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
        return {name: float(value.detach()) for name, value in values.items()}

    def gradient(self, tap: str) -> Array:
        """Of the last `loss()` by the student's features."""
        gradient = self.roles["student"].module.get_parameter(f"tables.{tap}").grad
        assert gradient is not None
        return gradient.numpy().copy()

    def weights(self, phase: int = -1) -> dict[str, float]:
        terms = self.program.phases[phase].turns[-1].terms
        return {term.name: weight_at(term.weight, 0.0) for term in terms}
