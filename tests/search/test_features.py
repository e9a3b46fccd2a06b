"""Features are what hand counting and an independent counter give, without allocating weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import NetworkSpec
from edgekd.networks.catalogue import build
from edgekd.networks.cost import count
from edgekd.search.features import describe, describe_all
from edgekd.search.space import Candidate
from edgekd.search.spaces import load_space

PREPROCESS = Preprocess(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)


def candidate(size: int = 16) -> Candidate:
    preprocess = PREPROCESS.model_copy(update={"size": (size, size)})
    spec = NetworkSpec(name="net", num_classes=5, in_channels=3)
    return Candidate(id="net", spec=spec, preprocess=preprocess)


def small(spec: NetworkSpec) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, spec.num_classes),
    )


def test_counts_equal_those_made_by_hand() -> None:
    found = describe(candidate(), small)
    positions = 8 * 8
    assert found.num_layers == 3
    assert found.num_weights == 12 * 3 * 9 + 12 * 9 + 5 * 12
    assert found.num_channels == 12 + 12 + 5
    assert found.num_parameters == 12 * 3 * 9 + 2 * 12 + 12 * 9 + 12 + 5 * 12 + 5
    assert found.macs == positions * (12 * 3 * 9 + 12 * 9) + 5 * 12
    assert found.depthwise_macs == positions * 12 * 9
    assert found.blocked_macs == positions * 16 * 8 * 9 + 8 * 16
    assert found.activation_elements == 2 * 12 * positions + 5
    assert found.peak_activation_elements == 2 * 12 * positions
    (stage,) = found.stages
    assert (stage.size, stage.num_layers, stage.max_channels) == ((8, 8), 2, 12)
    assert stage.max_activation_elements == 12 * positions


def test_functional_code_is_counted_like_modules() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(5, 3, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, self.weight).relu().mean((2, 3))

    assert describe(candidate(), lambda spec: Functional()).macs == 14 * 14 * 5 * 3 * 9


@pytest.mark.parametrize("name", ["resnet_small", "mobilenet_small"])
def test_parameters_and_macs_agree_with_the_networks_own_counter(name: str) -> None:
    listed = load_space(name).candidates(num_classes=10, in_channels=3, preprocess=PREPROCESS)
    some = listed[:: len(listed) // 5]
    found = describe_all(some)
    for one in some:
        cost = count(build(one.spec), (3, *one.resolution))
        assert (found[one.id].num_parameters, found[one.id].macs) == (cost.num_parameters, cost.num_macs)


def test_describing_many_equals_describing_each() -> None:
    listed = load_space("resnet_small").candidates(num_classes=10, in_channels=3, preprocess=PREPROCESS)[:4]
    assert describe_all(listed) == {one.id: describe(one) for one in listed}


def test_the_size_estimate_is_within_5_percent_of_the_exported_file(tmp_path: Path) -> None:
    from edgekd.backends.onnx.export import export
    from edgekd.backends.source import Source

    listed = load_space("resnet_small").candidates(num_classes=10, in_channels=3, preprocess=PREPROCESS)
    one = next(c for c in listed if c.spec.args["depth"] == 8 and c.spec.args["width"] == 1.0)
    module = build(one.spec).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias)
    facts = export(Source(module, (3, *one.resolution)), tmp_path / "probe.onnx")
    assert describe(one).size_bytes("fp32") == pytest.approx(facts["size_bytes"], rel=0.05)


def test_an_int8_file_is_nearly_4_times_smaller_once_weights_dominate() -> None:
    listed = load_space("resnet_small").candidates(num_classes=10, in_channels=3, preprocess=PREPROCESS)
    largest = describe(listed[-1])
    assert 3.5 < largest.size_bytes("fp32") / largest.size_bytes("int8") < 4


def test_a_network_that_does_not_run_at_a_resolution_is_named() -> None:
    with pytest.raises(ModelError, match=r"candidate `net`.*does not run at 4x4"):
        describe(candidate(4), lambda spec: nn.Sequential(nn.Conv2d(3, 4, 7)))
