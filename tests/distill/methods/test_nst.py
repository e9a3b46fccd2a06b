"""Neuron selectivity transfer against a NumPy derivation of Huang & Wang 2017, section 3."""

from __future__ import annotations

import numpy as np
import pytest

from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(15)
STUDENT = {f"stage{n}": RNG.normal(size=(3, 4, 4, 4)) for n in (1, 2)}
TEACHER = {f"stage{n}": RNG.normal(size=(3, 6, 4, 4)) for n in (1, 2)}


def neurons(maps: Array) -> list[Array]:
    """The unit channel maps of one image [C, H, W]."""
    return [channel.ravel() / np.linalg.norm(channel) for channel in maps]


def mmd(student: Array, teacher: Array) -> float:
    ours, others = neurons(student), neurons(teacher)

    def mean(rows: list[Array], columns: list[Array]) -> float:
        return float(np.mean([float(v @ w) ** 2 for v in rows for w in columns]))

    return mean(others, others) + mean(ours, ours) - 2 * mean(ours, others)


def expected(tap: str) -> float:
    return float(np.mean([mmd(s, t) for s, t in zip(STUDENT[tap], TEACHER[tap], strict=True)]))


def test_loss_is_the_mmd_of_the_last_stage_with_weight_50() -> None:
    scene = Scene("nst", STUDENT, TEACHER)
    assert scene.loss()["nst"] == pytest.approx(expected("stage2"), rel=1e-10)
    assert scene.weights()["nst"] == 50


def test_taps_add_up() -> None:
    taps = {"stage1": "stage1", "stage2": "stage2"}
    scene = Scene({"name": "nst", "taps": taps}, STUDENT, TEACHER)
    assert scene.loss()["nst"] == pytest.approx(expected("stage1") + expected("stage2"), rel=1e-10)


def test_the_order_and_the_scale_of_channels_do_not_matter() -> None:
    shuffled = {"stage1": 3 * TEACHER["stage1"][:, [2, 0, 1, 5, 4, 3]]}
    scene = Scene("nst", {"stage1": TEACHER["stage1"]}, shuffled)
    assert scene.loss()["nst"] == pytest.approx(0.0, abs=1e-12)


def test_the_larger_map_is_average_pooled() -> None:
    large = {tap: maps.repeat(2, axis=2).repeat(2, axis=3) for tap, maps in TEACHER.items()}
    assert Scene("nst", STUDENT, large).loss()["nst"] == pytest.approx(expected("stage2"), rel=1e-10)


def test_one_image_suffices_as_nothing_compares_samples() -> None:
    scene = Scene("nst", STUDENT, TEACHER)
    assert scene.loss([1])["nst"] == pytest.approx(mmd(STUDENT["stage2"][1], TEACHER["stage2"][1]), rel=1e-10)


def test_a_dead_channel_gives_no_infinite_gradient() -> None:
    dead = {"stage1": STUDENT["stage1"].copy()}
    dead["stage1"][:, 0] = 0
    scene = Scene("nst", dead, TEACHER)
    scene.loss()
    assert np.isfinite(scene.gradient("stage1")).all() and np.abs(scene.gradient("stage1")).max() < 1e3
