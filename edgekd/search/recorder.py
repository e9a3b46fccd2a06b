"""Watches the operators that PyTorch dispatches on the meta device (imports torch: load it late)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Note = Callable[[str, Sequence[Any], tuple[int, ...]], None]
"""(operator's name, its arguments, shape of its output)."""

_NORMALIZING = frozenset({"native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"})
_ELEMENTWISE = frozenset(
    {"relu", "relu_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "silu", "gelu"}
)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its hooks are unannotated in torch
    """While entered, `note` is told of every operator that returns one tensor."""

    def __init__(self, note: Note) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        output = _run(func, name, args, kwargs or {})
        if isinstance(output, torch.Tensor):
            self._note(name, args, tuple(output.shape))
        return output


def _run(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator; on the meta device those that keep the shape return their input.

    There is nothing to compute there, and PyTorch's shape rules for them are Python that takes 1-3 ms a call.
    """
    if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
        if name in _NORMALIZING:
            return args[0], args[0], args[0]
        if name in _ELEMENTWISE:
            return args[0]
    return func(*args, **kwargs)
