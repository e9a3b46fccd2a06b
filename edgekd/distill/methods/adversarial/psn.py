"""Adversarial Learning of Portable Student Networks, Wang et al., AAAI 2018; equation 14 of Gou et al. 2021.

The survey's equation reads  L = CE(G(F_s(x)), y) + alpha KL(G(F_s(x)), F_t(x)) + beta L_GAN(F_s(x), F_t(x));
here, with e the embeddings, r a trained linear map to the teacher's size and D a discriminator:

discriminator's turn:  -mean log D(e_t) - mean log(1 - D(r(e_s)))
student's turn:        task_weight CE(y, z_s) + response_weight T^2 KL(p_t || p_s) - weight mean log D(r(e_s))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.adversary import Deception, deception, discrimination
from edgekd.distill.kernels.respond import squared_error
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.program import LOGITS, Built, ModuleBuilder, Needs, Role, Shapes, Term, Train, Turn
from edgekd.distill.targets import mean_of

CARD = Card(
    name="psn",
    title="Adversarial learning of portable student networks",
    paper="Wang et al.: Adversarial Learning of Portable Student Networks. AAAI 2018; Gou et al. 2021, "
    "equation 14",
    equation="response_weight T^2 KL(p_t || p_s) - weight mean log D(r(e_s)), while D minimizes "
    "-mean log D(e_t) - mean log(1 - D(r(e_s)))",
    catalogue_id="psn",
    knowledge="mixed",
    scheme="adversarial",
    needs="one teacher; the tap `embedding` in both, or `taps` (feature maps are averaged over positions)",
    defaults=(
        "weight 0.1, response weight 0.9 at T = 4 and task weight 0.1 (those of `kd`): the paper's own "
        "weights could not be checked; `response: l2` is the form that Hu et al. 2022 list, on logits"
    ),
    cost=(
        "teacher's forward pass; the discriminator's update and one more forward pass of the student "
        "(evaluation mode, no gradient); a discriminator of three layers and a linear map, neither deployed"
    ),
    deviations=(
        "the survey's equation puts a network G behind the student's logits; the method it describes has a "
        "discriminator on features, and so has this",
        "r maps the student's features to the teacher's size; the paper's networks have equal sizes",
        "the student minimizes -log D (non-saturating); `form: minimax` has log(1 - D), as the paper writes",
        "the discriminator judges the student in evaluation mode, whose batch norm it leaves alone",
    ),
    zero_at_match=False,
    may_rise=("psn-discriminator", "psn"),
    kinds={"psn-response": "response", "psn": "feature"},
)
DISCRIMINATOR, TRANSLATOR = "psn-discriminator", "psn-translator"


class Settings(Config):
    """taps: one {student's tap: teacher's}, by default the embeddings. weight: of the adversarial term.

    form: of that term, -log D or log(1 - D). response: kl (T^2 KL), l2 (1/2 squared error of the logits) or
    none. response_weight: of that one. temperature: T. hidden: width of the discriminator.
    learning_rate: the discriminator's (Adam); it follows the schedule of the training.
    """

    taps: dict[str, str] = Field({"embedding": "embedding"}, min_length=1, max_length=1)
    weight: float = Field(0.1, ge=0)
    form: Deception = "non-saturating"
    response: Literal["kl", "l2", "none"] = "kl"
    response_weight: float = Field(0.9, ge=0)
    temperature: float = Field(4.0, gt=0)
    hidden: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)


class Discriminator(nn.Module):
    """[B, num_features] -> scores [B, 1], positive for the teacher's features."""

    def __init__(self, num_features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_features, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.layers(features)
        return scores


def pooled(features: Tensor) -> Tensor:
    """[B, C] as it is, [B, C, H, W] averaged over its positions."""
    return features.flatten(2).mean(dim=2) if features.dim() > 2 else features


def discriminator_turn(student: str, teacher: str, pair: tuple[str, str], settings: Settings) -> Turn:
    """The discriminator learns to tell the teacher's features from the student's, both at rest."""
    mine, theirs = pair

    def discriminate(context: TermContext) -> Tensor:
        translated = context.call(TRANSLATOR, pooled(context.tap(student, mine)))
        real = context.call(DISCRIMINATOR, pooled(context.tap(teacher, theirs)))
        return discrimination(real, context.call(DISCRIMINATOR, translated))

    needs = Needs(outputs={student: (mine,), teacher: (theirs,)}, calls=(TRANSLATOR, DISCRIMINATOR))
    optimizer: Mapping[str, Any] = {
        "name": "adamw",
        "learning_rate": settings.learning_rate,
        "betas": (0.5, 0.999),
        "weight_decay": 0.0,
    }
    term = Term("psn-discriminator", discriminate, needs)
    return Turn((Train(DISCRIMINATOR),), (term,), optimizer=optimizer)


def deception_term(student: str, tap: str, settings: Settings) -> Term:
    """The student's translated features are to be taken for the teacher's."""

    def deceive(context: TermContext) -> Tensor:
        translated = context.call(TRANSLATOR, pooled(context.tap(student, tap)))
        return deception(context.call(DISCRIMINATOR, translated), settings.form)

    needs = Needs(outputs={student: (tap,)}, calls=(TRANSLATOR, DISCRIMINATOR))
    return Term("psn", deceive, needs, settings.weight)


def response_terms(student: str, teacher: str, settings: Settings) -> tuple[Term, ...]:
    """alpha's term."""

    def compute(context: TermContext) -> Tensor:
        return squared_error(context.logits(student), context.logits(teacher))

    weight, name = settings.response_weight, "psn-response"
    match settings.response:
        case "kl":
            return (kd_term(student, mean_of((teacher,)), settings.temperature, weight, name),)
        case "l2":
            return (Term(name, compute, Needs(outputs={student: (LOGITS,), teacher: (LOGITS,)}), weight),)
        case "none":
            return ()


def _translator(mine: tuple[str, str], theirs: tuple[str, str]) -> ModuleBuilder:
    def build(shapes: Shapes) -> nn.Module:
        return nn.Linear(shapes[mine][0], shapes[theirs][0])

    return build


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher = roster.student, roster.teacher
    ((mine, theirs),) = roster.pairs(settings.taps)
    hidden = settings.hidden
    roles: dict[str, Role] = {
        TRANSLATOR: Built(_translator((student, mine), (teacher, theirs))),
        DISCRIMINATOR: Built(lambda shapes: Discriminator(shapes[teacher, theirs][0], hidden)),
    }
    return Part(
        terms=(*response_terms(student, teacher, settings), deception_term(student, mine, settings)),
        train=(Train(TRANSLATOR),),
        roles=roles,
        turns=(discriminator_turn(student, teacher, (mine, theirs), settings),),
        task_weight=0.1,
    )


METHOD = Method(CARD, Settings, build)
