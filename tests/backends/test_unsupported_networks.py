"""A network that a runtime cannot have: refused with the operator or reason, its module, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.source import Source
from edgekd.core.errors import MissingDependencyError, ModelError

pytestmark = [
    pytest.mark.backends,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
]

SHAPE = (3, 12, 12)


class Masked(nn.Module):
    """How many values it gives depends on them."""

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        kept = values[:, values[0].nonzero().flatten()]
        return kept[:, :3].view(1, 3, 1, 1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Cropped(nn.Module):
    """Where it cuts depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : int(x.argmax()) % 4 + 1]


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x + 10 * torch.eye(12))


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x).abs()


class Network(nn.Module):
    """A classifier with one odd module in the middle."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.stem, self.odd = nn.Conv2d(3, 3, 3, padding=1), odd
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.odd(self.stem(x))).flatten(1))
        return logits


VALUES = "depends on the values"
TOLD = {
    Masked: (VALUES, "aten.nonzero.default"),
    Branching: (VALUES,),
    Cropped: (VALUES,),
    Inverse: ("linalg_inv",),
    Spectrum: ("fft",),
}


@pytest.mark.parametrize("odd", TOLD, ids=lambda odd: odd.__name__)
@pytest.mark.parametrize("name", ["executorch", "litert", "ncnn"])
def test_the_refusal_says_what_where_and_what_to_do(
    name: str, odd: type[nn.Module], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = BACKENDS.load(name)
    try:
        backend.require()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    with pytest.raises(ModelError) as caught:
        backend.export(Source(Network(odd()).eval(), SHAPE), tmp_path / f"model{backend.suffix}")
    said = str(caught.value)
    for word in (*TOLD[odd], "odd", "fix: "):
        assert word in said, said
    assert "network.odd" not in said, "the wrapper of an exporter is no module of the network"
    assert [*tmp_path.iterdir()] == []
    assert capfd.readouterr() == ("", ""), "an exporter must not print what it gives up"
