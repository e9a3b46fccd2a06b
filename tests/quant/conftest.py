"""The trained network that several tests start from, trained once a session."""

from __future__ import annotations

import os
import tempfile

import pytest
from torch import nn

from tests.quant.digits import Digits, digits, network, train

# torch's compiler, which torchvision and torch.export import, sets this; set before, no test seems to do it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")


@pytest.fixture(scope="session")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="session")
def trained(data: Digits) -> nn.Module:
    """Read only: a ResNet-8 with 95 % on the test images."""
    module = network()
    train(module, data, steps=200, learning_rate=3e-3)
    return module
