"""Folding keeps what a network computes, and says where its taps went."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekd.core.errors import ModelError
from edgekd.core.spec import NetworkSpec
from edgekd.networks.catalogue import NETWORKS, build
from edgekd.networks.tap import Tap, TapRecorder, taps_of
from edgekd.quant.folding import ChannelAffine, fold

FAMILIES = [
    ("resnet_cifar", {"depth": 8, "width": 0.5, "shortcut": "A"}, 16),
    ("resnet_cifar", {"depth": 8, "width": 0.5, "shortcut": "B"}, 16),
    ("wrn", {"depth": 10, "width": 1}, 16),
    ("mobilenet_v2", {}, 16),
    ("mobilenet_v3", {}, 16),
    ("torchvision/resnet18", {}, 32),
    ("torchvision/mobilenet_v2", {}, 32),
    ("torchvision/mobilenet_v3_small", {}, 32),
]
NAMES = ["resnet-A", "resnet-B", *(name for name, _, _ in FAMILIES[2:])]


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norm as after training: nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (norm.running_mean, -0.3, 0.3),
                (norm.running_var, 0.5, 2.0),
                (norm.weight.data, 0.5, 1.5),
                (norm.bias.data, -0.3, 0.3),
            ):
                assert isinstance(tensor, Tensor)
                tensor.uniform_(low, high, generator=generator)
    return module.eval()


def family(name: str, args: dict[str, object]) -> nn.Module:
    return with_statistics(build(NetworkSpec(name=name, args=args, num_classes=5, in_channels=3)))


def test_every_registered_family_is_folded_here() -> None:
    tested = {name.partition("/")[0] for name, _, _ in FAMILIES}
    assert set(NETWORKS.names()) - {"timm", "onnx"} <= tested


@pytest.mark.parametrize(("name", "args", "size"), FAMILIES, ids=NAMES)
@torch.no_grad()
def test_folded_network_computes_the_same(name: str, args: dict[str, object], size: int) -> None:
    module = family(name, args)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = module(x)
    folded, _ = fold(module)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.Dropout | nn.Identity) for m in folded.modules())
    difference = float((folded(x) - expected).abs().max() / expected.abs().max())
    assert difference < 1e-5


@pytest.mark.parametrize(("name", "args", "size"), FAMILIES[:5], ids=NAMES[:5])
@torch.no_grad()
def test_taps_have_the_same_values_after_folding(name: str, args: dict[str, object], size: int) -> None:
    module = family(name, args)
    folded, renames = fold(module)
    taps = taps_of(module)
    assert renames.lost(taps) == ()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with TapRecorder(module, taps) as before:
        module(x)
        expected = {name: value.clone() for name, value in before.items()}
    with TapRecorder(folded, taps, taps=renames.moved(taps)) as actual:
        folded(x)
    for tap, value in expected.items():
        torch.testing.assert_close(actual[tap], value, rtol=1e-4, atol=1e-5, msg=f"tap {tap} moved")


class Chain(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for number, module in enumerate(modules):
            self.add_module(f"m{number}", module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def test_a_tap_behind_folded_batch_norm_moves_to_the_convolution_and_the_one_before_it_is_lost() -> None:
    _, renames = fold(with_statistics(Chain(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())))
    assert renames.find(Tap("m1", "output")) == Tap("m0", "output")
    assert renames.find(Tap("m0", "output")) is None
    assert renames.find(Tap("m1", "input")) is None
    assert renames.find(Tap("m0", "input")) == Tap("m0", "input")
    assert renames.find(Tap("m2", "output")) == Tap("m2", "output")


def test_a_tap_behind_two_batch_norms_moves_twice_and_the_one_between_is_lost() -> None:
    chain = Chain(nn.Conv2d(3, 4, 1), nn.Identity(), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Dropout())
    _, renames = fold(with_statistics(chain))
    assert renames.find(Tap("m4", "output")) is not None
    assert renames.find(Tap("m3", "output")) == Tap("m0", "output")
    assert renames.find(Tap("m2", "output")) is None
    assert renames.find(Tap("m1", "output")) is None


@torch.no_grad()
def test_linear_layer_takes_its_batch_norm_in() -> None:
    module = with_statistics(Chain(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)))
    x = torch.randn(3, 6)
    torch.testing.assert_close(fold(module)[0](x), module(x), rtol=1e-5, atol=1e-6)


def test_batch_norm_without_a_convolution_before_it_becomes_a_depthwise_one() -> None:
    folded, _ = fold(with_statistics(Chain(nn.ReLU(), nn.BatchNorm2d(4))))
    assert isinstance(folded.get_submodule("m1"), ChannelAffine)


def test_batch_norm_that_cannot_be_folded_is_an_error_with_its_path() -> None:
    with pytest.raises(ModelError, match="`m1`"):
        fold(Chain(nn.ReLU(), nn.BatchNorm1d(4)))


def test_a_convolution_that_others_read_keeps_its_value() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + self.norm(x)

    module = with_statistics(Branches())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fold(module)[0](x), module(x), rtol=1e-5, atol=1e-6)


def test_network_with_control_flow_on_its_input_is_an_error() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="cannot be traced"):
        fold(Branching())


def test_the_original_is_left_as_it_was() -> None:
    module = family("resnet_cifar", {"depth": 8}).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    fold(module)
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
