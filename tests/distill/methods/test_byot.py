"""Be your own teacher: exits, imitation and hints against NumPy; what the targets keep; what is deployed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.compose import build_program
from edgekd.distill.methods.branched.byot import Exit
from edgekd.distill.settings import DistillSettings
from edgekd.testing.tiny_networks import IMAGE_SHAPE, TinyNet
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.answers import cross_entropy, softmax
from tests.distill.methods.tiny_scene import TinyScene, numbers

EXITS = ("exit1", "exit2")


@pytest.fixture
def scene() -> TinyScene:
    return TinyScene({"name": "byot"})


def test_every_exit_imitates_the_deepest_one_at_three(scene: TinyScene) -> None:
    target = softmax(scene.array("logits"), 3)
    expected = 0.0
    for tap in EXITS:
        expected += 9 * (target * np.log(target / softmax(scene.array(tap), 3))).sum(axis=1).mean()
    assert float(scene.value("byot").detach()) == pytest.approx(expected, rel=1e-10)
    assert scene.term("byot").weight == 0.1


def test_the_hint_is_the_mean_squared_distance_to_the_embedding(scene: TinyScene) -> None:
    deepest = scene.array("embedding")
    expected = sum(((scene.array(f"{tap}:features") - deepest) ** 2).mean() for tap in EXITS)
    assert float(scene.value("byot:hint").detach()) == pytest.approx(float(expected), rel=1e-10)


def test_the_hint_is_the_codes_sum_at_its_weight_for_its_sizes() -> None:
    """1e-6 times the masked sum over 128 x 512 non-negative features."""
    rng = np.random.default_rng(0)
    exit_features, deepest = (np.maximum(rng.normal(size=(128, 512)), 0) for _ in range(2))
    mask = (exit_features > 0) | (deepest > 0)
    code = 1e-6 * ((exit_features - deepest) ** 2 * mask).sum()
    assert 0.066 * ((exit_features - deepest) ** 2).mean() == pytest.approx(code, rel=0.01)


def test_exits_learn_the_labels_with_what_the_imitation_leaves(scene: TinyScene) -> None:
    weights = {"task": ("logits", 1.0), "task:exit1": ("exit1", 0.9), "task:exit2": ("exit2", 0.9)}
    for name, (tap, weight) in weights.items():
        expected = cross_entropy(scene.array(tap), scene.labels)
        assert float(scene.value(name).detach()) == pytest.approx(expected, rel=1e-10)
        assert scene.term(name).weight == pytest.approx(weight)


def test_the_deepest_exit_is_a_constant_for_the_others(scene: TinyScene) -> None:
    """Gradient reaches the trunk through the exits, so stage 3 and the classifier get none."""
    reached = scene.gradients("byot", "byot:hint")
    behind = ("network.stages.2", "network.linear")
    assert not any(key.startswith(behind) for key in reached)
    assert any(key.startswith("network.stages.1") for key in reached)
    assert any(key.startswith("heads.exit1.classifier") for key in reached)


def test_an_exit_is_a_bottleneck_that_shrinks_the_map_to_the_deepest() -> None:
    module = Exit(4, 8, 4, 5).double().eval()
    features = torch.rand(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = module.restore(module.shrink(module.reduce(features)))
    assert maps.shape == (2, 8, 2, 2)
    weight, bias = numbers(module.classifier.weight), numbers(module.classifier.bias)
    expected = numbers(maps).mean(axis=(2, 3)) @ weight.T + bias
    np.testing.assert_allclose(numbers(module(features)), expected, atol=1e-12)


def program(**settings: Any) -> Any:
    method = {"name": "byot", **settings}
    return build_program(DistillSettings(method=method), student_taps=tuple(TinyNet().taps))


def test_the_trunk_is_deployed_without_its_exits() -> None:
    engine = engine_for(program())
    student = weights(engine, "student")
    assert differ(student, dict(engine.deployed().state_dict())) == set(), "it starts as the student"
    train(engine, 3)
    deployed, exited = engine.deployed(), engine.roles["exited"]
    assert type(deployed) is TinyNet
    assert differ(student, dict(deployed.state_dict()))
    exited.module.eval()
    images = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(deployed(2 * images - 1), exited.run(images, ("logits",))["logits"])


def test_without_imitation_and_hint_the_exits_learn_labels_alone() -> None:
    engine = engine_for(program(alpha=0.0, hint_weight=0.0))
    (values,) = train(engine, 1)
    tasks = sum(value for name, value in values.items() if name.startswith("task"))
    assert values["total"] == pytest.approx(tasks, rel=1e-5)


@pytest.mark.parametrize("taps", [("embedding", "logits"), ("stage1", "embedding"), ("stage1", "stage2")])
def test_a_student_without_stages_or_embedding_is_refused(taps: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="method `byot`"):
        build_program(DistillSettings(method="byot"), student_taps=taps)
