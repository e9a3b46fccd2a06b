"""Networks that learn together, each a table of logits: an update is known to the last digit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekd.data.batch import Batch
from edgekd.distill.compose import build_program
from edgekd.distill.launch import make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.program import Program
from edgekd.distill.settings import DistillSettings
from edgekd.distill.update import Rules
from edgekd.train.optimizer import OptimizerConfig
from edgekd.train.schedule import ScheduleConfig
from edgekd.train.trainable import Position
from tests.distill.methods.answers import IMAGE_SHAPE, Array, Table, softmax

LEARNING_RATE = 0.5
_PLAIN = OptimizerConfig(name="sgd", learning_rate=LEARNING_RATE, momentum=0, weight_decay=0)
_NOTHING = np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.int64)


def images(rows: Sequence[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).view(-1, *IMAGE_SHAPE)


def label_gradient(logits: Array, labels: npt.NDArray[np.int64]) -> Array:
    """Of the mean cross-entropy by the logits."""
    return np.asarray((softmax(logits) - np.eye(logits.shape[1])[labels]) / len(labels))


@dataclass(frozen=True)
class Unlabeled:
    """A stream whose every batch shows the same rows."""

    views: Mapping[str, Sequence[int]]

    def batch(self, number: int) -> Batch:
        shown = {view: images(rows) for view, rows in self.views.items()}
        unknown = torch.full((len(shown["x"]),), -1)
        return Batch(shown, unknown, unknown)


class Tables:
    """A method's engine on tables; plain gradient descent, so that a step is the gradient times the rate."""

    def __init__(
        self,
        method: Mapping[str, Any],
        tables: Mapping[str, Array],
        labels: npt.NDArray[np.int64],
        *,
        unlabeled: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.program: Program = build_program(DistillSettings(method=method))
        self.labels = labels
        self.engine = make_engine(
            self.program,
            student=Participant(Table(tables["student"])),
            validation=_NOTHING,
            image_shape=IMAGE_SHAPE,
            rules=Rules(_PLAIN, ScheduleConfig(name="constant")),
            seed=0,
            streams={"unlabeled": Unlabeled(unlabeled)} if unlabeled else {},
        )
        for role, rows in tables.items():
            self.engine.roles[role].module.load_state_dict({"rows": torch.from_numpy(rows)})

    def step(
        self, number: int = 0, *, of: int = 1, views: Mapping[str, Sequence[int]] | None = None
    ) -> dict[str, float]:
        """Step `number` of a training of `of` steps, with all rows in `x`."""
        rows = range(len(self.labels))
        shown = {view: images((views or {}).get(view, rows)) for view in self.program.views}
        batch = Batch(shown, torch.from_numpy(self.labels), torch.arange(len(rows)))
        return self.engine.step(batch, Position(number, of, 0, 1))

    def table(self, role: str) -> Array:
        rows = self.engine.roles[role].module.state_dict()["rows"]
        return np.asarray(rows.numpy().copy())
