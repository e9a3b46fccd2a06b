"""A method's loss for answers given as tables: networks whose logits are the rows of a parameter.

An image of these tests holds the number of a row, so every term, weight and need runs as in training while
the logits are known to the last bit, and the gradient by the table is the gradient by the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from edgekd.distill.program import Program
from edgekd.distill.settings import DistillSettings
from edgekd.distill.weights import weight_at
from edgekd.train.precision import Precision

Array = npt.NDArray[np.float64]
IMAGE_SHAPE = (1, 1, 1)


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Of the last axis, in NumPy."""
    powers = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def cross_entropy(logits: Array, labels: npt.NDArray[np.int64]) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


class Table(nn.Module):
    """Answers with the row whose number the image holds."""

    def __init__(self, rows: Array) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.rows[images[:, 0, 0, 0].long()]


@dataclass(frozen=True)
class Loss:
    """Unweighted terms by name, the weighted total, and its gradient by the student's table."""

    terms: Mapping[str, float]
    total: float
    gradient: Array


class Scene:
    """A method on a student and teachers whose answers are known."""

    def __init__(
        self,
        method: Any,
        student: Array,
        *teachers: Array,
        labels: npt.NDArray[np.int64],
        class_names: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.program: Program = build_program(
            DistillSettings(method=method), num_teachers=len(teachers), labels=class_names
        )
        self._labels = torch.from_numpy(labels)
        given = given_roles(Participant(Table(student)), [Participant(Table(rows)) for rows in teachers])
        cast = assemble(self.program, given, IMAGE_SHAPE, seed=0)
        self._live = Live(cast, Precision("fp32", "cpu"), 0, {}, {})
        self._table: nn.Module = cast.roles["student"].module

    def loss(
        self,
        rows: Sequence[int] | None = None,
        *,
        views: Mapping[str, Sequence[int]] | None = None,
        fraction: float = 0.5,
    ) -> Loss:
        """Of a batch of rows (all by default); `views` names the rows that other views show."""
        rows = list(range(len(self._labels))) if rows is None else rows
        shown = {name: self._images(numbers) for name, numbers in ({"x": rows} | dict(views or {})).items()}
        batch = Batch(shown, self._labels[list(rows)], torch.tensor(rows))
        turn = self.program.phases[-1].turns[-1]
        context = Context(self._live, turn, Progress(0, 0, fraction), batch, OutputCache())
        values = {term.name: term.compute(TermContext(context, term)) for term in turn.terms}
        weights = [weight_at(term.weight, fraction) for term in turn.terms]
        total = torch.stack([w * v for w, v in zip(weights, values.values(), strict=True)]).sum()
        self._table.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        gradient = next(self._table.parameters()).grad
        assert gradient is not None
        terms = {name: float(value.detach()) for name, value in values.items()}
        return Loss(terms, float(total.detach()), gradient.numpy().copy())

    @staticmethod
    def _images(rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64).view(-1, *IMAGE_SHAPE)
