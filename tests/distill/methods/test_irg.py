"""Instance relationship graph against a NumPy derivation of Liu et al. 2019, section 3."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.methods.relation.irg import transformation
from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(17)


def network(channels: int) -> dict[str, Array]:
    shapes = {
        "stage1": (channels, 8, 8),
        "stage2": (channels, 4, 4),
        "stage3": (2 * channels, 2, 2),
        "embedding": (2 * channels,),
        "logits": (3,),
    }
    return {tap: RNG.normal(size=(5, *shape)) for tap, shape in shapes.items()}


STUDENT, TEACHER = network(2), network(3)


def edges(features: Array) -> Array:
    rows = features.reshape(len(features), -1)
    squared = np.array([[((v - w) ** 2).sum() for w in rows] for v in rows])
    return np.asarray(squared / squared.max())


def moves(first: Array, second: Array) -> Array:
    """First map pooled to 2x2, neighboring channels of the second averaged in pairs."""
    b, c, h, _ = first.shape
    pooled = first.reshape(b, c, 2, h // 2, 2, h // 2).mean(axis=(3, 5))
    paired = (second[:, 0::2] + second[:, 1::2]) / 2
    squared = ((pooled - paired) ** 2).sum(axis=(1, 2, 3))
    return np.asarray(squared / squared.max())


def test_vertices_are_the_mean_squared_error_of_the_logits() -> None:
    expected = ((STUDENT["logits"] - TEACHER["logits"]) ** 2).mean()
    assert Scene("irg", STUDENT, TEACHER).loss()["irg-vertices"] == pytest.approx(expected, rel=1e-12)


def test_edges_are_compared_at_the_last_two_stages_and_the_embedding() -> None:
    taps = ("stage2", "stage3", "embedding")
    errors = [((edges(STUDENT[tap]) - edges(TEACHER[tap])) ** 2).mean() for tap in taps]
    actual = Scene("irg", STUDENT, TEACHER).loss()["irg-edges"]
    assert actual == pytest.approx(np.mean(errors), rel=1e-12)


def test_transformation_is_the_way_of_each_sample_between_the_stages() -> None:
    ways = [moves(features["stage2"], features["stage3"]) for features in (STUDENT, TEACHER)]
    actual = Scene("irg", STUDENT, TEACHER).loss()["irg-transformation"]
    assert actual == pytest.approx(((ways[0] - ways[1]) ** 2).mean(), rel=1e-12)


def test_weights_are_a_tenth_five_and_five() -> None:
    scene = Scene({"name": "irg", "weight": 2.0}, STUDENT, TEACHER)
    expected = {"task": 1.0, "irg-vertices": 0.2, "irg-edges": 10.0, "irg-transformation": 10.0}
    assert scene.weights() == expected


def test_one_stage_has_no_transformation() -> None:
    scene = Scene({"name": "irg", "taps": {"stage3": "stage3"}}, STUDENT, TEACHER)
    assert set(scene.loss()) == {"irg-vertices", "irg-edges"}


@pytest.mark.parametrize("channels", [(3, 5), (5, 3), (4, 4)])
def test_transformation_accepts_any_channel_counts(channels: tuple[int, int]) -> None:
    first, second = (torch.from_numpy(RNG.normal(size=(4, count, 4, 4))) for count in channels)
    assert float(transformation(first, second).max()) == 1.0


def test_samples_that_do_not_move_have_a_transformation_of_zero() -> None:
    maps = torch.ones(3, 2, 4, 4, requires_grad=True)
    moved = transformation(maps, torch.ones(3, 2, 4, 4))
    moved.sum().backward()  # type: ignore[no-untyped-call]
    assert moved.eq(0).all() and maps.grad is not None and maps.grad.isfinite().all()


def test_batch_of_one_is_refused_with_the_need() -> None:
    with pytest.raises(UsageError, match="`irg-edges` compares the samples of a batch"):
        Scene("irg", STUDENT, TEACHER).loss([0])
