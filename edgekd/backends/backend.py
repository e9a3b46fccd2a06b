"""What a backend is, said in plain data, so that listing and measuring need none of its libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from edgekd.backends.source import Source


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
    extra: str
    """The optional dependency group that exporting needs."""
    package: str
    """An importable package of that group, by which it is known to be installed."""
    runtime: Path
    """Source of the device side: one file (standard library, NumPy, the runtime) pushed beside the agent."""
    baseline: str
    """`() -> bytes`: a graph of one node, whose memory is the runtime's own."""
    libraries: tuple[str, ...]
    """Distributions whose versions are part of a step's key and of a measurement's facts."""
    precisions: tuple[str, ...]
    device_packages: Mapping[str, str] = field(default_factory=lambda: {"numpy": "numpy"})
    """What `edgekd device setup` installs on a device: distribution -> module that must be importable."""
    environment: str | None = None
    """Module of a converter's own environment: `python()` finds it (or raises `MissingDependencyError`),
    `versions()` are part of a step's key, `make(progress=...)` makes it."""
    tolerance: float = 1e-5
    """Of an FP32 file's logits against torch's, relative to the largest logit."""
    checked_by: str | None = None
    """Another backend, whose runtime checks an exported file where the own one needs special hardware."""
    companions: tuple[str, ...] = ()
    """Suffixes of files that belong beside an artifact's file, under the same stem.

    The file names their digests and its runtime checks them, so that its own digest stands for all.
    """
    profiles: tuple[str, ...] = ()
    """How it may want its quantized graphs."""

    def files_of(self, path: Path) -> tuple[Path, ...]:
        """An artifact's file and those beside it that there are: a graph without weights needs none."""
        beside = (path.with_suffix(suffix) for suffix in self.companions)
        return (path, *(file for file in beside if file.is_file()))

    def size_of(self, path: Path) -> int:
        """Bytes of all files together. Raises `OSError` when one is not there."""
        return sum(file.stat().st_size for file in self.files_of(path))

    def export(self, source: Source, path: Path) -> dict[str, Any]:
        """Write `source` to `path`; facts of the file. Raises `MissingDependencyError` without its extra."""
        facts = self._call(self.exporter, source, path)
        assert isinstance(facts, dict)
        return facts

    def baseline_graph(self) -> bytes:
        """A graph of one node. Raises `MissingDependencyError` without its extra."""
        graph = self._call(self.baseline)
        assert isinstance(graph, bytes)
        return graph

    def require(self) -> None:
        """Raise `MissingDependencyError` when exporting cannot work here; imports no library."""
        if find_spec(self.package) is None:
            raise self._missing(self.package)
        if self.environment is not None:
            importlib.import_module(self.environment).python()

    def converter_versions(self) -> dict[str, str]:
        """Of what converts in an environment of its own. Raises `MissingDependencyError`."""
        if self.environment is None:
            return {}
        return dict(importlib.import_module(self.environment).versions())

    def make_environment(self, progress: Callable[[str], None]) -> Path:
        """Make the converter's environment; its Python. Raises `UsageError` where there is no such thing."""
        if self.environment is None:
            fix = f"pip install 'edgekd[{self.extra}]'"
            raise UsageError(f"`{self.name}` needs no environment of its own", fix=fix)
        made = importlib.import_module(self.environment).make(progress=progress)
        assert isinstance(made, Path)
        return made

    def _call(self, target: str, *arguments: object) -> object:
        # Inside a function too: a backend may import its libraries where it needs them.
        module_name, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)(*arguments)
        except ModuleNotFoundError as error:
            if (error.name or "edgekd").partition(".")[0] == "edgekd":
                raise
            raise self._missing(str(error.name)) from error

    def _missing(self, package: str) -> MissingDependencyError:
        return MissingDependencyError(package, extra=self.extra, where=f"backend `{self.name}`")
