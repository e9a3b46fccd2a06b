"""Data-Free Learning of Student Networks, Chen et al., ICCV 2019 (arXiv 1904.01186).

generator's turn, on images G(z), z ~ N(0, I), with the teacher's logits z_t and features e_t:

    onehot_weight CE(argmax z_t, z_t) - activation_weight mean |e_t| + entropy_weight sum_c q_c log10 q_c

with q the mean over the batch of softmax(z_t);
student's turn, on other images G(z):  weight T^2 KL(p_t || p_s)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.synthesize import negative_activation, negative_entropy, own_answer
from edgekd.distill.method import Method, Roster
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.methods.synthetic.generator import Generator
from edgekd.distill.methods.synthetic.labels import refuse_labels
from edgekd.distill.program import (
    IMAGES,
    LOGITS,
    Built,
    Given,
    Needs,
    Phase,
    Program,
    Role,
    Term,
    Train,
    Turn,
)
from edgekd.distill.sources import Generated
from edgekd.distill.targets import mean_of

CARD = Card(
    name="dafl",
    title="Data-free learning of student networks",
    paper="Chen et al.: DAFL: Data-Free Learning of Student Networks. ICCV 2019, arXiv 1904.01186",
    equation=(
        "generator: CE(argmax z_t, z_t) - 0.1 mean |e_t| + 5 sum_c q_c log10 q_c, q the batch mean of p_t; "
        "student: T^2 KL(p_t || p_s) on generated images"
    ),
    catalogue_id="dafl",
    knowledge="response",
    scheme="data-free",
    needs=(
        "one teacher with the tap `embedding` (or `tap`, or activation_weight 0). No image or label of the "
        "training set is read: of a batch only its size, and the images' size; validation data choose the "
        "epoch that is kept"
    ),
    defaults=(
        "the authors' weights 1, 0.1, 5 and T = 1; Adam at 0.001 for the generator (the authors have 0.2 on "
        "MNIST and 0.02 on CIFAR-10, with batches of 512 and 1024); latents of 100 (theirs on CIFAR: 1000)"
    ),
    cost=(
        "two passes of the generator and the teacher per update, one with gradient; the generator (about two "
        "million weights for 32x32 images) lives in training only"
    ),
    deviations=(
        "the authors' code takes the entropy with log10, and so does this term: weight 5 is 2.17 in nats; "
        "the paper's equation has a further 1/C, which the code has not",
        "the activation term is a mean over batch and elements, as in the code; the paper has the L1 norm",
        "the student learns on images of its own draw, as in the paper's algorithm; the code reuses the "
        "generator's",
        "images are sigmoids in [0, 1] that every network normalizes itself; the code ends in tanh and batch "
        "norm, in the teacher's normalized space. Batch norms have the usual eps, where the code has 0.8",
        "any of its terms may rise: the generator's work against one another, and the student's rises while "
        "the images become ones that the teacher is sure about",
    ),
    zero_at_match=False,
    composable=False,
    may_rise=("dafl", "dafl-onehot", "dafl-activation", "dafl-entropy"),
)
GENERATOR = "generator"


class Settings(Config):
    """latent_size: of the random vectors. learning_rate: the generator's (Adam), on the training's schedule.

    tap: the teacher's features whose activation grows. onehot_weight: of the teacher's certainty.
    activation_weight: of that activation. entropy_weight: of classes that are even. temperature, weight: of
    the student's KL.
    """

    latent_size: int = Field(100, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    tap: str = "embedding"
    onehot_weight: float = Field(1.0, ge=0)
    activation_weight: float = Field(0.1, ge=0)
    entropy_weight: float = Field(5.0, ge=0)
    temperature: float = Field(1.0, gt=0)
    weight: float = Field(1.0, ge=0)


def teacher_term(
    name: str,
    teacher: str,
    tap: str,
    value: Callable[[Tensor], Tensor],
    weight: float,
    *,
    whole_batch: bool = False,
) -> Term:
    """`value` of what the teacher has at `tap` for the generated images."""

    def compute(context: TermContext) -> Tensor:
        return value(context.tap(teacher, tap))

    return Term(name, compute, Needs(outputs={teacher: (tap,)}, whole_batch=whole_batch), weight)


def _entropy_in_digits(logits: Tensor) -> Tensor:
    return negative_entropy(logits) / math.log(10)


def generator_terms(settings: Settings, roster: Roster) -> tuple[Term, ...]:
    """What a generated image has to look like to the teacher. Raises `UsageError` without its features."""
    teacher, tap = roster.teacher, settings.tap
    terms = [
        teacher_term("dafl-onehot", teacher, LOGITS, own_answer, settings.onehot_weight),
        teacher_term(
            "dafl-entropy", teacher, LOGITS, _entropy_in_digits, settings.entropy_weight, whole_batch=True
        ),
    ]
    if settings.activation_weight:
        legal = roster.teacher_taps.get(teacher, ())
        if tap not in legal:
            raise UsageError(
                f"the teacher has no tap `{tap}` whose activation could grow",
                choices=legal,
                fix="name one in `tap`, or set `activation_weight: 0`",
            )
        weight = settings.activation_weight
        terms.append(teacher_term("dafl-activation", teacher, tap, negative_activation, weight))
    return tuple(terms)


def build(settings: Settings, roster: Roster) -> Program:
    refuse_labels(roster)
    student, teacher, latent_size = roster.student, roster.teacher, settings.latent_size
    source = Generated(GENERATOR, latent_size)
    optimizer: Mapping[str, Any] = {
        "name": "adamw",
        "learning_rate": settings.learning_rate,
        "weight_decay": 0.0,
    }
    term = kd_term(student, mean_of((teacher,)), settings.temperature, settings.weight, "dafl")
    turns = (
        Turn((Train(GENERATOR),), generator_terms(settings, roster), source, optimizer=optimizer),
        # In evaluation mode its batch norms would make other images than those it was trained to make.
        Turn((Train(student),), (term,), source, modes={GENERATOR: "train"}),
    )
    roles: dict[str, Role] = {
        student: Given(),
        teacher: Given(),
        GENERATOR: Built(lambda shapes: Generator(latent_size, shapes[IMAGES])),
    }
    return Program(roles, (Phase("main", turns),))


METHOD = Method(CARD, Settings, build)
