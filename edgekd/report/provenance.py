"""Where the numbers come from, as sections of name and text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgekd.report.facts import Facts

_LONGEST = 400

Section = tuple[str, list[tuple[str, str]]]


def sections(facts: Facts) -> list[Section]:
    """The run, what it was made with, and each device with the protocol it was timed by."""
    run = [
        ("recipe", facts.recipe),
        ("run", facts.run_id),
        ("started", facts.started_at),
        ("finished", facts.finished_at or "not finished"),
        ("seed", str(facts.seed)),
    ]
    found: list[Section] = [("Run", run)]
    plain = [(name, value) for name, value in facts.provenance.items() if not isinstance(value, Mapping)]
    if plain:
        found[0][1].extend(pair for name, value in plain for pair in flat({name: value}))
    for name, value in facts.provenance.items():
        if isinstance(value, Mapping) and value and name != "targets":
            found.append((name.replace("_", " ").capitalize(), flat(value)))
    for target in facts.targets:
        if target.device:
            found.append((f"Device {target.name}", flat(target.device)))
        if target.protocol:
            found.append((f"Timing protocol on {target.name}", flat(target.protocol)))
    return found


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as dotted names and short texts; what is empty is left out."""
    return [(name, text[:_LONGEST]) for name, text in _flat(value, prefix) if text]


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _flat(below, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(one) for one in value)
    elif value is not None:
        yield prefix, f"{value:g}" if isinstance(value, float) else str(value)
