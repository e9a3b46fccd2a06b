"""What the documentation says of the code is so: files, functions, layers, names, codes, layouts."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from edgekd.core import errors
from edgekd.core.artifact import Kind
from edgekd.core.measurement import Measurement, Quantity
from edgekd.core.verdict import EXIT_CODES
from edgekd.pipeline.plan import make_plan
from edgekd.pipeline.recipe import load_recipe
from edgekd.store.store import Store
from tests.docs.reading import DOCUMENTS, REPOSITORY, blocks, name_of, paragraphs, prose, spans, text_of

ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
CONCEPTS = REPOSITORY / "docs" / "concepts.md"
README = REPOSITORY / "README.md"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

_CALL = re.compile(r"([A-Za-z_][\w.]*)\(\)")
_CLASS = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")


@cache
def defined(file: Path) -> frozenset[str]:
    """Functions, classes, `Class.method`s of a file, and the names it imports from others."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return frozenset(names)


def _files(text: str) -> list[Path]:
    found = [span for span in spans(text) if span.startswith("edgekd/")]
    return [REPOSITORY / span for span in found if span.endswith(".py")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_path_named_exists(document: Path) -> None:
    paths = [s for s in spans(prose(document)) if re.fullmatch(r"(edgekd|tests|docs)/[\w./-]+", s)]
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    assert not missing, f"{name_of(document)} names what is not there: {missing}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_function_named_is_in_a_file_named_beside_it(document: Path) -> None:
    problems = []
    for text in paragraphs(document):
        files = _files(text)
        known = set().union(*(defined(file) for file in files))
        called = [found[1] for span in spans(text) if (found := _CALL.fullmatch(span))]
        classes = [span for span in spans(text) if _CLASS.fullmatch(span)] if files else []
        problems += [
            f"{name} in {[name_of(f) for f in files]}" for name in called + classes if name not in known
        ]
    assert not problems, f"{name_of(document)}: not defined there: {problems}"


def test_the_import_direction_is_the_one_that_is_checked() -> None:
    contract = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = [[name.removeprefix("edgekd.") for name in layer.split(" | ")] for layer in contract]
    (shown,) = [block.text for block in blocks(ARCHITECTURE) if block.text.startswith("cli | testing")]
    assert [[name.strip() for name in layer.split("|")] for layer in shown.split(">")] == layers


def test_the_tree_names_every_package() -> None:
    named = set(re.findall(r"^\| `edgekd/(\w+)/`", text_of(ARCHITECTURE), re.MULTILINE))
    assert named == {path.parent.name for path in (REPOSITORY / "edgekd").glob("*/__init__.py")}


def test_the_stores_layout_is_as_told(tmp_path: Path) -> None:
    (shown,) = [block.text for block in blocks(ARCHITECTURE) if block.text.startswith("layout.json")]
    told = {line.split("/")[0].split()[0] for line in shown.splitlines()}
    assert told == {path.name for path in Store(tmp_path / "store").root.iterdir()}


def test_the_readme_has_every_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.EdgekdError)}
    codes |= {*EXIT_CODES.values(), errors.EXIT_INTERRUPTED, errors.EXIT_TERMINATED}
    row = next(line for line in text_of(README).splitlines() if line.startswith("| exit code"))
    assert {int(code) for code in re.findall(r"\d+", row)} == codes


def _first_cells(document: Path, heading: str) -> list[str]:
    """The code spans in the first cells of the table under a heading row."""
    lines = text_of(document).splitlines()
    start = lines.index(heading)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(line)
    return [span for row in rows for span in spans(row.split("|")[1])]


def test_the_concepts_name_every_quantity() -> None:
    assert set(_first_cells(CONCEPTS, "| quantity | how | interval |")) == set(get_args(Quantity))


def test_the_concepts_name_every_field_of_a_measurement() -> None:
    told = set(_first_cells(CONCEPTS, "| field | meaning |"))
    assert told == set(Measurement.model_fields) - {"schema_version"}


def test_the_concepts_name_every_row_of_the_quickstart() -> None:
    told = set(_first_cells(CONCEPTS, "| row | what it is |"))
    assert {row.name for row in make_plan(load_recipe("quickstart")).rows} <= told


def test_the_artifacts_kinds_and_facts_are_those_of_the_stages() -> None:
    heading = "| kind | made by | files | facts, beside those of its model |"
    assert set(_first_cells(CONCEPTS, heading)) <= set(get_args(Kind))
    code = "".join(path.read_text() for path in (REPOSITORY / "edgekd" / "stages").glob("*.py"))
    rows = [line for line in text_of(CONCEPTS).splitlines() if line.count("|") == 5]
    facts = [span for row in rows[2:7] for span in spans(row.split("|")[4])]
    assert len(facts) > 15
    assert not [fact for fact in facts if f'"{fact}"' not in code]


def test_the_changelog_has_the_present_version() -> None:
    changelog = text_of(REPOSITORY / "docs" / "changelog.md")
    version = PYPROJECT["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE)


def test_the_readme_fits_one_screen() -> None:
    assert len(text_of(README).splitlines()) <= 60
