"""Overhaul: margin from batch norm and from samples, partial L2, and the whole term in NumPy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgekd.core.errors import UsageError
from edgekd.distill.launch import make_engine
from edgekd.distill.method import Roster
from edgekd.distill.methods.feature.overhaul import (
    METHOD,
    gaussian_margin,
    margin_of,
    measured_margin,
    partial_l2,
)
from edgekd.distill.participant import Participant
from edgekd.distill.pre_activation import stage_weights
from edgekd.quant.folding import fold
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch, tiny_participant
from edgekd.testing.tiny_runs import Stage, engine_of, program_of, train, validation_arrays
from edgekd.train.trainable import Position
from tests.distill.building import RULES

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(4)
SCALE = np.array([0.3, 0.5, 0.8, 1.1, 0.4])
SHIFT = np.array([0.2, -0.7, 0.0, 1.5, -1.0])
STUDENT, TEACHER = RNG.normal(size=(3, 5, 4, 4)), RNG.normal(size=(3, 5, 4, 4))
MARGIN = -np.abs(RNG.normal(size=5))


def margins(scale: Array, shift: Array) -> Array:
    return gaussian_margin(torch.from_numpy(scale), torch.from_numpy(shift)).numpy()


def partial(student: Array, teacher: Array, margin: Array) -> float:
    """Equation 5 of the paper, element by element."""
    total = 0.0
    for (b, c, i, j), s in np.ndenumerate(student):
        t = max(teacher[b, c, i, j], margin[c])
        total += 0.0 if s <= t <= 0 else float(t - s) ** 2
    return total / student.size


def test_margin_is_the_integral_over_the_negative_half_of_the_density() -> None:
    for scale, shift, margin in zip(SCALE, SHIFT, margins(SCALE, SHIFT), strict=True):
        x = np.linspace(shift - 12 * scale, 0.0, 200_001)
        density = np.exp(-0.5 * ((x - shift) / scale) ** 2)
        assert margin == pytest.approx((x * density).sum() / density.sum(), rel=1e-3)


def test_margin_is_the_mean_of_the_negative_values_of_a_sample() -> None:
    samples = SHIFT + SCALE * np.random.default_rng(0).normal(size=(400_000, 5))
    empirical = np.array([column[column < 0].mean() for column in samples.T])
    np.testing.assert_allclose(margins(SCALE, SHIFT), empirical, atol=4e-3)


def test_margin_ignores_the_sign_of_the_scale() -> None:
    np.testing.assert_array_equal(margins(-SCALE, SHIFT), margins(SCALE, SHIFT))


def test_channel_that_is_almost_never_negative_has_minus_three_deviations() -> None:
    np.testing.assert_allclose(margins(np.array([0.5]), np.array([1.6])), [-1.5])


def test_channel_without_spread_has_its_own_value_or_zero_as_margin() -> None:
    np.testing.assert_allclose(margins(np.zeros(2), np.array([-0.4, 0.4])), [-0.4, 0.0], atol=1e-30)


def test_batch_norm_without_weights_is_a_standard_normal() -> None:
    margin = margin_of(nn.BatchNorm2d(2, affine=False))
    np.testing.assert_allclose(margin.numpy(), [-math.sqrt(2 / math.pi)] * 2, rtol=1e-6)


def test_partial_l2_is_the_mean_of_equation_5() -> None:
    actual = partial_l2(*(torch.from_numpy(array) for array in (STUDENT, TEACHER, MARGIN)))
    assert float(actual) == pytest.approx(partial(STUDENT, TEACHER, MARGIN), rel=1e-12)


def test_student_below_a_teacher_that_does_not_fire_costs_nothing() -> None:
    teacher = -torch.from_numpy(TEACHER).abs()
    student = teacher.clamp_max(-2.0) - 1.0
    assert float(partial_l2(student, teacher, torch.full((5,), -0.5, dtype=torch.float64))) == 0.0


def test_student_that_equals_the_margin_relu_of_the_teacher_costs_nothing() -> None:
    teacher, margin = torch.from_numpy(TEACHER), torch.from_numpy(MARGIN)
    assert float(partial_l2(torch.maximum(teacher, margin[:, None, None]), teacher, margin)) == 0.0


def test_gradient_passes_finite_differences() -> None:
    student = torch.from_numpy(STUDENT).requires_grad_(True)
    others = torch.from_numpy(TEACHER), torch.from_numpy(MARGIN)
    assert torch.autograd.gradcheck(lambda s: partial_l2(s, *others), (student,))


def test_default_weights_are_those_of_the_authors_on_sums() -> None:
    """Per sample: sum_l 2^(l-L) sum_elements / 1000 on the maps of WRN-28-4."""
    sizes, means = [64 * 32 * 32, 128 * 16 * 16, 256 * 8 * 8], [0.3, 0.5, 0.7]
    expected = sum(
        2.0 ** (i - 2) * n * mean / 1000 for i, (n, mean) in enumerate(zip(sizes, means, strict=True))
    )
    ours = METHOD.settings().weight * sum(w * m for w, m in zip(stage_weights(sizes), means, strict=True))
    assert ours == pytest.approx(expected, rel=1e-12)


def test_measured_margin_is_the_mean_of_all_negative_values_so_far() -> None:
    first, second = TEACHER.copy(), STUDENT.copy()
    first[:, 2], second[:, 2] = np.abs(first[:, 2]), np.abs(second[:, 2])
    memory: dict[str, torch.Tensor] = {}
    measured_margin(memory, "tap", torch.from_numpy(first))
    actual = measured_margin(memory, "tap", torch.from_numpy(second)).numpy()
    both = np.concatenate([first, second])
    for channel in range(5):
        values = both[:, channel]
        expected = 0.0 if channel == 2 else values[values < 0].mean()
        assert actual[channel] == pytest.approx(expected, abs=1e-12)


def test_term_is_the_weighted_sum_over_stages_of_connected_pre_activations() -> None:
    stage = Stage("overhaul", dtype=torch.float64)
    turn = stage.program.phases[-1].turns[-1]
    (term,) = (term for term in turn.terms if term.name == "overhaul")
    taps = ("stage1:pre", "stage2:pre", "stage3:pre")
    images = tiny_batch(0, views=stage.program.views).views["x"].double()
    with torch.no_grad():
        values = {role: stage.live.cast.roles[role].run(images, taps) for role in ("student", "teacher")}
    norms = [layers[1] for layers in stage.live.cast.roles["teacher"].module.stages]  # type: ignore[union-attr]
    expected, last = 0.0, values["teacher"][taps[-1]][0].numel()
    for number, tap in enumerate(taps):
        connector = stage.live.cast.adapters["overhaul"][tap]
        kernel = connector.convolution.weight.detach().numpy()[:, :, 0, 0]  # type: ignore[union-attr,operator]
        # Fresh statistics in evaluation mode: division by sqrt(1 + eps) is all that batch norm does.
        student = np.einsum("oc,bchw->bohw", kernel, values["student"][tap].numpy()) / np.sqrt(1 + 1e-5)
        teacher = values["teacher"][tap].numpy()
        scale, shift = norms[number].weight.detach().numpy(), norms[number].bias.detach().numpy()
        distance = partial(student, teacher, margins(scale, shift))
        expected += 2.0 ** (number - 2) * teacher[0].size / last * distance
    assert stage.number(turn, term) == pytest.approx(expected, rel=1e-9)


def folded_teacher() -> Participant:
    teacher = tiny_participant(8, seed=1, name="teacher")
    module, renames = fold(teacher.module)
    module.taps = renames.moved(teacher.module.taps)  # type: ignore[arg-type,assignment]
    return replace(teacher, module=module, taps=module.taps)  # type: ignore[arg-type]


def test_margins_of_batch_norm_are_looked_up_once_and_saved() -> None:
    engine = engine_of("overhaul")
    train(engine, 1)
    assert set(engine.state()["memory"]["term:overhaul"]) == {f"stage{n}:pre margin" for n in (1, 2, 3)}


def test_margin_of_a_teacher_without_batch_norm_is_measured() -> None:
    student, teacher = tiny_participant(), folded_teacher()
    engine = make_engine(
        program_of("overhaul", student, [teacher]),
        student=student,
        teachers=[teacher],
        validation=validation_arrays(),
        image_shape=IMAGE_SHAPE,
        rules=RULES,
        seed=0,
    )
    engine.step(tiny_batch(0), Position(0, 2, 0, 1))
    kept = engine.state()["memory"]["term:overhaul"]
    assert set(kept) == {f"stage{n}:pre {kind}" for n in (1, 2, 3) for kind in ("sum", "count")}


def test_networks_without_pre_activation_taps_are_refused() -> None:
    roster = Roster(("teacher",), ("stage1", "logits"), {"teacher": ("stage1", "stage1:pre")})
    with pytest.raises(UsageError, match="the student has no tap `stage1:pre`"):
        METHOD.build(METHOD.settings(), roster)
