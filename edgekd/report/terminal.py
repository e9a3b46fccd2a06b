"""The end of a run on a terminal: the verdict, its limits and a compact waterfall, plain or with rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.core.verdict import Outcome
from edgekd.report.ablation import gain_text, kind_text, left_out_text
from edgekd.report.checks import check_lines
from edgekd.report.choice import CHOICE_COLUMNS, choice_cells, choice_notes, choice_sentence
from edgekd.report.facts import AblationFact, ChoiceFact, Facts, LimitFact, Number, RuntimesFact, WaterfallRow
from edgekd.report.formatting import show
from edgekd.report.judged import bound_text, verdict_sentence
from edgekd.report.kit import fact_lines
from edgekd.report.runtimes import columns_of

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: dict[Outcome | None, str] = {"pass": "green", "fail": "red", "inconclusive": "yellow", None: "dim"}
_COLUMNS = (
    ("accuracy", "accuracy"),
    ("drop_teacher", "drop"),
    ("p50", "p50"),
    ("speedup", "speed-up"),
    ("size", "size"),
)


def plain_text(facts: Facts) -> str:
    """Lines without colors or control characters."""
    lines = [
        f"{facts.recipe}: {(facts.outcome or 'not judged').upper()}. "
        f"{verdict_sentence(facts.outcome, facts.limits)}"
    ]
    lines += [f"  {line}" for limit in facts.limits for line in limit_lines(limit)]
    for target in facts.targets:
        lines += ["", f"on {target.name}"]
        rows = [["", *(name for _, name in _COLUMNS)], *(_cells(row) for row in target.stages)]
        lines += [f"  {line}" for line in _aligned(rows)]
    if facts.controls:
        lines.append("")
    lines += [f"{one.question} {one.answer.capitalize()}. {one.because}" for one in facts.controls]
    lines += choice_lines(facts.choice)
    for group in facts.runtimes:
        lines += ["", *runtime_lines(group)]
    for checked in facts.checks:
        lines += ["", *check_lines(checked)]
    for kit in facts.kits:
        lines += ["", *fact_lines(kit)]
    for ablation in facts.ablations:
        lines += ["", *ablation_lines(ablation)]
    return "\n".join(printable(line) for line in lines) + "\n"


def runtime_lines(group: RuntimesFact) -> list[str]:
    """A table: each artifact with its numbers and what its kernels computed in; below it what was not run."""
    columns = columns_of(group)
    rows = [["", *map(str.lower, columns.values()), "executed as"]]
    told = []
    for row in group.rows:
        name = f"{'> ' if row.final else '  '}{row.runtime} [{row.precision}]"
        rows.append([name, *(_cell(row.numbers.get(key)) for key in columns), row.executed or "-"])
        told += [f"  {row.runtime} [{row.precision}]: not measured: {row.missing}"] if row.missing else []
    head = f"in other runtimes on {group.target}; same answers and speed-up are against what ships"
    return [head, *(f"  {line}" for line in _aligned(rows)), *told]


def choice_lines(choice: ChoiceFact | None) -> list[str]:
    """Why this artifact ships, and a table of the candidates; nothing where there was no choice."""
    if choice is None:
        return []
    rows = [["", *CHOICE_COLUMNS[1:]]]
    for one in choice.candidates:
        name, *rest = choice_cells(one)
        rows.append([f"{'> ' if one.chosen else '  '}{name}", *rest])
    lines = ["", choice_sentence(choice), *(f"  {line}" for line in _aligned(rows))]
    return [*lines, *(f"  {note}" for note in choice_notes(choice))]


def ablation_lines(ablation: AblationFact) -> list[str]:
    """A table: what was left out, its kind of knowledge, what it bought with the interval, and in a word."""
    rows = [[left_out_text(one), kind_text(one), gain_text(one), one.worth] for one in ablation.lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head = f"What each part of `{ablation.step}` contributed: the whole minus what was trained without it"
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return [head, *(f"  {'  '.join(row)}".rstrip() for row in cells)]


def limit_lines(limit: LimitFact) -> list[str]:
    """`pass  Size: 1.20 MB (at most 12 MB)`, and what would decide an open one."""
    measured = _with_interval(limit.number) if limit.number else "not measured"
    lines = [f"{limit.outcome:<12}  {limit.title}: {measured}; {bound_text(limit)}"]
    if limit.finding:
        told = [limit.reason, f"fix: {limit.decide}" if limit.decide else ""]
        return [f"{limit.outcome:<12}  {limit.title}", *(f"{'':<12}  {line}" for line in told if line)]
    if limit.outcome == "inconclusive":
        lines.append(f"{'':<12}  {limit.reason}")
        lines.append(f"{'':<12}  to decide: {limit.decide or 'unknown'}")
    return lines


def _with_interval(number: Number) -> str:
    if number.value is None:
        return "not measured"
    text = show(number.quantity, number.value)
    if number.low is None or number.high is None:
        return text
    return f"{text} ({show(number.quantity, number.low)} to {show(number.quantity, number.high)})"


def _cells(row: WaterfallRow) -> list[str]:
    mark = "> " if row.final else "  "
    title = f"{mark}{row.title} [{row.precision}]" + ("" if row.role == "stage" else f" ({row.role})")
    return [title, *(_cell(row.numbers.get(key)) for key, _ in _COLUMNS)]


def _cell(number: Number | None) -> str:
    if number is None or number.value is None:
        return "-"
    return show(number.quantity, number.value) + ("" if number.valid else " !")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def printable(text: str) -> str:
    """Without control characters: a class name must not steer the terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def panel(facts: Facts) -> RenderableType:
    """The verdict with its limits in a frame, and the waterfall of each target as a table."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    style = _STYLES[facts.outcome]
    body = Text(f"{verdict_sentence(facts.outcome, facts.limits)}\n")
    for limit in facts.limits:
        for number, line in enumerate(limit_lines(limit)):
            body.append(f"\n{printable(line)}", style=_STYLES[limit.outcome] if number == 0 else "dim")
    title = Text(
        f" {printable(facts.recipe)}: {(facts.outcome or 'not judged').upper()} ", style=f"bold {style}"
    )
    frame = Panel(body, title=title, border_style=style, title_align="left")
    texts = [
        choice_lines(facts.choice)[1:],
        *map(runtime_lines, facts.runtimes),
        *map(check_lines, facts.checks),
        *map(fact_lines, facts.kits),
        *map(ablation_lines, facts.ablations),
    ]
    below = ("\n".join(map(printable, lines)) for lines in texts if lines)
    return Group(frame, *(_table(target.name, target.stages) for target in facts.targets), *map(Text, below))


def _table(target: str, rows: Sequence[WaterfallRow]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(f"on {printable(target)}"), box=SIMPLE_HEAD, title_justify="left", pad_edge=False
    )
    table.add_column("")
    for _, name in _COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        cells = [Text(printable(cell)) for cell in _cells(row)]
        table.add_row(*cells, style="bold" if row.final else "" if row.role == "stage" else "dim")
    return table
