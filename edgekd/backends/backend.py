"""What a backend is, said in plain data, so that listing and measuring need none of its libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import MissingDependencyError


@dataclass(frozen=True)
class Backend:
    """A format that networks are exported to and the runtime that runs it.

    `exporter` (`(Source, Path) -> facts`) and `baseline` are `module:function`, imported only when used.
    """

    name: str
    title: str
    """As a person calls it."""
    suffix: str
    """Of an artifact's file, with the dot."""
    exporter: str
    runtime: Path
    """Source of the device side: one file (standard library, NumPy, the runtime) pushed beside the agent."""
    baseline: str
    """`() -> bytes`: a graph of one node, whose memory is the runtime's own."""
    libraries: tuple[str, ...]
    """Distributions whose versions are part of a step's key and of a measurement's facts."""
    precisions: tuple[str, ...]
    companions: tuple[str, ...] = ()
    """Suffixes of files that belong beside an artifact's file, under the same stem.

    The file names their digests and its runtime checks them, so that its own digest stands for all.
    """
    profiles: tuple[str, ...] = ()
    """How it may want its quantized graphs."""
    extra: str | None = None
    """The optional dependency group that exporting needs."""

    def files_of(self, path: Path) -> tuple[Path, ...]:
        """An artifact's file and those beside it that there are: a graph without weights needs none."""
        beside = (path.with_suffix(suffix) for suffix in self.companions)
        return (path, *(file for file in beside if file.is_file()))

    def size_of(self, path: Path) -> int:
        """Bytes of all files together. Raises `OSError` when one is not there."""
        return sum(file.stat().st_size for file in self.files_of(path))

    def load_exporter(self) -> Callable[..., Any]:
        """The export function; raises `MissingDependencyError` when its extra is not installed."""
        return self._load(self.exporter)

    def baseline_graph(self) -> bytes:
        graph = self._load(self.baseline)()
        assert isinstance(graph, bytes)
        return graph

    def _load(self, target: str) -> Callable[..., Any]:
        module_name, _, attribute = target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if self.extra is None or (error.name or "").startswith("edgekd"):
                raise
            raise MissingDependencyError(
                error.name or "?", extra=self.extra, where=f"backend `{self.name}`"
            ) from error
        function: Callable[..., Any] = getattr(module, attribute)
        return function
