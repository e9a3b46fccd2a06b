"""Collaborative learning: its three targets, and the step that follows, against NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.distill.methods.peers.kdcl import TARGETS, best_logits, linear_logits, min_logits
from tests.distill.methods.answers import Array, softmax
from tests.distill.methods.cohort_tables import LEARNING_RATE, Tables, label_gradient

RNG = np.random.default_rng(4)
NUM_SAMPLES, NUM_CLASSES = 40, 6
LOGITS = RNG.normal(size=(3, NUM_SAMPLES, NUM_CLASSES)) * 2
LABELS = RNG.integers(NUM_CLASSES, size=NUM_SAMPLES)
ROWS = np.arange(NUM_SAMPLES)


def target(name: str, logits: Array) -> Array:
    return np.asarray(TARGETS[name](torch.from_numpy(logits), torch.from_numpy(LABELS)).numpy())


def losses(logits: Array) -> Array:
    """Cross-entropy per sample, of [..., N, C]."""
    return np.asarray(-np.log(softmax(logits)[..., ROWS, LABELS]))


def test_min_logit_takes_the_least_margin_of_every_class() -> None:
    expected = np.empty((NUM_SAMPLES, NUM_CLASSES))
    for sample, label in enumerate(LABELS):
        for c in range(NUM_CLASSES):
            expected[sample, c] = min(net[sample, c] - net[sample, label] for net in LOGITS)
    np.testing.assert_allclose(target("minlogit", LOGITS), expected, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_min_logit_is_at_least_as_sure_of_the_label_as_any_network(temperature: float) -> None:
    sure = softmax(target("minlogit", LOGITS), temperature)[ROWS, LABELS]
    assert np.all(sure >= softmax(LOGITS, temperature)[:, ROWS, LABELS].max(axis=0) - 1e-15)


def test_naive_takes_the_network_with_the_smallest_cross_entropy() -> None:
    best = losses(LOGITS).argmin(axis=0)
    assert len(set(best)) == 3
    np.testing.assert_array_equal(target("naive", LOGITS), LOGITS[best, ROWS])


def test_linear_is_the_best_mixture_of_two_networks() -> None:
    """The derivative by the weight vanishes, or points out of [0, 1] at an end."""
    shares = np.linspace(0, 1, 20001)[:, None, None]
    mixed = np.stack([losses(share * LOGITS[0] + (1 - share) * LOGITS[1]) for share in shares])
    best = shares[mixed.argmin(axis=0), 0]
    assert 0.2 < ((best > 0) & (best < 1)).mean() < 0.8, "inner and outer optima occur"
    expected = best * LOGITS[0] + (1 - best) * LOGITS[1]
    np.testing.assert_allclose(target("linear", LOGITS[:2]), expected, atol=1e-3)


def test_linear_is_no_worse_than_any_mixture_of_three_networks_on_a_grid() -> None:
    actual = losses(target("linear", LOGITS))
    steps = range(0, 51)
    for first, second in itertools.product(steps, steps):
        if first + second <= 50:
            mixture = np.array([first, second, 50 - first - second]) / 50
            assert np.all(actual <= losses(np.tensordot(mixture, LOGITS, 1)) + 1e-6)


@pytest.mark.parametrize("make", [min_logits, best_logits, linear_logits])
def test_equal_networks_agree_with_their_target(make: Any) -> None:
    same = np.stack([LOGITS[0]] * 3)
    probabilities = softmax(make(torch.from_numpy(same), torch.from_numpy(LABELS)).numpy())
    np.testing.assert_allclose(probabilities, softmax(LOGITS[0]), atol=1e-12)


# ---- The step ------------------------------------------------------------------------------------

TABLES = {"student": RNG.normal(size=(8, 5)) * 2, "peer1": RNG.normal(size=(8, 5)) * 2}
TABLE_LABELS = RNG.integers(5, size=8)
SHOWN = {"x": list(range(8)), "x2": [5, 2, 7, 0, 1, 6, 3, 4]}
"""Rows that the student and its peer see of the same images."""


def test_every_network_sees_its_own_view_and_imitates_the_joint_target() -> None:
    networks = Tables({"name": "kdcl", "weight": 0.7}, TABLES, TABLE_LABELS)
    assert networks.program.views == ("x", "x2")
    values = networks.step(views=SHOWN)
    seen = {"student": TABLES["student"], "peer1": TABLES["peer1"][SHOWN["x2"]]}
    margins = [logits - logits[np.arange(8), TABLE_LABELS][:, None] for logits in seen.values()]
    joint = softmax(np.minimum(*margins), 2.0)
    for (name, logits), view in zip(seen.items(), SHOWN, strict=True):
        own = softmax(logits, 2.0)
        assert values[f"kdcl:{name}"] == pytest.approx(
            4 * (joint * np.log(joint / own)).sum(axis=1).mean(), rel=1e-12
        )
        gradient = label_gradient(logits, TABLE_LABELS) + 0.7 * 2 * (own - joint) / 8
        expected = TABLES[name].copy()
        expected[SHOWN[view]] -= LEARNING_RATE * gradient
        np.testing.assert_allclose(networks.table(name), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["naive", "linear"])
def test_other_targets_make_other_steps(kind: str) -> None:
    networks, default = (
        Tables({"name": "kdcl", "target": chosen}, TABLES, TABLE_LABELS) for chosen in (kind, "minlogit")
    )
    networks.step(views=SHOWN)
    default.step(views=SHOWN)
    assert not np.allclose(networks.table("student"), default.table("student"))
