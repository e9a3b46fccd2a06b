"""The pages of evidence hold what benchmarks/results say now."""

from __future__ import annotations

import sys

import pytest

from edgekd.distill.catalogue import METHODS
from tests.docs.reading import REPOSITORY, text_of

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

PAGE = REPOSITORY / "docs" / "does-it-teach.md"


@pytest.mark.parametrize("name", ["does-it-teach.md", "backends.md", "backends/tensorrt.md"])
def test_the_tables_are_those_of_the_rows(name: str) -> None:
    import write_tables

    assert name in write_tables.PAGES
    page = text_of(REPOSITORY / "docs" / name)
    assert page == write_tables.filled(name, page), "run `make docs`"


def test_the_linter_was_asked_about_graphs_of_every_origin_and_never_disagreed() -> None:
    import qdq_linter_against_parser as evidence

    found = evidence.latest(evidence.rows(evidence.NAME))
    assert len(found) >= 40
    assert {row["origin"] for row in found} == set(evidence.ORIGINS)
    assert [row["graph"] for row in found if not row["agree"]] == []


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_was_trained(method: str) -> None:
    assert f"| `{method}` |" in text_of(PAGE)


def test_what_is_worse_than_no_teacher_is_explained() -> None:
    tables, explained = text_of(PAGE).split("## Worse than no teacher")
    worse = [line.split("|")[1].strip() for line in tables.splitlines() if "| worse |" in line]
    told = explained.split("<!-- looks -->")[0]
    assert worse != []
    assert [name for name in worse if name not in told] == []
