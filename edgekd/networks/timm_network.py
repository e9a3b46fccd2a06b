"""Any timm classifier, with the recipe's number of classes and channels (extra `timm`)."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from edgekd.core.errors import ModelError, close_names
from edgekd.networks.traced import TracedNetwork, traced


def timm_network(
    *, num_classes: int, in_channels: int, model: str, image_size: int | None = None, **args: Any
) -> TracedNetwork:
    """`timm.create_model(model)` without weights; `args` go to it. Raises `ModelError` for an unknown name.

    image_size: pixels, for models whose shape depends on it (transformers); others take any size.
    """
    names = timm.list_models()
    if model.partition(".")[0] not in names:
        raise ModelError(
            f"`{model}` is not a timm model{close_names(model, names)}",
            fix="python -c 'import timm; print(timm.list_models())' lists them",
        )
    size = {} if image_size is None else {"img_size": image_size}
    network = timm.create_model(
        model, pretrained=False, num_classes=num_classes, in_chans=in_channels, **size, **args
    )
    _make_linear_plain(network)
    side = image_size or network.default_cfg["input_size"][-1]
    return traced(network, (in_channels, side, side))


def _make_linear_plain(network: nn.Module) -> None:
    """timm's own linear layer computes the same as torch's, but `fx` takes it apart, and its taps with it."""
    for path, layer in list(network.named_modules()):
        if type(layer) is timm.layers.Linear:
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            plain.weight, plain.bias = layer.weight, layer.bias
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, plain)
