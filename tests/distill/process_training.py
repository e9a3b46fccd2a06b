"""Trains a network without batch statistics and writes what came out; run alone and under torchrun.

python -m tests.distill.process_training OUT METHOD...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from edgekd.distill.compose import build_program
from edgekd.distill.launch import make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.settings import DistillSettings
from edgekd.networks.initialize import init_weights
from edgekd.networks.model import portable
from edgekd.networks.tap import Tap, activation, head
from edgekd.testing.distill_contract import validation_arrays
from edgekd.testing.tiny_networks import IMAGE_SHAPE, LABELS, tiny_batch
from edgekd.train.trainable import Position
from edgekd.train.world import joined
from tests.distill.building import RULES

NUM_STEPS = 4


class Plain(nn.Module):
    """Convolutions without batch norm, so that a sample's output does not depend on its batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution1, self.relu1 = nn.Conv2d(3, width, 3, 2, 1), nn.ReLU()
        self.convolution2, self.relu2 = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.linear = nn.Linear(2 * width, len(LABELS))
        self.taps: dict[str, Tap] = head("linear")
        self.taps |= activation("stage1", "relu1") | activation("stage2", "relu2")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.convolution2(self.relu1(self.convolution1(x))))
        logits: Tensor = self.linear(self.flatten(self.pool(x)))
        return logits


class Double(nn.Module):
    """Float64 leaves nothing but the order of sums to differ between one process and two."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def participant(width: int, name: str) -> Participant:
    module = Plain(width).double()
    init_weights(module, 1, name)
    return Participant(module, Double(), module.taps, LABELS)


def main(out: Path, methods: list[str]) -> None:
    torch.set_num_threads(1)
    taps = tuple(participant(4, "student").taps)
    program = build_program(
        DistillSettings.model_validate({"method": methods}),
        num_teachers=1,
        student_taps=taps,
        teacher_taps=[taps],
    )
    with joined() as world:
        engine = make_engine(
            program,
            student=participant(4, "student"),
            teachers=[participant(6, "teacher")],
            validation=validation_arrays(),
            image_shape=IMAGE_SHAPE,
            rules=RULES,
            seed=1,
            world=world,
        )
        for adapters in engine.adapters.values():
            for adapter in adapters.values():
                adapter.double()
        history = []
        for step in range(NUM_STEPS):
            batch = tiny_batch(step, size=12, views=program.views)
            history.append(engine.step(batch, Position(step, NUM_STEPS, 0, 1)))
        accuracy = engine.evaluate()
        if world.leads:
            state = portable(engine.roles["student"].module.state_dict())
            safetensors.torch.save_file(state, out / f"weights-{world.size}.safetensors")
            told = {"history": history, "accuracy": accuracy, "size": world.size}
    if world.leads:
        told["threads"] = thread_names()
        (out / f"told-{world.size}.json").write_text(json.dumps(told))


def thread_names() -> list[str]:
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
