"""Checkpoints: the last two states of a training on disk, each written whole or not at all."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.core.durable import write_bytes
from edgekd.core.errors import DivergedError, StoreError
from edgekd.core.events import Emit

VERSION = 1
_KEPT = 2
_DIGEST_CHARS = 64


@dataclass(frozen=True)
class Checkpoint:
    """`content` is what was saved after `step` updates."""

    step: int
    content: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder. `identity` is plain data; those of another identity are not used.

    A file holds the sha256 of the rest, a line feed and a `torch.save` archive, so a file that was cut short
    or damaged is recognized before it is parsed; then the one before it is used. Nothing is unpickled.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], emit: Emit) -> None:
        self.folder = folder
        self._identity = dict(identity)
        self._emit = emit

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Write a checkpoint, then delete all but the newest two.

        Raises `DivergedError` when a value in it is NaN (the older ones stay), `StoreError` when it cannot be
        written.
        """
        _refuse_nan(content, step)
        stream = io.BytesIO()
        torch.save(
            {"version": VERSION, "identity": self._identity, "step": step, "content": dict(content)}, stream
        )
        payload = stream.getvalue()
        digest = hashlib.sha256(payload).hexdigest().encode()
        write_bytes(self.folder / f"checkpoint-{step:09d}.pt", digest + b"\n" + payload)
        for path in self._paths()[_KEPT:]:
            path.unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """The newest readable checkpoint of this identity; emits a `note` for each one passed over."""
        for path in self._paths():
            try:
                return self._read(path)
            except StoreError as error:
                self._emit({"event": "note", "text": f"{error.what}; it is not used: {path.name}"})
                path.unlink(missing_ok=True)
        return None

    def newest(self) -> Path | None:
        return next(iter(self._paths()), None)

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("checkpoint-*.pt"), reverse=True)

    def _read(self, path: Path) -> Checkpoint:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"the checkpoint cannot be read ({error.strerror})", where=str(path)) from error
        digest, payload = data[:_DIGEST_CHARS], data[_DIGEST_CHARS + 1 :]
        if hashlib.sha256(payload).hexdigest().encode() != digest:
            raise StoreError("the checkpoint is damaged or cut short", where=str(path))
        try:
            record = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        # Any error may come out of a file that another program wrote.
        except Exception as error:
            raise StoreError("the checkpoint is not one of edgekd's", where=str(path)) from error
        if record.get("version") != VERSION or record.get("identity") != self._identity:
            raise StoreError("the checkpoint is of another training", where=str(path))
        return Checkpoint(record["step"], record["content"])


def _refuse_nan(content: Mapping[str, Any], step: int) -> None:
    for name, tensor in _tensors(content, ""):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise DivergedError(f"training diverged: `{name}` holds NaN", where=f"after step {step}")


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}.{index}")
