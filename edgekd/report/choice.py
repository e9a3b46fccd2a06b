"""What ships, and among what it was chosen: validation data and a latency session of their own."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from edgekd.core.choice import CHOICE, Candidate, ChoiceRecord, HeldLimit
from edgekd.core.run_record import StepRecord
from edgekd.report.facts import CandidateFact, ChoiceFact
from edgekd.report.formatting import counted, milliseconds, percent, ratio, show
from edgekd.report.reading import Source

CHOICE_COLUMNS = ("artifact", "limits on val", "accuracy on val", "latency p50", "times the fastest", "size")
_WORDS = {"pass": "keeps them", "inconclusive": "may keep them", "fail": "breaks one"}


def choice_of(source: Source) -> ChoiceFact | None:
    """Of the step whose artifact ships, where it was one among several."""
    final = next((row for row in source.record.rows if row.name == source.record.final), None)
    step = next((one for one in source.record.steps if final and one.name == final.graph_step), None)
    record = _record(step) if step is not None else None
    if record is None:
        return None
    return ChoiceFact(
        winner=record.winner,
        reason=record.reason,
        num_images=record.num_images,
        protocol=record.protocol,
        certain=record.certain,
        candidates=tuple(_candidate(one, record.winner) for one in record.candidates),
        absent=tuple(record.absent.items()),
        not_asked=record.not_asked,
    )


def _record(step: StepRecord) -> ChoiceRecord | None:
    try:
        return ChoiceRecord.model_validate(step.measured[CHOICE]) if CHOICE in step.measured else None
    except ValidationError:
        return None


def _candidate(one: Candidate, winner: str) -> CandidateFact:
    return CandidateFact(
        name=one.name,
        chosen=one.name == winner,
        standing=one.standing,
        limits=tuple(map(_held, one.limits)),
        accuracy=one.val_accuracy,
        p50_ms=one.p50_ms,
        slowness=one.slowness,
        size_bytes=one.size_bytes,
    )


def _held(held: HeldLimit) -> str:
    """`gate.accuracy_drop.max = 1pt: 0.20 pt (-0.10 pt to 0.55 pt), pass`."""
    text = f"{held.limit}: {show(held.quantity, held.value)}"
    if held.low is not None and held.high is not None:
        text += f" ({show(held.quantity, held.low)} to {show(held.quantity, held.high)})"
    return f"{text}, {held.outcome}"


def choice_sentence(choice: ChoiceFact) -> str:
    """Why it ships, and what the choice rests on."""
    kept = "its whole interval is inside" if choice.certain else "its value is inside"
    images = counted(choice.num_images, "validation image")
    return (
        f"{choice.winner} ships: {choice.reason}. Decided on {images} and a `{choice.protocol}` latency "
        f"session, before test data were read; a limit counts as kept where {kept}."
    )


def choice_notes(choice: ChoiceFact) -> Iterator[str]:
    """What was no candidate, and what was not asked."""
    yield from (f"{name} was no candidate: {why}" for name, why in choice.absent)
    if choice.not_asked:
        yield f"Left to the gate: {', '.join(choice.not_asked)}."


def choice_cells(one: CandidateFact) -> list[str]:
    """The cells below `CHOICE_COLUMNS`; `one.limits` tells the second one limit by limit."""
    times = ", ".join(
        milliseconds(value) if len(one.p50_ms) == 1 else f"{target} {milliseconds(value)}"
        for target, value in one.p50_ms.items()
    )
    size = show("size_bytes", one.size_bytes)
    return [one.name, _WORDS[one.standing], percent(one.accuracy), times, ratio(one.slowness), size]
