"""Which images of a folder must stay together: given groups, duplicates and near-duplicates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError
from edgekd.data.folder_layout import FolderLayout
from edgekd.data.folder_scan import Scan
from edgekd.data.near_duplicates import Pairs, chain, components, near_pairs

Rows = npt.NDArray[np.int64]
_LISTED = 10


@dataclass(frozen=True)
class Grouping:
    """`groups` int64 `[N]`: equal numbers stay on one side. `notes`: what the report should say."""

    groups: Rows
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Rows:
    """For every file, in listing order: its split (as a number), label, name and whether it is used."""

    splits: Rows
    labels: Rows
    names: tuple[str, ...]
    names_of_splits: tuple[str, ...]


def group_images(
    layout: FolderLayout, scanned: Scan, kept: Rows, pattern: str | None, where: str
) -> Grouping:
    """Groups over all N listed files; only `kept` rows are compared.

    Raises `DataError` listing names that `pattern` does not match.
    """
    rows = _rows(layout)
    exact = kept[chain(_numbers([scanned.fingerprints[row] for row in kept]))]
    near = kept[near_pairs(scanned.thumbnails[kept])]
    given = chain(_given(layout, pattern, where)) if pattern else np.empty((0, 2), np.int64)
    groups = components(len(rows.names), np.concatenate([exact, near, given]))
    return Grouping(groups, tuple(_notes(rows, exact, near, given)))


def _rows(layout: FolderLayout) -> _Rows:
    parts = list(layout.parts.values())
    return _Rows(
        np.repeat(np.arange(len(parts)), [len(part.names) for part in parts]),
        np.array([label for part in parts for label in part.labels], np.int64),
        tuple(name for part in parts for name in part.names),
        tuple(layout.parts),
    )


def _given(layout: FolderLayout, pattern: str, where: str) -> Rows:
    """A number for every file by what `pattern` matches in `class/.../file`."""
    is_split = len(layout.parts) > 1
    paths = [name.split("/", 1)[1] if is_split else name for name in _rows(layout).names]
    matches = [re.search(pattern, path) for path in paths]
    missing = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if missing:
        raise DataError(
            f"`group: {pattern}` matches nothing in {len(missing)} names: {', '.join(missing[:_LISTED])}",
            where=where,
        )
    return _numbers([_key(match) for match in matches if match is not None])


def _key(match: re.Match[str]) -> str:
    return (match.group(1) or "") if match.re.groups else match.group(0)


def _numbers(keys: list[bytes] | list[str]) -> Rows:
    numbers: dict[bytes | str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _notes(rows: _Rows, exact: Pairs, near: Pairs, given: Pairs) -> Iterator[str]:
    kinds = (("exact duplicates", exact), ("near-duplicates", near), ("images of one group", given))
    for kind, pairs in kinds:
        across = rows.splits[pairs[:, 0]] != rows.splits[pairs[:, 1]]
        if across.any():
            yield f"leak: {across.sum()} pairs of {kind} lie in two splits, {_example(rows, pairs[across])}"
    for kind, pairs in (kinds[0], kinds[1]):
        disagree = rows.labels[pairs[:, 0]] != rows.labels[pairs[:, 1]]
        if disagree.any():
            yield f"{disagree.sum()} pairs of {kind} have two classes, {_example(rows, pairs[disagree])}"
    together = np.unique(np.concatenate([exact, near]))
    if len(together):
        yield f"{len(together)} images have a duplicate or near-duplicate; holding out keeps those together"


def _example(rows: _Rows, pairs: Pairs) -> str:
    first, second = pairs[0]
    return f"for example {rows.names[first]} and {rows.names[second]}"
