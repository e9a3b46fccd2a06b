"""Taps found for networks that declare none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import ModelError
from edgekd.networks.tap import Tap, TapRecorder
from edgekd.networks.traced import traced


class Careless(nn.Module):
    """One activation for everything, in place; functionals; dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1)
        self.conv2 = nn.Conv2d(4, 4, 3, 1, 1)
        self.conv3 = nn.Conv2d(4, 8, 3, 2, 1)
        self.conv4 = nn.Conv2d(8, 8, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x) + x)
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x) + x, inplace=True)
        x = self.dropout(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return self.classifier(x)


def test_it_computes_the_same() -> None:
    module, x = Careless().eval(), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(traced(module, (3, 16, 16))(x), module(x))


def test_stages_end_at_the_last_activation_of_each_size() -> None:
    module, x = Careless().eval(), torch.randn(2, 3, 16, 16)
    network = traced(module, (3, 16, 16))
    with TapRecorder(network, ["stage1", "stage1:pre", "stage2", "embedding"]) as values:
        network(x)
    first = module.conv1(x).relu()
    torch.testing.assert_close(values["stage1:pre"], module.conv2(first) + first)
    assert torch.equal(values["stage1"], values["stage1:pre"].relu())
    assert values["stage2"].shape == (2, 8, 8, 8)
    assert values["embedding"].shape == (2, 8)


def test_weights_keep_their_names_and_the_training_mode_still_switches() -> None:
    module = Careless()
    network = traced(module, (3, 16, 16))
    assert network.state_dict().keys() == module.state_dict().keys()
    assert network.training
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(x), network(x)), "dropout must act in training"
    network.eval()
    assert torch.equal(network(x), network(x))


def test_a_single_convolution_at_a_size_is_a_stem() -> None:
    network = traced(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
        ),
        (3, 16, 16),
    )  # fmt: skip
    assert network.taps["stage1"] == Tap("5", "output")
    assert "stage2" not in network.taps


def test_a_network_that_cannot_be_traced_says_so() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="cannot be traced"):
        traced(Branching(), (3, 8, 8))


def test_a_network_without_a_classifier_says_so() -> None:
    with pytest.raises(ModelError, match="no linear or convolution layer"):
        traced(nn.Sequential(nn.ReLU()), (3, 8, 8))
