"""The native ensemble: gate, ensemble and imitation against NumPy; what learns; what is deployed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.branches import branch_tap
from edgekd.distill.compose import build_program
from edgekd.distill.settings import DistillSettings
from edgekd.distill.validate import validate
from edgekd.testing.tiny_networks import IMAGE_SHAPE, TinyNet, tiny_participant
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.answers import Array, cross_entropy, softmax
from tests.distill.methods.tiny_scene import TinyScene, numbers

RNG = np.random.default_rng(1)
BRANCHES = tuple(branch_tap(number) for number in (1, 2, 3))


@pytest.fixture
def scene() -> TinyScene:
    return TinyScene({"name": "one"})


def gate_of(features: Array, scene: TinyScene) -> Array:
    """FC, batch norm over the batch, ReLU, softmax of the pooled features."""
    parameters = {key: numbers(value) for key, value in scene.module.state_dict().items()}
    own = {key.rpartition("gate.")[2]: value for key, value in parameters.items() if "gate." in key}
    raw = features.mean(axis=(2, 3)) @ own["linear.weight"].T + own["linear.bias"]
    normed = (raw - raw.mean(axis=0)) / np.sqrt(raw.var(axis=0) + 1e-5)
    return softmax(np.maximum(normed * own["norm.weight"] + own["norm.bias"], 0))


def test_the_gate_is_a_softmax_behind_fc_batch_norm_and_relu() -> None:
    scene = TinyScene({"name": "one"})
    features = RNG.uniform(size=(10, 8, 4, 4))
    gate = scene.module.get_submodule("heads.ensemble.gate")
    gates = numbers(gate(torch.from_numpy(features.mean(axis=(2, 3)))))
    np.testing.assert_allclose(gates, gate_of(features, scene), atol=1e-12)
    np.testing.assert_allclose(gates.sum(axis=1), 1, atol=1e-12)
    assert np.ptp(gates, axis=0).min() > 0.01


def test_the_ensemble_weighs_the_branches_by_the_gate_of_the_trunks_features(scene: TinyScene) -> None:
    shared: list[Array] = []
    trunk = scene.module.get_submodule("network.trunk")
    trunk.register_forward_hook(lambda module, inputs, output: shared.append(numbers(output)))
    logits = np.stack([scene.array(branch) for branch in BRANCHES])
    expected = np.einsum("bm,mbk->bk", gate_of(shared[0], scene), logits)
    np.testing.assert_allclose(scene.array("ensemble"), expected, atol=1e-10)


def test_every_branch_imitates_the_ensemble_at_three(scene: TinyScene) -> None:
    target = softmax(scene.array("ensemble"), 3)
    expected = 0.0
    for branch in BRANCHES:
        own = softmax(scene.array(branch), 3)
        expected += 9 * (target * np.log(target / own)).sum(axis=1).mean()
    assert float(scene.value("one").detach()) == pytest.approx(expected, rel=1e-10)


def test_every_branch_and_the_ensemble_learn_the_labels(scene: TinyScene) -> None:
    names = {"task": BRANCHES[0], "task:branch2": BRANCHES[1], "task:branch3": BRANCHES[2]}
    for name, tap in (names | {"task:ensemble": "ensemble"}).items():
        expected = cross_entropy(scene.array(tap), scene.labels)
        assert float(scene.value(name).detach()) == pytest.approx(expected, rel=1e-10)
        assert scene.term(name).weight == 1.0


def test_no_gradient_of_the_imitation_reaches_the_gate(scene: TinyScene) -> None:
    """The target is a constant: the gradient by a branch's logits is T (p - p_e) / B."""
    assert not any(key.startswith("heads.") for key in scene.gradients("one"))
    gates = [key for key in scene.gradients("task:ensemble") if key.startswith("heads.")]
    assert len(gates) == 4
    (gradient,) = torch.autograd.grad(scene.value("one"), scene.tap(BRANCHES[1]))
    expected = 3 * (softmax(scene.array(BRANCHES[1]), 3) - softmax(scene.array("ensemble"), 3)) / 10
    np.testing.assert_allclose(numbers(gradient), expected, atol=1e-12)


def test_the_weight_ramps_up_over_eighty_of_three_hundred_epochs(scene: TinyScene) -> None:
    weight = scene.term("one").weight
    assert callable(weight)
    for epoch in (0, 40, 80, 200):
        expected = math.exp(-5 * (1 - min(epoch / 80, 1)) ** 2)
        assert weight(epoch / 300) == pytest.approx(expected, rel=1e-12)


def program(**settings: Any) -> Any:
    method = {"name": "one", **settings}
    return build_program(DistillSettings(method=method), student_taps=tuple(TinyNet().taps))


def test_branch_one_starts_as_the_student_and_is_deployed() -> None:
    engine = engine_for(program())
    student = weights(engine, "student")
    assert differ(student, dict(engine.deployed().state_dict())) == set()
    train(engine, 3)
    deployed = engine.deployed()
    assert type(deployed) is TinyNet
    assert differ(student, dict(deployed.state_dict()))
    branched = engine.roles["branched"]
    branched.module.eval()
    images = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = branched.run(images, BRANCHES)
        assert torch.equal(deployed(2 * images - 1), answers[BRANCHES[0]])
    assert not torch.equal(answers[BRANCHES[0]], answers[BRANCHES[1]])


def test_more_branches_from_an_earlier_stage_resume_bit_for_bit() -> None:
    whole, first, second = (engine_for(program(branches=4, tap="stage1")) for _ in range(3))
    expected = train(whole, 6)
    train(first, 6, steps=range(4))
    second.load_state(first.state())
    assert train(second, 6, steps=(4, 5)) == expected[4:]
    assert differ(weights(whole, "branched"), weights(second, "branched")) == set()


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(UsageError, match="batch"):
        train(engine_for(program()), 1, size=1)


def test_a_tap_that_is_not_there_and_a_student_without_stages_are_refused() -> None:
    with pytest.raises(UsageError, match=r"method `one`.*no tap `stage7`"):
        program(tap="stage7")
    with pytest.raises(UsageError, match=r"method `one`.*stage"):
        build_program(DistillSettings(method="one"), student_taps=("logits",))


def test_the_program_is_valid_before_training() -> None:
    validate(program(), {"student": tiny_participant()}, IMAGE_SHAPE)
