"""Models that come with edgekd: `models/<network>.<tag>/{spec.yaml, card.md, weights.safetensors}`."""

from __future__ import annotations

from typing import Any

import yaml

from edgekd.core.digest import of_file
from edgekd.core.errors import ModelError, UsageError, close_names
from edgekd.core.shipped import shipped_models
from edgekd.core.spec import ModelSpec
from edgekd.networks.model import Model, build_model
from edgekd.networks.weights import load_strict, read_state

SPEC = "spec.yaml"
WEIGHTS = "weights.safetensors"


def load_shipped(name: str) -> Model:
    """A shipped model, in evaluation mode.

    Raises `UsageError` listing the names for an unknown one, `ModelError` when its weights are not those that
    its spec names.
    """
    models = shipped_models()
    if name not in models:
        raise UsageError(f"`{name}` is not a shipped model{close_names(name, models)}", choices=models)
    folder = models[name]
    card: dict[str, Any] = yaml.safe_load((folder / SPEC).read_text(encoding="utf-8"))
    weights = folder / WEIGHTS
    if of_file(weights) != card["weights_sha256"]:
        raise ModelError("the weights are not those that the spec names", where=str(weights))
    model = build_model(ModelSpec.model_validate(card["model"]))
    load_strict(model.module, read_state(weights), where=str(weights))
    model.module.eval()
    return model
