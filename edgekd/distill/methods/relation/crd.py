"""Contrastive Representation Distillation, Tian, Krishnan, Isola, ICLR 2020 (arXiv 1910.10699), section 3.

    h(s, t) = e^(s.t / tau) / (e^(s.t / tau) + N c),   s = n(W_s f_s), t = n(W_t f_t) of 128 dimensions
    L = CE + weight mean_i sum over both networks as anchor of
        -log h(anchor_i, row_i) - sum over N negatives j of log(1 - h(anchor_i, row_j))

row_j is what a memory bank holds of image j as the other network saw it: moved by half towards the present
embedding after every visit. Negatives are images of other classes. c is the constant Z / M of the authors'
code: the mean of e^(s.t / tau) between the first batch and a bank that is still random.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.distill.adapters import Point
from edgekd.distill.bank import EmbeddingBank
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.contrast import info_nce, log_mean_exp, noise_contrastive
from edgekd.distill.kernels.relate import samples, unit_rows
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import ModuleBuilder, Needs, Shapes, Term
from edgekd.distill.relations import embedding_pairs, require_batch

CARD = Card(
    name="crd",
    title="Contrastive representation distillation",
    paper="Tian, Krishnan, Isola: Contrastive Representation Distillation. ICLR 2020, arXiv 1910.10699",
    equation="weight mean_b [-log h(positive) - sum over N of log(1 - h(negative))], both networks as anchor",
    catalogue_id="crd",
    knowledge="relation",
    scheme="offline",
    needs=(
        "one teacher; embeddings (sizes may differ); labels, and which training image a sample is (not for "
        "`negatives: batch`)"
    ),
    defaults=(
        "128 dimensions, tau 0.07, N = 16384, momentum 0.5, weight 0.8 (beta), as in the authors' code for "
        "CIFAR-100; their sum over 1 + N events and mean over the batch are ours"
    ),
    cost=(
        "teacher's forward pass; 256 b N multiplications forward and as many backward, N at most the number "
        "of images; keeps 2 x 128 numbers per image: 51 MB for 50,000, saved with every checkpoint"
    ),
    deviations=(
        "an image's row starts as its embedding at the first visit, in the authors' code it is random then",
        "Z and M enter as c = Z / M only; the code's eps of 1e-7 and the image count M are not needed",
        "one draw of N images (all, if there are no more) serves the whole batch; each sample averages over "
        "those of other classes and counts N of them. The code draws N for every sample: same expectation, "
        "b times the memory traffic",
        "`negatives: batch` is in-batch InfoNCE, not the paper's loss: another scale, another weight",
    ),
    zero_at_match=False,
)


class Settings(Config):
    """taps: one {student's tap: teacher's}; by default the embeddings. negatives: of the bank or the batch.

    num_negatives: N (bank only). dimensions: of the embeddings that are compared. temperature: tau.
    momentum: of the bank's rows. same_class: whether images of the same class serve as negatives. weight:
    beta.
    """

    taps: dict[str, str] | None = Field(None, min_length=1, max_length=1)
    negatives: Literal["bank", "batch"] = "bank"
    num_negatives: int = Field(16384, ge=1)
    dimensions: int = Field(128, ge=1)
    temperature: float = Field(0.07, gt=0)
    momentum: float = Field(0.5, ge=0, lt=1)
    same_class: bool = False
    weight: float = Field(0.8, ge=0)


class Projection(nn.Module):
    """[B, ...] -> unit rows [B, dimensions]: flattened and mapped linearly."""

    def __init__(self, num_features: int, dimensions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, dimensions)

    def forward(self, features: Tensor) -> Tensor:
        return unit_rows(self.linear(samples(features)))


def projection(source: Point, dimensions: int) -> ModuleBuilder:
    """A `Projection` of the tap `source`."""

    def build(shapes: Shapes) -> nn.Module:
        return Projection(math.prod(shapes[source]), dimensions)

    return build


def bank_loss(
    settings: Settings, bank: EmbeddingBank, student: Tensor, teacher: Tensor, indices: Tensor, groups: Tensor
) -> Tensor:
    """The paper's loss, and the bank brought up to date; student, teacher: unit rows [B, d].

    indices: int64 [B]; groups: int64 [B], an image's negatives are of another group.
    """
    seen = student.detach(), teacher.detach()
    bank.grow(indices)
    drawn = bank.draw(settings.num_negatives)
    for_student, for_teacher = _constants(bank, drawn, *seen, settings.temperature)
    bank.meet(indices, groups, *seen)
    counted = bank.groups[drawn] != groups.unsqueeze(1)

    def loss(anchors: Tensor, rows: Tensor, log_constant: Tensor) -> Tensor:
        anchors = anchors / settings.temperature
        return noise_contrastive(
            (anchors * rows[indices]).sum(dim=1),
            anchors @ rows[drawn].T,
            counted,
            num_negatives=settings.num_negatives,
            log_constant=log_constant,
        )

    total = loss(student, bank.teacher, for_student) + loss(teacher, bank.student, for_teacher)
    bank.move(indices, *seen, settings.momentum)
    return total


def _constants(
    bank: EmbeddingBank, drawn: Tensor, student: Tensor, teacher: Tensor, temperature: float
) -> Tensor:
    """log c for the student and for the teacher as anchor, [2], measured on the bank's random rows once."""
    constants = bank.constants
    if constants is None:
        scores = (student @ bank.teacher[drawn].T, teacher @ bank.student[drawn].T)
        constants = bank.constants = torch.stack([log_mean_exp(each / temperature) for each in scores])
    return constants


def batch_loss(temperature: float, student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    """In-batch InfoNCE with either network as anchor; unit rows [B, d], groups: int64 [B]."""
    same = groups.unsqueeze(0) == groups.unsqueeze(1)
    return info_nce(student @ teacher.T / temperature, same)


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher = roster.student, roster.teacher
    ((mine, theirs),) = embedding_pairs(roster, settings.taps)
    with_bank = settings.negatives == "bank"

    def compute(context: TermContext) -> Tensor:
        ours = context.adapter("student")(context.tap(student, mine))
        others = context.adapter("teacher")(context.tap(teacher, theirs).detach())
        if not with_bank:
            require_batch("crd", len(ours), 2)
            groups = torch.arange(len(ours), device=ours.device) if settings.same_class else context.labels
            return batch_loss(settings.temperature, ours, others, groups)
        indices = context.indices
        groups = indices if settings.same_class else context.labels
        bank = EmbeddingBank(context.memory, ours, context.generator())
        return bank_loss(settings, bank, ours, others, indices, groups)

    needs = Needs(
        outputs={student: (mine,), teacher: (theirs,)},
        labels=not settings.same_class,
        indices=with_bank,
        whole_batch=True,
        least_batch=1 if with_bank else 2,
    )
    adapters = {
        "student": projection((student, mine), settings.dimensions),
        "teacher": projection((teacher, theirs), settings.dimensions),
    }
    return Part(terms=(Term("crd", compute, needs, settings.weight, adapters),))


METHOD = Method(CARD, Settings, build)
