"""Distilling an ensemble, Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), sections 1 and 4.

    L = task_weight CE(y, z_s) + weight T^2 KL(p || softmax(z_s / T)),   p = mean_k softmax(z_k / T)

over K >= 2 teachers; the mean is arithmetic, or geometric and normalized.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.targets import geometric_mean_of, mean_of

CARD = Card(
    name="avg-teachers",
    title="Averaged responses of several teachers",
    paper="Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. arXiv 1503.02531, 2015",
    equation="weight T^2 KL(mean_k p_k || p_s) at temperature T, sum over classes, mean over the batch",
    catalogue_id="avg-teachers",
    knowledge="response",
    scheme="offline",
    needs="two or more teachers with the student's classes",
    defaults=(
        "T = 2, weight 1, task weight 0.5: section 4.1, where ten averaged models are distilled with a "
        "relative weight of 0.5 on the labels (temperatures 1, 2, 5 and 10 were tried)"
    ),
    cost="one forward pass of every teacher (none where the teachers' answers are on file)",
    deviations=(
        "the paper names both means and not the one it used: `mean: arithmetic` by default, or `geometric`",
        "public code often averages K losses instead of K targets: same gradient as the arithmetic mean and "
        "another value",
    ),
    num_teachers=2,
)


class Settings(Config):
    """mean: of the teachers' softened probabilities. temperature: T. weight: of the distillation term."""

    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    temperature: float = Field(2.0, gt=0)
    weight: float = Field(1.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    average = mean_of if settings.mean == "arithmetic" else geometric_mean_of
    target = average(roster.several_teachers)
    term = kd_term(roster.student, target, settings.temperature, settings.weight, name="avg-teachers")
    return Part(terms=(term,), task_weight=0.5)


METHOD = Method(CARD, Settings, build)
