"""A network that takes part in training: its module, its input and its taps, run as one thing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.distill.program import LOGITS
from edgekd.networks.model import Model
from edgekd.networks.resize import Normalize
from edgekd.networks.tap import Tap, TapRecorder


@dataclass(frozen=True)
class Participant:
    """module: any network; normalize: [0, 1] images at the data's resolution -> the module's input.

    taps: as the module has them now (renamed after a rewrite). labels: class names, where known.
    All state that training changes must be parameters and buffers: that is what is saved and copied.
    """

    module: nn.Module
    normalize: nn.Module = field(default_factory=nn.Identity)
    taps: Mapping[str, Tap] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    forward: Callable[[Tensor], Tensor] | None = None
    """The module's forward pass in a faster form (compiled), for passes of which only logits are read."""

    @classmethod
    def of(cls, model: Model) -> Participant:
        """The participant that a model is: its own preprocessing, taps and labels."""
        return cls(model.module, Normalize(model.spec.preprocess), model.taps, model.spec.labels)

    def copy(self) -> Participant:
        """The same with a module of its own."""
        module, normalize = copy.deepcopy(self.module), copy.deepcopy(self.normalize)
        return replace(self, module=module, normalize=normalize, forward=None)

    @property
    def device(self) -> torch.device:
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def run(
        self, images: Tensor, taps: Sequence[str], autocast: AbstractContextManager[Any] | None = None
    ) -> dict[str, Tensor]:
        """The named taps for `images` `[B, C, H, W]` in [0, 1]; reduced precisions come back as float32.

        Only the module runs under `autocast`. Without `logits` among the taps the forward pass ends at the
        last of them: what lies behind is neither computed nor are its statistics touched.
        """
        inputs = self.normalize(images)
        if self.forward is not None and tuple(taps) == (LOGITS,):
            with autocast or nullcontext():
                return {LOGITS: in_full_precision(self.forward(inputs))}
        recorder = _Recorder(self, taps)
        with autocast or nullcontext():
            values = recorder.forward(inputs)
        return {tap: in_full_precision(values[tap]) for tap in taps}


def in_full_precision(tensor: Tensor) -> Tensor:
    """float32 for the reduced floating types of autocast; everything else as it is."""
    reduced = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if reduced else tensor


class _LastTapSeen(Exception):
    """Ends a forward pass whose remaining outputs nobody reads."""


class StrictRecorder(TapRecorder):
    """Records each tap once; `check` refuses values that never came or were overwritten in place."""

    def __init__(self, module: nn.Module, names: Iterable[str], *, taps: Mapping[str, Tap]) -> None:
        super().__init__(module, names, taps=taps)
        self._versions: dict[str, int] = {}

    def _record_input(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # An in-place activation overwrites its own input.
        overwritten = getattr(module, "inplace", False)
        self._record(name, inputs[0].clone() if overwritten else inputs[0])

    def _record_output(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._record(name, output)

    def _record(self, name: str, value: Tensor) -> None:
        if name in self.values:
            raise UsageError(
                f"the module at tap `{name}` runs more than once in a forward pass",
                fix="give every use a module of its own (each ReLU separately) and tap that",
            )
        self.values[name] = value
        self._versions[name] = value._version

    @property
    def missing(self) -> list[str]:
        """Taps that have no value yet."""
        return sorted(self._points.keys() - self.values.keys())

    def check(self) -> None:
        """Raise `UsageError` for a tap without a value or with one that has changed since."""
        for name in self.missing:
            raise UsageError(
                f"the forward pass never ran the module at tap `{name}`",
                fix="point the tap at a leaf module that runs exactly once",
            )
        for name, version in self._versions.items():
            if self.values[name]._version != version:
                raise UsageError(
                    f"the tensor at tap `{name}` was overwritten by an in-place operation behind it",
                    fix="tap the module that writes it, or build the network with inplace=False",
                )


class _Recorder(StrictRecorder):
    """Stops the forward pass at the last tap that is wanted."""

    def __init__(self, participant: Participant, taps: Sequence[str]) -> None:
        wanted = [tap for tap in taps if tap != LOGITS]
        super().__init__(participant.module, wanted, taps=participant.taps)
        self._module = participant.module
        self._whole = LOGITS in taps

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        with self, suppress(_LastTapSeen):
            self.values[LOGITS] = self._module(inputs)
        self.check()
        return self.values

    def _record(self, name: str, value: Tensor) -> None:
        super()._record(name, value)
        if not self._whole and not self.missing:
            raise _LastTapSeen
