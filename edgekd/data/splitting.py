"""Holding images out: seeded, stratified by class, and never dividing a group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]


def hold_out(labels: Rows, share: float, seed: int, groups: Rows | None = None) -> tuple[Rows, Rows]:
    """Divide row numbers into (rest, held), both sorted; `held` has about `share` of every class.

    labels: int64 `[N]`; groups: int64 `[N]`, rows with equal numbers stay on one side. Of a class with at
    least two images at least one is held, unless its groups forbid that.
    """
    random = np.random.default_rng(seed)
    targets = _targets(labels, share)
    held = np.zeros(len(labels), bool)
    if groups is not None:
        _hold_groups(held, labels, groups, targets, random)
    singles = np.ones(len(labels), bool) if groups is None else _single(groups)
    for label, target in enumerate(targets):
        rows = random.permutation(np.flatnonzero((labels == label) & singles))
        missing = target - int(held[labels == label].sum())
        held[rows[: max(0, missing)]] = True
    if groups is not None:
        _rescue_classes(held, labels, groups, targets)
    return np.flatnonzero(~held), np.flatnonzero(held)


def pick(labels: Rows, count: int, seed: int) -> Rows:
    """`count` sorted row numbers (all if there are fewer), every class in proportion, then by chance."""
    if count >= len(labels):
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    order = np.argsort(_rank_in_class(labels[shuffled]), kind="stable")
    return np.sort(shuffled[order[:count]])


def _rank_in_class(labels: Rows) -> npt.NDArray[np.float64]:
    """Each row's place in its class as a fraction: sorted by it, every prefix is stratified."""
    rank = np.empty(len(labels), np.float64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rank[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return rank


def _targets(labels: Rows, share: float) -> Counts:
    counts = np.bincount(labels)
    wanted = np.rint(counts * share).astype(np.int64)
    return np.where(counts >= 2, np.clip(wanted, 1, counts - 1), 0)


def _single(groups: Rows) -> npt.NDArray[np.bool_]:
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] == 1)


def _members(groups: Rows, smallest: int) -> list[Rows]:
    """The rows of each group that has at least `smallest` members."""
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return [rows for rows in np.split(order, cuts) if len(rows) >= smallest]


def _hold_groups(
    held: npt.NDArray[np.bool_], labels: Rows, groups: Rows, targets: Counts, random: np.random.Generator
) -> None:
    """Hold a whole group where that brings the class counts nearer to their targets, large groups first."""
    members = _members(groups, smallest=2)
    order = sorted(random.permutation(len(members)), key=lambda number: -len(members[number]))
    missing = targets.copy()
    for number in order:
        rows = members[number]
        counts = np.bincount(labels[rows], minlength=len(targets))
        if np.abs(missing - counts).sum() < np.abs(missing).sum():
            held[rows] = True
            missing -= counts


def _rescue_classes(held: npt.NDArray[np.bool_], labels: Rows, groups: Rows, targets: Counts) -> None:
    """Hold the smallest group of every class that has none held, where the rest keeps that class."""
    members = sorted(_members(groups, smallest=1), key=len)
    for label in np.flatnonzero(targets):
        if held[labels == label].any():
            continue
        for rows in members:
            if (labels[rows] == label).any() and _rest_keeps(held, labels, rows):
                held[rows] = True
                break


def _rest_keeps(held: npt.NDArray[np.bool_], labels: Rows, rows: Rows) -> bool:
    after = ~held
    after[rows] = False
    return bool(np.isin(labels[rows], labels[after]).all())
