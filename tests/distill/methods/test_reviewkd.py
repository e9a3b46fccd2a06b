"""Knowledge review: HCL and the fusion in NumPy, the direction of the review, and the warm-up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.method import Part, Roster
from edgekd.distill.methods.feature.reviewkd import (
    METHOD,
    Fusion,
    Review,
    Settings,
    hierarchical_context,
    level_pairs,
)
from edgekd.distill.weights import weight_at

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(10)


def hcl(student: Array, teacher: Array) -> float:
    """By hand: the maps as they are, then 4x4, 2x2 and 1x1 where the maps are larger."""
    side = student.shape[2]
    values, weights = [((student - teacher) ** 2).mean()], [1.0]
    for size in (4, 2, 1):
        if size < side:
            block = side // size
            shape = (*student.shape[:2], size, block, size, block)
            s, t = (array.reshape(shape).mean(axis=(3, 5)) for array in (student, teacher))
            values.append(((s - t) ** 2).mean())
            weights.append(weights[-1] / 2)
    return float(np.dot(values, weights) / sum(weights))


@pytest.mark.parametrize("side", [16, 8, 4, 2, 1])
def test_hcl_is_the_weighted_mean_over_pooled_sizes(side: int) -> None:
    student, teacher = RNG.normal(size=(2, 3, 4, side, side))
    actual = hierarchical_context(torch.from_numpy(student), torch.from_numpy(teacher))
    assert float(actual) == pytest.approx(hcl(student, teacher), rel=1e-12)


def test_hcl_of_one_position_is_the_mean_squared_error_alone() -> None:
    student, teacher = (torch.from_numpy(RNG.normal(size=(3, 4, 1, 1))) for _ in range(2))
    expected = torch.nn.functional.mse_loss(student, teacher)
    torch.testing.assert_close(hierarchical_context(student, teacher), expected)


def test_hcl_vanishes_at_match_and_sees_a_constant_shift_whole() -> None:
    teacher = torch.from_numpy(RNG.normal(size=(2, 3, 8, 8)))
    assert float(hierarchical_context(teacher, teacher)) == 0.0
    assert float(hierarchical_context(teacher + 0.5, teacher)) == pytest.approx(0.25, rel=1e-12)


def test_hcl_gradient_passes_finite_differences() -> None:
    student, teacher = (torch.from_numpy(RNG.normal(size=(2, 2, 8, 8))) for _ in range(2))
    value = lambda s: hierarchical_context(s, teacher)  # noqa: E731
    assert torch.autograd.gradcheck(value, (student.requires_grad_(True),))


def conv3x3(features: Array, kernel: Array) -> Array:
    """Padding 1; [B, C, H, W] and [O, C, 3, 3]."""
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = features.shape[2:]
    shifted = [
        np.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    ]
    return np.asarray(sum(shifted))


def fusion(in_channels: int, out_channels: int, size: int, *, deepest: bool = False) -> Fusion:
    """In float64, with the running statistics of fresh batch norms (mean 0, variance 1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(in_channels)
        return Fusion(in_channels, 4, out_channels, (size, size), deepest=deepest).double().eval()


def test_fusion_weights_both_maps_by_attention() -> None:
    module = fusion(3, 5, 8)
    own, carried = RNG.normal(size=(2, 3, 4, 4)), RNG.normal(size=(2, 4, 2, 2))
    parameters = {name: value.detach().numpy() for name, value in module.named_parameters()}
    norm = 1 / np.sqrt(1 + 1e-5)
    reduced = norm * np.einsum("oc,bchw->bohw", parameters["reduce.weight"][:, :, 0, 0], own)
    grown = carried.repeat(2, axis=2).repeat(2, axis=3)
    both = np.concatenate([reduced, grown], axis=1)
    scores = np.einsum("oc,bchw->bohw", parameters["attention.weight"][:, :, 0, 0], both)
    shares = 1 / (1 + np.exp(-(scores + parameters["attention.bias"][:, None, None])))
    fused = (shares[:, :1] * reduced + shares[:, 1:] * grown).repeat(2, axis=2).repeat(2, axis=3)
    comparable = norm * conv3x3(fused, parameters["expand.weight"])
    actual = module(torch.from_numpy(own), torch.from_numpy(carried))
    np.testing.assert_allclose(actual[0].detach().numpy(), comparable, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(actual[1].detach().numpy(), fused, rtol=1e-9, atol=1e-12)


def test_shallow_levels_review_deep_ones_and_not_the_other_way() -> None:
    review = Review([fusion(3, 5, 8), fusion(6, 7, 4), fusion(6, 6, 1, deepest=True)])
    shapes = ((2, 3, 8, 8), (2, 6, 4, 4), (2, 6, 1, 1))
    levels = [torch.from_numpy(RNG.normal(size=shape)).requires_grad_(True) for shape in shapes]
    reviewed = review(levels)
    assert [tuple(value.shape[1:]) for value in reviewed] == [(5, 8, 8), (7, 4, 4), (6, 1, 1)]
    for number, value in enumerate(reviewed):
        gradients = torch.autograd.grad(value.sum(), levels, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [level >= number for level in range(3)]


def test_batch_of_one_is_refused_where_a_level_has_one_position() -> None:
    review = Review([fusion(6, 6, 1, deepest=True)]).train()
    with pytest.raises(UsageError, match="batch"):
        review([torch.zeros(1, 6, 1, 1, dtype=torch.float64)])


ROSTER = Roster(
    ("teacher",),
    ("stage1", "stage2", "embedding", "logits"),
    {"teacher": ("stage1", "stage1:pre", "stage2", "stage2:pre", "stage3", "stage3:pre", "embedding")},
)


def test_levels_are_the_matched_stages_and_the_embedding() -> None:
    expected = (("stage1", "stage2:pre"), ("stage2", "stage3:pre"), ("embedding", "embedding"))
    assert level_pairs(ROSTER) == expected


def test_weight_grows_over_a_twelfth_of_the_training() -> None:
    part = METHOD.build(Settings(weight=3.0), ROSTER)
    assert isinstance(part, Part)
    weights = [weight_at(part.terms[0].weight, epoch / 240) for epoch in (0, 5, 20, 239)]
    assert weights == pytest.approx([0.0, 0.75, 3.0, 3.0])
