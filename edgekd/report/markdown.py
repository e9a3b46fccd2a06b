"""The report as Markdown: verdict, limits, waterfall, controls, caveats and how to reproduce."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from edgekd.core.verdict import Outcome
from edgekd.report.ablation import NOTES, gain_text, kind_text, left_out_text
from edgekd.report.checks import CHECKS_LEAD
from edgekd.report.choice import CHOICE_COLUMNS, choice_cells, choice_notes, choice_sentence
from edgekd.report.facts import (
    AblationFact,
    ChoiceFact,
    Facts,
    Number,
    RuntimesFact,
    TargetFact,
    WaterfallRow,
)
from edgekd.report.formatting import show
from edgekd.report.judged import bound_text, verdict_sentence
from edgekd.report.kit import KIT_LEAD
from edgekd.report.runtimes import columns_of

SIGNS: dict[Outcome | None, str] = {"pass": "✅", "fail": "❌", "inconclusive": "❔", None: "▫️"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$^=:@])")
_COLUMNS = (
    ("accuracy", "accuracy"),
    ("drop_previous", "drop from row above"),
    ("drop_teacher", "drop from {baseline}"),
    ("p50", "p50"),
    ("p90", "p90"),
    ("speedup", "speed-up"),
    ("size", "size"),
    ("memory", "memory"),
)


def render_markdown(facts: Facts) -> str:
    """The whole report; every text that comes from outside is escaped."""
    parts = [
        f"# {escape(facts.recipe)}: {facts.outcome or 'not judged'}",
        f"{SIGNS[facts.outcome]} {verdict_sentence(facts.outcome, facts.limits)} "
        f"Run {escape(facts.run_id)}, seed {facts.seed}.",
        limits_table(facts),
        *(_waterfall(target, facts.baseline) for target in facts.targets),
        *_list("What each part bought", _controls(facts)),
        *_choice(facts.choice),
        *(_runtimes(one) for one in facts.runtimes),
        *_checks(facts),
        *_kits(facts),
        *(_ablation(one) for one in facts.ablations),
        *_classes(facts),
        *_list("Keep in mind", (escape(one) for one in facts.caveats)),
        *_list("Not measured", (escape(one) for one in facts.not_measured)),
        *_reproduce(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are already escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def limits_table(facts: Facts) -> str:
    """One row a limit; empty without limits."""
    if not facts.limits:
        return ""
    rows = []
    for one in facts.limits:
        decide = f" To decide: {escape(one.decide)}." if one.decide else ""
        measured = number_cell(one.number) if one.number else "not measured"
        outcome = f"{SIGNS[one.outcome]} {one.outcome}"
        rows.append([escape(one.title), bound_text(one), measured, outcome, f"{escape(one.reason)}.{decide}"])
    return table(["limit", "bound", "measured (95 % interval)", "outcome", "why"], rows)


def number_cell(number: Number) -> str:
    if number.value is None:
        return "not measured"
    text = show(number.quantity, number.value)
    if number.low is not None and number.high is not None:
        text += f" ({show(number.quantity, number.low)} to {show(number.quantity, number.high)})"
    return text if number.valid else f"{text}, not valid"


def _waterfall(target: TargetFact, baseline: str | None) -> str:
    named = [(key, name.format(baseline=escape(baseline or ""))) for key, name in _COLUMNS]
    columns = [(key, name) for key, name in named if any(key in row.numbers for row in target.stages)]
    title = f"## On {escape(target.name)}"
    return "\n\n".join([title, _table(target, dict(columns)), *_further(target)])


def _further(target: TargetFact) -> Iterator[str]:
    if target.further:
        yield _table(target, {key: name.lower() for key, name in target.further.items()})


def _table(target: TargetFact, columns: Mapping[str, str]) -> str:
    return table(["row", *columns.values()], [_row(row, list(columns)) for row in target.stages])


def _row(row: WaterfallRow, keys: Sequence[str]) -> list[str]:
    tags = [row.precision, "" if row.role == "stage" else row.role, "probe" if row.probe else ""]
    name = f"{escape(row.title)} ({escape(', '.join(tag for tag in tags if tag))})"
    cells = [number_cell(row.numbers[key]) if key in row.numbers else "" for key in keys]
    return [f"**{name}**" if row.final else name, *cells]


def _controls(facts: Facts) -> Iterator[str]:
    for one in facts.controls:
        place = f" ({escape(one.target)})" if len(facts.targets) > 1 and one.target else ""
        yield f"{escape(one.question)} **{one.answer.capitalize()}.** {escape(one.because)}{place}"


def _choice(choice: ChoiceFact | None) -> Iterator[str]:
    if choice is not None:
        yield "## What ships, and among what it was chosen"
        yield escape(choice_sentence(choice))
        rows = []
        for one in choice.candidates:
            name, *rest = map(escape, choice_cells(one))
            rows.append([f"**{name}**" if one.chosen else name, *rest, escape("; ".join(one.limits))])
        yield table([*CHOICE_COLUMNS, "limit by limit"], rows)
        yield from map(escape, choice_notes(choice))


def _checks(facts: Facts) -> Iterator[str]:
    if facts.checks:
        yield f"## What was executed\n\n{escape(CHECKS_LEAD)}"
    for one in facts.checks:
        yield _entries(f"{one.title}, {one.precision.upper()}", one.entries)


def _kits(facts: Facts) -> Iterator[str]:
    if facts.kits:
        yield f"## On devices out of reach\n\n{escape(KIT_LEAD)}"
    for one in facts.kits:
        yield _entries(f"{one.title}, {one.precision.upper()}, on {one.device}", one.entries)


def _entries(title: str, entries: Sequence[tuple[str, str]]) -> str:
    lines = "\n".join(f"- **{escape(name)}**: {escape(text)}" for name, text in entries)
    return f"### {escape(title)}\n\n{lines}"


def _runtimes(group: RuntimesFact) -> str:
    columns = columns_of(group)
    rows = []
    for row in group.rows:
        name = escape(f"{row.runtime}, {row.precision.upper()}" + (f", {row.form}" if row.form else ""))
        cells = [number_cell(row.numbers[key]) if key in row.numbers else "" for key in columns]
        cells = [f"not measured: {escape(row.missing)}", *[""] * (len(columns) - 1)] if row.missing else cells
        rows.append([f"**{name}**" if row.final else name, *cells, escape(row.executed)])
    title = f"## In other runtimes, on {escape(group.target)}"
    return "\n\n".join([title, table(["artifact", *map(str.lower, columns.values()), "executed as"], rows)])


def _ablation(ablation: AblationFact) -> str:
    rows = [
        [*map(escape, (left_out_text(one), kind_text(one), one.weight, gain_text(one))), f"**{one.worth}**"]
        for one in ablation.lines
    ]
    head = ["left out", "kind of knowledge", "weight", "whole minus without it", "the term"]
    title = f"## What each kind of knowledge contributed to {escape(ablation.whole)}"
    return "\n\n".join([title, table(head, rows), *map(escape, NOTES)])


def _classes(facts: Facts) -> Iterator[str]:
    if facts.classes is None or facts.baseline is None:
        return
    changed = [row for row in facts.classes.rows if row.lost or row.won]
    yield f"## Classes\n\n{facts.classes.num_errors:,} of {facts.classes.n:,} images newly fail."
    if changed:
        worst = sorted(changed, key=lambda row: row.won - row.lost)[:10]
        yield table(
            ["class", "images", escape(facts.baseline), "final", "lost", "won"],
            [
                [
                    escape(row.name),
                    str(row.n),
                    _share(row.teacher),
                    _share(row.final),
                    str(row.lost),
                    str(row.won),
                ]
                for row in worst
            ],
        )


def _share(value: float | None) -> str:
    return "" if value is None else show("accuracy", value)


def _list(title: str, lines: Iterator[str]) -> Iterator[str]:
    found = [f"- {line}" for line in lines]
    if found:
        yield f"## {title}\n\n" + "\n".join(found)


def _reproduce(facts: Facts) -> Iterator[str]:
    if facts.command:
        command = " ".join(shlex.join(facts.command).split())
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", command)), default=0))
        yield f"## How to reproduce\n\n{fence}\n{command}\n{fence}"
