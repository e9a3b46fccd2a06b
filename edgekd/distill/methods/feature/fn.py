"""Feature Normalized Knowledge Distillation for Image Classification, Xu et al., ECCV 2020.

    L = CE + weight KL(softmax(W_t e'_t + b_t) || softmax(W_s e'_s + b_s)),   e' = e min(1, norm / ||e||_2)

e is what the classifier (W, b) takes. The length of e plays the part of the temperature, one per sample.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import Needs, Term
from edgekd.networks.tap import classifier_of

EMBEDDING = "embedding"

CARD = Card(
    name="fn",
    title="Feature-normalized knowledge distillation",
    paper="Xu et al.: Feature Normalized Knowledge Distillation for Image Classification. ECCV 2020",
    equation="weight KL(softmax(W_t e'_t + b_t) || softmax(W_s e'_s + b_s)), e' = e min(1, norm / ||e||)",
    catalogue_id="fn",
    knowledge="response",
    scheme="offline",
    needs=(
        "one teacher with the student's classes; the tap `embedding` in both (widths may differ) with a "
        "classifier behind it that takes one vector per image. A quantized student's classifier is used as "
        "it is, with its quantized weight"
    ),
    defaults=(
        "norm 2, weight 9, task weight 1: the authors' CIFAR-100 script (ResNet-56 to ResNet-20); their loss "
        "is a mean over the batch and a sum over the classes, as here"
    ),
    cost="teacher's forward pass; both classifiers once more",
    deviations=(
        "the paper sets every embedding to one length, the authors' code shortens the longer ones: the code",
        "the authors minimize the cross-entropy of the two distributions: same gradient, larger by the "
        "teacher's entropy",
    ),
)


def shortened(embedding: Tensor, norm: float) -> Tensor:
    """[B, D] -> [B, D]: rows longer than `norm` are cut to that length, the others stay."""
    lengths = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
    factors: Tensor = norm / lengths.clamp_min(norm)
    return embedding * factors


def shortened_logits(context: TermContext, role: str, norm: float) -> Tensor:
    """[B, num_classes]: what the role's classifier makes of its shortened embedding.

    Raises `UsageError` where the embedding is not one vector per image.
    """
    embedding, module = context.tap(role, EMBEDDING), context.module(role)
    if embedding.dim() != 2:
        raise UsageError(
            f"the classifier of `{role}` takes maps {list(embedding.shape[1:])}, and `fn` shortens vectors",
            fix="use a network whose classifier is a linear layer, or `kd`",
        )
    # The layer itself and not its weight: a quantized one quantizes on the way.
    logits: Tensor = module.get_submodule(classifier_of(module))(shortened(embedding, norm))
    return logits


class Settings(Config):
    """norm: the length above which embeddings are cut, c."""

    norm: float = Field(2.0, gt=0)
    weight: float = Field(9.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher = roster.student, roster.teacher
    # Names the networks' taps in an error where one has no embedding.
    roster.pairs({EMBEDDING: EMBEDDING})

    def compute(context: TermContext) -> Tensor:
        with torch.no_grad():
            target = F.softmax(shortened_logits(context, teacher, settings.norm), dim=1)
        return kl(shortened_logits(context, student, settings.norm), target)

    outputs = {student: (EMBEDDING,), teacher: (EMBEDDING,)}
    return Part(terms=(Term("fn", compute, Needs(outputs, modules=(student, teacher)), settings.weight),))


METHOD = Method(CARD, Settings, build)
