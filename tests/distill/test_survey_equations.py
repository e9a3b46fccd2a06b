"""The numbered equations of the two surveys (gou: Gou et al. 2021, 1-14; hu: Hu et al. 2022, 1-3), each held
by the kernel, or the composition of methods, that stands for it here. References are NumPy in float64.

Relations (gou 11, 12) and distances (hu 2, 3) are in test_survey_relations.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.distill.cast import assemble
from edgekd.distill.compose import build_program
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.kernels.adversary import deception, discrimination
from edgekd.distill.kernels.regress import mean_squared_error
from edgekd.distill.kernels.respond import kl, soft_cross_entropy, squared_error
from edgekd.distill.launch import given_roles
from edgekd.distill.settings import DistillSettings
from edgekd.distill.weights import weight_at
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch, tiny_participant
from edgekd.train.precision import Precision

Array = npt.NDArray[np.float64]
B, C = 64, 10
RNG = np.random.default_rng(2021)
TEACHER, STUDENT = 3 * RNG.standard_normal((B, C)), 3 * RNG.standard_normal((B, C))
LABELS = RNG.integers(0, C, B)


def softmax(z: Array, temperature: float = 1.0) -> Array:
    e = np.exp(z / temperature - (z / temperature).max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def cross_entropy(p: Array, q: Array) -> float:
    return float(-(p * np.log(q)).sum(axis=1).mean())


def centered(z: Array) -> Array:
    return np.asarray(z - z.mean(axis=1, keepdims=True))


def gradient(of: Callable[[Tensor], Tensor], at: Array) -> Array:
    """Per sample: the kernels are means over the batch."""
    student = torch.from_numpy(at).requires_grad_(True)
    (found,) = torch.autograd.grad(of(student), student)
    return np.asarray(found) * len(at)


def our_kl(student: Array, teacher: Array, temperature: float) -> float:
    return float(kl(torch.from_numpy(student), torch.from_numpy(softmax(teacher, temperature)), temperature))


def kl_gradient(student: Array, teacher: Array, temperature: float) -> Array:
    """Of L_D as the survey writes it, without the factor T^2."""
    target = torch.from_numpy(softmax(teacher, temperature))
    return gradient(lambda z: kl(z, target, temperature), student) / temperature**2


def our_softmax(logits: Array, temperature: float = 1.0) -> Array:
    """The probabilities inside the kernel: its gradient is (softmax(z / T) - target) / T, here target 0."""
    nothing = torch.zeros(logits.shape, dtype=torch.float64)
    nothing[:, 0] = 1.0
    raw = gradient(lambda z: soft_cross_entropy(z, nothing, temperature), logits) / temperature
    return np.asarray(raw + nothing.numpy())


def relative(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# ---- gou 1, 2: softmax -----------------------------------------------------------------------------


def test_gou_1_probabilities_are_exponentials_over_their_sum() -> None:
    probabilities = our_softmax(STUDENT)
    expected = np.exp(STUDENT) / np.exp(STUDENT).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-15)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-14)
    np.testing.assert_allclose(our_softmax(STUDENT + 5), probabilities, atol=1e-14)


def test_gou_2_an_infinite_temperature_makes_classes_alike() -> None:
    assert np.abs(our_softmax(STUDENT, 1e6) - 1 / C).max() < 1e-5


def test_gou_2_a_temperature_of_zero_leaves_the_largest_class() -> None:
    first, second = np.sort(STUDENT, axis=1)[:, [-1, -2]].T
    clear = STUDENT[first - second > 0.02]
    assert len(clear) > B / 2
    np.testing.assert_allclose(our_softmax(clear, 1e-3), np.eye(C)[clear.argmax(axis=1)], atol=1e-7)


def test_gou_2_entropy_grows_with_the_temperature_up_to_log_c() -> None:
    sizes = [(p := our_softmax(STUDENT, t), cross_entropy(p, p))[1] for t in (0.5, 1, 2, 4, 8, 100)]
    assert sizes == sorted(sizes) and sizes[0] < 1 < sizes[3]
    assert sizes[-1] == pytest.approx(np.log(C), abs=0.01) and sizes[-1] < np.log(C)


# ---- gou 3-6: the distillation loss, its gradient, and the limit of a high temperature -----------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gou_3_soft_cross_entropy_is_kl_plus_a_constant(temperature: float) -> None:
    target = softmax(TEACHER, temperature)
    scale = temperature**2
    found = float(soft_cross_entropy(torch.from_numpy(STUDENT), torch.from_numpy(target), temperature))
    assert found == pytest.approx(scale * cross_entropy(target, softmax(STUDENT, temperature)), rel=1e-13)
    entropy = scale * cross_entropy(target, target)
    assert found == pytest.approx(our_kl(STUDENT, TEACHER, temperature) + entropy, rel=1e-13)
    soft = gradient(lambda z: soft_cross_entropy(z, torch.from_numpy(target), temperature), STUDENT) / scale
    np.testing.assert_allclose(soft, kl_gradient(STUDENT, TEACHER, temperature), atol=1e-15)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_gou_4_the_gradient_is_the_difference_of_probabilities_over_t(temperature: float) -> None:
    found = kl_gradient(STUDENT, TEACHER, temperature)
    expected = (softmax(STUDENT, temperature) - softmax(TEACHER, temperature)) / temperature
    np.testing.assert_allclose(found, expected, atol=1e-15)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-14)


def taylor(student: Array, teacher: Array, t: float) -> Array:
    parts = [(1 + z / t) / (C + z.sum(axis=1, keepdims=True) / t) for z in (student, teacher)]
    return np.asarray((parts[0] - parts[1]) / t)


@pytest.mark.parametrize("temperature", [10.0, 100.0])
def test_gou_5_the_taylor_gradient_errs_by_one_over_t(temperature: float) -> None:
    def error(t: float) -> float:
        return relative(taylor(STUDENT, TEACHER, t), kl_gradient(STUDENT, TEACHER, t))

    assert 0.05 < error(10.0) < 0.6
    assert 0.08 < error(10 * temperature) / error(temperature) < 0.125


@pytest.mark.parametrize("temperature", [10.0, 100.0])
def test_gou_6_the_gradient_of_centered_logits_tends_to_their_difference(temperature: float) -> None:
    student, teacher = centered(STUDENT), centered(TEACHER)

    def error(t: float) -> float:
        return relative((student - teacher) / (C * t**2), kl_gradient(student, teacher, t))

    assert 0.08 < error(10 * temperature) / error(temperature) < 0.125


def test_gou_6_fails_for_logits_that_are_not_centered_until_they_are() -> None:
    student, teacher = STUDENT - 1, TEACHER + 2
    for t in (100.0, 1e3, 1e4):
        assert relative((student - teacher) / (C * t**2), kl_gradient(student, teacher, t)) > 0.3
    limit = (centered(student) - centered(teacher)) / (C * 1e8)
    assert relative(limit, kl_gradient(student, teacher, 1e4)) < 1e-3


@pytest.mark.parametrize("temperature", [10.0, 100.0])
def test_gou_6_ties_kd_to_logit_regression(temperature: float) -> None:
    student, teacher = centered(STUDENT), centered(TEACHER)
    limit = float(squared_error(torch.from_numpy(student), torch.from_numpy(teacher))) / C

    def error(t: float) -> float:
        return abs(our_kl(student, teacher, t) / limit - 1)

    assert 0.05 < error(10 * temperature) / error(temperature) < 0.2


# ---- Compositions: gou 7, 8, 10, 14 and hu 1 -----------------------------------------------------------


class Composed:
    """The terms of a recipe's methods on tiny networks in float64: names, values, weights, gradients."""

    def __init__(self, settings: dict[str, Any]) -> None:
        student, teacher = tiny_participant(seed=1), tiny_participant(8, seed=2, name="teacher")
        self.program = build_program(
            DistillSettings.model_validate(settings),
            num_teachers=1,
            student_taps=tuple(student.taps),
            teacher_taps=[tuple(teacher.taps)],
        )
        cast = assemble(self.program, given_roles(student, [teacher]), IMAGE_SHAPE, 0)
        for module in (*(role.module for role in cast.roles.values()), *self._adapters(cast.adapters)):
            module.double().eval()
        self.live = Live(cast, Precision("fp32", "cpu"), 0, {}, {})
        batch = tiny_batch(0)
        batch = replace(batch, views={"x": batch.views["x"].double()})
        self.turn = self.program.turns[-1]
        self.context = Context(self.live, self.turn, Progress(0, 0, 0.0), batch, OutputCache())
        self.terms = {term.name: term for term in self.turn.terms}

    @staticmethod
    def _adapters(adapters: Any) -> list[nn.Module]:
        return [module for of_term in adapters.values() for module in of_term.values()]

    def value(self, name: str) -> Tensor:
        return self.terms[name].compute(TermContext(self.context, self.terms[name]))

    def number(self, name: str) -> float:
        return float(self.value(name).detach())

    def total(self) -> float:
        return sum(weight_at(term.weight, 0.0) * self.number(name) for name, term in self.terms.items())

    def logits(self, role: str) -> Array:
        return np.asarray(self.context.outputs(role)["logits"].detach())


