"""Every registered network keeps the contract; bad names and arguments get clear errors."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from edgekd.core.errors import MissingDependencyError, ModelError
from edgekd.core.spec import NetworkSpec
from edgekd.networks.catalogue import NETWORKS, build, legal_arguments
from edgekd.networks.cost import count
from edgekd.networks.initialize import init_weights
from edgekd.networks.model import portable
from edgekd.networks.tap import TapRecorder, classifier_of, taps_of

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "resnet_cifar": [{"depth": 8, "width": 0.5}, {"depth": 14, "shortcut": "B", "channel_divisor": 8}],
    "wrn": [{"depth": 10, "width": 0.5, "dropout": 0.1}, {"depth": 10, "width": 1}],
    "mobilenet_v2": [{"width": 0.25, "depth": 0.5}, {"width": 0.25, "activation": "relu", "stem_stride": 2}],
    "mobilenet_v3": [
        {"width": 0.5, "hidden": 64},
        {"width": 0.5, "squeeze_excite": False, "hidden": 0, "activation": "relu"},
    ],
    "torchvision": [
        {"model": "resnet18"},
        {"model": "mobilenet_v3_small"},
        {"model": "shufflenet_v2_x0_5"},
        {"model": "squeezenet1_1"},
    ],
}
"""Small ones of every family; `onnx` is tested with its files."""

ELSEWHERE = {"onnx", "timm"}
CASES = [
    pytest.param((name, args), id=f"{name}-{number}")
    for name, examples in EXAMPLES.items()
    for number, args in enumerate(examples)
]


def spec_of(name: str, args: dict[str, Any], in_channels: int = 3) -> NetworkSpec:
    return NetworkSpec(name=name, args=args, num_classes=5, in_channels=in_channels)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {}


@pytest.fixture
def network(request: pytest.FixtureRequest, networks: dict[str, nn.Module]) -> nn.Module:
    name, args = request.param
    key = f"{name}{args}"
    if key not in networks:
        networks[key] = build(spec_of(name, args))
        init_weights(networks[key], 0, "test")
    return copy.deepcopy(networks[key]).eval()


def images(network: nn.Module) -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


every_network = pytest.mark.parametrize("network", CASES, indirect=True)


def test_every_registered_network_has_an_example() -> None:
    assert set(NETWORKS.names()) == set(EXAMPLES) | ELSEWHERE


@every_network
def test_logits_have_the_asked_number_of_classes(network: nn.Module) -> None:
    assert network(images(network)).shape == (2, 5)


@every_network
def test_taps_have_the_shapes_they_promise(network: nn.Module) -> None:
    taps = taps_of(network)
    with TapRecorder(network, taps) as values, torch.no_grad():
        logits = network(images(network))
    stages = [name for name in taps if name.startswith("stage") and not name.endswith(":pre")]
    assert len(stages) >= 2
    sizes = [values[name].shape[2] for name in stages]
    assert sizes == sorted(sizes, reverse=True)
    assert all(f"{name}:pre" in taps and values[f"{name}:pre"].shape == values[name].shape for name in stages)
    torch.testing.assert_close(values["logits"].flatten(1), logits)
    assert values["embedding"].shape[0] == 2


@every_network
def test_the_logits_are_the_classifier_of_the_embedding(network: nn.Module) -> None:
    layer = network.get_submodule(classifier_of(network))
    if isinstance(layer, nn.Conv2d):
        pytest.skip("SqueezeNet pools after its classifier")
    with TapRecorder(network, ["embedding"]) as values, torch.no_grad():
        logits = network(images(network))
        torch.testing.assert_close(layer(values["embedding"]), logits)


@every_network
def test_taps_still_resolve_after_tracing(network: nn.Module) -> None:
    graph = fx.symbolic_trace(network)
    x = images(network)
    with torch.no_grad(), TapRecorder(network, taps_of(network)) as expected:
        network(x)
    with torch.no_grad(), TapRecorder(graph, taps_of(network), taps=taps_of(network)) as values:
        graph(x)
    assert all(torch.equal(values[name], expected[name]) for name in expected)


@every_network
def test_the_module_of_every_tap_runs_once(network: nn.Module) -> None:
    calls: dict[str, int] = {}
    paths = {tap.path for tap in taps_of(network).values()}
    for path in paths:
        layer = network.get_submodule(path)
        assert not list(layer.children()), f"`{path}` is not a leaf"
        layer.register_forward_hook(lambda *_, path=path: calls.update({path: calls.get(path, 0) + 1}))
    network(images(network))
    assert calls == dict.fromkeys(paths, 1)


@every_network
def test_copies_keep_taps_and_values(network: nn.Module) -> None:
    duplicate = copy.deepcopy(network)
    assert taps_of(duplicate) == taps_of(network)
    assert torch.equal(duplicate(images(network)), network(images(network)))


@every_network
def test_a_state_dict_makes_a_round_trip(network: nn.Module) -> None:
    state = portable(network.state_dict())
    init_weights(network, 1, "other")
    network.load_state_dict(state, strict=True)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@every_network
def test_every_parameter_gets_a_gradient(network: nn.Module) -> None:
    network.train()
    network(images(network)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@every_network
def test_cost_counts_the_parameters(network: nn.Module) -> None:
    cost = count(network, (3, 64, 64))
    assert cost.num_parameters == sum(p.numel() for p in network.parameters())
    assert cost.num_macs > 0


@pytest.mark.parametrize("name", sorted(set(EXAMPLES)))
def test_one_channel_is_possible(name: str) -> None:
    network = build(spec_of(name, EXAMPLES[name][0], in_channels=1)).eval()
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 5)


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build(spec_of("resnet_cifar", {"depth": 8}))
    assert torch.equal(torch.rand(1), expected)


def test_library_slash_model_is_short_for_the_argument() -> None:
    short, long = spec_of("torchvision/squeezenet1_1", {}), spec_of("torchvision", {"model": "squeezenet1_1"})
    assert build(short).state_dict().keys() == build(long).state_dict().keys()


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet_cifr", {}, "close names: resnet_cifar"),
        ("resnet_cifar", {"dpeth": 20}, r"`dpeth` is not an argument\n  choices: depth = 20, width = 1.0"),
        ("resnet_cifar", {"depth": "20"}, "`depth` = '20': Input should be a valid integer"),
        ("resnet_cifar", {"depth": 21}, r"6n \+ 2, not 21"),
        ("resnet_cifar", {"width": 0}, "greater than 0"),
        ("resnet_cifar", {"shortcut": "C"}, "Input should be 'A' or 'B'"),
        ("wrn", {"depth": 20}, r"6n \+ 4, not 20"),
        ("mobilenet_v2", {"activation": "gelu"}, "'relu', 'relu6' or 'hardswish'"),
        ("torchvision", {}, "`model`"),
        ("torchvision/resnet51", {}, "close names: resnet50"),
        ("torchvision/resnet18", {"wdith": 2}, "`wdith` is not an argument"),
        ("file.py:make", {}, "trust_code: true"),
    ],
)
def test_bad_specs_say_what_is_legal(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(spec_of(name, args))


def test_an_absent_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "edgekd.networks.timm_network", raising=False)
    with pytest.raises(MissingDependencyError, match=r"edgekd\[timm\]"):
        build(spec_of("timm/resnet10t", {}))


def test_legal_arguments_leave_out_the_ends() -> None:
    assert list(legal_arguments("wrn")) == ["depth", "width", "dropout", "channel_divisor"]


CODE = """
from torch import nn

def make(*, num_classes, in_channels, width=4):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )
"""


def test_trusted_code_builds(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    network = build(spec_of("mine.py:make", {"width": 6}), trust_code=True, files_root=tmp_path)
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (CODE, "mine.py:build", r"no function `build`\n  choices: make"),
        (CODE, "other.py:make", "no such file"),
        ("1 / 0", "mine.py:make", "ZeroDivisionError"),
        (CODE, "mine.py:make", "`depth` is not an argument\n  choices: width = 4"),
    ],
)
def test_code_that_does_not_fit_is_explained(tmp_path: Path, text: str, name: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ModelError, match=message):
        build(spec_of(name, {"depth": 3}), trust_code=True, files_root=tmp_path)


def test_untrusted_code_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        build(spec_of("mine.py:make", {}), files_root=tmp_path)
    assert not (tmp_path / "ran").exists()
