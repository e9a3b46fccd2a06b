"""What a reader must keep in mind, and what was not measured and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekd.core.measurement import Measurement
from edgekd.report.formatting import NAMES
from edgekd.report.reading import Source

_EXPECTED = ("accuracy", "latency_p50_ms", "latency_p90_ms", "size_bytes", "memory_bytes")
_FEW_IMAGES = 1000


def caveats_of(source: Source) -> tuple[str, ...]:
    """In order of weight, each once."""
    found = [
        *source.problems,
        *_unfinished(source),
        *_emulated(source),
        *_experimental(source),
        *_invalid(source),
        *_remarks(source),
        *_few_images(source),
        *_probes(source),
        *_reused(source),
        *_not_timed_again(source),
        *_told(source),
    ]
    return tuple(dict.fromkeys(found))


def _unfinished(source: Source) -> Iterator[str]:
    open_steps = [step.name for step in source.record.steps if step.status == "pending"]
    if open_steps:
        yield f"The run is not finished; steps still to do: {', '.join(open_steps)}."


def _emulated(source: Source) -> Iterator[str]:
    for target in dict.fromkeys(m.target for m in source.measurements if m.device.get("emulated")):
        yield f"`{target}` is emulated: its numbers say nothing about the device's speed."


def _experimental(source: Source) -> Iterator[str]:
    by = {m.target: m.device.get("target", {}) for m in source.measurements}
    for name, settings in by.items():
        if settings.get("experimental"):
            kind = settings.get("kind")
            yield f"`{name}` is reached by {kind}, which is experimental: untried on real hardware."


def _titles(source: Source) -> dict[str, str]:
    return {row.name: row.title for row in source.record.rows}


def _about(taken: Measurement, titles: dict[str, str]) -> str:
    subject = titles.get(taken.subject.name, taken.subject.name)
    against = f" against {titles.get(taken.against.name, taken.against.name)}" if taken.against else ""
    return f"{NAMES[taken.quantity]}{against} of {subject} on {taken.target}"


def _invalid(source: Source) -> Iterator[str]:
    """One line for each set of reasons: noise that touches a whole target is not told forty times."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    titles = _titles(source)
    for one in source.measurements:
        if not one.validity.valid:
            key = (NAMES[one.quantity], one.target, one.validity.reasons)
            groups.setdefault(key, []).append(titles.get(one.subject.name, one.subject.name))
    for (name, target, reasons), subjects in groups.items():
        who = ", ".join(dict.fromkeys(subjects))
        why = "; ".join(reasons) or "no reason given"
        yield f"{name} of {who} on {target} is not valid: {why}."


def _remarks(source: Source) -> Iterator[str]:
    """Reasons that a valid measurement carries are things to keep in mind."""
    for one in source.measurements:
        if one.validity.valid and one.subject.name == source.record.final:
            for reason in one.validity.reasons:
                yield f"{_about(one, _titles(source))}: {reason}."


def _few_images(source: Source) -> Iterator[str]:
    counts = [
        m.n for m in source.measurements if m.quantity == "accuracy" and m.subject.name == source.record.final
    ]
    if counts and 0 < min(counts) < _FEW_IMAGES:
        yield f"Accuracy rests on {min(counts):,} test images; its intervals are wide."


def _probes(source: Source) -> Iterator[str]:
    probed = [row.title for row in source.record.rows if row.probe]
    if probed:
        yield f"Measured through a probe export, as the stage itself ships no graph: {', '.join(probed)}."


def _reused(source: Source) -> Iterator[str]:
    titles = _titles(source)
    pairs = {
        (titles.get(m.subject.name, m.subject.name), titles.get(m.reused_from, m.reused_from), m.target)
        for m in source.measurements
        if m.reused_from
    }
    for subject, other, target in sorted(pairs):
        yield f"{subject} was not timed on {target}: its graph is that of {other}, whose times are reused."


def _not_timed_again(source: Source) -> Iterator[str]:
    """From the record, so that a step which was found in the store says it as well."""
    for step in source.record.steps:
        timed: Any = step.measured
        for name in ("selection", "remeasured", "p50_ms"):
            timed = timed.get(name) if isinstance(timed, dict) else None
        for target, one in timed.items() if isinstance(timed, dict) else ():
            if isinstance(one, dict) and one.get("again") is False:
                yield f"{step.name}: {target} was out of reach to time the winner again: the table counted."


def _told(source: Source) -> Iterator[str]:
    """Notes and retries that the run recorded, and what is odd about the data."""
    for event in source.events:
        if event.get("event") == "note":
            yield f"{event.get('step', '')}: {event.get('text', '')}".removeprefix(": ")
        if event.get("event") == "retry":
            yield f"On {event.get('target', '?')}: {event.get('reason', '?')}."
    notes = source.record.provenance.get("data_notes", [])
    yield from (f"Data: {note}" for note in notes if isinstance(notes, list))


def not_measured_of(source: Source) -> tuple[str, ...]:
    """`what: reason`, from the record, from the measurements, and for what the waterfall lacks."""
    titles = _titles(source)
    everybody = len(titles)
    reasons = {one.not_measured for one in source.measurements}
    found = [one for one in source.record.not_measured if one.partition(": ")[2] not in reasons]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in source.measurements:
        if one.value is None:
            key = (NAMES[one.quantity], one.target, one.not_measured or "no reason given")
            groups.setdefault(key, []).append(titles.get(one.subject.name, one.subject.name))
    for (name, target, reason), subjects in groups.items():
        who = dict.fromkeys(subjects)
        rows = "every row" if len(who) == everybody > 1 else ", ".join(who)
        found.append(f"{name} of {rows} on {target}: {reason}")
    found += _absent(source, titles)
    return tuple(dict.fromkeys(found))


def _absent(source: Source, titles: dict[str, str]) -> Iterator[str]:
    present = {(m.quantity, m.subject.name) for m in source.measurements}
    for quantity in _EXPECTED:
        missing = [titles[row.name] for row in source.record.rows if (quantity, row.name) not in present]
        if missing:
            yield f"{NAMES[quantity]} of {', '.join(missing)}: the session left no measurement"
