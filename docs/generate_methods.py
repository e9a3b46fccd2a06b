"""Writes docs/methods.md from the cards of the registered methods and the catalogue of the surveys.

`make docs` runs it; a test compares what it would write with what is committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgekd.core.registry import Entry
from edgekd.distill.card import Card
from edgekd.distill.catalogue import METHODS
from edgekd.distill.describe import FAMILIES, Parameter, family_of, parameters_of
from edgekd.distill.settings import DistillSettings
from edgekd.distill.survey import BEYOND, MEANING, STATUSES, Row, survey

PAGE = Path(__file__).with_name("methods.md")
START = DistillSettings().method[0].name

HEAD = """\
# Methods

<!-- Made by `make docs` from edgekd/catalogue.yaml and the cards in edgekd/distill/methods/. Do not edit. -->

What a recipe may write under `distill: {method: ...}` and `quantize: {method: ...}`, and what became of every
system and formula that two surveys name (gou: Gou et al., IJCV 2021; hu: Hu et al., 2022). The same in the
terminal: `edgekd list methods`, `edgekd list methods kd`, `edgekd list methods --all`.

## Start here
"""

USE = """\
`distill: {}` is the same. Beside the name stand the method's parameters, and beside those the weight of the
cross-entropy with the labels (by default the method's own, as the paper has it):

```yaml
distill: {method: {name: kd, temperature: 2}, task_weight: 0.5}
```

Methods that only add terms may stand together; each brings its paper's weight, which `weight:` replaces:

```yaml
distill: {method: [kd, {name: sp, weight: 3000}]}
```

A whole scheme (several networks that learn, generations, branches) stands alone; its section says so. Which
method teaches best depends on the data: the control `none` runs beside every recipe, with the same start,
batches and number of updates.

Conventions: KL and cross-entropy are sums over classes and means over the batch; feature distances are means
over the batch and over elements. z are logits, p probabilities, f feature maps, e embeddings; s the student,
t the teacher; T the temperature; y the label. Costs: b is the batch size, N the number of training images.
"""


def render() -> str:
    """The whole page."""
    rows = {row.id: row for row in survey().rows}
    parts = [HEAD, _start(METHODS.entry(START)), USE, _families(), "## Each method\n"]
    parts += [_method(entry, rows.get(entry.name)) for entry in _ordered()]
    return "\n".join([*parts, *_catalogue()]).rstrip("\n") + "\n"


def _ordered() -> list[Entry]:
    """By family, the default method first."""
    families = list(FAMILIES)
    own = [entry for entry in METHODS if family_of(entry.target) in FAMILIES]
    return sorted(own, key=lambda entry: (entry.name != START, families.index(family_of(entry.target))))


def _card(entry: Entry) -> Card:
    return METHODS.load(entry.name).card


def _start(entry: Entry) -> str:
    recipe = f"```yaml\ndistill: {{method: {entry.name}}}\n```"
    return f"{_link(entry)}: {plain(entry.summary)}.\n\n{recipe}\n"


# ---- Methods ---------------------------------------------------------------------------------------


def _families() -> str:
    parts = ["## By family\n"]
    for family, told in FAMILIES.items():
        entries = [entry for entry in _ordered() if family_of(entry.target) == family]
        lines = [[_link(e), plain(e.summary), _teachers(_card(e)), plain(_card(e).cost)] for e in entries]
        parts += [
            f"**{family.capitalize()}**: {told}\n",
            table(("method", "what", "teachers", "cost"), lines),
        ]
    return "\n".join(parts)


def _link(entry: Entry) -> str:
    return f"[`{entry.name}`](#{entry.name})"


def _teachers(card: Card) -> str:
    return {0: "none", 1: "one"}.get(card.num_teachers, f"{card.num_teachers} or more")


def _method(entry: Entry, row: Row | None) -> str:
    method = METHODS.load(entry.name)
    card: Card = method.card
    facts = [
        ("Paper", plain(card.paper)),
        ("Equation", f"`{card.equation}`"),
        ("Kind", _kind(card, row)),
        ("Needs", plain(card.needs)),
        ("Cost", plain(card.cost)),
        ("Defaults", plain(card.defaults)),
        ("Deviations", "; ".join(map(plain, card.deviations))),
        ("Public code", "; ".join(map(plain, row.traps)) if row else ""),
        ("May rise in training", ", ".join(f"`{name}`" for name in card.may_rise)),
    ]
    lines = [f"- **{label}:** {text}" for label, text in facts if text]
    where = f"edgekd/distill/methods/{family_of(entry.target)}/{entry.name.replace('-', '_')}.py"
    head = f"### {entry.name}\n\n{plain(card.title)}, in [{Path(where).name}](../{where}).\n"
    return "\n".join([head, *lines, "", _parameters(parameters_of(method.settings))])


def _kind(card: Card, row: Row | None) -> str:
    group = f", table {row.group} of the [catalogue](#the-catalogue)" if row else ", no row of the catalogue"
    stands = "may stand beside others" if card.composable else "a whole scheme, stands alone"
    unlabeled = ", reads unlabeled images" if row and row.unlabeled else ""
    return f"{card.knowledge} knowledge, {card.scheme} scheme, {stands}{unlabeled}{group}"


def _parameters(parameters: Sequence[Parameter]) -> str:
    if not parameters:
        return "No parameters.\n"
    lines = [[f"`{p.name}`", plain(p.default), plain(p.kind), plain(p.meaning)] for p in parameters]
    return table(("parameter", "default", "legal", "meaning"), lines)


# ---- The catalogue ---------------------------------------------------------------------------------


def _catalogue() -> Iterable[str]:
    told = survey()
    yield "## The catalogue\n"
    beyond = sum(row.group == BEYOND for row in told.rows)
    yield f"{len(told.rows)} rows: {len(told.rows) - beyond} of the surveys, and {beyond} beyond them.\n"
    counts = {status: sum(row.status == status for row in told.rows) for status in STATUSES}
    yield table(("status", "rows", "meaning"), [[f"`{s}`", str(counts[s]), MEANING[s]] for s in STATUSES])
    yield "What would make the rows with status `task` possible, worth most first:\n"
    unlocks = sorted(told.unlocks.items(), key=lambda item: item[1].order)
    yield table(
        ("unlock", "order", "rows", "what"),
        [[k, str(u.order), str(u.rows), plain(u.what)] for k, u in unlocks],
    )
    for key, group in told.groups.items():
        yield f"### {key} {plain(group.title)}\n"
        rows = [row for row in told.rows if row.group == key]
        yield table(("id", "what", "knowledge", "status", "why"), [_row(row) for row in rows])


def _row(row: Row) -> list[str]:
    identity = f"[`{row.id}`](#{row.id})" if row.status == "method" else f"`{row.id}`"
    cited = f" ({plain(row.cited)})" if row.cited else ""
    wave = f" {row.wave}" if row.status == "planned" else ""
    why = [row.unlock or "", plain(row.note)]
    covered = ", ".join(f"`{item.replace('::', '` `')}`" for item in row.covered_by)
    return [
        identity,
        plain(row.name) + cited,
        plain(row.knowledge),
        row.status + wave,
        ": ".join(filter(None, (covered, *why))),
    ]


# ---- Markdown --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with an empty line behind it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def plain(text: str) -> str:
    """Text in which nothing is markup but the code spans; `|` is safe in tables."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part.replace("|", r"\|") if part.startswith("`") else re.sub(r"([\\|<*_\[\]])", r"\\\1", part)
        for part in parts
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
