"""The smallest program that ExecuTorch can run: what a process needs before any model is in it."""

from __future__ import annotations

import torch
from torch import nn

from edgekd.backends.executorch.lowering import lower


def one_node_graph() -> bytes:
    """One ReLU over float32 `[1, 1, 1, 1]`, in the XNNPACK delegate."""
    with torch.no_grad():
        return lower(torch.export.export(nn.ReLU().eval(), (torch.zeros(1, 1, 1, 1),)))