def kd_with(alpha: float, temperature: float = 4.0) -> Composed:
    return Composed(
        {"method": {"name": "kd", "weight": alpha, "temperature": temperature}, "task_weight": 1 - alpha}
    )


def test_gou_7_the_student_loss_knows_no_temperature() -> None:
    found = kd_with(0.5, temperature=4.0)
    labels = np.eye(4)[found.context.batch.labels.numpy()]
    hard = cross_entropy(labels, softmax(found.logits("student")))
    assert found.number("task") == pytest.approx(hard, rel=1e-12)
    assert abs(cross_entropy(labels, softmax(found.logits("student"), 4.0)) - hard) > 1e-2


def test_gou_8_the_joint_loss_is_linear_in_alpha() -> None:
    totals = [kd_with(alpha).total() for alpha in (0.0, 0.5, 1.0)]
    assert totals[1] == pytest.approx((totals[0] + totals[2]) / 2, rel=1e-12)
    found = kd_with(0.5)
    assert totals[0] == pytest.approx(found.number("task"), rel=1e-12)
    assert totals[2] == pytest.approx(found.number("kd"), rel=1e-12)


def test_gou_8_needs_t_squared_for_alpha_to_keep_its_meaning() -> None:
    """Measured: the gradient shrinks 16 times from T = 4 to T = 16 as printed, and not with T^2."""
    printed, ours = [
        [np.linalg.norm(kl_gradient(STUDENT, TEACHER, t)) * t**power for t in (4.0, 16.0)] for power in (0, 2)
    ]
    assert 13 < printed[0] / printed[1] < 20
    assert 0.8 < ours[0] / ours[1] < 1.25


