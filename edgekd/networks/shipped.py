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


def shipped_spec(name: str) -> ModelSpec:
    """What a shipped model is, without its weights. Raises `UsageError` for an unknown name."""
    return ModelSpec.model_validate(_card(name)["model"])


def load_shipped(name: str) -> Model:
    """A shipped model, in evaluation mode.

    Raises `UsageError` listing the names for an unknown one, `ModelError` when its weights are not those that
    its spec names.
    """
    card = _card(name)
    weights = shipped_models()[name] / WEIGHTS
    if of_file(weights) != card["weights_sha256"]:
        raise ModelError("the weights are not those that the spec names", where=str(weights))
    model = build_model(ModelSpec.model_validate(card["model"]))
    load_strict(model.module, read_state(weights), where=str(weights))
    model.module.eval()
    return model


def _card(name: str) -> dict[str, Any]:
    models = shipped_models()
    if name not in models:
        raise UsageError(f"`{name}` is not a shipped model{close_names(name, models)}", choices=models)
    card: dict[str, Any] = yaml.safe_load((models[name] / SPEC).read_text(encoding="utf-8"))
    return card
