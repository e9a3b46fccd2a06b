"""A small training to put the loop through: dropout, batch norm, momentum, a moving average."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.seed import derive
from edgekd.data.batch import Batch
from edgekd.networks.initialize import init_weights
from edgekd.train.loop import fit
from edgekd.train.optimizer import OptimizerConfig, make_optimizer, set_learning_rate
from edgekd.train.record import FitResult
from edgekd.train.schedule import ScheduleConfig
from edgekd.train.trainable import Position

NUM_IMAGES, BATCH_SIZE, NUM_CLASSES = 48, 8, 3


class NoisyLoader:
    """Random images whose class is in their mean; order and noise depend on (seed, epoch, batch) alone."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(NUM_IMAGES) % NUM_CLASSES
        noise = torch.rand(NUM_IMAGES, 1, 6, 6, generator=generator)
        self.images = (noise + self.labels.view(-1, 1, 1, 1)) / NUM_CLASSES

    def __len__(self) -> int:
        return NUM_IMAGES // BATCH_SIZE

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(NUM_IMAGES, generator=self._generator("order", number))
        for index in range(start, len(self)):
            indices = order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
            noise = torch.randn(BATCH_SIZE, 1, 6, 6, generator=self._generator("noise", number, index))
            yield Batch({"x": self.images[indices] + 0.1 * noise}, self.labels[indices], indices)

    def _generator(self, *names: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.seed, *names))


class PlainTraining:
    """Cross-entropy on a tiny network."""

    def __init__(self, seed: int = 0, learning_rate: float = 0.1) -> None:
        self.module = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(64, NUM_CLASSES),
        )
        init_weights(self.module, seed, "student")
        self.config = OptimizerConfig(learning_rate=learning_rate)
        self.schedule = ScheduleConfig(warmup=0.2)
        self.optimizer = make_optimizer(self.config, self.module.parameters())
        self.best: dict[str, Tensor] = {}
        self.data = NoisyLoader(seed)

    def step(self, batch: Batch, position: Position) -> dict[str, float]:
        rate = self.config.learning_rate * self.schedule.factor(position.fraction)
        set_learning_rate(self.optimizer, rate)
        self.module.train()
        loss = F.cross_entropy(self.module(batch.views["x"]), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"task": loss.item(), "learning_rate": rate}

    def end_epoch(self, position: Position) -> None:
        pass

    def evaluate(self) -> float:
        self.module.eval()
        with torch.no_grad():
            hits = self.module(self.data.images).argmax(1) == self.data.labels
        return float(hits.float().mean())

    def keep(self) -> None:
        self.best = {key: value.clone() for key, value in self.module.state_dict().items()}

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {key: value.clone() for key, value in state["best"].items()}

    def weights(self) -> bytes:
        """Everything that training changes, as bytes."""
        tensors = [*self.module.state_dict().values(), *self.best.values()]
        return b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)


def train(folder: Path | None, trainable: PlainTraining | None = None, **settings: Any) -> FitResult:
    """Three epochs of six steps, with a checkpoint after every step."""
    trainable = trainable or PlainTraining()
    settings = {"num_epochs": 3, "checkpoint_every_s": 0.0, **settings}
    return fit(trainable, trainable.data, seed=7, checkpoint_dir=folder, **settings)
