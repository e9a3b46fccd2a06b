"""Improved Knowledge Distillation via Teacher Assistant, Mirzadeh et al., AAAI 2020 (arXiv 1902.03393).

Teacher -> assistant -> ... -> student; every step is kd (equation 3) from the network before it, at rest:

    L = task_weight CE(y, z) + weight T^2 KL(p_before || p)
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.method import Method, Roster
from edgekd.distill.methods.chain.links import from_terms, task_terms
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.program import Architecture, Fresh, Given, Phase, Program, Role
from edgekd.distill.targets import mean_of

CARD = Card(
    name="takd",
    title="Teacher assistant knowledge distillation",
    paper="Mirzadeh et al.: Improved Knowledge Distillation via Teacher Assistant. AAAI 2020, "
    "arXiv 1902.03393",
    equation="every step: task_weight CE(y, z) + weight T^2 KL(p_before || p)",
    catalogue_id="takd",
    knowledge="response",
    scheme="chain",
    needs="a teacher; best with an assistant of a size between teacher and student, named in `assistants`",
    defaults=(
        "T = 4, weight 0.9, task weight 0.1, as in `kd`: the authors search T in 1..20 and lambda in "
        "0.05..1 anew for every pair and print no common value. No assistant named: one with the student's "
        "architecture, which costs least and leaves the student a teacher it can match; for the paper's "
        "assistant write `assistants: [{network: resnet_cifar, args: {depth: 20}}]`"
    ),
    cost=(
        "assistants and student share the epochs evenly: with one assistant the deployed student gets half; "
        "every step adds a forward pass of the network it learns from"
    ),
    deviations=(
        "the paper trains every network of the chain to the end; here they share the epochs",
        "the authors' code uses torch's KLDivLoss 'mean', C times smaller than this sum over classes",
        "the default assistant has the student's size; the paper's is between teacher and student",
    ),
    composable=False,
)


class Assistant(Config):
    """A network of the catalogue (`edgekd list networks`) with its arguments."""

    network: str
    args: dict[str, Any] = Field(default_factory=dict)


class Settings(Config):
    """assistants: from the largest to the smallest, such as [{network: resnet_cifar, args: {depth: 20}}].

    None of them named: one with the student's architecture. temperature: T. weight: of the distillation.
    """

    assistants: tuple[Assistant, ...] | None = Field(None, min_length=1)
    temperature: float = Field(4.0, gt=0)
    weight: float = Field(0.9, ge=0)


def assistant_roles(assistants: tuple[Assistant, ...] | None, student: str) -> dict[str, Role]:
    """`assistant1`, ... in the order in which they learn."""
    if assistants is None:
        return {"assistant1": Fresh(student)}
    return {
        f"assistant{number}": Architecture(assistant.network, assistant.args)
        for number, assistant in enumerate(assistants, start=1)
    }


def step(settings: Settings, roster: Roster, role: str, teachers: tuple[str, ...]) -> Phase:
    """`role` learns from labels and from `teachers`."""
    term = kd_term(role, mean_of(teachers), settings.temperature, settings.weight, f"takd:{role}")
    return from_terms(role, (*task_terms(roster, role, 0.1), term))


def build(settings: Settings, roster: Roster) -> Program:
    assistants = assistant_roles(settings.assistants, roster.student)
    pupils = (*assistants, roster.student)
    teachers = (roster.teachers, *((assistant,) for assistant in assistants))
    phases = tuple(step(settings, roster, *pair) for pair in zip(pupils, teachers, strict=True))
    given = dict.fromkeys(roster.teachers, Given())
    return Program({roster.student: Given(), **given, **assistants}, phases)


METHOD = Method(CARD, Settings, build)
