"""Signs that something other than a model's quality is measured."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.measure.sanity import (
    class_order,
    clearly_better,
    close_calls,
    dead_classes,
    look_like_probabilities,
    near_chance,
)

RNG = np.random.default_rng(0)


def model(labels: np.ndarray, accuracy: float, num_classes: int) -> np.ndarray:
    """Answers that are right for that share of the images, otherwise anything."""
    wrong = RNG.random(len(labels)) > accuracy
    return np.where(wrong, RNG.integers(0, num_classes, len(labels)), labels)


LABELS = np.arange(600) % 6


@pytest.mark.parametrize(
    ("accuracy", "num_classes", "near"),
    [(0.11, 10, True), (0.21, 10, False), (0.6, 2, True), (0.8, 2, False), (0.0, 1000, True)],
)
def test_near_chance_is_below_twice_guessing_or_half_way_to_certainty(
    accuracy: float, num_classes: int, near: bool
) -> None:
    assert near_chance(accuracy, num_classes) is near


def test_clearly_better_needs_two_points_beyond_chance() -> None:
    before = np.arange(600) >= 60
    assert clearly_better(before, np.arange(600) >= 20)
    assert not clearly_better(before, np.arange(600) >= 55)  # 0.8 points
    few = np.arange(30) >= 3
    assert not clearly_better(few, np.arange(30) >= 1)  # two images of thirty
    assert not clearly_better(before, before)


def test_a_permutation_of_the_outputs_is_found() -> None:
    order = np.array([2, 0, 1, 5, 4, 3])
    said = model(LABELS, 0.9, 6)  # class that is meant
    outputs = np.argsort(order)[said]  # output that stands for it
    assert class_order(outputs, LABELS, 6) == order.tolist()


def test_two_exchanged_outputs_are_found_among_right_ones() -> None:
    exchanged = np.array([0, 4, 2, 3, 1, 5])
    assert class_order(exchanged[model(LABELS, 0.8, 6)], LABELS, 6) == [0, 4, 2, 3, 1, 5]


@pytest.mark.parametrize("accuracy", [0.05, 0.3, 0.6, 0.95, 1.0])
def test_a_model_of_any_quality_in_the_right_order_is_left_alone(accuracy: float) -> None:
    assert class_order(model(LABELS, accuracy, 6), LABELS, 6) is None


def test_two_outputs_for_one_class_are_no_order() -> None:
    assert class_order(np.where(LABELS == 3, 2, LABELS), LABELS, 6) is None


def test_an_output_that_never_answers_takes_the_class_that_is_left() -> None:
    labels = np.repeat(np.arange(3), 50)
    answers = np.array([1, 0, 0])[labels]  # output 2 is never given; 0 and 1 are exchanged
    answers[labels == 2] = 1
    assert class_order(np.array([1, 0])[labels[labels < 2]], labels[labels < 2], 3) == [1, 0, 2]


def test_classes_with_images_that_are_never_the_answer_are_dead() -> None:
    answers = np.where(LABELS == 4, 0, LABELS)
    assert dead_classes(answers, LABELS, 6) == [4]
    assert dead_classes(answers, LABELS, 6, fewest=101) == []
    assert dead_classes(LABELS, LABELS, 7) == []  # class 6 has no images


def scores(seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and true labels of a world in which the logits are those of a calibrated model."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (800, 5))
    powers = np.exp(logits / noise)
    shares = powers / powers.sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(5, p=row) for row in shares])
    return logits, labels


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_real_labels_contradict_some_close_calls(seed: int, noise: float) -> None:
    logits, labels = scores(seed, noise)
    calls = close_calls(logits, logits.argmax(axis=1) == labels)
    assert calls.num > 20
    assert not calls.too_good


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_labels_that_are_the_answers_contradict_none(temperature: float) -> None:
    logits, _ = scores(0)
    assert close_calls(logits * temperature, np.ones(len(logits), bool)).too_good


def test_an_easy_task_without_close_calls_is_no_suspicion() -> None:
    logits = np.eye(4)[np.arange(400) % 4] * 9 + RNG.normal(0, 0.3, (400, 4))
    assert not close_calls(logits, np.ones(400, bool)).too_good


def test_probabilities_are_known_by_their_sum() -> None:
    logits = RNG.normal(0, 2, (50, 4))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert look_like_probabilities(shares)
    assert not look_like_probabilities(logits)
    assert not look_like_probabilities(np.full((3, 4), 0.5))
