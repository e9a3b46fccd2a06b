"""Networks that ONNX or OpenVINO cannot take: the error names the module and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.export import export
from edgekd.backends.source import Source
from edgekd.core.errors import ModelError

Function = Callable[[Tensor], Tensor]


class Block(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Net(nn.Module):
    """`features.1` computes `function` of `[N, 4, 8, 8]`."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.features = nn.Sequential(nn.ReLU(), Block(function))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


def source(function: Function) -> Source:
    torch.manual_seed(0)
    return Source(Net(function).eval(), (3, 8, 8))


def scaled_by_singular_values(x: Tensor) -> Tensor:
    scale: Tensor = torch.linalg.svdvals(x).sum(-1)[..., None, None]
    return x * scale


def chosen_by_sum(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def as_many_as_the_sum(x: Tensor) -> Tensor:
    return x[:, : int(x.sum())]


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(x))


@pytest.mark.parametrize("backend", ["onnx", pytest.param("openvino", marks=pytest.mark.backends)])
@pytest.mark.parametrize(
    ("function", "what", "fix"),
    [
        (scaled_by_singular_values, "ONNX has no `aten._linalg_svd` at `features.1` (Block)", "replace it"),
        (torch.special.bessel_j0, "ONNX has no `prims.bessel_j0` at `features.1` (Block)", "replace it"),
        (chosen_by_sum, "depends on the values of its input at `features.1` (Block)", "torch.where"),
        (as_many_as_the_sum, "depends on the values of its input at `features.1` (Block)", "torch.where"),
        (through_numpy, "cannot be exported to ONNX at `features.1` (Block)", "torch operations"),
    ],
)
def test_what_cannot_be_exported_names_its_module_and_a_way_out(
    backend: str,
    function: Function,
    what: str,
    fix: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    suffix = BACKENDS.load(backend).suffix
    with pytest.raises(ModelError) as caught:
        BACKENDS.load(backend).export(source(function), tmp_path / f"a{suffix}")
    assert what in caught.value.what and fix in str(caught.value.fix)
    assert caught.value.exit_code == 2
    assert [*tmp_path.iterdir()] == []
    assert capfd.readouterr() == ("", "")


def by_mean_of_places(x: Tensor) -> Tensor:
    return x * torch.nonzero(x).float().mean()


def by_mean_of_positive(x: Tensor) -> Tensor:
    return x * x[x > 0].mean()


@pytest.mark.backends
@pytest.mark.parametrize("function", [by_mean_of_places, by_mean_of_positive])
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_shapes_inside_that_depend_on_data_answer_as_torch_does(
    function: Function, backend: str, tmp_path: Path
) -> None:
    """ONNX has such shapes; two images whose counts differ go through the same graph."""
    pytest.importorskip(backend if backend == "openvino" else "onnxruntime")
    described, given = BACKENDS.load(backend), source(function)
    path = tmp_path / f"a{described.suffix}"
    described.export(given, path)
    runtime = __import__(f"edgekd.backends.{backend}.runtime", fromlist=["load"])
    graph = runtime.load(str(path))
    for seed in range(2):
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            wanted = given.module(x).numpy()
        np.testing.assert_allclose(graph.run(x.numpy()), wanted, atol=1e-5 * np.abs(wanted).max())


def by_determinant(x: Tensor) -> Tensor:
    return x * torch.det(x)[..., None, None]


def by_chance(x: Tensor) -> Tensor:
    return torch.bernoulli(torch.sigmoid(x))


@pytest.mark.backends
@pytest.mark.parametrize(("function", "operator"), [(by_determinant, "Det"), (by_chance, "Bernoulli")])
def test_what_onnx_has_and_openvino_has_not_names_its_module(
    function: Function, operator: str, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    export(source(function), tmp_path / "a.onnx")
    with pytest.raises(ModelError) as caught:
        BACKENDS.load("openvino").export(source(function), tmp_path / "b.xml")
    assert caught.value.what == f"OpenVINO has no `{operator}` at `features.1`"
    assert "onnx backend" in str(caught.value.fix)
    assert not (tmp_path / "b.xml").exists()
