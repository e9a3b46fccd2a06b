"""Starting weights depend on seed and name alone, and have the moments they should."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.networks.initialize import init_weights
from edgekd.networks.resnet_cifar import resnet_cifar

ROOT = Path(__file__).parents[2]


def digest(seed: int = 0, name: str = "student") -> str:
    network = resnet_cifar(num_classes=10, in_channels=3, depth=8)
    init_weights(network, seed, name)
    data = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(data).hexdigest()


def test_the_global_random_state_does_not_matter() -> None:
    torch.manual_seed(1)
    first = digest()
    torch.manual_seed(2)
    assert digest() == first


def test_seed_and_name_do() -> None:
    assert len({digest(), digest(seed=1), digest(name="teacher")}) == 3


def test_another_process_gets_the_same_bits() -> None:
    program = "from tests.networks.test_initialize import digest; print(digest())"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    assert result.stdout.strip() == digest()


def test_another_head_leaves_the_trunk_as_it_was() -> None:
    networks = [resnet_cifar(num_classes=n, in_channels=3, depth=8) for n in (10, 7)]
    for network in networks:
        init_weights(network, 0, "student")
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[key], second[key]) for key in first if not key.startswith("linear"))


def test_convolutions_have_he_variance_and_linear_layers_torchs_range() -> None:
    conv, linear = nn.Conv2d(32, 64, 3), nn.Linear(400, 100)
    init_weights(conv, 0, "x")
    init_weights(linear, 0, "x")
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.02)
    assert conv.bias.abs().max() == 0
    assert linear.weight.abs().max().item() <= 1 / 20
    assert linear.weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)


def test_norms_and_their_statistics_start_over() -> None:
    norm = nn.BatchNorm2d(4)
    norm(torch.randn(8, 4, 3, 3))
    norm.weight.data.fill_(5)
    init_weights(norm, 0, "x")
    assert norm.weight.eq(1).all()
    assert norm.running_mean.eq(0).all()
    assert norm.num_batches_tracked == 0


class Attending(nn.Module):
    """Parameters that no layer type of their own initializes."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.scale = nn.Parameter(torch.full((16,), 1e-6))
        self.attention = nn.MultiheadAttention(16, 2)


def test_no_parameter_keeps_a_random_value_of_its_builder() -> None:
    first, second = Attending(), Attending()
    for network in (first, second):
        init_weights(network, 0, "x")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_constants_of_the_builder_stay() -> None:
    network = Attending()
    init_weights(network, 0, "x")
    assert torch.equal(network.scale, torch.full((16,), 1e-6))
