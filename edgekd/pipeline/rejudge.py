"""Judges a run's measurements again, by the gate of its recipe or by a changed one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.core import plain_yaml
from edgekd.core.errors import RecipeError, UsageError
from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import LOCKED_RECIPE, MEASUREMENTS, VERDICT
from edgekd.core.verdict import Verdict
from edgekd.pipeline.document import explain
from edgekd.pipeline.gate import MEASURE, GatePolicy
from edgekd.pipeline.integrity import integrity
from edgekd.pipeline.portable.folder import find_portable
from edgekd.pipeline.recipe import override
from edgekd.pipeline.run_folder import final_graph, read_record
from edgekd.pipeline.session import judge_final, write_verdict


def rejudge(folder: Path, overrides: Sequence[str] = ()) -> Verdict:
    """The verdict on a finished run, as of now: measurements may have become too old.

    `overrides` (`gate.size=10MB`) change the gate for this once; without any, the run's `verdict.json` is
    replaced. Raises `UsageError` for a run that is not finished or a gate that cannot be read.
    """
    verdict = _judged(folder, overrides, datetime.now(UTC))
    if not overrides:
        write_verdict(folder, verdict)
    return verdict


def confirm(folder: Path) -> None:
    """Raise `UsageError` when a run's `verdict.json` says pass and its measurements do not.

    As of when they were taken, so that age alone never contradicts it. What cannot be judged again (no
    verdict, an artifact that the store has let go of) is left to whoever reads it.
    """
    if _stored_outcome(folder) != "pass":
        return
    record = read_record(folder)
    try:
        final_graph(record, folder)
    except UsageError:
        return
    found = _judged(folder, (), _last_taken(folder)).outcome
    if found != "pass":
        raise UsageError(
            f"the verdict is `pass`, but the measurements give `{found}`",
            where=str(folder / VERDICT),
            fix="`edgekd gate` judges them again",
        )


def _stored_outcome(folder: Path) -> str | None:
    try:
        return Verdict.model_validate_json((folder / VERDICT).read_bytes()).outcome
    except (OSError, ValueError):
        return None


def _last_taken(folder: Path) -> datetime:
    """When the newest measurement was taken; now, if none says so."""
    found = []
    for one in read_measurements(folder / MEASUREMENTS):
        with suppress(ValueError):
            moment = datetime.fromisoformat(one.taken_at)
            found.append(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return max(found, default=datetime.now(UTC))


def _judged(folder: Path, overrides: Sequence[str], now: datetime) -> Verdict:
    record, locked = read_record(folder), read_locked(folder)
    # What was measured elsewhere meanwhile (`edgekd measure --target`) is reported; the gate never named it.
    judged = record.model_copy(
        update={
            "targets": tuple(map(str, locked["targets"])),
            "findings": (*record.findings, *integrity(folder, record)),
        }
    )
    graph = final_graph(record, folder)
    graph.verify()
    measurements = read_measurements(folder / MEASUREMENTS)
    portable = find_portable(folder)
    measure = portable.measure_command if portable else MEASURE
    gate = locked_gate(folder, locked, overrides)
    return judge_final(gate, measurements, judged, graph, now=now, measure=measure)


def read_locked(folder: Path) -> dict[str, Any]:
    """The resolved recipe that a run leaves; raises `UsageError` when it is none."""
    path = folder / LOCKED_RECIPE
    try:
        _, data = plain_yaml.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the run's recipe: {error}", where=str(path)) from error
    sections = {"gate": dict, "measure": dict, "targets": list}
    if not isinstance(data, dict) or any(not isinstance(data.get(k), v) for k, v in sections.items()):
        raise UsageError(f"not a resolved recipe: it lacks one of {', '.join(sections)}", where=str(path))
    return data


def locked_gate(folder: Path, locked: dict[str, Any], overrides: Sequence[str] = ()) -> GatePolicy:
    """The gate of a resolved recipe with `overrides`; raises `RecipeError` with all problems."""
    data = {"gate": {key: _written(value) for key, value in locked["gate"].items()}}
    for text in overrides:
        if not text.startswith("gate."):
            raise UsageError(
                f"`--set {text}`: a finished run's gate alone can be changed", fix="--set gate.size=10MB"
            )
        override(data, text)
    try:
        policy = GatePolicy.model_validate(data["gate"])
    except ValidationError as error:
        legal = list(GatePolicy.model_fields)
        problems = [
            f"gate.{'.'.join(map(str, item['loc']))}: {explain(item, legal)}"
            for item in error.errors(include_url=False)
        ]
        raise RecipeError(problems, where=str(folder / LOCKED_RECIPE)) from error
    portable = find_portable(folder) if policy.release is not None else None
    return policy.model_copy(update={"release": portable.release}) if portable else policy


def _written(value: Any) -> Any:
    """One bound as people write it, so that `gate.accuracy_drop.max=2pt` finds its place."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
