"""Deep mutual learning against its updates written out in NumPy, together and in turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgekd.distill.methods.peers.dml import Settings
from tests.distill.methods.answers import Array, cross_entropy, softmax
from tests.distill.methods.cohort_tables import LEARNING_RATE, Tables, label_gradient

RNG = np.random.default_rng(2)
NAMES = ("student", "peer1", "peer2")
TABLES = {name: RNG.normal(size=(6, 5)) * 2 for name in NAMES}
LABELS = RNG.integers(5, size=6)


def cohort(**settings: Any) -> Tables:
    return Tables({"name": "dml", "peers": 2, **settings}, TABLES, LABELS)


def divergence(target: Array, logits: Array, temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(logits, temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())


def updated(name: str, tables: dict[str, Array], temperature: float = 1.0, weight: float = 1.0) -> Array:
    """One network after a step of gradient descent; the others are constants."""
    own = tables[name]
    peers = [softmax(other, temperature) for key, other in tables.items() if key != name]
    pull = sum(softmax(own, temperature) - peer for peer in peers) / len(peers) / len(own)
    return own - LEARNING_RATE * (label_gradient(own, LABELS) + weight * temperature * pull)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_every_network_has_its_cross_entropy_and_the_mean_divergence_from_its_peers(
    temperature: float,
) -> None:
    values = cohort(temperature=temperature).step()
    for name, own in TABLES.items():
        others = [divergence(other, own, temperature) for key, other in TABLES.items() if key != name]
        assert values[f"dml:{name}"] == pytest.approx(sum(others) / 2, rel=1e-12)
        task = "task" if name == "student" else f"task:{name}"
        assert values[task] == pytest.approx(cross_entropy(own, LABELS), rel=1e-12)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (2.0, 0.5)])
def test_together_every_network_learns_from_what_the_others_were(temperature: float, weight: float) -> None:
    networks = cohort(order="together", temperature=temperature, weight=weight)
    networks.step()
    for name in NAMES:
        expected = updated(name, TABLES, temperature, weight)
        np.testing.assert_allclose(networks.table(name), expected, atol=1e-12)


def test_in_turn_a_network_learns_from_what_the_earlier_ones_have_become() -> None:
    networks, tables = cohort(order="in_turn"), dict(TABLES)
    networks.step()
    for name in NAMES:
        tables[name] = updated(name, tables)
        np.testing.assert_allclose(networks.table(name), tables[name], atol=1e-12)
    assert np.abs(tables["peer2"] - updated("peer2", TABLES)).max() > 1e-3, "the orders differ"


@pytest.mark.parametrize(("order", "passes"), [("together", (1, 1, 1)), ("in_turn", (2, 3, 2))])
def test_in_turn_a_network_runs_before_while_and_after_it_learns(order: str, passes: tuple[int, ...]) -> None:
    networks = cohort(order=order)
    networks.step()
    assert networks.engine.cache.num_runs == dict(zip(NAMES, passes, strict=True))


@pytest.mark.parametrize("order", ["together", "in_turn"])
def test_the_student_is_deployed(order: str) -> None:
    networks = cohort(order=order)
    networks.step()
    deployed = networks.engine.deployed().state_dict()["rows"].numpy()
    np.testing.assert_array_equal(deployed, networks.table("student"))


def test_training_in_turn_resumes_bit_for_bit() -> None:
    whole, first, second = (cohort(order="in_turn") for _ in range(3))
    expected = [whole.step(number, of=5) for number in range(5)]
    for number in range(3):
        first.step(number, of=5)
    second.engine.load_state(first.engine.state())
    assert [second.step(number, of=5) for number in (3, 4)] == expected[3:]
    assert all(np.array_equal(second.table(name), whole.table(name)) for name in NAMES)


@pytest.mark.parametrize("peers", [0, (), [{"network": "wrn", "depth": 10}]])
def test_a_cohort_without_peers_and_a_misspelt_network_are_refused(peers: object) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"peers": peers})
