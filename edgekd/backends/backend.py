"""What a backend is, said in plain data, so that listing and measuring need none of its libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.config import Config
from edgekd.core.errors import MissingDependencyError, UnprovenVersionError, UsageError

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
    """Source of the device side: a file (standard library, NumPy, the runtime) pushed beside the agent."""
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
    check_options: Mapping[str, Any] = field(default_factory=dict)
    """A target's options while it runs a file in order to check it."""
    companions: tuple[str, ...] = ()
    """Suffixes of files that belong beside an artifact's file, under the same stem.

    The file names their digests and its runtime checks them, so that its own digest stands for all.
    """
    profiles: tuple[str, ...] = ()
    """How it may want its quantized graphs."""
    runtime_parts: tuple[Path, ...] = ()
    """Further files that `runtime` imports, pushed beside it under their own names, as `<backend>_*.py`."""
    options: type[Config] = Config
    """What a recipe may ask of an export beyond what all backends have; its fields are the keys."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> specifiers (PEP 440) of the versions that this was proven with, here and on devices."""
    check: str | None = None
    """`(Path, Source) -> measured`: what an exported file does here, as a `module:function`; it raises
    `ModelError` where that is wrong. Not of files that are only timed."""
    opening_s: float = 0.0
    """How much longer than any other call one may take that opens an artifact, which is built there first."""

    @property
    def device_files(self) -> tuple[Path, ...]:
        """All source of the device side."""
        return (self.runtime, *self.runtime_parts)

    def files_of(self, path: Path) -> tuple[Path, ...]:
        """An artifact's file and those beside it that there are: a graph without weights needs none."""
        beside = (path.with_suffix(suffix) for suffix in self.companions)
        return (path, *(file for file in beside if file.is_file()))

    def size_of(self, path: Path) -> int:
        """Bytes of all files together. Raises `OSError` when one is not there."""
        return sum(file.stat().st_size for file in self.files_of(path))

    def export(self, source: Source, path: Path) -> dict[str, Any]:
        """Write `source` to `path`; facts of the file. Raises `MissingDependencyError` as `require` does."""
        self.require()
        facts = self._call(self.exporter, source, path)
        assert isinstance(facts, dict)
        return facts

    def checked(self, source: Source, path: Path) -> dict[str, Any]:
        """What `check` measured of the file that `source` was exported to; nothing without one."""
        measured = self._call(self.check, path, source) if self.check is not None else {}
        assert isinstance(measured, dict)
        return measured

    def baseline_graph(self) -> bytes:
        """A graph of one node. Raises `MissingDependencyError` without its extra."""
        graph = self._call(self.baseline)
        assert isinstance(graph, bytes)
        return graph

    def require(self) -> None:
        """Raise `MissingDependencyError` when exporting cannot work here; imports no library.

        That is `UnprovenVersionError` where a library, or one of the converter's, is out of range.
        """
        from edgekd.backends.dependencies import installed

        if find_spec(self.package) is None:
            raise MissingDependencyError(self.package, extra=self.extra, where=self._where)
        self._check_range(installed(self.versions), _in_pip)
        if self.environment is not None:
            environment = importlib.import_module(self.environment)
            self._check_range(environment.versions(), lambda _: str(environment.FIX))

    def load_exporter(self) -> None:
        """Import what exports. Raises `MissingDependencyError`, and `BrokenDependencyError` where a library
        is installed and cannot be imported."""
        self._imported(self.exporter)

    def out_of_range(self, found: Mapping[str, str]) -> list[str]:
        """What of these versions, as a runtime or pip tells them, this was not proven with."""
        from edgekd.backends.dependencies import out_of_range

        return [*out_of_range(found, self.versions).values()]

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

    @property
    def _where(self) -> str:
        return f"backend `{self.name}`"

    def _check_range(self, found: Mapping[str, str], fix: Callable[[Mapping[str, str]], str]) -> None:
        from edgekd.backends.dependencies import out_of_range

        unproven = out_of_range(found, self.versions)
        if unproven:
            wanted = {name: self.versions[name] for name in unproven}
            raise UnprovenVersionError("; ".join(unproven.values()), where=self._where, fix=fix(wanted))

    def _imported(self, target: str) -> Callable[..., object]:
        module_name, _, attribute = target.partition(":")
        try:
            found: Callable[..., object] = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, OSError) as error:  # a shared library that ctypes cannot load is an OSError
            raise self._unusable(error) from error
        return found

    def _call(self, target: str, *arguments: object) -> object:
        function = self._imported(target)
        try:
            return function(*arguments)
        except ImportError as error:  # a backend may import its libraries where it needs them
            raise self._unusable(error) from error

    def _unusable(self, error: ImportError | OSError) -> Exception:
        from edgekd.backends.dependencies import import_error

        name = getattr(error, "name", None) or ""
        if name.partition(".")[0] == "edgekd":
            return error
        return import_error(error, extra=self.extra, where=self._where)


def _in_pip(wanted: Mapping[str, str]) -> str:
    return "pip install " + " ".join(f"'{name}{specifiers}'" for name, specifiers in wanted.items())
