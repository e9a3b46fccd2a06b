"""Contrastive distillation against a NumPy simulation of Tian et al. 2020, section 3, and its bank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core.errors import UsageError
from edgekd.distill.bank import EmbeddingBank
from edgekd.distill.kernels.contrast import info_nce, noise_contrastive
from edgekd.distill.methods.relation import crd
from edgekd.testing.tiny_runs import engine_of, train
from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(19)
STUDENT, TEACHER = {"embedding": RNG.normal(size=(9, 3))}, {"embedding": RNG.normal(size=(9, 5))}
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2]
TAU = 0.5


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)))


def scene(**settings: Any) -> Scene:
    method = {"name": "crd", "dimensions": 4, "temperature": TAU, "num_negatives": 50, **settings}
    return Scene(method, STUDENT, TEACHER, LABELS)


def heads(where: Scene) -> tuple[Array, Array]:
    """Both networks' unit embeddings of all rows."""
    student, teacher = (where.adapter("crd", role) for role in ("student", "teacher"))
    return (
        unit(STUDENT["embedding"] @ student["linear.weight"].T + student["linear.bias"]),
        unit(TEACHER["embedding"] @ teacher["linear.weight"].T + teacher["linear.bias"]),
    )


def turn_heads(where: Scene) -> None:
    """What an optimizer would do."""
    for adapter in where.adapters["crd"].values():
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.from_numpy(RNG.normal(size=tuple(parameter.shape))))


# ---- The loss ------------------------------------------------------------------------------------


def nce(positive: float, negatives: list[float], *, z: float, m: float, n: int) -> float:
    """-log h(+) - N mean of log(1 - h(-)) with h = (e^s / Z) / (e^s / Z + N / M), as in the authors' code."""

    def h(score: float) -> float:
        probability = np.exp(score) / z
        return float(probability / (probability + n / m))

    attraction = -np.log(h(positive))
    return float(attraction - n * np.mean([np.log(1 - h(score)) for score in negatives]))


def test_noise_contrastive_is_the_formula_of_the_code_where_z_and_m_are_their_ratio() -> None:
    positives, negatives = RNG.normal(size=4), RNG.normal(size=(4, 6))
    expected = [nce(p, list(n), z=70.0, m=20.0, n=6) for p, n in zip(positives, negatives, strict=True)]
    actual = noise_contrastive(
        torch.from_numpy(positives),
        torch.from_numpy(negatives),
        torch.ones(4, 6, dtype=torch.bool),
        num_negatives=6,
        log_constant=torch.tensor(70.0 / 20.0, dtype=torch.float64).log(),
    )
    assert float(actual) == pytest.approx(np.mean(expected), rel=1e-12)


def test_noise_contrastive_without_negatives_attracts_only() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    scores = torch.tensor([0.3, -1.0], requires_grad=True)
    value = noise_contrastive(
        scores, torch.zeros(2, 3), nothing, num_negatives=5, log_constant=torch.tensor(0.0)
    )
    expected = np.log(1 + 5 / np.exp([0.3, -1.0])).mean()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)


def test_gradient_of_the_losses_passes_finite_differences() -> None:
    positives = torch.from_numpy(RNG.normal(size=3)).requires_grad_(True)
    negatives = torch.from_numpy(RNG.normal(size=(3, 5))).requires_grad_(True)
    counted = torch.from_numpy(RNG.random((3, 5)) < 0.6)

    def loss(positives: Tensor, negatives: Tensor) -> Tensor:
        constant = torch.tensor(0.4, dtype=torch.float64)
        return noise_contrastive(positives, negatives, counted, num_negatives=7, log_constant=constant)

    assert torch.autograd.gradcheck(loss, (positives, negatives))
    scores = torch.from_numpy(RNG.normal(size=(4, 4))).requires_grad_(True)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    assert torch.autograd.gradcheck(lambda s: info_nce(s, same), (scores,))


# ---- The bank, update by update ------------------------------------------------------------------


