"""Revisiting KD via Label Smoothing Regularization, Yuan et al., CVPR 2020 (arXiv 1909.11723), Tf-KD_self.

phase 1:  a copy of the student's architecture learns from labels
phase 2:  L = task_weight CE(y, z_s) + weight T^2 KL(p_copy || p_s), the copy resting
"""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.method import Method, Roster
from edgekd.distill.methods.chain.links import from_labels, from_terms, task_terms
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.program import Fresh, Given, Program
from edgekd.distill.targets import mean_of

CARD = Card(
    name="tf-kd-self",
    title="Teacher-free knowledge distillation by self-training (Tf-KD_self)",
    paper="Yuan et al.: Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR 2020, "
    "arXiv 1909.11723",
    equation="phase 1: CE(y, z_copy); phase 2: task_weight CE(y, z_s) + weight T^2 KL(p_copy || p_s)",
    catalogue_id="tf-kd-self",
    knowledge="response",
    scheme="self",
    needs="labels; a teacher that is given is not used",
    defaults=(
        "the authors' ResNet-18 on CIFAR-100: T = 6, alpha = 0.95, multiplier 50 on a KL that torch's "
        "'mean' divides by the 100 classes, so weight = 0.95 x 50 / 100 = 0.475 and task weight 0.05; their "
        "MobileNetV2 and ShuffleNetV2 (T = 20, multiplier 1) become weight 0.0095"
    ),
    cost=(
        "two trainings share the epochs: the copy takes `copy_share` (half), the deployed student gets only "
        "the rest; its phase adds one forward pass of a network of its size"
    ),
    deviations=(
        "the authors train copy and student for 200 epochs each; here they share the epochs",
        "the authors' KLDivLoss 'mean' times a hand-set multiplier is a sum over classes here",
        "the copy starts from weights of its own, the student from those it is given",
    ),
    composable=False,
    num_teachers=0,
)
COPY = "pretrained"


class Settings(Config):
    """copy_share: of the training, spent on the copy that teaches. temperature: T. weight: of the KL."""

    copy_share: float = Field(0.5, gt=0, lt=1)
    temperature: float = Field(6.0, gt=0)
    weight: float = Field(0.475, ge=0)


def build(settings: Settings, roster: Roster) -> Program:
    term = kd_term(roster.student, mean_of((COPY,)), settings.temperature, settings.weight, "tf-kd-self")
    phases = (
        from_labels(roster, COPY, share=settings.copy_share),
        from_terms(
            roster.student,
            (*task_terms(roster, roster.student, 0.05), term),
            share=1 - settings.copy_share,
        ),
    )
    return Program({roster.student: Given(), COPY: Fresh(roster.student)}, phases)


METHOD = Method(CARD, Settings, build)
