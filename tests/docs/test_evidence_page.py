"""docs/does-it-teach.md holds what benchmarks/results say now."""

from __future__ import annotations

import sys

import pytest

from edgekd.distill.catalogue import METHODS
from tests.docs.reading import REPOSITORY, text_of

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

PAGE = REPOSITORY / "docs" / "does-it-teach.md"


def test_the_tables_are_those_of_the_rows() -> None:
    import write_tables

    assert text_of(PAGE) == write_tables.filled(text_of(PAGE)), "run `make docs`"


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_was_trained(method: str) -> None:
    assert f"| `{method}` |" in text_of(PAGE)


def test_what_is_worse_than_no_teacher_is_explained() -> None:
    tables, explained = text_of(PAGE).split("## Worse than no teacher")
    worse = [line.split("|")[1].strip() for line in tables.splitlines() if "| worse |" in line]
    told = explained.split("<!-- looks -->")[0]
    assert worse != []
    assert [name for name in worse if name not in told] == []