class Simulation:
    """What the paper's loss with its memory bank is, image by image."""

    def __init__(self, student_rows: Array, teacher_rows: Array, constants: tuple[float, float]) -> None:
        self.banks = {"student": student_rows.copy(), "teacher": teacher_rows.copy()}
        self.constants = constants
        self.seen: set[int] = set()

    def update(self, student: Array, teacher: Array, batch: list[int]) -> float:
        """One batch against the whole bank, N = 50; then the bank moves."""
        now = {"student": student, "teacher": teacher}
        for image in batch:
            if image not in self.seen:
                self.banks["student"][image], self.banks["teacher"][image] = student[image], teacher[image]
                self.seen.add(image)
        total = 0.0
        for side, other, constant in zip(
            ("student", "teacher"), ("teacher", "student"), self.constants, strict=True
        ):
            for image in batch:
                scores = self.banks[other] @ now[side][image] / TAU
                negatives = [scores[j] for j in range(9) if j not in self.seen or LABELS[j] != LABELS[image]]
                total += nce(scores[image], negatives, z=constant * 9, m=9, n=50)
        for side, rows in now.items():
            for image in batch:
                mixed = 0.5 * self.banks[side][image] + 0.5 * rows[image]
                self.banks[side][image] = mixed / np.sqrt((mixed**2).sum())
        return total / len(batch)


def memory_of(where: Scene) -> dict[str, Array]:
    return {key: value.numpy() for key, value in where.live.memory["term:crd"].items()}


def seeded(where: Scene) -> Simulation:
    """Scene and simulation with the same bank of images that nobody has seen."""
    rows = np.random.default_rng(1).normal(size=(2, 9, 4)) * 0.5
    constants = (1.3, 0.8)
    where.live.memory["term:crd"] = {
        "student": torch.from_numpy(rows[0].copy()),
        "teacher": torch.from_numpy(rows[1].copy()),
        "groups": torch.full((9,), -1),
        "constants": torch.tensor(constants, dtype=torch.float64).log(),
    }
    return Simulation(rows[0], rows[1], constants)


def test_loss_is_the_papers_over_several_updates_of_the_bank() -> None:
    """The heads change between the updates, so that what a row holds and when it moves matters."""
    where = scene()
    simulation = seeded(where)
    for batch in ([8, 0, 1], [0, 3, 4, 8], [5, 0, 2], [0, 8, 6]):
        expected = simulation.update(*heads(where), batch)
        assert where.loss(batch)["crd"] == pytest.approx(expected, rel=1e-10)
        turn_heads(where)


def test_rows_move_by_momentum_and_stay_of_length_one() -> None:
    bank = EmbeddingBank({}, torch.zeros(1, 2), torch.Generator())
    bank.grow(torch.tensor([3]))
    old, new, at = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([2])
    bank.meet(at, torch.tensor([0]), old, old)
    bank.move(at, new, new, 0.5)
    torch.testing.assert_close(bank.student[2], torch.tensor([0.5, 0.5]) * 2**0.5)
    bank.move(at, new, new, 0.0)
    torch.testing.assert_close(bank.teacher[2], new[0])


def test_a_new_bank_grows_to_the_largest_index_and_keeps_its_rows() -> None:
    memory: dict[str, Tensor] = {}
    bank = EmbeddingBank(memory, torch.zeros(1, 64, dtype=torch.float64), torch.Generator().manual_seed(0))
    bank.grow(torch.tensor([4]))
    before = bank.student.clone()
    bank.grow(torch.tensor([999, 3]))
    assert bank.student.shape == bank.teacher.shape == (1000, 64) and bank.student.dtype == torch.float64
    assert bank.student[:5].equal(before) and not bank.student[5:10].equal(before)
    assert bank.groups.eq(-1).all()
    lengths = bank.teacher.norm(dim=1)
    assert 0.95 < float(lengths.mean()) < 1.05


def test_the_constant_is_measured_once_against_random_rows() -> None:
    """The mean of e^(u.v/tau) for a fixed unit v and random u of variance 1/d is e^(1 / (2 d tau^2))."""
    rows = RNG.normal(size=(3000, 3))
    where = Scene("crd", {"embedding": rows}, {"embedding": rows}, [0] * 3000)
    where.loss([0, 1, 2999])
    first = memory_of(where)["constants"]
    np.testing.assert_allclose(first, 1 / (2 * 128 * 0.07**2), atol=0.15)
    where.loss([5, 6, 7])
    assert np.array_equal(memory_of(where)["constants"], first)


def test_samples_without_a_position_in_the_data_set_are_refused() -> None:
    bank = EmbeddingBank({}, torch.zeros(1, 4), torch.Generator())
    with pytest.raises(UsageError, match=r"which training image.*\n.*negatives: batch"):
        bank.grow(torch.tensor([-1, -1]))


# ---- Negatives -----------------------------------------------------------------------------------


