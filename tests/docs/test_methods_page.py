"""The page of methods is what `make docs` writes now, and says of every method what its card says."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from edgekd.distill.catalogue import METHODS
from edgekd.distill.survey import survey
from tests.docs.reading import REPOSITORY, text_of

PAGE = REPOSITORY / "docs" / "methods.md"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """docs/generate_methods.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("generate_methods", PAGE.with_name("generate_methods.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh(generator: ModuleType) -> None:
    assert text_of(PAGE) == generator.render(), "run `make docs`"


def test_the_page_starts_with_the_default_method(generator: ModuleType) -> None:
    headings = [line for line in text_of(PAGE).splitlines() if line.startswith("#")]
    assert headings[:4] == ["# Methods", "## Start here", "## By family", "## Each method"]
    assert headings[4] == f"### {generator.START}"


def test_every_method_has_a_section_and_every_row_a_line() -> None:
    lines = text_of(PAGE).splitlines()
    assert [name for name in METHODS.names() if f"### {name}" not in lines] == []
    shown = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert [row.id for row in survey().rows if not any(f"`{row.id}`" in cell for cell in shown)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b * c", r"a\_b \* c"),
        ("|x| <y>", r"\|x\| \<y>"),
        ("`a_b` c_d", r"`a_b` c\_d"),
        ("`a|b`", r"`a\|b`"),
    ],
)
def test_text_stays_text_in_markdown(generator: ModuleType, text: str, expected: str) -> None:
    assert generator.plain(text) == expected