def test_gou_10_feature_distances_vanish_at_match_and_never_move_the_teacher() -> None:
    found = Composed({"method": "fitnets"})
    hint = found.program.phases[0].turns[0].terms[0]
    live = found.live.cast
    context = Context(
        found.live, found.program.turns[0], Progress(0, 0, 0.0), found.context.batch, OutputCache()
    )
    hint.compute(TermContext(context, hint)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in live.adapters[hint.name]["regressor"].parameters())
    assert any(p.grad is not None for p in live.roles["student"].module.parameters())
    assert all(p.grad is None for p in live.roles["teacher"].module.parameters())
    features = torch.from_numpy(STUDENT)
    assert float(mean_squared_error(features, features)) == 0


@pytest.mark.parametrize("method", ["at", "nst"])
def test_gou_10_transforms_without_weights_compare_maps_of_other_width(method: str) -> None:
    """The tiny teacher has twice the student's channels."""
    found = Composed({"method": method})
    assert not found.live.cast.adapters[method] and found.number(method) > 0


def test_gou_14_without_its_last_two_terms_is_cross_entropy() -> None:
    psn = {"name": "psn", "weight": 0, "response_weight": 0}
    found = Composed({"method": psn, "task_weight": 1})
    assert found.total() == pytest.approx(found.number("task"), rel=1e-12)
    assert {"psn", "psn-response"} <= set(found.terms)


def test_gou_14_a_discriminator_that_cannot_tell_is_worth_two_log_2() -> None:
    nothing = torch.zeros(B, 1, dtype=torch.float64)
    assert float(discrimination(nothing, nothing)) == pytest.approx(2 * np.log(2), rel=1e-14)


