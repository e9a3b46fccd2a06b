"""Where quantizers stand, as a profile's data says it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, fx, nn

from edgekd.backends.onnx.profile import ORT_X86
from edgekd.backends.profile import PROFILES, Grid, Profile
from edgekd.core.errors import ModelError, UsageError
from edgekd.quant.fake_quantization import ActivationQuantizer
from edgekd.quant.folding import fold
from edgekd.quant.layers import QuantizedConv2d, QuantizedLinear
from edgekd.quant.operations import KINDS
from edgekd.quant.placement import expected_kernels, insert
from edgekd.quant.prepare import quantized_copy
from edgekd.quant.settings import QuantSettings
from tests.quant.digits import network

SPARSE = Profile(
    name="sparse",
    inputs={"conv": "all", "linear": "all", "add": "shortcut"},
    outputs=frozenset(),
    absorbed=frozenset(),
    shared=frozenset({"max_pool"}),
    weights={"conv": "grid", "linear": "grid"},
    nonnegative=Grid(low=-128, high=127, zero_point=0),
    signed=Grid(low=-128, high=127, zero_point=0),
    kernels={},
)
"""As TensorRT documents what it wants: signed, symmetric, and of an addition only the shortcut."""


def placed(
    module: nn.Module, profile: Profile = ORT_X86, settings: QuantSettings | None = None
) -> fx.GraphModule:
    graph_module, _ = fold(module)
    insert(graph_module, profile, settings or QuantSettings())
    return graph_module


def producers(graph_module: fx.GraphModule) -> list[str]:
    """Names of the nodes that a quantizer reads, in order."""
    modules = dict(graph_module.named_modules())
    return [
        node.args[0].name  # type: ignore[union-attr]
        for node in graph_module.graph.nodes
        if node.op == "call_module" and isinstance(modules[node.target], ActivationQuantizer)
    ]


def test_every_word_of_the_profiles_is_a_kind() -> None:
    for entry in PROFILES:
        profile = PROFILES.load(entry.name)
        words = {*profile.inputs, *profile.outputs, *profile.absorbed, *profile.shared, *profile.weights}
        assert words | set(profile.kernels) <= KINDS, entry.name


def test_unknown_profile_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="ort_x86"):
        quantized_copy(network(), QuantSettings(profile="ort_x87"))


def test_a_residual_block_has_one_quantizer_per_tensor() -> None:
    found = producers(placed(network("B")))
    assert Counter(found).most_common(1)[0][1] == 1
    block = [name for name in found if name.startswith("layer2")]
    assert block == [
        "layer2_0_relu1",
        "layer2_0_conv2",
        "layer2_0_shortcut_0",
        "layer2_0_relu2",
    ]
    assert found[0] == "x" and found[-2:] == ["pool", "flatten"]


def test_logits_stay_in_float() -> None:
    assert "linear" not in producers(placed(network()))


def test_relu_is_absorbed_and_its_quantizer_is_unsigned() -> None:
    graph_module = placed(network())
    quantizer = graph_module.get_submodule("activation_quantizers.layer1_0_relu1")
    assert isinstance(quantizer, ActivationQuantizer)
    assert (quantizer.low, quantizer.high, quantizer.fixed_zero_point) == (0, 255, 0)
    assert "layer1_0_conv1" not in producers(graph_module)


def test_moving_operations_share_the_quantizer_of_their_input() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.next = nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.next(self.pool(self.conv(x)))  # type: ignore[no-any-return]

    graph_module = placed(Pooled())
    targets = [node.target for node in graph_module.graph.nodes if "quantizers" in str(node.target)]
    assert targets == [f"activation_quantizers.{name}" for name in ("x", "conv", "conv")]


def test_another_profile_places_by_its_own_data() -> None:
    graph_module = placed(network("B"), SPARSE)
    found = producers(graph_module)
    assert [name for name in found if name.startswith("layer2")] == [
        "layer2_0_relu1",
        "layer2_0_shortcut_0",
        "layer2_0_relu2",
    ]
    quantizer = graph_module.get_submodule("activation_quantizers.layer2_0_relu1")
    assert isinstance(quantizer, ActivationQuantizer) and quantizer.low == -128


def test_identity_shortcut_is_quantized_once_for_the_addition_and_the_convolution() -> None:
    graph_module = placed(network("B"), SPARSE)
    quantizer = next(n for n in graph_module.graph.nodes if n.target == "activation_quantizers.relu1")
    assert {user.name for user in quantizer.users} == {"layer1_0_conv1", "add"}


@pytest.mark.parametrize(("shortcut", "convolutions"), [("A", 7), ("B", 9)])
def test_expected_kernels_follow_from_the_structure(shortcut: str, convolutions: int) -> None:
    counts = expected_kernels(placed(network(shortcut)), ORT_X86, QuantSettings())
    assert counts == {
        "QLinearConv": convolutions,
        "QLinearAdd": 3,
        "QLinearGlobalAveragePool": 1,
        "QGemm": 1,
    }


def test_float_modules_keep_their_weights_and_do_not_count() -> None:
    settings = QuantSettings(float_modules=("linear", "layer3"))
    graph_module = placed(network(), settings=settings)
    assert type(graph_module.get_submodule("linear")) is nn.Linear
    assert type(graph_module.get_submodule("layer3.0.conv1")) is nn.Conv2d
    assert expected_kernels(graph_module, ORT_X86, settings)["QLinearConv"] == 6


def test_unknown_float_module_is_an_error() -> None:
    with pytest.raises(ModelError, match="layer9"):
        placed(network(), settings=QuantSettings(float_modules=("layer9",)))


def test_layer_that_is_called_twice_is_an_error() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="`conv` is called 2 times"):
        placed(Twice())


def test_arithmetic_on_sizes_is_not_quantized() -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            half = x.size(1) * x.size(2)
            return x.reshape(-1, half + half)

    assert producers(placed(Sized())) == []


def test_layers_keep_their_settings_and_weights() -> None:
    module = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(6, 2))
    graph_module = placed(module.eval())
    conv, linear = graph_module.get_submodule("0"), graph_module.get_submodule("2")
    assert isinstance(conv, QuantizedConv2d) and isinstance(linear, QuantizedLinear)
    assert (conv.stride, conv.padding, conv.groups) == ((2, 2), (1, 1), 2)
    assert torch.equal(conv.weight, module[0].weight) and type(module[0]) is nn.Conv2d
