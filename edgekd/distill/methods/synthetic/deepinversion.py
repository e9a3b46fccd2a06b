"""Dreaming to Distill (DeepInversion), Yin et al., CVPR 2020 (arXiv 1912.08795).

phase 1 (section 3.2): images x of given classes y, trained like weights against the resting teacher

    CE(y, z_t(x)) + tv_weight TV(x) + l2_weight ||x|| + norm_weight sum_l ||mean_l(x) - BN mean_l||
                                                                       + ||var_l(x) - BN var_l||
phase 2:  the student learns from them,  weight T^2 KL(p_t || p_s)

In both phases the images are rolled by up to `shift` of their side and mirrored at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.synthesize import image_norm, statistics_mismatch, total_variation
from edgekd.distill.method import Method, Roster
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.methods.synthetic.bank import CENTER, SPREAD, Bank, Blocks, Rows
from edgekd.distill.methods.synthetic.inspected import MOMENTS, Inspected, inspected
from edgekd.distill.methods.synthetic.labels import refuse_labels
from edgekd.distill.program import (
    IMAGES,
    LOGITS,
    Built,
    Derived,
    Given,
    Needs,
    Phase,
    Program,
    Role,
    Shapes,
    Term,
    Train,
    Turn,
)
from edgekd.distill.targets import mean_of

CARD = Card(
    name="deepinversion",
    title="DeepInversion",
    paper="Yin et al.: Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion. CVPR 2020, "
    "arXiv 1912.08795",
    equation=(
        "images: CE(y, z_t) + 4e-4 TV + 4.8e-7 L2 + 10 sum_l ||mean - BN mean|| + ||var - BN var||; "
        "student: T^2 KL(p_t || p_s) on them"
    ),
    catalogue_id="deepinversion",
    knowledge="response",
    scheme="data-free",
    needs=(
        "one teacher with batch norms. No image or label of the training set is read: of a batch only its "
        "size, and the images' size; validation data choose the epoch that is kept"
    ),
    defaults=(
        "the authors' CIFAR-10 script as its README runs it for better images: batch norm 10, Adam at 0.1 "
        "(the paper: 0.05; the script's own default for batch norm is 100), blocks of 256, a shift of 2 in "
        "32 pixels. Its TV scale 2.5e-5 (and the paper's L2 scale 3e-8; the script's is 0) multiply one norm "
        "over a batch of 256; with a norm per image they become 16 times as much, 4e-4 and 4.8e-7. T = 4 as "
        "in `kd`"
    ),
    cost=(
        "the images take `image_share` (three quarters) of the epochs, each update a forward and backward "
        "pass of the teacher on `block_size` images; the deployed student gets only the rest. The bank (1024 "
        "images; 12 MB for 32x32, thrice that with the optimizer's state) and a copy of the teacher live in "
        "training only"
    ),
    deviations=(
        "the authors give every block of 256 images 2000 updates one after another; here `num_blocks` blocks "
        "take turns in the updates that the epochs allow: for good images train long, or take fewer blocks",
        "images stay within [0, 1] (the CIFAR script does not clip, the ImageNet script does); TV and L2 are "
        "those of (x - 0.5) / 0.25, near the unit variance that the script's pixels have",
        "mirroring is from the ImageNet script; the last images are kept, not those of the lowest loss",
        "adaptive DeepInversion, the competition with the student, is left out",
        "the class, variation and norm terms may rise at first: the statistics' term outweighs them",
    ),
    zero_at_match=False,
    composable=False,
    may_rise=("deepinversion-class", "deepinversion-variation", "deepinversion-norm"),
)
BANK, INSPECTED = "bank", "inspected-teacher"


class Settings(Config):
    """num_blocks, block_size: the bank has so many blocks of so many images, each trained as a whole.

    image_share: of the training, spent on the images. shift: part of the images' side that they are rolled by
    at most. learning_rate: the images' (Adam), on the training's schedule.
    statistics_weight, variation_weight, norm_weight: of the batch norms', TV's and L2's terms. temperature,
    weight: of the student's KL.
    """

    num_blocks: int = Field(4, ge=1)
    block_size: int = Field(256, ge=2)
    image_share: float = Field(0.75, gt=0, lt=1)
    shift: float = Field(1 / 16, ge=0, le=0.5)
    learning_rate: float = Field(0.1, gt=0)
    statistics_weight: float = Field(10.0, ge=0)
    variation_weight: float = Field(4e-4, ge=0)
    norm_weight: float = Field(4.8e-7, ge=0)
    temperature: float = Field(4.0, gt=0)
    weight: float = Field(1.0, ge=0)


def class_term() -> Term:
    """Cross-entropy of the teacher's logits with the classes that the images were given."""

    def compute(context: TermContext) -> Tensor:
        return F.cross_entropy(context.logits(INSPECTED), context.labels)

    return Term("deepinversion-class", compute, Needs(outputs={INSPECTED: (LOGITS,)}, labels=True))


def statistics_term(weight: float) -> Term:
    """What goes into the teacher's batch norms against what went into them in its training."""

    def compute(context: TermContext) -> Tensor:
        teacher = cast(Inspected, context.module(INSPECTED))
        return statistics_mismatch(context.tap(INSPECTED, MOMENTS), teacher.variances, teacher.sizes)

    needs = Needs(outputs={INSPECTED: (MOMENTS,)}, modules=(INSPECTED,), whole_batch=True)
    return Term("deepinversion-statistics", compute, needs, weight)


def prior_terms(settings: Settings) -> tuple[Term, ...]:
    """Total variation and L2 norm of the images."""

    def standard(context: TermContext) -> Tensor:
        return (context.images() - CENTER) / SPREAD

    def variation(context: TermContext) -> Tensor:
        return total_variation(standard(context))

    def norm(context: TermContext) -> Tensor:
        return image_norm(standard(context))

    return (
        Term("deepinversion-variation", variation, Needs(), settings.variation_weight),
        Term("deepinversion-norm", norm, Needs(), settings.norm_weight),
    )


def bank_phase(settings: Settings) -> Phase:
    """The images learn to look like what the teacher was trained on."""
    optimizer: Mapping[str, Any] = {
        "name": "adamw",
        "learning_rate": settings.learning_rate,
        "weight_decay": 0.0,
    }
    terms = (class_term(), statistics_term(settings.statistics_weight), *prior_terms(settings))
    turn = Turn((Train(BANK),), terms, Blocks(BANK, settings.shift), optimizer=optimizer)
    return Phase("images", (turn,), settings.image_share)


def build(settings: Settings, roster: Roster) -> Program:
    refuse_labels(roster)
    student, teacher = roster.student, roster.teacher
    term = kd_term(student, mean_of((teacher,)), settings.temperature, settings.weight, "deepinversion")
    lesson = Turn((Train(student),), (term,), Rows(BANK, settings.shift))

    def bank(shapes: Shapes) -> Bank:
        num_classes = shapes[INSPECTED, LOGITS][0]
        return Bank(settings.num_blocks, settings.block_size, shapes[IMAGES], num_classes)

    roles: dict[str, Role] = {
        student: Given(),
        teacher: Given(),
        INSPECTED: Derived(teacher, inspected),
        BANK: Built(bank),
    }
    return Program(roles, (bank_phase(settings), Phase("student", (lesson,), 1 - settings.image_share)))


METHOD = Method(CARD, Settings, build)
