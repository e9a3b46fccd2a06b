"""Short ways to build programs and engines for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F

from edgekd.distill.engine import Engine
from edgekd.distill.launch import make_engine
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.program import LOGITS, Needs, Program, Term, Turn
from edgekd.distill.targets import mean_of
from edgekd.distill.update import Rules
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch, tiny_participant
from edgekd.testing.tiny_runs import validation_arrays
from edgekd.train.optimizer import OptimizerConfig
from edgekd.train.schedule import ScheduleConfig
from edgekd.train.trainable import Position

SGD = OptimizerConfig(name="sgd", learning_rate=0.05)
ADAM = OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.0)
RULES = Rules(ADAM, ScheduleConfig(name="constant"))


def task(role: str = "student", name: str = "task") -> Term:
    return Term(
        name,
        lambda context: F.cross_entropy(context.logits(role), context.labels),
        Needs(outputs={role: (LOGITS,)}, labels=True),
    )


def mimic(role: str, *of: str, name: str = "mimic", temperature: float = 1.0) -> Term:
    return kd_term(role, mean_of(of), temperature, 1.0, name=name)


def engine_for(program: Program, *, seed: int = 0, **changes: Any) -> Engine:
    """Width 4 student, width 8 teacher if the program has one."""
    teachers = [tiny_participant(8, seed=seed, name="teacher")] if "teacher" in program.roles else []
    settings: dict[str, Any] = {
        "student": tiny_participant(seed=seed),
        "teachers": teachers,
        "validation": validation_arrays(),
        "image_shape": IMAGE_SHAPE,
        "rules": RULES,
        "seed": seed,
    }
    return make_engine(program, **(settings | changes))


def train(
    engine: Engine, num_steps: int, *, steps: Sequence[int] | None = None, size: int = 16
) -> list[dict[str, float]]:
    views = engine.program.views
    return [
        engine.step(tiny_batch(step, size=size, views=views), Position(step, num_steps, 0, 1))
        for step in (range(num_steps) if steps is None else steps)
    ]


def weights(engine: Engine, role: str) -> dict[str, Any]:
    return {key: value.clone() for key, value in engine.roles[role].module.state_dict().items()}


def differ(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one if not one[key].equal(other[key])}


__all__ = ["ADAM", "RULES", "SGD", "Turn", "differ", "engine_for", "mimic", "task", "train", "weights"]
