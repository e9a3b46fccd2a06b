"""Reading the history: whose it is, its sessions in order, and each quantity's series with its changes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from edgekd.core.digest import of_file
from edgekd.core.errors import UsageError, close_names
from edgekd.core.measurement import Quantity
from edgekd.core.run_record import RECORD
from edgekd.pipeline.bundle import BUNDLE, read_bundle
from edgekd.pipeline.history.change import UNDECIDED, Change, Point, device_changes
from edgekd.pipeline.history.on_devices import (
    change_of_memory,
    change_of_size,
    change_of_speedup,
    change_of_time,
    not_carried_over,
)
from edgekd.pipeline.history.on_images import change_on_images
from edgekd.pipeline.history.record import SCHEMA_VERSION, Entry
from edgekd.pipeline.run_folder import ABLATION, read_record
from edgekd.store.history import HistoryLog, Lines
from edgekd.store.store import Store

ALL = "all"
HEADLINES: tuple[Quantity, ...] = ("accuracy", "latency_p50_ms", "size_bytes", "memory_bytes")
_DIGEST = re.compile(r"[0-9a-f]{6,64}")
_RULES: Mapping[Quantity, Callable[[Point, Point], Change]] = {
    "accuracy": change_on_images,
    "accuracy_drop": change_on_images,
    "agreement": change_on_images,
    "host_agreement": change_on_images,
    "macro_recall": change_on_images,
    "worst_class_recall": change_on_images,
    "new_errors": change_on_images,
    "latency_p50_ms": change_of_time,
    "latency_p90_ms": change_of_time,
    "speedup": change_of_speedup,
    "throughput_ips": not_carried_over,
    "cold_start_ms": not_carried_over,
    "sustained_ratio": not_carried_over,
    "size_bytes": change_of_size,
    "memory_bytes": change_of_memory,
    "energy_mj": not_carried_over,
}


def change(before: Point, after: Point) -> Change:
    """What became of one quantity on one target from one session to a later one."""
    return _RULES[after.kept.quantity](before, after)


@dataclass(frozen=True)
class History:
    """Sessions in the order of time. `digest`: of the artifact asked for; None: whatever a recipe shipped."""

    title: str
    entries: tuple[Entry, ...]
    digest: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def rows(self) -> list[str]:
        """The names of every row that was measured, in the order they first came."""
        return list(dict.fromkeys(name for entry in self.entries for name in entry.subjects))

    def row_of(self, entry: Entry, row: str | None = None) -> str | None:
        """The name of the row that an entry is asked for."""
        if row is not None:
            return row if row in entry.subjects else None
        if self.digest is not None:
            return next((n for n, s in entry.subjects.items() if s.digest == self.digest), None)
        return entry.final if entry.final in entry.subjects else next(iter(entry.subjects), None)


@dataclass(frozen=True)
class Step:
    """One measurement of a series: how it changed since the one before, and what of the device did."""

    point: Point
    change: Change | None = None
    device: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One quantity of one row on one target, over time."""

    target: str
    row: str
    quantity: Quantity
    against: str | None
    steps: tuple[Step, ...]

    @property
    def latest(self) -> Change | None:
        return self.steps[-1].change


# --- whose history ------------------------------------------------------------------------------------------


def find_history(store: Store, what: str | None) -> History:
    """Of a recipe by its name, of a run's folder (its recipe), or of an artifact: a file, a bundle's folder,
    a digest or its beginning. None: the recipe measured last. Raises `UsageError` when there is none."""
    log = HistoryLog(store)
    recipes = log.recipes()
    if what is None:
        return _of_recipe(log, _latest(log, recipes))
    if what in recipes:
        return _of_recipe(log, what)
    path = Path(what)
    if (path / RECORD).is_file() and not (path / BUNDLE).is_file():
        return _of_recipe(log, read_record(path).recipe)
    if path.is_file() or (path / BUNDLE).is_file():
        return _of_artifact(log, _digest(path), title=what)
    if _DIGEST.fullmatch(what):
        return _of_artifact(log, what, title=what)
    raise UsageError(
        f"`{what}` is no recipe that was measured, no file and no digest{close_names(what, recipes)}",
        where=str(log.folder),
        choices=recipes,
    )


def _latest(log: HistoryLog, recipes: Sequence[str]) -> str:
    """The recipe measured last; nobody means an ablation who names none."""
    named = [name for name in recipes if not name.endswith(ABLATION)]
    if not named:
        fix = "edgekd run quickstart, or name the artifact's file that was measured"
        raise UsageError("no recipe has been measured yet", where=str(log.folder), fix=fix)
    return named[-1]


def _digest(path: Path) -> str:
    try:
        return of_file(path) if path.is_file() else read_bundle(path).digest
    except OSError as error:
        raise UsageError(f"cannot read: {error.strerror or error}", where=str(path)) from error


