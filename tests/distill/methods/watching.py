"""What networks of a running program answer, and whether a training resumes in every phase of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch

from edgekd.distill.engine import Engine
from edgekd.distill.method import Roster, Task
from edgekd.testing.tiny_networks import tiny_batch, tiny_participant
from edgekd.train.trainable import Position
from tests.distill.building import differ
from tests.distill.methods.answers import Array, cross_entropy, softmax

TAPS = tuple(tiny_participant().taps)
ALONE = Roster((), TAPS)
TAUGHT = Roster(("teacher",), TAPS, {"teacher": TAPS})
CHANCE = 0.25


def weighing_labels(roster: Roster, weight: float) -> Roster:
    """The same with a recipe's task weight."""
    return Roster(roster.teacher_roles, roster.student_taps, roster.teacher_taps, task=Task(weight))


def logits(engine: Engine, role: str, step: int, *, learns: bool = False, view: str = "x") -> Array:
    """What a role answers now to the batch of a step, in the mode it would have; nothing is changed."""
    images = tiny_batch(step, views=engine.program.views).views[view]
    return answers(engine, role, images, learns=learns)


def answers(engine: Engine, role: str, images: torch.Tensor, *, learns: bool = False) -> Array:
    participant = engine.roles[role].copy()
    participant.module.train(learns)
    with torch.no_grad():
        values = participant.run(images, ("logits",))["logits"]
    return np.asarray(values.double().numpy())


def labels(step: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(tiny_batch(step).labels.numpy())


def kl(target: Array, student: Array) -> Array:
    """[B] sum over classes of target log(target / student)."""
    return np.asarray((target * np.log(target / student)).sum(axis=1))


def softened_kl(teacher: Array, student: Array, temperature: float) -> float:
    """T^2 KL at a temperature, mean over the batch, of logits."""
    divergences = kl(softmax(teacher, temperature), softmax(student, temperature))
    return float(temperature**2 * divergences.mean())


def assert_resumes(build: Callable[[], Engine], num_steps: int, at: Sequence[int]) -> None:
    """Stopped after `at` steps and continued by a new engine, the next values and weights are the same."""
    whole, states, values = build(), [], []
    for step in range(num_steps):
        states.append(whole.state())
        values.append(_step(whole, step, num_steps))
    states.append(whole.state())
    for step in at:
        other = build()
        # An optimizer goes on in the very tensors that it is given.
        other.load_state(copy.deepcopy(states[step]))
        assert _step(other, step, num_steps) == values[step], f"other values after resuming at step {step}"
        for role, expected in states[step + 1]["roles"].items():
            changed = differ(expected, dict(other.roles[role].module.state_dict()))
            assert changed == set(), f"`{role}` has other weights after resuming at step {step}"


def _step(engine: Engine, step: int, num_steps: int) -> dict[str, float]:
    return engine.step(tiny_batch(step, views=engine.program.views), Position(step, num_steps, 0, 1))


__all__ = [
    "ALONE",
    "CHANCE",
    "TAPS",
    "TAUGHT",
    "answers",
    "assert_resumes",
    "cross_entropy",
    "kl",
    "labels",
    "logits",
    "softened_kl",
    "softmax",
    "weighing_labels",
]
