"""What was executed of an artifact whose runtime needs hardware that is not everywhere, and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgekd.core.measurement import Measurement
from edgekd.core.run_record import Row, StepRecord
from edgekd.report.facts import CheckedFact
from edgekd.report.formatting import counted, size
from edgekd.report.kit import listed
from edgekd.report.reading import Source
from edgekd.report.waterfall import targets_of

CHECKS_LEAD = (
    "The runtime of these artifacts needs hardware that is not everywhere. What was executed where they were "
    "made, and on each target, in words; what was not is called so."
)
_NAMES = {"linter": "Q/DQ linter", "tensorrt_rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}


def checks_of(source: Source) -> tuple[CheckedFact, ...]:
    """One for every artifact whose export says which checks it went through."""
    steps = {step.name: step for step in source.record.steps}
    rows = [(row, steps[row.graph_step]) for row in source.record.rows if row.graph_step in steps]
    return tuple(
        CheckedFact(row.title, row.precision, (*_made(step), *_ran(source, row)))
        for row, step in rows
        if _export(step).get("checks")
    )


def check_lines(checked: CheckedFact) -> list[str]:
    width = max(len(name) for name, _ in checked.entries)
    return [
        f"{checked.title} [{checked.precision}]: what was executed",
        *(f"  {name:<{width}}  {text}" for name, text in checked.entries),
    ]


def _export(step: StepRecord) -> Mapping[str, Any]:
    found = step.facts.get("export")
    return found if isinstance(found, Mapping) else {}


def _made(step: StepRecord) -> Iterator[tuple[str, str]]:
    checks = _export(step)["checks"]
    for name, told in sorted(checks.items(), key=lambda one: ([*_NAMES, one[0]].index(one[0]), one[0])):
        yield (
            f"{_NAMES.get(name, name)}, where it was made",
            _built(told) if isinstance(told, Mapping) else str(told),
        )
    for finding in _export(step).get("findings") or ():
        if isinstance(finding, Mapping):
            node, what, why = (str(finding.get(key, "")) for key in ("node", "what", "why"))
            yield (
                str(finding.get("severity", "found")),
                f"{node}: {what} ({why})" if node else f"{what} ({why})",
            )


def _built(told: Mapping[str, Any]) -> str:
    """`1.7.1: parsed, an engine built for SM89 (13.9 MB, 21 layers with weights)`."""
    layers, weight = told.get("layers"), told.get("engine_bytes")
    facts = [size(weight)] if isinstance(weight, int) else []
    facts += [counted(len(layers), "layer") + " with weights"] if isinstance(layers, Mapping) else []
    targets = ", ".join(map(str, told.get("targets") or ()))
    built = f"parsed, an engine built for {targets}" if targets else "parsed"
    return f"{told.get('version', '?')}: {built}" + (f" ({', '.join(facts)})" if facts else "")


def _ran(source: Source, row: Row) -> Iterator[tuple[str, str]]:
    for target in targets_of(source):
        taken = source.of("accuracy", row.name, target)
        if taken is not None:
            yield from ((f"on {target}", text) for text in _told(taken))


def _told(taken: Measurement) -> Iterator[str]:
    if taken.value is None:
        yield f"not executed: {taken.not_measured}"
        return
    engine, untold, unexpected = (taken.detail.get(key) for key in ("engine", "untold", "unexpected"))
    yield f"executed; the engine was {engine}" if engine else "executed"
    if untold:
        yield f"not told in what it computes {listed(tuple(map(str, untold)))}"
    if unexpected:
        yield f"unexpected: {listed(tuple(map(str, unexpected)), '; ')}"
