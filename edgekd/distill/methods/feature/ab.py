"""Knowledge Transfer via Distillation of Activation Boundaries, Heo et al., AAAI 2019 (arXiv 1811.03233).

phase 1:  weight sum_l 2^(l-L) n_l/n_L mean_{b,c,hw} h(r_l(s_l), t_l), training the student up to the last tap
          h(s, t) = relu(margin - s)^2 where t > 0, relu(margin + s)^2 elsewhere (equation 6)
phase 2:  CE

s_l and t_l are what the stage's last ReLU takes, r_l is a 1x1 convolution with batch norm, n_l the number of
elements of t_l.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.pre_activation import connected_term, pre_activation_pairs
from edgekd.distill.program import Phase, Train, Turn

CARD = Card(
    name="ab",
    title="Activation boundaries",
    paper=(
        "Heo et al.: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons. "
        "AAAI 2019, arXiv 1811.03233"
    ),
    equation="phase 1: weight sum_l 2^(l-L) n_l/n_L mean relu(margin - sign(t_l) r_l(s_l))^2; phase 2: CE",
    catalogue_id="ab",
    knowledge="feature",
    scheme="offline",
    needs=(
        "one teacher; taps before the activation (`stageN:pre`) in both, channels and sizes may differ. "
        "Folding the student's batch norm for quantization keeps these taps: only points between a "
        "convolution and its batch norm are lost"
    ),
    defaults=(
        "margin 1; weight 49.152: the authors multiply the sum over elements by 3/1000 (CIFAR-10), and the "
        "last map of their teacher WRN-22-4 has n_L = 16384 elements; it is the only term of its phase. "
        "Phase 1 takes a ninth of the training: 30 epochs before 240, as in RepDistiller"
    ),
    cost="phase 1: teacher's forward pass; one 1x1 convolution per stage, never deployed",
    deviations=(
        "means over elements instead of sums",
        "the authors' script then trains on distillation without labels (T = 3), the paper shows both: here "
        "cross-entropy, or both with `method: [ab, kd]`",
        "the authors run the teacher's batch norm on batch statistics; here the teacher is as it is deployed",
        "the authors leave the connectors out where the channels are equal",
        "maps of different size: the student's is average-pooled or grown bilinearly before the batch norm",
    ),
    zero_at_match=False,
)


def boundary_distance(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Mean over batch and elements of the squared hinge by which `student` misses the teacher's side of zero.

    Equal shapes [B, ...]. 0 where student >= margin and teacher > 0, or student <= -margin and teacher <= 0.
    """
    side = torch.where(teacher > 0, 1.0, -1.0)
    return F.relu(margin - side * student).square().mean()


class Settings(Config):
    """taps: student's tap -> teacher's, from shallow to deep; by default `stageN:pre` of every stage.

    init_share: phase 1's part of the training. margin: mu.
    """

    taps: dict[str, str] | None = None
    init_share: float = Field(1 / 9, gt=0, lt=1)
    margin: float = Field(1.0, gt=0)
    weight: float = Field(49.152, gt=0)


def build(settings: Settings, roster: Roster) -> Part:
    def distance(context: TermContext, tap: str, student: Tensor, teacher: Tensor) -> Tensor:
        return boundary_distance(student, teacher, settings.margin)

    pairs = pre_activation_pairs(roster, settings.taps)
    term = connected_term("ab", roster.student, roster.teacher, pairs, distance, settings.weight)
    turn = Turn((Train(roster.student, up_to=pairs[-1][0]),), (term,))
    share = settings.init_share / (1 - settings.init_share)
    return Part(before=(Phase("boundaries", (turn,), share),))


METHOD = Method(CARD, Settings, build)
