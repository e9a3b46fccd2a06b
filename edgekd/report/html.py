"""The report as one HTML file without scripts, fonts or anything else from outside."""

from __future__ import annotations

import base64
import shlex
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from edgekd.report import charts
from edgekd.report.ablation import NOTES, kind_text, left_out_text
from edgekd.report.checks import CHECKS_LEAD
from edgekd.report.choice import CHOICE_COLUMNS, choice_cells, choice_notes, choice_sentence
from edgekd.report.contribution_axis import contribution_axis
from edgekd.report.facts import ChoiceFact, ClassRow, Facts, Number, RuntimesFact, WaterfallRow
from edgekd.report.formatting import moment, points, ratio, seconds, sentence_case, show
from edgekd.report.judged import bound_text, verdict_sentence
from edgekd.report.kit import KIT_LEAD
from edgekd.report.provenance import sections
from edgekd.report.runtimes import columns_of
from edgekd.report.time_axis import time_axis

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_FEW_CLASSES = 12
COLUMNS = (
    ("drop_previous", "Drop from the row above"),
    ("drop_teacher", "Drop from {baseline}"),
    ("p50", "Latency p50"),
    ("p90", "Latency p90"),
    ("speedup", "Speed-up"),
    ("size", "Size"),
    ("memory", "Peak memory"),
)


def render_html(facts: Facts) -> str:
    """The whole page. Every text is escaped by the template engine; the page's own policy forbids scripts."""
    template = _environment().get_template("report.html.j2")
    return template.render(
        facts=facts,
        style=_resource("style.css"),
        sentence=verdict_sentence(facts.outcome, facts.limits),
        limits=[(limit, bound_text(limit), charts.limit_bar(limit)) for limit in facts.limits],
        tiles=tiles(facts),
        columns=columns(facts),
        axes={target.name: charts.accuracy_axis(target.stages) for target in facts.targets},
        ablation_notes=NOTES,
        ablations=[(one, contribution_axis(one)) for one in facts.ablations],
        **_choice(facts.choice),
        runtimes=[
            (one, time_axis([row.numbers.get("p50") for row in one.rows]), runtime_columns(one))
            for one in facts.runtimes
        ],
        checks_lead=CHECKS_LEAD,
        kit_lead=KIT_LEAD,
        paretos=[plot for plot in map(charts.pareto, facts.targets) if plot],
        accuracy_chart=charts.accuracy_chart(facts.curves),
        term_charts=charts.term_charts(facts.curves),
        ridge_charts=charts.ridge_charts(facts.distributions),
        changed_classes=changed_classes(facts),
        recall_axis=charts.recall_axis(facts.classes.rows) if facts.classes else None,
        many_classes=facts.classes is not None and len(facts.classes.rows) > _FEW_CLASSES,
        sections=sections(facts),
        command=shlex.join(facts.command) if facts.command else "",
    )


def runtime_columns(group: RuntimesFact) -> dict[str, str]:
    """Those of numbers; latency has a column with a plot."""
    return {key: name for key, name in columns_of(group).items() if key != "p50"}


def _choice(choice: ChoiceFact | None) -> dict[str, Any]:
    if choice is None:
        return {}
    return {
        "choice_sentence": choice_sentence(choice),
        "choice_columns": CHOICE_COLUMNS,
        "candidates": [(one, choice_cells(one)) for one in choice.candidates],
        "choice_notes": list(choice_notes(choice)),
    }


def columns(facts: Facts) -> list[tuple[str, str]]:
    """Those of `COLUMNS` that any row has, named; the row above is none of its own if it is the baseline."""
    rows = [row for target in facts.targets for row in target.rows]
    taken = {key for row in rows for key in row.numbers}
    if all(row.position <= 2 for row in rows):
        taken.discard("drop_previous")
    return [(key, name.format(baseline=facts.baseline)) for key, name in COLUMNS if key in taken]


def tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """(headline, what it is, its interval) of the final row against the baseline, on the first target."""
    target = facts.targets[0] if facts.targets else None
    final = facts.final_row(target) if target else None
    if target is None or final is None or not target.rows:
        return []
    found = [_accuracy_tile(final), _speed_tile(final), _size_tile(final, target.rows[0])]
    return [(value, f"{what} the {facts.baseline}", extent) for value, what, extent in filter(None, found)]


def _accuracy_tile(final: WaterfallRow) -> tuple[str, str, str] | None:
    drop = final.numbers.get("drop_teacher")
    if drop is None or drop.value is None:
        return None
    extent = "" if drop.low is None or drop.high is None else _extent(points(-drop.high), points(-drop.low))
    return points(-drop.value, plus=True), "accuracy against", extent


def _speed_tile(final: WaterfallRow) -> tuple[str, str, str] | None:
    speedup = final.numbers.get("speedup")
    if speedup is None or speedup.value is None:
        return None
    ends = _extent(ratio(speedup.low), ratio(speedup.high)) if speedup.low and speedup.high else ""
    return ratio(speedup.value), "as fast as", ends + ("" if speedup.valid else " · not valid")


def _size_tile(final: WaterfallRow, teacher: WaterfallRow) -> tuple[str, str, str] | None:
    after, before = final.numbers.get("size"), teacher.numbers.get("size")
    if not after or not before or not after.value or not before.value or final == teacher:
        return None
    sizes = f"{show('size_bytes', before.value)} → {show('size_bytes', after.value)}"
    return ratio(before.value / after.value), "smaller than", sizes


def _extent(low: str, high: str) -> str:
    return f"{low} to {high}"


def changed_classes(facts: Facts) -> list[ClassRow]:
    """Few classes: all. Many: those that lost most, and the lowest recalls."""
    if facts.classes is None:
        return []
    rows = list(facts.classes.rows)
    if len(rows) <= _FEW_CLASSES:
        return rows
    worst = sorted(rows, key=lambda row: (row.won - row.lost, 1.0 if row.final is None else row.final))
    return worst[:_FEW_CLASSES]


def number_text(number: Number) -> str:
    return "" if number.value is None else show(number.quantity, number.value)


def interval_text(number: Number) -> str:
    """`1.02 to 1.07 ms`; empty when there is no interval."""
    if number.low is None or number.high is None:
        return ""
    low, high = show(number.quantity, number.low), show(number.quantity, number.high)
    unit = low.rpartition(" ")[2]
    if " " in low and high.endswith(f" {unit}"):
        low = low[: -len(unit) - 1]
    return _extent(low, high)


def brief_interval(number: Number) -> str:
    """The interval without the unit where all three numbers have the same one: it stands below the value."""
    if number.value is None or number.low is None or number.high is None:
        return ""
    texts = [show(number.quantity, value) for value in (number.value, number.low, number.high)]
    units = {text.rpartition(" ")[2] if " " in text else text[-1:] for text in texts}
    unit = units.pop() if len(units) == 1 else ""
    return _extent(*(text.removesuffix(unit).rstrip() for text in texts[1:]))


def signed_points(fraction: float | None) -> str:
    """A gain or a loss in points with its sign."""
    return "" if fraction is None else points(fraction, plus=True)


def with_code(text: str) -> Markup:
    """Escaped text in which what stands between backticks is marked as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = [
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number_text,
        interval=interval_text,
        brief=brief_interval,
        uri=data_uri,
        seconds=seconds,
        share=_share,
        moment=moment,
        cased=sentence_case,
        code=with_code,
        points=signed_points,
        left_out=left_out_text,
        kind=kind_text,
    )
    return environment


def _share(value: float | None) -> str:
    return "" if value is None else show("accuracy", value)


def _resource(name: str) -> str:
    return files("edgekd.report").joinpath("templates", name).read_text(encoding="utf-8")
