"""FitNets: Hints for Thin Deep Nets, Romero et al., ICLR 2015 (arXiv 1412.6550), sections 2.2 and 2.3.

phase 1 (hint):  mean (f_t - r(f_s))^2 at a middle tap, training the student up to that tap and r
phase 2:         CE + weight T^2 KL(p_t || p_s), the weight falling linearly to a quarter
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.adapters import regressor
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import mean_squared_error
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.program import Needs, Phase, Term, Train, Turn
from edgekd.distill.targets import mean_of
from edgekd.distill.weights import Linear

CARD = Card(
    name="fitnets",
    title="FitNets (hint training, then distillation)",
    paper="Romero et al.: FitNets: Hints for Thin Deep Nets. ICLR 2015, arXiv 1412.6550",
    equation="phase 1: mean (f_t - r(f_s))^2; phase 2: weight T^2 KL(p_t || p_s), sum over classes",
    catalogue_id="fitnets",
    knowledge="feature",
    scheme="offline",
    needs="one teacher; one feature tap in both",
    defaults=(
        "T = 3; the paper's lambda 4 -> 1 multiplies a cross-entropy without T^2, so weight = 4/9 -> 1/9; "
        "hint phase: a quarter of the training (the paper trains each phase until validation stalls)"
    ),
    cost="teacher's forward pass; in the hint phase a 1x1 convolution, never deployed",
    deviations=(
        "the hint loss is a mean over elements, not 1/2 of their sum: only the learning rate changes meaning",
        "r is a 1x1 convolution, pooled or grown to the hint's size; the paper's kernel makes the sizes fit",
        "RepDistiller's and AberHu's `fitnet` have one phase only",
    ),
    zero_at_match=False,
    kinds={"fitnets-kd": "response"},
)


class Settings(Config):
    """taps: one {student's tap: teacher's}; by default the middle stage. hint_share: of the training."""

    taps: dict[str, str] | None = Field(None, min_length=1, max_length=1)
    hint_share: float = Field(0.25, gt=0, lt=1)
    temperature: float = Field(3.0, gt=0)
    weight: float = Field(4 / 9, ge=0)


def hint_term(student: str, teacher: str, pair: tuple[str, str]) -> Term:
    """Mean squared error between the teacher's hint and the regressed guided features of the student."""
    mine, theirs = pair

    def compute(context: TermContext) -> Tensor:
        regressed = context.adapter("regressor")(context.tap(student, mine))
        return mean_squared_error(regressed, context.tap(teacher, theirs))

    needs = Needs(outputs={student: (mine,), teacher: (theirs,)})
    adapters = {"regressor": regressor((student, mine), (teacher, theirs))}
    return Term("hint", compute, needs, adapters=adapters)


def build(settings: Settings, roster: Roster) -> Part:
    pairs = roster.pairs(settings.taps)
    pair = pairs[(len(pairs) - 1) // 2]
    hint = Turn((Train(roster.student, up_to=pair[0]),), (hint_term(roster.student, roster.teacher, pair),))
    share = settings.hint_share / (1 - settings.hint_share)
    weight = Linear(settings.weight, settings.weight / 4)
    term = kd_term(roster.student, mean_of(roster.teachers), settings.temperature, weight, name="fitnets-kd")
    return Part(terms=(term,), before=(Phase("hint", (hint,), share),))


METHOD = Method(CARD, Settings, build)