def _of_recipe(log: HistoryLog, name: str) -> History:
    lines = log.of_recipe(name)
    entries, problems = _parsed(lines)
    if not entries:
        raise UsageError(f"nothing was measured of `{name}`", where=str(log.folder), fix="edgekd measure")
    return History(name, entries, None, problems)


def _of_artifact(log: HistoryLog, digest: str, title: str) -> History:
    """`digest` may be the beginning of one, as long as one artifact alone begins so."""
    entries, problems = _parsed(log.holding(digest))
    digests = {s.digest for entry in entries for s in entry.subjects.values() if s.digest.startswith(digest)}
    if not digests:
        raise UsageError(
            "this artifact was never measured with this store",
            where=f"{title} ({digest[:12]})" if title != digest else title,
            fix="edgekd measure, edgekd bench or edgekd audit; `--store DIR` if it was another store",
        )
    if len(digests) > 1:
        raise UsageError(f"several artifacts begin with `{digest}`", choices=sorted(digests))
    (whole,) = digests
    holding = tuple(e for e in entries if any(s.digest == whole for s in e.subjects.values()))
    return History(title, holding, whole, problems)


def _parsed(lines: Lines) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """The entries in the order of time; those that cannot be read are counted in the problems."""
    entries, unknown = [], 0
    for line in lines.entries:
        try:
            entries.append(_entry(line))
        except (ValidationError, ValueError):
            unknown += 1
    problems = list(lines.problems)
    if unknown:
        noun = "session was" if unknown == 1 else "sessions were"
        problems.append(f"{unknown} {noun} written by another edgekd or damaged, and left out")
    return tuple(sorted(entries, key=lambda entry: (_moment(entry.taken_at), entry.id))), tuple(problems)


def _entry(line: Mapping[str, Any]) -> Entry:
    entry = Entry.model_validate(line)
    named = {name for kept in entry.measurements for name in (kept.subject, kept.against) if name}
    if entry.schema_version > SCHEMA_VERSION or not named <= set(entry.subjects):
        raise ValueError("not an entry of this version")
    return entry


def _moment(taken_at: str) -> datetime:
    try:
        moment = datetime.fromisoformat(taken_at)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# --- series -------------------------------------------------------------------------------------------------


def series_of(
    history: History,
    *,
    quantities: Sequence[str] = HEADLINES,
    targets: Sequence[str] = (),
    rows: Sequence[str | None] = (None,),
    last: int | None = None,
) -> list[Series]:
    """The series of the quantities (`all`: every one) on the targets (default: all), of the newest `last`
    sessions on each. A row None is what ships, or the artifact asked for. Raises `UsageError` for a name
    that is unknown or was not measured."""
    _check(history, quantities, targets, rows)
    found: dict[tuple[str, str, Quantity, str | None], list[Point]] = {}
    for entry in _chosen(history.entries, targets, last):
        for row in rows:
            name = history.row_of(entry, row)
            for kept in entry.measurements:
                if kept.subject == name and (ALL in quantities or kept.quantity in quantities):
                    key = (entry.target, row or "", kept.quantity, kept.against)
                    found.setdefault(key, []).append(Point(entry, kept))
    measured = {key: points for key, points in found.items() if any(p.kept.value is not None for p in points)}
    return [_series(key, points) for key, points in measured.items()]


def _series(key: tuple[str, str, Quantity, str | None], points: list[Point]) -> Series:
    target, row, quantity, against = key
    steps = [Step(points[0])]
    for before, after in itertools.pairwise(points):
        steps.append(Step(after, change(before, after), device_changes(before.entry, after.entry)))
    return Series(target, row or points[-1].kept.subject, quantity, against, tuple(steps))


def _chosen(entries: Iterable[Entry], targets: Sequence[str], last: int | None) -> list[Entry]:
    by_target: dict[str, list[Entry]] = {}
    for entry in entries:
        if not targets or entry.target in targets:
            by_target.setdefault(entry.target, []).append(entry)
    return [entry for group in by_target.values() for entry in (group[-last:] if last else group)]


def _check(
    history: History, quantities: Sequence[str], targets: Sequence[str], rows: Sequence[str | None]
) -> None:
    known = {
        "quantity": (quantities, [ALL, *get_args(Quantity)]),
        "target": (targets, sorted({entry.target for entry in history.entries})),
        "row": ([r for r in rows if r], history.rows),
    }
    for what, (asked, choices) in known.items():
        for name in asked:
            if name not in choices:
                raise UsageError(
                    f"`{name}` is not a {what} of this history{close_names(name, choices)}", choices=choices
                )


def exit_code(series: Iterable[Series]) -> int:
    """1 if the newest measurement of any series is worse than the one before, 3 if that cannot be told of
    any or nothing was there to compare with, else 0."""
    latest = [one.latest for one in series]
    outcomes = {change.outcome for change in latest if change is not None}
    if "worse" in outcomes:
        return 1
    return 3 if outcomes & UNDECIDED or None in latest or not latest else 0
