"""What XNNPACK lacks is written otherwise: the same numbers, and nothing left outside of the delegate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("executorch", reason="needs `pip install 'edgekd[executorch]'`")

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgekd.backends.executorch import equal_forms, runtime
from edgekd.backends.executorch.export import functional
from edgekd.backends.executorch.matching_steps import match_steps
from edgekd.backends.source import Source
from tests.backends.executorch.networks import settled, trained_int8, vision_transformer, write

pytestmark = [
    pytest.mark.backends,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]

SHAPE = (4, 6, 8)
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": F.hardsigmoid,
    "chunk": lambda x: torch.cat(x.chunk(3, 3)[::-1], 3),
    "split with sizes": lambda x: torch.split(x, [1, 3], 1)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "select from behind": lambda x: x[:, -1],
    "squeeze and unsqueeze": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "expand to more axes": lambda x: x.expand(2, 1, 4, 6, 8),
    "channel shuffle": lambda x: x.view(1, 2, 2, 6, 8).transpose(1, 2).contiguous().view(1, 4, 6, 8),
    "numbers": lambda x: 1 - (2 * x + 3) / 7 - 1,
    "numbers as integers in place": lambda x: x.clone().add_(1).mul_(3),
    "square": lambda x: x**2,
    "mean of rows and columns": lambda x: x.mean((2, 3)),
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "mean of the last axis": lambda x: x.mean(-1),
    "sum": lambda x: x.sum((1, 3)),
    "layer norm": partial(F.layer_norm, normalized_shape=(8,), eps=1e-3),
    "layer norm of two axes": lambda x: F.layer_norm(x, (6, 8), torch.ones(6, 8) * 2, torch.ones(6, 8)),
    "layer norm of channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "attention": lambda x: F.scaled_dot_product_attention(x, x + 1, 2 * x),
    "attention with a scale": lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.3),
    "matrix product": lambda x: x @ x.transpose(-2, -1),
}


class _Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def rewritten(module: nn.Module, x: Tensor) -> fx.GraphModule:
    with torch.no_grad():
        graph = functional(module, x)
        equal_forms.rewrite(graph)
    return graph


def share_of_the_largest(actual: Tensor, wanted: Tensor) -> float:
    return float((actual - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", FORMS)
def test_another_form_gives_the_same_numbers(name: str) -> None:
    module, x = (
        _Of(FORMS[name]).eval(),
        torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 3,
    )
    graph = rewritten(module, x)
    with torch.no_grad():
        assert graph(x).shape == module(x).shape
        assert share_of_the_largest(graph(x), module(x)) <= 1e-6


class _All(nn.Module):
    """Every form of `FORMS` in one network, for one lowering of them all."""

    def __init__(self) -> None:
        super().__init__()
        self.forms = nn.ModuleList(_Of(function) for function in FORMS.values())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([form(x).reshape(1, -1) for form in self.forms], 1)


def test_every_form_runs_in_the_delegate(tmp_path: Path) -> None:
    module = _All().eval()
    exported = write(tmp_path, Source(module, SHAPE))
    assert exported.facts["outside"] == []
    assert exported.facts["delegate_calls"] == 1
    x = torch.randn(1, *SHAPE)
    assert (
        share_of_the_largest(torch.from_numpy(runtime.load(str(exported.path)).run(x.numpy())), module(x))
        <= 1e-6
    )


def test_what_no_rule_takes_is_left_as_it_is() -> None:
    graph = rewritten(
        _Of(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), torch.rand(1, *SHAPE)
    )
    targets = [str(node.target) for node in graph.graph.nodes]
    assert "aten.scaled_dot_product_attention.default" in targets


def quantize(x: Tensor, step: float) -> Tensor:
    form = (step, 3, -128, 127, torch.int8)
    decomposed = torch.ops.quantized_decomposed
    return decomposed.dequantize_per_tensor(decomposed.quantize_per_tensor(x, *form), *form)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "moved",
    [
        lambda x: quantize(quantize(x, 0.1).permute(0, 2, 3, 1), 0.07),
        lambda x: quantize(quantize(x, 0.1).reshape(1, -1), 0.07),
        lambda x: quantize(F.max_pool2d(quantize(x, 0.1), 2), 0.07),
        lambda x: quantize(quantize(x, 0.1)[:, 1:3], 0.07),
        lambda x: quantize(torch.cat([quantize(x, 0.1), quantize(x, 0.03)], 1), 0.07),
    ],
    ids=["permute", "reshape", "pool", "slice", "cat"],
)
def test_steps_are_matched_without_changing_a_code(moved: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """XNNPACK opens no program with an operation that moves codes from one step to another."""

    class Network(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return moved(x).flatten(1)

    module, x = Network().eval(), torch.randn(1, *SHAPE)
    with torch.no_grad():
        graph = functional(module, x)
        match_steps(graph)
    assert torch.equal(graph(x), module(x))
    exported = write(tmp_path, Source(module, SHAPE))
    assert exported.facts["outside"] == []
    logits = runtime.load(str(exported.path)).run(x.numpy())
    np.testing.assert_allclose(logits, module(x).numpy(), atol=0.5 * 0.03)


def mobilenet_v3() -> nn.Module:
    """Two blocks of MobileNetV3: squeeze-and-excitation by Hardsigmoid, and Hardswish."""
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    block = partial(InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [block(16, 3, 16, 16, True, "RE", 2), block(16, 3, 32, 16, True, "HS", 1)]
    made: nn.Module = MobileNetV3(blocks, last_channel=32, num_classes=5)
    return made


def shufflenet_v2() -> nn.Module:
    """ShuffleNetV2 with one block that splits, shuffles and joins its channels."""
    from torchvision.models.shufflenetv2 import ShuffleNetV2

    made: nn.Module = ShuffleNetV2([2, 1, 1], [8, 16, 24, 32, 48], num_classes=5)
    return made


def regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    parameters = BlockParams.from_init_params(
        depth=4, w_0=16, w_a=16.0, w_m=2.0, group_width=8, se_ratio=0.25
    )
    made: nn.Module = RegNet(parameters, num_classes=5, stem_width=8)
    return made


NETWORKS = [mobilenet_v3, shufflenet_v2, regnet, vision_transformer]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda build: build.__name__)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(16, 3, 32, 32)
    return settled(request.param(), x), x


def answers(path: Path, x: Tensor) -> Tensor:
    graph = runtime.load(str(path))
    return torch.from_numpy(np.concatenate([graph.run(image[None].numpy()) for image in x]))


def test_a_network_of_torchvision_runs_in_the_delegate(
    network: tuple[nn.Module, Tensor], tmp_path: Path
) -> None:
    module, x = network
    exported = write(tmp_path, Source(module, (3, 32, 32)))
    assert exported.facts["outside"] == []
    with torch.no_grad():
        assert share_of_the_largest(answers(exported.path, x), module(x)) <= 1e-5


def test_the_same_in_trained_int8(network: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    module = trained_int8(*network)
    x = network[1]
    exported = write(tmp_path, Source(module, (3, 32, 32), precision="int8"))
    assert (exported.facts["outside"], exported.facts["int8_form"]) == ([], "trained")
    assert exported.facts["precisions"]["int8"] > 0
    with torch.no_grad():
        wanted = module(x)
    assert float((answers(exported.path, x) - wanted).abs().mean() / wanted.abs().max()) <= 0.02
