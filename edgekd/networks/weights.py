"""Reading weights that may come from anywhere: never unpickled, checked before they are used."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edgekd.core.errors import ModelError

State = dict[str, Tensor]

_SHOWN = 5
_COUNTER = "num_batches_tracked"


def read_state(path: Path, *, prefixes: Mapping[str, str] | None = None) -> State:
    """The state dict in `path`: `.safetensors`, or a torch file (read with `weights_only=True`).

    A torch file may hold the state dict itself or `{"state_dict": ...}`. A `module.` that all keys begin with
    (DataParallel) is dropped; then `prefixes` maps beginnings of keys, the longest match first.
    Raises `ModelError` for a file that is absent, cut short, hostile or not a state dict.
    """
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return map_prefixes(_without_module(state), prefixes or {})


def map_prefixes(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> State:
    """`state` with the beginnings of its keys replaced; raises `ModelError` when two keys become one."""
    ordered = sorted(prefixes.items(), key=lambda item: -len(item[0]))
    mapped: State = {}
    for key, value in state.items():
        new = next((to + key[len(begin) :] for begin, to in ordered if key.startswith(begin)), key)
        if new in mapped:
            raise ModelError(f"the prefix mapping gives two weights the name `{new}`")
        mapped[new] = value
    return mapped


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `state` into `module`; raises `ModelError` for missing, unexpected or misshapen weights.

    Batch norm's counters may be missing (files older than torch 0.4.1) and then start at 0.
    """
    own = module.state_dict()
    counters = {key: torch.zeros_like(value) for key, value in own.items() if key.endswith(_COUNTER)}
    state = {**counters, **state}
    problems = [
        *_listed("missing", [key for key in own if key not in state]),
        *_listed("unexpected", [key for key in state if key not in own]),
        *_listed(
            "of another shape or type",
            [_difference(key, state[key], own[key]) for key in own if key in state],
        ),
    ]
    if problems:
        raise ModelError(
            "the weights do not fit the network: " + "; ".join(problems),
            where=where,
            fix="check the network's name, arguments and number of classes (and the prefix mapping)",
        )
    module.load_state_dict(state)


def _difference(key: str, given: Tensor, own: Tensor) -> str:
    same_kind = given.is_floating_point() == own.is_floating_point()
    if given.shape == own.shape and same_kind:
        return ""
    return f"{key} (file {list(given.shape)} {given.dtype}, network {list(own.shape)} {own.dtype})"


def _listed(what: str, keys: list[str]) -> list[str]:
    keys = [key for key in keys if key]
    if not keys:
        return []
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{more}"]


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load(path.read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(f"not a readable safetensors file: {error}", where=str(path)) from error


def _read_torch(path: Path) -> State:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the file is damaged or holds more than weights, and is not unpickled",
            where=str(path),
            fix="save `model.state_dict()` alone, best as .safetensors",
        ) from error
    # A hostile or cut file fails anywhere inside the reader.
    except Exception as error:
        raise ModelError(f"not a readable torch file: {_first_line(error)}", where=str(path)) from error
    return _state_in(content, path)


def _state_in(content: Any, path: Path) -> State:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise ModelError(f"holds a {type(content).__name__}, not a state dict", where=str(path))
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(f"not a state dict: `{key}` is a {type(value).__name__}", where=str(path))
    return dict(content)


def _without_module(state: State) -> State:
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
