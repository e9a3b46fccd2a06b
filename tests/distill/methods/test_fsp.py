"""Flow of solution procedure against a NumPy derivation of Yim et al. 2017, equations 1 and 2."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.methods.relation.fsp import flow
from edgekd.testing.tiny_runs import engine_of, train
from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(16)
SIZES = {"stage1": 4, "stage2": 4, "stage3": 2}
STUDENT = {tap: RNG.normal(size=(3, n, size, size)) for n, (tap, size) in enumerate(SIZES.items(), 2)}
TEACHER = {tap: RNG.normal(size=(3, n, size, size)) for n, (tap, size) in enumerate(SIZES.items(), 2)}
WIDER = {tap: RNG.normal(size=(3, n, size, size)) for n, (tap, size) in enumerate(SIZES.items(), 5)}


def pooled(maps: Array, size: int, how: str) -> Array:
    """[B, C, H, W] -> [B, C, size, size]."""
    b, c, h, _ = maps.shape
    cells = maps.reshape(b, c, size, h // size, size, h // size)
    return np.asarray(cells.max(axis=(3, 5)) if how == "max" else cells.mean(axis=(3, 5)))


def fsp_matrix(first: Array, second: Array, how: str = "max") -> Array:
    size = min(first.shape[2], second.shape[2])
    first, second = pooled(first, size, how), pooled(second, size, how)
    matrix = np.zeros((len(first), first.shape[1], second.shape[1]))
    for h in range(size):
        for w in range(size):
            matrix += first[:, :, None, h, w] * second[:, None, :, h, w]
    return np.asarray(matrix / size**2)


def expected(student: dict[str, Array], teacher: dict[str, Array], how: str = "max") -> float:
    flows = [("stage1", "stage2"), ("stage2", "stage3")]
    return sum(
        float(
            ((fsp_matrix(student[a], student[b], how) - fsp_matrix(teacher[a], teacher[b], how)) ** 2).mean()
        )
        for a, b in flows
    )


@pytest.mark.parametrize("how", ["max", "average"])
def test_loss_of_the_first_phase_compares_neighboring_stages(how: str) -> None:
    scene = Scene({"name": "fsp", "pool": how}, STUDENT, TEACHER)
    assert scene.loss(phase=0)["fsp"] == pytest.approx(expected(STUDENT, TEACHER, how), rel=1e-12)


def test_default_pooling_is_the_papers() -> None:
    assert Scene("fsp", STUDENT, TEACHER).loss(phase=0)["fsp"] == pytest.approx(expected(STUDENT, TEACHER))


def test_other_channel_counts_go_through_a_1x1_convolution() -> None:
    scene = Scene("fsp", STUDENT, WIDER)
    mapped = {
        tap: np.einsum("oc,bchw->bohw", scene.adapter("fsp", tap)["weight"][:, :, 0, 0], maps)
        for tap, maps in STUDENT.items()
    }
    assert scene.loss(phase=0)["fsp"] == pytest.approx(expected(mapped, WIDER), rel=1e-12)


def test_equal_channel_counts_have_no_adapter() -> None:
    assert all(not Scene("fsp", STUDENT, TEACHER).adapter("fsp", tap) for tap in STUDENT)


def test_a_flow_with_itself_is_symmetric_positive_and_blind_to_where_things_are() -> None:
    """The survey's equation 11."""
    maps = torch.from_numpy(STUDENT["stage3"])
    matrix = flow(maps, maps, "max")
    torch.testing.assert_close(matrix, matrix.mT)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12
    moved = maps.flatten(2)[:, :, [2, 0, 3, 1]].view_as(maps)
    torch.testing.assert_close(flow(moved, moved, "max"), matrix)


def test_first_phase_is_the_term_alone_and_the_second_the_task_alone() -> None:
    program = Scene("fsp", STUDENT, TEACHER).program
    names = [[term.name for term in phase.turns[-1].terms] for phase in program.phases]
    assert names == [["fsp"], ["task"]]
    assert program.phases[0].share / (program.phases[0].share + program.phases[1].share) == 0.25


def test_the_first_phase_leaves_the_classifier_alone() -> None:
    engine = engine_of("fsp")
    before = {key: value.clone() for key, value in engine.roles["student"].module.state_dict().items()}
    train(engine, 8, end=4)
    after = engine.roles["student"].module.state_dict()
    same = {key for key, value in after.items() if value.equal(before[key])}
    assert same == {"linear.weight", "linear.bias"}


def test_one_layer_makes_no_flow() -> None:
    with pytest.raises(UsageError, match="needs two layers to relate and got one"):
        Scene("fsp", {"stage1": STUDENT["stage1"]}, {"stage1": TEACHER["stage1"]})
