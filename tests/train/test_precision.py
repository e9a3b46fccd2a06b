"""Number types and devices by capability."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.core.errors import UsageError
from edgekd.train.precision import Precision, best_number_type, cpu_flags, resolve_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2"}, "fp32"),
        ({"avx512f", "avx512_vnni"}, "fp32"),
        ({"avx512_bf16"}, "bf16"),
        ({"amx_bf16", "amx_tile"}, "bf16"),
        (set(), "fp32"),
    ],
)
def test_a_cpu_gets_bf16_only_where_it_is_native(flags: set[str], expected: str) -> None:
    assert best_number_type(CPU, frozenset(flags)) == expected


def test_cpu_flags_are_read(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor : 1\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "amx_bf16"}


def test_flags_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "absent") == frozenset()


def test_an_absent_device_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="choices: auto, cpu"):
        resolve_device("cuda:99")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match="fp16"):
        Precision("fp16", "cpu")


def test_convolutions_become_channels_last_and_keep_their_values() -> None:
    module = nn.Conv2d(3, 8, 3)
    weight = module.weight.detach().clone()
    Precision("fp32", "cpu").prepare(module)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(module.weight, weight)


def test_image_batches_are_placed_channels_last_and_vectors_as_they_are() -> None:
    precision = Precision("fp32", "cpu")
    assert precision.place(torch.zeros(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)
    assert precision.place(torch.zeros(2, 3)).is_contiguous()


def test_autocast_makes_bf16_only_around_the_forward() -> None:
    module, x = nn.Linear(4, 4), torch.ones(1, 4)
    with Precision("bf16", "cpu").autocast():
        assert module(x).dtype == torch.bfloat16
    assert module(x).dtype == torch.float32
    with Precision("fp32", "cpu").autocast():
        assert module(x).dtype == torch.float32


def test_a_step_can_clip_the_gradient() -> None:
    precision = Precision("fp32", "cpu")
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.backward((weight * 100).sum())
    precision.step(optimizer, max_norm=1.0)
    precision.end_update()
    assert weight.detach().norm().item() == pytest.approx(1.0, rel=1e-3)


def test_its_state_makes_a_round_trip() -> None:
    precision = Precision("fp32", "cpu")
    precision.load_state(precision.state())


FRAGILE = """
import torch
from torch import nn
from edgekd.train.precision import Precision
torch.set_num_threads(1)
precision = Precision("fp32", "cpu")
layers = nn.Conv2d(4, 8, 3, 1, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 1, 2)
module = precision.prepare(nn.Sequential(*layers))
for _ in range(40):
    module(precision.place(torch.randn(32, 4, 16, 16))).sum().backward()
print("alive")
"""


def test_a_network_that_channels_last_would_crash_trains() -> None:
    """A memory error of torch: without the guard this process ends with SIGSEGV or SIGABRT."""
    done = subprocess.run([sys.executable, "-c", FRAGILE], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]


@pytest.mark.parametrize(
    ("layer", "crashes"),
    [
        (nn.Conv2d(4, 8, 1, 2), True),
        (nn.Conv2d(8, 16, 1, 2), False),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 3, 2), False),
    ],
)
def test_only_strided_pointwise_layers_with_few_channels_keep_their_order(
    layer: nn.Conv2d, crashes: bool
) -> None:
    precision = Precision("fp32", "cpu")
    precision.prepare(layer)
    placed = precision.place(torch.rand(2, 4, 6, 6))
    assert placed.is_contiguous(memory_format=torch.channels_last) != crashes
