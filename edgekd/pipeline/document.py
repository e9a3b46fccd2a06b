"""A YAML file as plain data that remembers the line of every key, so that an error can point at it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgekd.core import plain_yaml
from edgekd.core.errors import RecipeError, UsageError

Path_ = tuple[str | int, ...]
_MAX_BYTES = 1 << 20


class Document:
    """Plain data and, for messages, where each part of it stands in the file."""

    def __init__(self, data: dict[str, Any], lines: Mapping[Path_, int], file: Path) -> None:
        self.data = data
        self.file = file
        self._lines = lines

    def where(self, path: Path_) -> str:
        """`file.yaml:12: steps[2].distill` for the nearest part of `path` that the file holds."""
        known = path
        while known and known not in self._lines:
            known = known[:-1]
        line = self._lines.get(known, 1)
        return f"{self.file}:{line}: {dotted(path)}" if path else f"{self.file}:{line}"


def dotted(path: Path_) -> str:
    """`("steps", 2, "distill")` as `steps[2].distill`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(file: Path) -> Document:
    """Raises `RecipeError` for anything that is not one YAML mapping without repeated keys."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the file: {error.strerror}", where=str(file)) from error
    if len(raw) > _MAX_BYTES:
        raise RecipeError([f"the file is larger than {_MAX_BYTES} bytes"], where=str(file))
    try:
        node, data = plain_yaml.parse(raw.decode("utf-8"))
    except ValueError as error:
        raise RecipeError([f"not valid YAML: {error}"], where=str(file)) from error
    if not isinstance(data, dict):
        raise RecipeError(["a recipe is a mapping of keys such as `data:` and `steps:`"], where=str(file))
    lines: dict[Path_, int] = {}
    problems: list[str] = []
    _walk(node, (), lines, problems, file, depth=0)
    if problems:
        raise RecipeError(problems, where=str(file))
    return Document(data, lines, file)


def _walk(
    node: yaml.Node | None,
    path: Path_,
    lines: dict[Path_, int],
    problems: list[str],
    file: Path,
    depth: int,
) -> None:
    if node is None or depth > 40:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                problems.append(f"{file}:{key.start_mark.line + 1}: the key `{name}` stands twice")
            seen.add(name)
            lines[(*path, name)] = key.start_mark.line + 1
            _walk(value, (*path, name), lines, problems, file, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, problems, file, depth + 1)


def explain(error: Mapping[str, Any], legal: Sequence[str]) -> str:
    """One pydantic error as the law, the value and the choices."""
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        near = difflib.get_close_matches(name, legal, n=3, cutoff=0.6)
        hint = f"; close names: {', '.join(near)}" if near else ""
        return f"`{name}` is not a key here{hint}; choices: {', '.join(legal)}"
    if error["type"] == "missing":
        return f"the key `{error['loc'][-1]}` is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    shown = repr(value)
    return f"{message} (got {shown if len(shown) < 60 else shown[:57] + '...'})"
