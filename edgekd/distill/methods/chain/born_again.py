"""Born-Again Neural Networks, Furlanello et al., ICML 2018 (arXiv 1805.04770), sections 3.1 to 3.3.

Generation k learns from generation k - 1, of the same architecture and at rest. With p the earlier one's
probabilities, q the pupil's (temperature 1), B samples in the batch:

    plain  L = CE(y, q) + weight KL(p || q)
    cwtm   L = weight sum_b w_b CE(y_b, q_b),   w_b = max_c p_b / sum_u max_c p_u
    dkpp   L = weight KL(p' || q),              p' = p with its classes other than the largest permuted
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.method import Method, Roster
from edgekd.distill.methods.chain.links import (
    cast_generations,
    from_labels,
    from_terms,
    generations,
    task_terms,
)
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.program import LOGITS, Given, Needs, Phase, Program, Term
from edgekd.distill.targets import Target, mean_of

CARD = Card(
    name="born-again",
    title="Born-again networks",
    paper="Furlanello et al.: Born-Again Neural Networks. ICML 2018, arXiv 1805.04770",
    equation=(
        "generation k: CE(y, q_k) + weight KL(q_{k-1} || q_k); cwtm: sum_b w_b CE_b, w_b = max q_{k-1} over "
        "its sum in the batch; dkpp: KL(permuted q_{k-1} || q_k)"
    ),
    catalogue_id="born-again",
    knowledge="response",
    scheme="chain",
    needs="labels; the first generation learns from the teachers if there are any, else from labels",
    defaults=(
        "two generations, temperature 1, both terms at weight 1 (the paper's BAN+L; task_weight 0 is its "
        "BAN); cwtm and dkpp have no further label term, as in the paper"
    ),
    cost=(
        "the generations share the epochs evenly: the deployed last one gets 1 / `generations` of them; "
        "every one but a first one without teacher adds a forward pass of its teacher"
    ),
    deviations=(
        "the paper trains every generation to the end; here they share the epochs",
        "the paper's ensemble of all generations (BANE) is left out: one network is deployed",
        "KL instead of the paper's cross-entropy with soft targets: same gradient, zero at match",
        "dkpp draws a permutation of its own for every sample and update, so its value depends on the order",
        "generations of another architecture (the paper's Wide-ResNet from DenseNet) come from the teacher",
    ),
    composable=False,
    num_teachers=0,
)
Form = Literal["plain", "cwtm", "dkpp"]


class Settings(Config):
    """generations: networks trained one after another. weight: of the form's term.

    form: all of the earlier one's probabilities, only its confidence (`cwtm`), or permuted ones (`dkpp`).
    """

    generations: int = Field(2, ge=1)
    form: Form = "plain"
    weight: float = Field(1.0, ge=0)


def confidence_weighted(student_logits: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """sum_b w_b CE(y_b, student_b), w_b the share of the teacher's confidence in the batch's (section 3.2).

    student_logits: [B, C]; labels: int64 [B]; teacher: [B, C] probabilities. A mean over the batch where
    the teacher is equally sure of all samples.
    """
    confidence = teacher.max(dim=1).values
    losses = F.cross_entropy(student_logits, labels, reduction="none")
    return (losses * confidence / confidence.sum()).sum()


def permuted(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """[B, C] with each row's largest entry in place and the others in random order (section 3.2)."""
    num_samples, num_classes = probabilities.shape
    top = probabilities.argmax(dim=1, keepdim=True)
    is_top = torch.arange(num_classes, device=top.device) == top
    others = is_top.int().argsort(dim=1, stable=True)[:, :-1]
    order = torch.rand(num_samples, num_classes - 1, generator=generator).argsort(dim=1).to(top.device)
    return probabilities.scatter(1, others, probabilities.gather(1, others).gather(1, order))


def permuted_target(target: Target) -> Target:
    """`target` without what it says about the classes that it does not predict, but for their amounts."""

    def compute(context: TermContext, temperature: float) -> Tensor:
        return permuted(target.compute(context, temperature), context.generator())

    return replace(target, compute=compute)


def cwtm_term(role: str, target: Target, weight: float, name: str) -> Term:
    """Cross-entropy with the labels, weighted by the teacher's confidence."""

    def compute(context: TermContext) -> Tensor:
        return confidence_weighted(context.logits(role), context.labels, target.compute(context, 1.0))

    outputs = {role: (LOGITS,), **target.outputs}
    return Term(name, compute, Needs(outputs=outputs, labels=True, whole_batch=True), weight)


def generation_terms(
    settings: Settings, roster: Roster, role: str, teachers: tuple[str, ...]
) -> tuple[Term, ...]:
    """What one generation learns from an earlier one."""
    target, name = mean_of(teachers), f"born-again:{role}"
    match settings.form:
        case "plain":
            return (*task_terms(roster, role, 1.0), kd_term(role, target, 1.0, settings.weight, name))
        case "cwtm":
            return (*task_terms(roster, role, 0.0), cwtm_term(role, target, settings.weight, name))
        case "dkpp":
            term = kd_term(role, permuted_target(target), 1.0, settings.weight, name)
            return (*task_terms(roster, role, 0.0), term)


def build(settings: Settings, roster: Roster) -> Program:
    names = generations(settings.generations)
    if not roster.teacher_roles and len(names) < 2:
        raise UsageError(
            "has nobody to learn from with `generations: 1` and no teacher",
            fix="set `generations: 2` or more, or give the step an input `teachers`",
        )
    phases: list[Phase] = []
    teachers = roster.teacher_roles
    for name in names:
        terms = generation_terms(settings, roster, name, teachers) if teachers else ()
        phases.append(from_terms(name, terms) if terms else from_labels(roster, name))
        teachers = (name,)
    given = dict.fromkeys(roster.teacher_roles, Given())
    return Program({**cast_generations(names), **given}, tuple(phases))


METHOD = Method(CARD, Settings, build)
