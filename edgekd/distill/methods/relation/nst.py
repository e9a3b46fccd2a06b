"""Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, Huang & Wang 2017.

    L = CE + weight sum_taps mean_x MMD^2({f_c / ||f_c||}_s, {f_c / ||f_c||}_t),   k(v, w) = (v . w)^2

f_c is the map of channel c as a vector of its positions; arXiv 1707.01219, section 3 with the polynomial
kernel (degree 2, offset 0). MMD^2 with this kernel is ||G_s - G_t||_F^2, G = 1/C sum_c f_c f_c^T / ||f_c||^2:
no channel has a counterpart, and C may differ.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import pooled_to_smaller
from edgekd.distill.kernels.relate import channels, squared_kernel_mmd, unit_rows
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import Term
from edgekd.distill.relations import last_stage_pairs, pair_needs

CARD = Card(
    name="nst",
    title="Neuron selectivity transfer",
    paper=(
        "Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. "
        "arXiv 1707.01219, 2017"
    ),
    equation="weight sum_taps mean_b ||G_s - G_t||_F^2, G = 1/C sum_c n(f_c) n(f_c)^T over positions",
    catalogue_id="nst",
    knowledge="feature",
    scheme="offline",
    needs="one teacher; feature-map taps in both (channels and sizes may differ)",
    defaults="weight 50 as in Tian et al. 2020 (CRD), with the same means; the last stage, as in the paper",
    cost="teacher's forward pass; the cheaper of HW x HW Grams and C x C kernels per sample",
    deviations=(
        "the paper halves its lambda; here the weight multiplies MMD^2 itself",
        "RepDistiller uses all stages: `taps` for that; it also forms [C, C, HW] products, never needed here",
        "maps of different size: the larger is average-pooled (the paper interpolates)",
    ),
)


class Settings(Config):
    """taps: student's tap -> teacher's; by default the last stage. weight: of MMD^2."""

    taps: dict[str, str] | None = None
    weight: float = Field(50.0, ge=0)


def selectivity_error(student: Tensor, teacher: Tensor) -> Tensor:
    """MMD^2 of two sets of unit channel maps, mean over the batch; [B, C_s, H, W], [B, C_t, H', W']."""
    student, teacher = pooled_to_smaller(student, teacher)
    return squared_kernel_mmd(unit_rows(channels(student)), unit_rows(channels(teacher)))


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher = roster.student, roster.teacher
    pairs = last_stage_pairs(roster, settings.taps)

    def compute(context: TermContext) -> Tensor:
        features = [(context.tap(student, mine), context.tap(teacher, theirs)) for mine, theirs in pairs]
        values = [selectivity_error(mine, theirs.detach()) for mine, theirs in features]
        return sum(values[1:], start=values[0])

    return Part(terms=(Term("nst", compute, pair_needs(roster, pairs, whole_batch=False), settings.weight),))


METHOD = Method(CARD, Settings, build)
