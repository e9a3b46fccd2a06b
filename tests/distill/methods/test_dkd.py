"""Decoupled distillation against a NumPy derivation of equations 2 to 7."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.distill.methods.response.dkd import non_target_kl, target_class_kl
from tests.distill.methods.answers import Array, Scene, cross_entropy, softmax

RNG = np.random.default_rng(6)
STUDENT, TEACHER = RNG.normal(size=(2, 16, 5)) * 3
LABELS = RNG.integers(5, size=16)
ROWS = np.arange(16)


def parts(student: Array, teacher: Array, temperature: float) -> tuple[Array, Array]:
    """Per sample: KL of (p_y, 1 - p_y), and KL of the other classes' probabilities divided by 1 - p_y."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    target_class, others = np.zeros(16), np.zeros(16)
    for row, label in enumerate(LABELS):
        pt, ps = p[row, label], q[row, label]
        target_class[row] = pt * np.log(pt / ps) + (1 - pt) * np.log((1 - pt) / (1 - ps))
        for other in set(range(5)) - {int(label)}:
            pi, qi = p[row, other] / (1 - pt), q[row, other] / (1 - ps)
            others[row] += pi * np.log(pi / qi)
    return temperature**2 * target_class, temperature**2 * others


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), torch.from_numpy(LABELS)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_parts_follow_the_papers_definitions(temperature: float) -> None:
    target_class, others = parts(STUDENT, TEACHER, temperature)
    assert float(target_class_kl(*tensors(), temperature)) == pytest.approx(target_class.mean(), rel=1e-12)
    assert float(non_target_kl(*tensors(), temperature)) == pytest.approx(others.mean(), rel=1e-12)


def test_default_loss_after_the_warm_up_has_beta_eight() -> None:
    target_class, others = parts(STUDENT, TEACHER, 4)
    expected = cross_entropy(STUDENT, LABELS) + target_class.mean() + 8 * others.mean()
    loss = Scene("dkd", STUDENT, TEACHER, labels=LABELS).loss(fraction=0.1)
    assert loss.total == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("fraction", "share"), [(0.0, 0.0), (1 / 48, 0.25), (1 / 12, 1.0), (0.9, 1.0)])
def test_weights_rise_linearly_over_the_warm_up(fraction: float, share: float) -> None:
    target_class, others = parts(STUDENT, TEACHER, 4)
    distilled = target_class.mean() + 8 * others.mean()
    loss = Scene("dkd", STUDENT, TEACHER, labels=LABELS).loss(fraction=fraction)
    assert loss.total == pytest.approx(cross_entropy(STUDENT, LABELS) + share * distilled, rel=1e-12)


def test_no_warm_up_gives_the_full_weight_at_once() -> None:
    method = {"name": "dkd", "warmup": 0.0, "alpha": 2.0, "beta": 3.0, "weight": 0.5}
    scene = Scene(method, STUDENT, TEACHER, labels=LABELS)
    loss = scene.loss(fraction=0.0)
    expected = loss.terms["task"] + loss.terms["dkd-target"] + 1.5 * loss.terms["dkd-non-target"]
    assert loss.total == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_beta_of_one_minus_the_teachers_confidence_is_plain_kd(temperature: float) -> None:
    """Equation 6, sample by sample: KL = TCKD + (1 - p_t(y)) NCKD."""
    p = softmax(TEACHER, temperature)
    plain = temperature**2 * (p * np.log(p / softmax(STUDENT, temperature))).sum(axis=1)
    for row in ROWS:
        student, teacher, label = (tensor[row : row + 1] for tensor in tensors())
        beta = 1 - p[row, LABELS[row]]
        decoupled = target_class_kl(student, teacher, label, temperature)
        decoupled += beta * non_target_kl(student, teacher, label, temperature)
        assert float(decoupled) == pytest.approx(plain[row], rel=1e-10)


def test_the_others_do_not_see_the_labels_logit_and_the_label_not_who_the_others_are() -> None:
    student, teacher, labels = tensors()
    moved = student.clone()
    moved[ROWS, labels] += 7.0
    assert non_target_kl(moved, teacher, labels, 4.0) == non_target_kl(student, teacher, labels, 4.0)
    order = torch.tensor([[c for c in range(5) if c != label] for label in LABELS])
    swapped = student.scatter(1, order, student.gather(1, order.flip(1)))
    torch.testing.assert_close(
        target_class_kl(swapped, teacher, labels, 4.0), target_class_kl(student, teacher, labels, 4.0)
    )


def test_two_classes_leave_nothing_but_the_target_class() -> None:
    """Then TCKD is plain kd and NCKD is zero, with a zero gradient."""
    labels = torch.tensor([0, 1, 1])
    student, teacher = (torch.from_numpy(z[:3, :2].copy()) for z in (STUDENT, TEACHER))
    student.requires_grad_(True)
    others = non_target_kl(student, teacher, labels, 4.0)
    others.backward()  # type: ignore[no-untyped-call]
    assert float(others.detach()) == 0.0 and student.grad is not None and not student.grad.any()


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_extreme_logits_give_finite_values_and_gradients(scale: float) -> None:
    student = torch.from_numpy(STUDENT * scale).float().requires_grad_(True)
    teacher, labels = torch.from_numpy(TEACHER * scale).float(), torch.from_numpy(LABELS)
    value = target_class_kl(student, teacher, labels, 4.0) + non_target_kl(student, teacher, labels, 4.0)
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value) and student.grad is not None and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("part", [target_class_kl, non_target_kl])
def test_gradients_pass_finite_differences(part: object) -> None:
    assert callable(part)
    student, teacher, labels = (tensor[:3] for tensor in tensors())
    student = student.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: part(z, teacher, labels, 2.0), (student,))
