"""The key of a step: everything its result depends on, as named ingredients."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.artifact import Artifact
from edgekd.core.digest import of_data, of_file
from edgekd.pipeline.backend_code import PACKAGE, digest
from edgekd.pipeline.plan import PlannedStep
from edgekd.stages.catalogue import STAGES
from edgekd.stages.stage import Stage

ABSENT = "absent"
"""In place of a version, or of a digest."""
_STAGES = "edgekd.stages"
_FAMILIES = (
    "backends",
    "data",
    "methods",
    "networks",
    "spaces",
    "stages",
    "strategies",
    "targets",
    "transforms",
)


def ingredients(
    step: PlannedStep,
    inputs: Mapping[str, Sequence[Artifact]],
    surroundings: Mapping[str, Any],
) -> dict[str, Any]:
    """What the step's result depends on.

    `surroundings` holds `seed`, `threads`, `device`, and the digests of `data`, `labeled_data`, `limits`,
    `targets` and `plans`; a stage's `reads` says which of the latter count for it.
    """
    stage: Stage = STAGES.load(step.stage)
    backends = _backends(step, inputs)
    always = ("seed", "threads", "device", "dtype")
    return {
        "stage": step.stage,
        "config": step.config.model_dump(mode="json", exclude={"name"}),
        "inputs": {name: [a.digest for a in artifacts] for name, artifacts in inputs.items()},
        "files": {path.name: _file_digest(path) for path in step.config.files()},
        "code": _code(stage, backends),
        "libraries": {name: library_version(name) for name in _libraries(stage, backends)}
        | _converters(backends),
        "plugins": plugin_versions(),
        **{name: surroundings[name] for name in (*always, *stage.reads)},
    }


def _backends(step: PlannedStep, inputs: Mapping[str, Sequence[Artifact]]) -> list[str]:
    """Those that the step's settings name, and those of the graphs that it is given."""
    graphs = [one for given in inputs.values() for one in given if one.kind == "graph"]
    return sorted({*step.config.runs_in(), *(graph.facts["backend"] for graph in graphs)})


def _code(stage: Stage, backends: Sequence[str]) -> dict[str, str]:
    """Digests of the packages that the stage declares; of the backends, of what the step uses."""
    whole = PACKAGE in stage.sources
    named = [name for name in stage.sources if name != PACKAGE]
    users = [*named, stage.run.__module__, *([_STAGES] if whole else [])]
    of_backends = digest(users, backends if whole else ())
    found = {name: code_digest(name) for name in (*named, _STAGES, stage.run.__module__)}
    return found | ({PACKAGE: of_backends} if of_backends else {})


def _libraries(stage: Stage, backends: Sequence[str]) -> list[str]:
    of_backends = [name for backend in backends for name in BACKENDS.load(backend).libraries]
    return sorted({*stage.libraries, *of_backends})


def _converters(backends: Sequence[str]) -> dict[str, str]:
    """Versions of what converts in environments of its own, which may have libraries of the same names."""
    loaded = map(BACKENDS.load, backends)
    return {f"{one.name}/{name}": found for one in loaded for name, found in one.converter_versions().items()}


def key_of(parts: Mapping[str, Any]) -> str:
    return of_data(parts)


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The ingredients that differ, as `config.num_epochs: 3 -> 5`."""
    before, after = _flat(old), _flat(new)
    names = sorted(set(before) | set(after))
    return [
        f"{name}: {_short(before.get(name))} -> {_short(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]


@cache
def code_digest(module: str) -> str:
    """sha256 over the sources of a module or package, by relative name and content."""
    found = find_spec(module)
    if found is None or found.origin is None:
        return ABSENT
    path = Path(found.origin)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    state = hashlib.sha256()
    for file in files:
        state.update(file.relative_to(path.parent).as_posix().encode())
        state.update(file.read_bytes())
    return state.hexdigest()


@cache
def plugin_versions() -> dict[str, str]:
    """Distribution -> version of everything installed that registers names with edgekd."""
    points = [point for family in _FAMILIES for point in entry_points(group=f"edgekd.{family}")]
    return {point.dist.name: point.dist.version for point in points if point.dist is not None}


@cache
def library_version(name: str) -> str:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT


def machine_dtype() -> str:
    """What decides the numbers of a training run on this machine beside the seed: its instruction set."""
    return f"{platform.machine()}-{sys.byteorder}"


def _file_digest(path: Path) -> str:
    return of_file(path) if path.is_file() else ABSENT


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for name, item in value.items():
            flat.update(_flat(item, f"{prefix}.{name}" if prefix else str(name)))
        return flat
    return {prefix: value}


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "..."
