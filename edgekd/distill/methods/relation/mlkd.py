"""Learning Metrics from Teachers: Compact Networks for Image Embedding, Yu et al., CVPR 2019, section 3.

    absolute   mean_i ||n(A e_s) - n(e_t)||_i
    relative   ||D_s - D_t||_F / b,   D_ij = ||n(e_i) - n(e_j)||
    L = CE + weight (absolute_weight absolute + relative_weight relative)

n divides by the L2 norm (the paper's networks end so), A is linear; `form: squared` squares both.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.distill.adapters import Point, regressor
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import mean_squared_error
from edgekd.distill.kernels.relate import distances, root_mean_squared_error, samples, unit_rows
from edgekd.distill.method import Method, Part, Roster, TapPairs
from edgekd.distill.program import ModuleBuilder, Shapes, Term
from edgekd.distill.relations import embedding_pairs, pair_needs, relation_term

CARD = Card(
    name="mlkd",
    title="Metric learning distillation (absolute and relative teacher)",
    paper="Yu et al.: Learning Metrics from Teachers: Compact Networks for Image Embedding. CVPR 2019",
    equation="weight (1 mean_i ||A e_s - e_t|| + 9.6 sqrt(mean_{ij} (D_s - D_t)_ij^2)), unit embeddings",
    catalogue_id="mlkd",
    knowledge="mixed",
    scheme="offline",
    needs="one teacher; embeddings (sizes may differ); batches of two or more",
    defaults=(
        "1 and 9.6: the authors' code for CUB uses 1 for the absolute and 0.3 for the relative teacher at "
        "b = 32, and its Frobenius norm is b times the root mean square here"
    ),
    cost=(
        "teacher's forward pass; b^2 d multiplications; a few b x b matrices; a linear map where the "
        "embeddings' sizes differ"
    ),
    deviations=(
        "paper and code use un-squared norms, and so do we; `form: squared` for mean squared differences",
        "the paper trains one of the two teachers at a time beside a metric loss; both here, with "
        "cross-entropy (set a weight to 0 for one)",
        "A is the identity where the sizes are equal, as they are in the paper",
        "`unit: false` compares the raw embeddings, whose scale then matters",
    ),
    kinds={"mlkd-absolute": "feature", "mlkd-relative": "relation"},
)

Form = Literal["norm", "squared"]


def absolute_error(student: Tensor, teacher: Tensor, form: Form) -> Tensor:
    """Mean over the batch of ||s - t||, or of the mean squared difference; [B, d] each."""
    if form == "squared":
        return mean_squared_error(student, teacher)
    norms: Tensor = torch.linalg.vector_norm(student - teacher, dim=1)
    return norms.mean()


def relative_error(student: Tensor, teacher: Tensor, form: Form) -> Tensor:
    """Root mean square, or mean square, of the differences of the distances; [B, d_s], [B, d_t]."""
    compare = mean_squared_error if form == "squared" else root_mean_squared_error
    return compare(distances(student), distances(teacher))


def same_size(source: Point, target: Point) -> ModuleBuilder:
    """`regressor`, or nothing where the shapes are equal."""

    def build(shapes: Shapes) -> nn.Module:
        return nn.Identity() if shapes[source] == shapes[target] else regressor(source, target)(shapes)

    return build


class Settings(Config):
    """taps: student's tap -> teacher's; by default the embeddings. unit: scale the rows to length 1 first.

    form: `norm` as in the authors' code, or `squared` of both. absolute: weight of the embeddings. relative:
    of their distances. weight: of both parts together.
    """

    taps: dict[str, str] | None = None
    unit: bool = True
    form: Form = "norm"
    absolute: float = Field(1.0, ge=0)
    relative: float = Field(9.6, ge=0)
    weight: float = Field(1.0, ge=0)


def _absolute_term(settings: Settings, roster: Roster, pairs: TapPairs) -> Term:
    student, teacher = roster.student, roster.teacher

    def compute(context: TermContext) -> Tensor:
        values = []
        for mine, theirs in pairs:
            mapped = context.adapter(mine)(context.tap(student, mine))
            rows = _rows(mapped, settings.unit), _rows(context.tap(teacher, theirs).detach(), settings.unit)
            values.append(absolute_error(*rows, settings.form))
        return sum(values[1:], start=values[0])

    adapters = {mine: same_size((student, mine), (teacher, theirs)) for mine, theirs in pairs}
    needs = pair_needs(roster, pairs, whole_batch=False)
    return Term("mlkd-absolute", compute, needs, settings.weight * settings.absolute, adapters)


def _relative_term(settings: Settings, roster: Roster, pairs: TapPairs) -> Term:
    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        rows = _rows(student, settings.unit), _rows(teacher, settings.unit)
        return relative_error(*rows, settings.form)

    return relation_term("mlkd-relative", roster, pairs, compare, settings.weight * settings.relative)


def _rows(features: Tensor, unit: bool) -> Tensor:
    rows = samples(features)
    return unit_rows(rows) if unit else rows


def build(settings: Settings, roster: Roster) -> Part:
    pairs = embedding_pairs(roster, settings.taps)
    return Part(
        terms=(_absolute_term(settings, roster, pairs), _relative_term(settings, roster, pairs)),
    )


METHOD = Method(CARD, Settings, build)