def test_a_draw_takes_every_row_alike_and_none_twice() -> None:
    bank = EmbeddingBank({}, torch.zeros(1, 1), torch.Generator().manual_seed(0))
    bank.grow(torch.tensor([7]))
    draws = torch.stack([bank.draw(3) for _ in range(4000)])
    assert all(len(set(draw)) == 3 for draw in draws.tolist())
    np.testing.assert_allclose(np.bincount(draws.flatten().numpy()) / 4000, 3 / 8, atol=0.03)
    assert bank.draw(8).tolist() == list(range(8))


def whole_bank_loss(where: Scene, simulation: Simulation, num_negatives: int) -> float:
    """Of all images, against every row of another class."""
    embeddings, total = heads(where), 0.0
    sides = (("teacher", embeddings[0]), ("student", embeddings[1]))
    for (other, anchors), c in zip(sides, simulation.constants, strict=True):
        for image, anchor in enumerate(anchors):
            scores = simulation.banks[other] @ anchor / TAU
            negatives = [scores[j] for j in range(9) if LABELS[j] != LABELS[image]]
            total += nce(scores[image], negatives, z=9 * c, m=9, n=num_negatives)
    return total / 9


def test_drawn_negatives_have_the_whole_bank_as_expectation() -> None:
    where = scene(num_negatives=7)
    simulation = seeded(where)
    start = {**where.live.memory["term:crd"], "groups": torch.tensor(LABELS)}
    values = []
    for _ in range(300):
        where.live.memory["term:crd"] = {name: value.clone() for name, value in start.items()}
        values.append(where.loss()["crd"])
    assert np.std(values) > 0.05
    assert np.mean(values) == pytest.approx(whole_bank_loss(where, simulation, 7), rel=0.01)


def test_draws_depend_on_the_update_alone() -> None:
    one, other = scene(num_negatives=4), scene(num_negatives=4)
    values = [[where.loss([0, 1, 8])["crd"] for _ in range(3)] for where in (one, other)]
    assert values[0] == values[1] and len(set(values[0])) == 3


def test_images_of_the_same_class_are_negatives_only_when_asked_for() -> None:
    """Nine images of one class: nothing to repel, or eight others each."""
    embeddings = {"embedding": RNG.normal(size=(9, 3))}
    alone = Scene("crd", embeddings, embeddings)
    asked = Scene({"name": "crd", "same_class": True}, embeddings, embeddings)
    assert asked.loss()["crd"] > alone.loss()["crd"] + 0.1
    needs = [where.program.turns[-1].terms[1].needs.labels for where in (alone, asked)]
    assert needs == [True, False]


@pytest.mark.parametrize("same_class", [False, True])
def test_negatives_of_the_batch_give_info_nce_both_ways(same_class: bool) -> None:
    where = scene(negatives="batch", same_class=same_class)
    student, teacher = heads(where)
    scores, total = student @ teacher.T / TAU, 0.0
    for i in range(9):
        others = [j for j in range(9) if j == i or same_class or LABELS[j] != LABELS[i]]
        total -= np.log(np.exp(scores[i, i]) / np.exp(scores[i, others]).sum())
        total -= np.log(np.exp(scores[i, i]) / np.exp(scores[others, i]).sum())
    assert where.loss()["crd"] == pytest.approx(total / 9, rel=1e-12)
    assert where.live.memory == {}


def test_negatives_of_a_batch_of_one_are_refused_and_the_bank_needs_no_batch() -> None:
    with pytest.raises(UsageError, match="`crd` compares the samples of a batch"):
        scene(negatives="batch").loss([4])
    assert np.isfinite(scene().loss([4])["crd"])


# ---- In training ---------------------------------------------------------------------------------


def test_both_heads_learn_and_the_teacher_does_not() -> None:
    where = scene()
    where.loss()
    assert np.abs(where.gradient("embedding")).sum() > 0
    for head in where.adapters["crd"].values():
        gradient = head.get_parameter("linear.weight").grad
        assert gradient is not None and gradient.abs().sum() > 0
    assert where.roles["teacher"].module.get_parameter("tables.embedding").grad is None


def test_defaults_are_those_of_the_authors() -> None:
    settings = crd.Settings()
    assert (settings.num_negatives, settings.dimensions, settings.temperature) == (16384, 128, 0.07)
    assert (settings.momentum, settings.weight, settings.same_class) == (0.5, 0.8, False)


def test_the_bank_is_part_of_the_training_state() -> None:
    engine = engine_of("crd")
    train(engine, 8, end=2)
    saved = engine.state()["memory"]["term:crd"]
    assert saved["student"].shape == saved["teacher"].shape and saved["student"].shape[1] == 128
    copy = saved["student"].clone()
    train(engine, 8, begin=2, end=4)
    assert saved["student"].equal(copy)