def test_gou_14_a_constant_discriminator_teaches_nothing() -> None:
    features = torch.from_numpy(STUDENT).requires_grad_(True)
    constant = features @ torch.zeros(C, 1, dtype=torch.float64) + 0.7
    (found,) = torch.autograd.grad(deception(constant), features)
    assert float(found.abs().max()) == 0


def test_hu_1_without_features_is_gou_8_up_to_the_teachers_entropy() -> None:
    """The second survey adds L_KL, the first one the cross-entropy L_D: they differ by alpha H(p_t)."""
    found, alpha, t = kd_with(0.3), 0.3, 4.0
    teacher, student = softmax(found.logits("teacher"), t), softmax(found.logits("student"), t)
    hard = cross_entropy(np.eye(4)[found.context.batch.labels.numpy()], softmax(found.logits("student")))
    gou = alpha * t**2 * cross_entropy(teacher, student) + (1 - alpha) * hard
    assert found.total() == pytest.approx(gou - alpha * t**2 * cross_entropy(teacher, teacher), rel=1e-9)


def test_hu_1_is_the_sum_of_three_parts_each_of_which_may_be_left_out() -> None:
    def total(task: float, response: float, feature: float) -> float:
        uses = [{"name": "kd", "weight": response}, {"name": "at", "weight": feature}]
        return Composed({"method": uses, "task_weight": task}).total()

    parts = [total(1, 0, 0), total(0, 2, 0), total(0, 0, 3)]
    assert all(part > 0 for part in parts)
    assert total(1, 2, 3) == pytest.approx(sum(parts), rel=1e-12)


# ---- gou 9: response divergence --------------------------------------------------------------------


def test_gou_9_is_the_divergence_from_the_teachers_side() -> None:
    p, q = softmax(TEACHER), softmax(STUDENT)
    forward, printed = float((p * np.log(p / q)).sum() / B), float((q * np.log(q / p)).sum() / B)
    assert our_kl(STUDENT, TEACHER, 1.0) == pytest.approx(forward, rel=1e-12)
    assert abs(forward - printed) > 1e-2
    assert our_kl(TEACHER, TEACHER, 1.0) == pytest.approx(0, abs=1e-14)


def test_gou_9_averaged_over_classes_too_is_c_times_smaller() -> None:
    logs, target = F.log_softmax(torch.from_numpy(STUDENT), 1), torch.from_numpy(softmax(TEACHER))
    smaller = float(F.kl_div(logs, target, reduction="none").mean())
    assert our_kl(STUDENT, TEACHER, 1.0) == pytest.approx(C * smaller, rel=1e-12)


# ---- gou 13: distillation on generated data -----------------------------------------------------------


@pytest.fixture
def generator() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 12)).double()


def generated_loss(
    generator: nn.Module, student: nn.Module, teacher: nn.Module, loss: Any
) -> tuple[float, float]:
    """The value, and the size of the generator's gradient."""
    latent = torch.randn(B, 6, generator=torch.Generator().manual_seed(1)).double()
    images = generator(latent)
    value = loss(student(images), F.softmax(teacher(images), dim=1))
    found = torch.autograd.grad(value, list(generator.parameters()))
    return float(value.detach()), max(float(each.abs().max()) for each in found)


def test_gou_13_equal_networks_leave_the_generator_alone_under_kl(generator: nn.Module) -> None:
    teacher = nn.Linear(12, C).double()
    value, size = generated_loss(generator, teacher, teacher, kl)
    assert value == pytest.approx(0, abs=1e-14) and size < 1e-12


def test_gou_13_is_the_teachers_entropy_at_match_under_cross_entropy(generator: nn.Module) -> None:
    teacher = nn.Linear(12, C).double()
    value, size = generated_loss(generator, teacher, teacher, soft_cross_entropy)
    latent = torch.randn(B, 6, generator=torch.Generator().manual_seed(1)).double()
    p = softmax(np.asarray(teacher(generator(latent)).detach()))
    assert value == pytest.approx(cross_entropy(p, p), rel=1e-12) and size > 1e-6


def test_gou_13_different_networks_move_the_generator(generator: nn.Module) -> None:
    value, size = generated_loss(generator, nn.Linear(12, C).double(), nn.Linear(12, C).double(), kl)
    assert value > 1e-3 and size > 1e-4
