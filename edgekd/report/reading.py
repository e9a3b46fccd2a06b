"""Reading a run's folder, or a bundle's, with whatever it holds and a note of whatever it does not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import UsageError
from edgekd.core.measurement import Measurement, read_measurements
from edgekd.core.run_record import EVENTS, LOCKED_RECIPE, MEASUREMENTS, RECORD, VERDICT, Row, RunRecord
from edgekd.core.verdict import Verdict

_BUNDLE = "bundle.json"
_MOST_TEXT = 200_000


@dataclass(frozen=True)
class Source:
    """What was read. `problems` says which parts could not be."""

    folder: Path
    record: RunRecord
    measurements: tuple[Measurement, ...]
    verdict: Verdict | None
    events: tuple[dict[str, Any], ...]
    recipe_text: str
    problems: tuple[str, ...]

    def of(self, quantity: str, subject: str, target: str, against: str | None = None) -> Measurement | None:
        """The measurement of a quantity of a subject on a target."""
        for one in self.measurements:
            compared = one.against.name if one.against else None
            if (one.quantity, one.subject.name, one.target, compared) == (quantity, subject, target, against):
                return one
        return None


def read(folder: Path) -> Source:
    """Raises `UsageError` when the folder is neither a run nor a bundle, or its record cannot be read."""
    problems: list[str] = []
    measurements = _measurements(folder, problems)
    return Source(
        folder=folder,
        record=_record(folder, measurements),
        measurements=measurements,
        verdict=_verdict(folder, problems),
        events=_events(folder, problems),
        recipe_text=_text(folder / LOCKED_RECIPE)[:_MOST_TEXT],
        problems=tuple(problems),
    )


def _record(folder: Path, measurements: tuple[Measurement, ...]) -> RunRecord:
    if (folder / RECORD).is_file():
        try:
            return RunRecord.model_validate_json((folder / RECORD).read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(f"not a readable run record: {error}", where=str(folder / RECORD)) from error
    if (folder / _BUNDLE).is_file():
        return _record_of_bundle(folder, measurements)
    raise UsageError(
        f"neither a run (`{RECORD}`) nor a bundle (`{_BUNDLE}`)",
        where=str(folder),
        fix="give the folder of a run (`edgekd show` lists them) or of a bundle",
    )


def _record_of_bundle(folder: Path, measurements: tuple[Measurement, ...]) -> RunRecord:
    """The part of a record that a bundle keeps; its subjects stand in for the rows, in the order measured."""
    try:
        manifest = json.loads((folder / _BUNDLE).read_bytes())
        files = manifest["files"]
        digest, labels = files[manifest["graph"]], _text(folder / "labels.txt").splitlines()
        provenance = {**manifest.get("provenance", {}), "files": files}
        rows = _rows_of(measurements)
        return RunRecord(
            recipe=manifest["recipe"],
            run_id=manifest["run_id"],
            started_at=min((one.taken_at for one in measurements), default=""),
            labels=tuple(labels),
            rows=rows,
            final=next((m.subject.name for m in measurements if m.subject.digest == digest), ""),
            targets=tuple(dict.fromkeys(one.target for one in measurements)),
            provenance=provenance,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not a readable bundle: {error!r}", where=str(folder / _BUNDLE)) from error


def _rows_of(measurements: tuple[Measurement, ...]) -> tuple[Row, ...]:
    subjects = {one.subject.name: one.subject for one in measurements}
    return tuple(
        Row(
            name=name,
            title=name,
            role="stage",
            model_step=None,
            graph_step="",
            precision=subject.precision,
            evalset="",
        )
        for name, subject in subjects.items()
    )


def _measurements(folder: Path, problems: list[str]) -> tuple[Measurement, ...]:
    if not (folder / MEASUREMENTS).is_file():
        problems.append(f"There is no {MEASUREMENTS}: the final session has not run.")
        return ()
    return tuple(read_measurements(folder / MEASUREMENTS))


def _verdict(folder: Path, problems: list[str]) -> Verdict | None:
    path = folder / VERDICT
    if not path.is_file():
        problems.append(f"There is no {VERDICT}: nothing has been judged.")
        return None
    try:
        return Verdict.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"not a readable verdict: {error}", where=str(path)) from error


def _events(folder: Path, problems: list[str]) -> tuple[dict[str, Any], ...]:
    """Events in order; a line cut short by a crash is left out and counted."""
    events, broken = [], 0
    for line in _text(folder / EVENTS).splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            events.append(event)
        else:
            broken += 1
    if broken:
        problems.append(f"{EVENTS}: {broken} unreadable line{'s' if broken > 1 else ''} left out.")
    return tuple(events)


def _text(path: Path) -> str:
    """A file's text, with replacement characters for what is not UTF-8; empty when there is no file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def array(folder: Path, *parts: str) -> npt.NDArray[Any] | None:
    """An array below the folder, memory-mapped; None when it is absent, broken or outside the folder."""
    relative = Path(*parts)
    if relative.is_absolute() or ".." in relative.parts:
        return None
    try:
        return np.asarray(np.load(folder / relative, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
