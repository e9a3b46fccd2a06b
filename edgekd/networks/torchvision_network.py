"""Any torchvision classifier, with the recipe's number of classes and channels, and its published weights."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.core.errors import ModelError, close_names
from edgekd.core.preprocess import Preprocess
from edgekd.networks.traced import TracedNetwork, traced

_ALIASES = ("weights", "progress", "num_classes")


def torchvision_network(
    *, num_classes: int, in_channels: int, model: str, image_size: int | None = None, **args: Any
) -> TracedNetwork:
    """`torchvision.models.<model>` without weights; `args` go to its builder.

    image_size: pixels, for models whose shape depends on it (transformers; default 224).
    """
    from torchvision.models import get_model

    _check(model, args)
    settings = _defaults(model, image_size) | args
    network: nn.Module = get_model(model, weights=None, num_classes=num_classes, **settings)
    adapt_input(network, in_channels)
    size = image_size or (299 if model == "inception_v3" else 224)
    return traced(network, (in_channels, size, size))


@dataclass(frozen=True)
class Published:
    """What torchvision publishes for a model: weights that fit `torchvision_network`, and their two ends.

    Its own preprocessing resizes and then crops the center; `preprocess` has the size after the crop.
    """

    state: dict[str, Tensor]
    preprocess: Preprocess
    labels: tuple[str, ...]


def published(
    model: str, *, num_classes: int | None = None, in_channels: int = 3, name: str = "DEFAULT"
) -> Published:
    """Download (or take from torch's cache) the weights `name` of `model`.

    With another number of classes the classifier's weights are left out (load with `load_trunk`); with one
    channel the first convolution's filters are summed over color. Raises `ModelError` if they cannot be had.
    """
    from torchvision.models import get_model_weights

    _check(model, {})
    weights = _entry(get_model_weights(model), model, name)
    state = _without_auxiliary(_download(weights))
    labels = tuple(weights.meta["categories"])
    if in_channels == 1:
        state = _for_one_channel(state)
    if num_classes not in (None, len(labels)):
        state = _without_classifier(state, len(labels))
    return Published(state, _preprocess(weights.transforms(), in_channels), labels)


def load_trunk(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load published weights that lack the classifier; raises `ModelError` when anything else is missing."""
    own = network.state_dict()
    classifier = getattr(network, "taps")["embedding"].path  # noqa: B009
    bad = [key for key in own if key not in state and not key.startswith(f"{classifier}.")]
    bad += [key for key in state if key not in own or own[key].shape != state[key].shape]
    if bad:
        raise ModelError(f"the published weights do not fit: {', '.join(bad[:5])}")
    network.load_state_dict(own | state)


def adapt_input(network: nn.Module, in_channels: int) -> None:
    """Rebuild the first convolution for another number of input channels."""
    path, conv = next((p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == in_channels:
        return
    parent, _, name = path.rpartition(".")
    settings = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    rebuilt = nn.Conv2d(in_channels, conv.out_channels, bias=conv.bias is not None, **settings)
    setattr(network.get_submodule(parent), name, rebuilt)


def _check(model: str, args: dict[str, Any]) -> None:
    import torchvision.models
    from torchvision.models import get_model_builder, list_models

    names = list_models(module=torchvision.models)
    if model not in names:
        raise ModelError(
            f"`{model}` is not a torchvision classifier{close_names(model, names)}", choices=names
        )
    legal = _legal_args(get_model_builder(model))
    for key in args:
        if key in _ALIASES or (legal is not None and key not in legal):
            raise ModelError(
                f"`{key}` is not an argument", where=f"network `torchvision/{model}`", choices=legal or ()
            )


def _legal_args(builder: Any) -> list[str] | None:
    """The builder's own arguments and those of the class it builds, or None where they cannot be read."""
    own = inspect.signature(builder)
    names = [key for key, p in own.parameters.items() if p.kind is not p.VAR_KEYWORD and key not in _ALIASES]
    built = inspect.get_annotations(builder, eval_str=False).get("return")
    built = getattr(inspect.getmodule(builder), built, None) if isinstance(built, str) else built
    if not isinstance(built, type):
        return None
    return [*names, *(key for key in inspect.signature(built).parameters if key not in _ALIASES)]


def _defaults(model: str, image_size: int | None) -> dict[str, Any]:
    if model in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    if model.startswith("vit_") and image_size is not None:
        return {"image_size": image_size}
    return {}


def _entry(choices: Any, model: str, name: str) -> Any:
    try:
        return choices[name]
    except KeyError:
        raise ModelError(
            f"`{name}` is not a set of weights of `{model}`", choices=[str(c.name) for c in choices]
        ) from None


def _download(weights: Any) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except Exception as error:
        raise ModelError(
            f"cannot download the published weights: {error}",
            where=weights.url,
            fix=f"download the file elsewhere and put it into {torch.hub.get_dir()}/checkpoints, "
            "or give `weights: FILE`",
        ) from error
    return dict(state)


def _without_auxiliary(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not re.match(r"(aux\d|AuxLogits)\.", k)}


def _for_one_channel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    first = next(key for key, value in state.items() if value.dim() == 4)
    return state | {first: state[first].sum(1, keepdim=True)}


def _without_classifier(state: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    *_, last = (key for key, value in state.items() if value.shape[:1] == (num_classes,) and value.dim() > 1)
    prefix = last.removesuffix("weight")
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


def _preprocess(transforms: Any, in_channels: int) -> Preprocess:
    size = transforms.crop_size[0]
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if in_channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Preprocess(size=(size, size), mean=mean, std=std)
