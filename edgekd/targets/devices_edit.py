"""Changes `edgekd-devices.yaml` and leaves what people wrote there, comments and order, as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edgekd.core import plain_yaml
from edgekd.core.durable import write_text
from edgekd.core.errors import UsageError
from edgekd.targets.devices_file import target_of

_WIDTH = 1 << 20
_HEAD = "# The devices of this project, for `targets:` in recipes. Their addresses are not in here.\n"


def write_entry(path: Path, name: str, fields: Mapping[str, Any]) -> None:
    """Set `fields` of the entry `name`, which is added if it is not there; its other fields stay.

    Raises `UsageError` for fields that make no target and for a file that cannot be changed without losing
    what is in it, `StoreError` when it cannot be written.
    """
    text = _text(path)
    entries = _entries(text, path)
    before = entries.get(name, {})
    if not isinstance(before, dict):
        raise _by_hand(path)
    target_of(name, {**before, **fields}, f"{path}: {name}")
    changed = _with_fields(text, name, fields, path) if name in entries else _with_entry(text, name, fields)
    _write(path, changed, {**entries, name: {**before, **fields}})


def remove_entry(path: Path, name: str) -> bool:
    """Remove the entry `name`; returns whether it was there. Raises as `write_entry` does."""
    text = _text(path)
    entries = _entries(text, path)
    if name not in entries:
        return False
    lines, (first, last) = text.splitlines(keepends=True), _lines_of(text, name, path)
    rest = {other: fields for other, fields in entries.items() if other != name}
    _write(path, "".join(lines[:first] + lines[last:]).rstrip() + "\n", rest)
    return True


def _write(path: Path, text: str, wanted: Mapping[str, Any]) -> None:
    """Only what says exactly what it should: an edit of text may have misjudged it."""
    try:
        right = _entries(text, path) == wanted
    except UsageError:
        right = False
    if not right:
        raise _by_hand(path)
    write_text(path, text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _HEAD
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the targets: {error}", where=str(path)) from error


def _entries(text: str, path: Path) -> dict[str, Any]:
    try:
        _, content = plain_yaml.parse(text)
    except ValueError as error:
        raise UsageError(f"cannot read the targets: {error}", where=str(path)) from error
    if not isinstance(content, dict | None):
        raise UsageError("must map names to targets", where=str(path), fix="local: {kind: local}")
    return content or {}


def _with_entry(text: str, name: str, fields: Mapping[str, Any]) -> str:
    lines = [f"{_plain(name)}:", *(f"  {key}: {_plain(value)}" for key, value in fields.items())]
    return f"{text.rstrip()}\n\n" * bool(text.strip()) + "\n".join(lines) + "\n"


def _with_fields(text: str, name: str, fields: Mapping[str, Any], path: Path) -> str:
    """Values are replaced where they stand; a new field comes first in its entry."""
    _, entry = _entry(text, name, path)
    known = {key.value: (key, value) for key, value in entry.value}
    edits = []
    for field, value in fields.items():
        if field in known:
            old = known[field][1]
            if not isinstance(old, yaml.ScalarNode) and not old.flow_style:
                raise _by_hand(path)
            edits.append((old.start_mark.index, old.end_mark.index, _plain(value)))
        else:
            first = entry.value[0][0].start_mark
            gap = ", " if entry.flow_style else "\n" + " " * first.column
            edits.append((first.index, first.index, f"{field}: {_plain(value)}{gap}"))
    for start, end, new in sorted(edits, key=lambda edit: edit[:2], reverse=True):  # places stay valid
        text = text[:start] + new + text[end:]
    return text


def _entry(text: str, name: str, path: Path) -> tuple[yaml.Node, yaml.MappingNode]:
    root, _ = plain_yaml.parse(text)
    assert isinstance(root, yaml.MappingNode)
    found = [(key, value) for key, value in root.value if key.value == name]
    if len(found) != 1 or not isinstance(found[0][1], yaml.MappingNode) or not found[0][1].value:
        raise _by_hand(path)
    return found[0]


def _lines_of(text: str, name: str, path: Path) -> tuple[int, int]:
    """First line of an entry and the one after its last; comments above the next entry are that one's."""
    root, _ = plain_yaml.parse(text)
    key, _ = _entry(text, name, path)
    assert isinstance(root, yaml.MappingNode)
    starts = [other.start_mark.line for other, _ in root.value]
    if root.flow_style or starts.count(key.start_mark.line) > 1:
        raise _by_hand(path)
    lines = text.splitlines()
    last = min((line for line in starts if line > key.start_mark.line), default=len(lines))
    while not lines[last - 1].strip() or lines[last - 1].startswith("#"):
        last -= 1
    return key.start_mark.line, last


def _plain(value: Any) -> str:
    """A value on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=_WIDTH, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _by_hand(path: Path) -> UsageError:
    return UsageError(
        "cannot be changed without losing what people wrote in it",
        where=str(path),
        fix="write it with one entry under another (`pi5: {kind: ssh, ...}`), or change it by hand",
    )
