"""Feature-normalized KD: shortened embeddings in NumPy, its invariance, and networks that do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.distill.compose import build_program
from edgekd.distill.method import Roster
from edgekd.distill.methods.feature.fn import METHOD, shortened
from edgekd.distill.participant import Participant
from edgekd.distill.settings import DistillSettings
from edgekd.distill.validate import validate
from edgekd.networks.tap import head
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch, tiny_participant
from edgekd.testing.tiny_runs import Stage

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(9)
EMBEDDING = RNG.normal(size=(6, 5)) * np.array([0.1, 0.5, 1.0, 2.0, 5.0, 20.0])[:, None]


def cut(embedding: Array, norm: float) -> Array:
    """e / ||e|| min(||e||, norm)."""
    lengths = np.sqrt((embedding**2).sum(axis=1, keepdims=True))
    return np.asarray(embedding / lengths * np.minimum(lengths, norm))


def softmax(logits: Array) -> Array:
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


def fn_value(stage: Stage) -> float:
    turn = stage.program.phases[-1].turns[-1]
    (term,) = (term for term in turn.terms if term.name == "fn")
    return stage.number(turn, term)


def test_embeddings_above_the_norm_are_cut_and_the_others_stay() -> None:
    actual = shortened(torch.from_numpy(EMBEDDING), 2.0).numpy()
    np.testing.assert_allclose(actual, cut(EMBEDDING, 2.0), rtol=1e-12)
    short = np.sqrt((EMBEDDING**2).sum(axis=1)) < 2
    assert 0 < short.sum() < 6
    np.testing.assert_array_equal(actual[short], EMBEDDING[short])


def test_scale_above_the_norm_does_not_matter() -> None:
    large = 100 * torch.from_numpy(EMBEDDING)
    torch.testing.assert_close(shortened(large, 2.0), shortened(7 * large, 2.0))


def test_gradient_passes_finite_differences_and_is_finite_at_zero() -> None:
    embedding = torch.from_numpy(EMBEDDING).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda e: shortened(e, 2.0), (embedding,))
    dead = torch.zeros(2, 3, requires_grad=True)
    shortened(dead, 2.0).sum().backward()  # type: ignore[no-untyped-call]
    assert dead.grad is not None and torch.equal(dead.grad, torch.ones(2, 3))


def test_term_is_the_divergence_of_the_logits_of_cut_embeddings() -> None:
    """And the authors' cross-entropy is larger by the teacher's entropy."""
    stage = Stage("fn", dtype=torch.float64)
    images, probabilities = tiny_batch(0).views["x"].double(), []
    for role in ("teacher", "student"):
        participant = stage.live.cast.roles[role]
        with torch.no_grad():
            embedding = participant.run(images, ("embedding",))["embedding"].numpy()
        layer = participant.module.get_submodule("linear")
        assert isinstance(layer, nn.Linear)
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        probabilities.append(softmax(cut(embedding, 2.0) @ weight.T + bias))
    teacher, student = probabilities
    divergence = (teacher * np.log(teacher / student)).sum(axis=1).mean()
    assert fn_value(stage) == pytest.approx(divergence, rel=1e-9)
    cross_entropy = -(teacher * np.log(student)).sum(axis=1).mean()
    entropy = -(teacher * np.log(teacher)).sum(axis=1).mean()
    assert fn_value(stage) == pytest.approx(cross_entropy - entropy, rel=1e-9)


class ConvolutionHead(nn.Module):
    """A classifier that takes maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.flatten = nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.taps = head("conv")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.flatten(self.pool(self.conv(x)))
        return logits


def problems(student: Participant, teacher: Participant) -> str:
    program = build_program(
        DistillSettings.model_validate({"method": "fn"}),
        num_teachers=1,
        student_taps=list(student.taps),
        teacher_taps=[list(teacher.taps)],
    )
    with pytest.raises(UsageError) as caught:
        validate(program, {"student": student, "teacher": teacher}, IMAGE_SHAPE)
    return str(caught.value)


def test_classifier_that_takes_maps_is_refused() -> None:
    module = ConvolutionHead()
    found = problems(Participant(module, taps=module.taps), tiny_participant(8, name="teacher"))
    assert "the classifier of `student` takes maps [3, 8, 8]" in found


def test_teacher_with_other_classes_is_refused() -> None:
    teacher = replace(tiny_participant(8, name="teacher"), labels=("a", "b", "c", "d"))
    assert "class 0 is `class0` and `a`" in problems(tiny_participant(), teacher)


def test_network_without_an_embedding_is_refused() -> None:
    roster = Roster(("teacher",), ("embedding", "logits"), {"teacher": ("logits",)})
    with pytest.raises(UsageError, match="the teacher has no tap `embedding`"):
        METHOD.build(METHOD.settings(), roster)
