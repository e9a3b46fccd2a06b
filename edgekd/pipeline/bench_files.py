"""Whose files a bench was given: the backend of each by its suffix, and a short name for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import ModelError, UsageError, close_names
from edgekd.measure.probes import Graph


def name_models(paths: Sequence[Path], backends: Sequence[str] = ()) -> dict[str, Graph]:
    """A short name for each file in each of its backends: its stem, else its name, else its path.

    `backends` chooses where several have files with one suffix, as `.onnx`; several of them time the file in
    each, side by side. Raises `UsageError` for fewer than two graphs, for a file of no backend and for a
    backend that has none of the files, `ModelError` for what is no file.
    """
    graphs = [Graph(path, backend) for path in paths for backend in _backends_of(path, backends)]
    _check_used(graphs, backends)
    if len(graphs) < 2:
        raise UsageError(
            "a comparison needs at least two models",
            fix="edgekd bench a.onnx b.onnx; one file in two runtimes: --backend onnx --backend tensorrt",
        )
    for path in paths:
        if not path.is_file():
            raise ModelError("there is no such file", where=str(path))
    return _numbered(graphs, _labels(graphs))


def _backends_of(path: Path, wanted: Sequence[str]) -> list[str]:
    """Those that have files with the path's suffix: the wanted ones among them, else the first."""
    takers = [name for name in BACKENDS.names() if path.name.endswith(BACKENDS.load(name).suffix)]
    if not takers:
        raise UsageError("no backend has files of this kind", where=str(path), choices=_kinds())
    return [name for name in takers if name in wanted] or takers[:1]


def _kinds() -> Iterator[str]:
    suffixes = {name: BACKENDS.load(name).suffix for name in BACKENDS.names()}
    for suffix in dict.fromkeys(suffixes.values()):
        yield f"{suffix} ({', '.join(name for name in suffixes if suffixes[name] == suffix)})"


def _check_used(graphs: Sequence[Graph], backends: Sequence[str]) -> None:
    for name in backends:
        suffix = BACKENDS.load(BACKENDS.entry(name).name).suffix
        if all(graph.backend != name for graph in graphs):
            raise UsageError(f"none of the files is {suffix}", where=f"--backend {name}")


def _labels(graphs: Sequence[Graph]) -> list[str]:
    files = {
        graph.path: graph.path.name.removesuffix(BACKENDS.load(graph.backend).suffix) for graph in graphs
    }
    stems, names = Counter(files.values()), Counter(path.name for path in files)
    runtimes = Counter(path for path, _ in {(graph.path, graph.backend) for graph in graphs})
    labels = []
    for graph in graphs:
        stem, name = files[graph.path], graph.path.name
        label = stem if stems[stem] == 1 else name if names[name] == 1 else str(graph.path)
        labels.append(f"{label} in {graph.backend}" if runtimes[graph.path] > 1 else label)
    return labels


def _numbered(graphs: Sequence[Graph], labels: Sequence[str]) -> dict[str, Graph]:
    """A file that is given twice is there twice."""
    named: dict[str, Graph] = {}
    for label, graph in zip(labels, graphs, strict=True):
        number, unique = 2, label
        while unique in named:
            unique, number = f"{label}#{number}", number + 1
        named[unique] = graph
    return named


def find_baseline(wanted: str | None, named: Mapping[str, Graph]) -> str:
    """The name of the model that the others are compared with: the first, or the one that is wanted."""
    if wanted is None:
        return next(iter(named))
    found = [name for name, graph in named.items() if wanted in (name, str(graph.path), graph.path.name)]
    if len(found) == 1:
        return found[0]
    what = "is several of the models" if found else "is not among the models"
    raise UsageError(f"`{wanted}` {what}{close_names(wanted, named)}", where="--baseline", choices=named)
