"""Self-training with Noisy Student, Xie et al., CVPR 2020 (arXiv 1911.04252), algorithm 1.

A resting teacher labels unlabeled images, a pupil learns from labeled and pseudo-labeled images under noise,
and becomes the teacher of the next iteration. With p the teacher's probabilities of an
unlabeled image, p^ = p (soft) or its largest class (hard), q the pupil's of another view of that image:

    L = CE(y, q_labeled) + weight sum_i w_i KL(p^_i || q_i)

over the images with max p_i >= `confidence`; w_i is the same for all of them and sums to 1, or, balanced,
sums to the same for every predicted class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.method import Method, Roster
from edgekd.distill.methods.chain.links import cast_generations, generations, task_terms
from edgekd.distill.program import LOGITS, Given, Needs, Phase, Program, Term, Train, Turn
from edgekd.distill.sources import Beside

STREAM = "unlabeled"
TEACHER_VIEW, PUPIL_VIEW = f"{STREAM}:x", f"{STREAM}:x2"

CARD = Card(
    name="noisy-student",
    title="Noisy student self-training",
    paper="Xie et al.: Self-training with Noisy Student improves ImageNet classification. CVPR 2020, "
    "arXiv 1911.04252",
    equation="CE(y, q_labeled) + weight sum_i w_i KL(p_i || q_i) over images with a confident label",
    catalogue_id="noisy-student",
    knowledge="response",
    scheme="chain",
    needs="a teacher with the student's classes; unlabeled images (the stream `unlabeled`)",
    defaults=(
        "both terms at weight 1 (each a mean over its images, algorithm 1), soft labels, confidence 0.3, "
        "balanced classes, as in the paper; one iteration where the paper has three"
    ),
    cost=(
        "forward and backward of an unlabeled batch beside the labeled one, and the teacher's forward on it; "
        "the iterations share the epochs evenly: the deployed last pupil gets 1 / `iterations` of them"
    ),
    deviations=(
        "the noise is the data's augmentation alone: these networks have no dropout or stochastic depth, "
        "and RandAugment is not among the augmentations",
        "the teacher sees another augmentation of the image, not the plain one: a stream's views are "
        "augmented alike. It runs in evaluation mode and labels anew in every update",
        "the paper repeats or drops images until every class has as many; here weights in the batch do it, "
        "and a class without a confident image in the batch is left out of it",
        "the paper's pupils are as large as their teacher or larger; here they have the student's size",
        "KL instead of cross-entropy with the soft label: same gradient",
        "labeled and unlabeled images go through the network one after the other, so batch norm normalizes "
        "and counts them apart",
    ),
    composable=False,
)


class Settings(Config):
    """iterations: pupils, one after another. hard: the largest class instead of the probabilities.

    confidence: least probability of the largest class. balance: classes count alike. weight: of the term.
    """

    iterations: int = Field(1, ge=1)
    hard: bool = False
    confidence: float = Field(0.3, ge=0, le=1)
    balance: bool = True
    weight: float = Field(1.0, ge=0)


def sample_weights(probabilities: Tensor, confidence: float, balance: bool) -> Tensor:
    """[B] weights of the samples, from the teacher's probabilities [B, C]; they sum to 1, or all are 0.

    Zero below `confidence`. Balanced, every class that is predicted confidently has the same sum.
    """
    kept = (probabilities.max(dim=1).values >= confidence).to(probabilities.dtype)
    if not balance:
        return kept / kept.sum().clamp(min=1)
    classes = torch.arange(probabilities.shape[1], device=probabilities.device)
    members = (probabilities.argmax(dim=1)[:, None] == classes).to(probabilities.dtype) * kept[:, None]
    counts = members.sum(dim=0)
    shares = (counts > 0).to(probabilities.dtype) / (counts > 0).sum().clamp(min=1)
    return (members * (shares / counts.clamp(min=1))).sum(dim=1)


def pseudo_label_loss(
    student_logits: Tensor, probabilities: Tensor, *, hard: bool, confidence: float, balance: bool
) -> Tensor:
    """sum_i w_i KL(label_i || softmax(student_i)) with `sample_weights`; both [B, C]."""
    weights = sample_weights(probabilities, confidence, balance)
    if hard:
        losses = F.cross_entropy(student_logits, probabilities.argmax(dim=1), reduction="none")
    else:
        log_student = F.log_softmax(student_logits, dim=1)
        losses = F.kl_div(log_student, probabilities, reduction="none").sum(dim=1)
    return (weights * losses).sum()


def pseudo_label_term(settings: Settings, pupil: str, teachers: tuple[str, ...]) -> Term:
    """The pupil's noisy view against what the teachers say of another one."""

    def compute(context: TermContext) -> Tensor:
        logits = [context.logits(teacher, TEACHER_VIEW) for teacher in teachers]
        return pseudo_label_loss(
            context.logits(pupil, PUPIL_VIEW),
            torch.stack([F.softmax(each, dim=1) for each in logits]).mean(dim=0),
            hard=settings.hard,
            confidence=settings.confidence,
            balance=settings.balance,
        )

    outputs = {pupil: (LOGITS,), **dict.fromkeys(teachers, (LOGITS,))}
    needs = Needs(outputs=outputs, views=(TEACHER_VIEW, PUPIL_VIEW), whole_batch=True)
    return Term(f"noisy-student:{pupil}", compute, needs, settings.weight)


def build(settings: Settings, roster: Roster) -> Program:
    pupils = generations(settings.iterations)
    teachers = (roster.teachers, *((pupil,) for pupil in pupils[:-1]))
    phases = tuple(
        Phase(
            f"{pupil} learns from pseudo-labels",
            (
                Turn(
                    (Train(pupil),),
                    (*task_terms(roster, pupil, 1.0), pseudo_label_term(settings, pupil, of)),
                    Beside(STREAM),
                ),
            ),
        )
        for pupil, of in zip(pupils, teachers, strict=True)
    )
    given = dict.fromkeys(roster.teachers, Given())
    return Program({**cast_generations(pupils), **given}, phases)


METHOD = Method(CARD, Settings, build)
