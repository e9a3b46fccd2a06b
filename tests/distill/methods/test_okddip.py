"""Diverse peers: attention, first and second level against NumPy; where gradient flows; what is deployed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.branches import branch_tap
from edgekd.distill.compose import build_program
from edgekd.distill.methods.branched.okddip import attention, imitation
from edgekd.distill.settings import DistillSettings
from edgekd.testing.tiny_networks import IMAGE_SHAPE, TinyNet
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.answers import Array, softmax
from tests.distill.methods.tiny_scene import TinyScene, numbers

RNG = np.random.default_rng(3)
LEADER, *AUXILIARIES = (branch_tap(number) for number in (1, 2, 3, 4))
EMBEDDINGS = [branch_tap(number, "embedding") for number in (2, 3, 4)]


def scene(**settings: Any) -> TinyScene:
    return TinyScene({"name": "okddip", **settings})


def divergence(target: Array, own: Array, temperature: float = 3.0) -> float:
    p, q = softmax(target, temperature), softmax(own, temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())


def targets_of(scene: TinyScene) -> list[Array]:
    """Every auxiliary's mixture of all auxiliaries' logits, one sample after the other."""
    adapters = scene.context.adapters("okddip:peers")
    q, k = (numbers(adapters[name].weight) for name in ("query", "key"))  # type: ignore[arg-type]
    features, logits = [scene.array(tap) for tap in EMBEDDINGS], [scene.array(tap) for tap in AUXILIARIES]
    targets = [np.zeros_like(one) for one in logits]
    for sample in range(len(logits[0])):
        for a, own in enumerate(features):
            scores = np.array([(q @ own[sample]) @ (k @ other[sample]) for other in features])
            for b, weight in enumerate(np.exp(scores) / np.exp(scores).sum()):
                targets[a][sample] += weight * logits[b][sample]
    return targets


def test_attention_weighs_all_peers_and_sums_to_one() -> None:
    queries, keys = RNG.normal(size=(5, 3, 2)), RNG.normal(size=(5, 3, 2))
    weights = attention(torch.from_numpy(queries), torch.from_numpy(keys)).numpy()
    scores = np.einsum("sad,sbd->sab", queries, keys)
    np.testing.assert_allclose(weights, softmax(scores), atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-12)


def test_every_auxiliary_imitates_its_own_mixture() -> None:
    stage = scene()
    expected = sum(divergence(t, stage.array(z)) for t, z in zip(targets_of(stage), AUXILIARIES, strict=True))
    assert float(stage.value("okddip:peers").detach()) == pytest.approx(expected, rel=1e-10)


def test_the_leader_imitates_the_mean_of_the_auxiliaries() -> None:
    stage = scene()
    mean = sum(stage.array(tap) for tap in AUXILIARIES) / 3
    expected = divergence(np.asarray(mean), stage.array(LEADER))
    assert float(stage.value("okddip:leader").detach()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_flows_into_the_leaders_target_unless_it_is_detached(detach: bool) -> None:
    stage = scene(detach_peers=detach)
    taps = [stage.tap(tap) for tap in (LEADER, *AUXILIARIES)]
    gradients = torch.autograd.grad(stage.value("okddip:leader"), taps, allow_unused=True)
    mean = np.mean([stage.array(tap) for tap in AUXILIARIES], axis=0)
    own, target = softmax(stage.array(LEADER), 3), softmax(mean, 3)
    assert gradients[0] is not None
    np.testing.assert_allclose(numbers(gradients[0]), 3 * (own - target) / 10, atol=1e-12)
    for gradient in gradients[1:]:
        assert (gradient is None) == detach
        if gradient is not None:
            ratio = np.log(target / own)
            by_mean = 3 * target * (ratio - (target * ratio).sum(axis=1, keepdims=True)) / 10
            np.testing.assert_allclose(numbers(gradient), by_mean / 3, atol=1e-12)


@pytest.mark.parametrize("detach", [False, True])
def test_the_projections_always_learn(detach: bool) -> None:
    stage = scene(detach_peers=detach)
    adapters = stage.context.adapters("okddip:peers")
    stage.value("okddip:peers").backward()  # type: ignore[no-untyped-call]
    for adapter in adapters.values():
        gradient = adapter.weight.grad
        assert isinstance(gradient, torch.Tensor)
        assert float(gradient.abs().sum()) > 0


def test_detached_peers_get_the_gradient_of_a_student_alone() -> None:
    """By the logits of one auxiliary only its own imitation counts: T (p - p_target) / B."""
    stage = scene(detach_peers=True)
    (gradient,) = torch.autograd.grad(stage.value("okddip:peers"), stage.tap(AUXILIARIES[0]))
    target = softmax(targets_of(stage)[0], 3)
    expected = 3 * (softmax(stage.array(AUXILIARIES[0]), 3) - target) / 10
    np.testing.assert_allclose(numbers(gradient), expected, atol=1e-12)


def test_attached_imitation_passes_finite_differences() -> None:
    logits, target = (torch.from_numpy(RNG.normal(size=(4, 5))).requires_grad_(True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda z, t: imitation(z, t, 3.0), (logits, target))


def test_attached_imitation_stays_finite_where_probabilities_underflow() -> None:
    logits = torch.tensor([[0.0, 4000.0, -4000.0]], requires_grad=True)
    target = torch.tensor([[3000.0, 0.0, -3000.0]], requires_grad=True)
    value = imitation(logits, target, 1.0)
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value)
    assert logits.grad is not None and target.grad is not None
    assert bool(logits.grad.isfinite().all()) and bool(target.grad.isfinite().all())


def test_equal_branches_have_nothing_to_learn_from_one_another() -> None:
    same = torch.from_numpy(np.repeat(RNG.normal(size=(4, 1, 5)), 3, axis=1))
    mixture = attention(*(torch.from_numpy(RNG.normal(size=(4, 3, 2))) for _ in range(2))) @ same
    assert float(imitation(same, mixture, 3.0)) == pytest.approx(0.0, abs=1e-12)


def test_both_levels_ramp_up() -> None:
    stage = scene(weight=2.0)
    for name in ("okddip:peers", "okddip:leader"):
        weight = stage.term(name).weight
        assert callable(weight)
        assert weight(20 / 300) == pytest.approx(2 * math.exp(-5 * 0.75**2), rel=1e-12)
        assert weight(0.5) == 2.0


def program(**settings: Any) -> Any:
    method = {"name": "okddip", **settings}
    return build_program(DistillSettings(method=method), student_taps=tuple(TinyNet().taps))


def test_the_leader_is_deployed() -> None:
    engine = engine_for(program(branches=3))
    train(engine, 3)
    deployed, branched = engine.deployed(), engine.roles["branched"]
    branched.module.eval()
    images = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(deployed(2 * images - 1), branched.run(images, (LEADER,))[LEADER])


def test_training_with_detached_peers_resumes_bit_for_bit() -> None:
    whole, first, second = (engine_for(program(detach_peers=True)) for _ in range(3))
    expected = train(whole, 6)
    train(first, 6, steps=range(3))
    second.load_state(first.state())
    assert train(second, 6, steps=(3, 4, 5)) == expected[3:]
    assert differ(weights(whole, "branched"), weights(second, "branched")) == set()


def test_a_student_without_an_embedding_is_refused() -> None:
    with pytest.raises(UsageError, match="embedding"):
        build_program(DistillSettings(method="okddip"), student_taps=("stage1", "stage2", "logits"))
