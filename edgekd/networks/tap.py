"""Taps: the named feature points of a network, and how their values are collected.

A tap is the input or the output of one leaf module that a forward pass calls exactly once, so it survives
`torch.fx.symbolic_trace`. Names: `stage1` .. `stageN` (after the activation), `stage1:pre` (before it; the
same point where a stage ends without activation), `embedding` (input of the classifier), `logits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekd.core.errors import ModelError, close_names

End = Literal["input", "output"]


class Tap(NamedTuple):
    """One end of one module: `path` as in `named_modules()`."""

    path: str
    end: End = "output"


Taps = dict[str, Tap]


def activation(name: str, path: str) -> Taps:
    """The two taps around an activation module: `name` after it, `name:pre` before it."""
    return {name: Tap(path, "output"), f"{name}:pre": Tap(path, "input")}


def linear(name: str, tap: Tap) -> Taps:
    """The taps of a stage that ends without activation: both names are the same point."""
    return {name: tap, f"{name}:pre": tap}


def head(classifier: str) -> Taps:
    """`embedding` and `logits`: the two ends of the final linear layer."""
    return {"embedding": Tap(classifier, "input"), "logits": Tap(classifier, "output")}


def taps_of(module: nn.Module) -> Taps:
    """The taps a network declares; empty where it declares none (an ONNX teacher)."""
    taps = getattr(module, "taps", None)
    return dict(taps) if isinstance(taps, dict) else {}


def classifier_of(module: nn.Module) -> str:
    """Path of the layer that makes the logits from the embedding. Raises `ModelError` where there is none."""
    return require(taps_of(module), ["embedding"], where=type(module).__name__)["embedding"].path


def renamed(taps: Mapping[str, Tap], paths: Mapping[str, str | None]) -> Taps:
    """The taps after a rewrite moved modules: old path -> new path, or None where the point is gone.

    Paths that are not in `paths` stay. A tap whose point is gone is left out.
    """
    moved = {name: (paths.get(tap.path, tap.path), tap.end) for name, tap in taps.items()}
    return {name: Tap(path, end) for name, (path, end) in moved.items() if path is not None}


def declare(module: nn.Module, taps: Mapping[str, Tap]) -> None:
    """Give `module` its taps, as a plain attribute (`fx` rewrites drop it: declare again on the result)."""
    object.__setattr__(module, "taps", dict(taps))


def require(taps: Mapping[str, Tap], names: Iterable[str], *, where: str | None = None) -> Taps:
    """The named taps. Raises `ModelError` that lists the legal names for an unknown one."""
    wanted = list(names)
    for name in wanted:
        if name not in taps:
            raise ModelError(f"`{name}` is not a tap{close_names(name, taps)}", where=where, choices=taps)
    return {name: taps[name] for name in wanted}


class TapRecorder:
    """While entered, every forward pass leaves the requested taps' values in `values`.

    with TapRecorder(module, ["stage1"]) as values:
        logits = module(x)
        values["stage1"]            # Tensor [B, C, H, W], attached to the graph

    A second forward pass overwrites. Works on `fx.GraphModule`s that carry the taps' modules.
    """

    def __init__(
        self, module: nn.Module, names: Iterable[str], *, taps: Mapping[str, Tap] | None = None
    ) -> None:
        legal = taps_of(module) if taps is None else taps
        self._points = require(legal, names, where=type(module).__name__)
        self._modules = dict(module.named_modules())
        self._handles: list[RemovableHandle] = []
        self.values: dict[str, Tensor] = {}
        self._check_modules()

    def _check_modules(self) -> None:
        for name, tap in self._points.items():
            if tap.path not in self._modules:
                raise ModelError(
                    f"the tap `{name}` names the module `{tap.path}`, which this network does not have",
                    fix="give the taps after the rewrite (`tap.renamed`)",
                )

    def __enter__(self) -> dict[str, Tensor]:
        self.values.clear()
        for name, tap in self._points.items():
            module = self._modules[tap.path]
            if tap.end == "input":
                handle = module.register_forward_pre_hook(partial(self._record_input, name))
            else:
                handle = module.register_forward_hook(partial(self._record_output, name))
            self._handles.append(handle)
        return self.values

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _record_input(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.values[name] = inputs[0]

    def _record_output(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.values[name] = output
