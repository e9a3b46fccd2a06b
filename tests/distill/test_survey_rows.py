"""The catalogue of the surveys: complete, and a row that claims to work does."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.distill.catalogue import METHODS, card
from edgekd.distill.describe import PLUGINS, family_of, parameters_of
from edgekd.distill.survey import BEYOND, STATUSES, Row, survey
from edgekd.testing.tiny_runs import Setting
from tests.distill.test_contract import test_method_keeps_the_contract as contract

ROOT = Path(__file__).resolve().parents[2]
ROWS = {row.id: row for row in survey().rows}
CONTROL = "none"
"""The only registered name without a row: labels alone are no publication."""

GROUPS = {
    **{"G01": 30, "G02": 11, "G03": 13, "G04": 18, "G05": 20, "G06": 16, "G07": 15, "G08": 15},
    **{"G09": 11, "G10": 19, "G11": 13, "G12": 5, "G13": 4, "G14": 16, "G15": 18, "G16": 9},
    **{"G17": 13, "G18": 14, "G19": 8, "G20": 14, "G21": 33, "G22": 20, "G23": 19, "G24": 16},
}
FITS = {"core": 170, "task": 141, "infra": 46, "theory": 13}

LIBRARY = {
    *("kd", "logit-regression", "avg-teachers", "tf-kd-reg", "tf-kd-self", "conditional-ts", "fitnets"),
    *("at", "overhaul", "ft", "ab", "vid", "fn", "nst", "fsp", "rkd-d", "rkd-a", "sp", "cckd", "pkt"),
    *("irg", "mlkd", "crd", "dml", "one", "kdcl", "okddip", "codistillation", "byot", "cs-kd"),
    *("born-again", "takd", "rco", "mean-teacher", "noisy-student", "psn", "dafl", "deepinversion", "lwf"),
    *("dkd", "dist", "reviewkd"),
}
"""What the distillation library promises to run by name."""

CLAIMED = sorted(row.id for row in ROWS.values() if row.status == "method")
OWN = sorted(entry.name for entry in METHODS if family_of(entry.target) != PLUGINS and entry.name != CONTROL)


# ---- All rows of the surveys ------------------------------------------------------------------------


def test_every_table_of_the_surveys_has_all_its_rows() -> None:
    counts = Counter(row.group for row in survey().rows if row.group != BEYOND)
    assert counts == GROUPS and sum(GROUPS.values()) == 370
    assert counts == {key: group.rows for key, group in survey().groups.items() if key != BEYOND}


def test_ids_are_unique() -> None:
    assert len(ROWS) == len(survey().rows)


def test_rows_fit_edgekd_as_the_surveys_were_read() -> None:
    assert Counter(row.fits for row in ROWS.values() if row.group != BEYOND) == FITS


def test_three_methods_are_newer_than_the_surveys() -> None:
    beyond = {row.id: row.where for row in ROWS.values() if row.group == BEYOND}
    assert {"dkd", "dist", "reviewkd"} <= set(beyond)
    assert set(beyond.values()) == {"not in the surveys"}


def test_rows_wait_for_other_tasks_in_the_numbers_stated() -> None:
    counts = Counter(row.unlock for row in ROWS.values() if row.status == "task")
    assert counts == {key: unlock.rows for key, unlock in survey().unlocks.items()}


def test_task_and_theory_are_what_they_fit() -> None:
    for row in ROWS.values():
        assert (row.status == "task") == (row.fits == "task"), row.id
        assert (row.status == "theory") == (row.fits == "theory"), row.id


@pytest.mark.parametrize("status", STATUSES)
def test_a_row_without_a_reason_for_its_status_is_refused(status: str) -> None:
    plain = ROWS["kd"].model_dump() | {"status": status, "teachers": None, "note": "", "unlock": None}
    with pytest.raises(ValidationError, match="does not say enough"):
        Row.model_validate(plain)


def test_aliases_of_rows_lead_back() -> None:
    for row in ROWS.values():
        for alias in set(row.aliases) & set(ROWS):
            assert row.id in ROWS[alias].aliases, f"{row.id} and {alias}"


# ---- Rows that claim to work ------------------------------------------------------------------------


def test_what_the_library_promises_is_claimed() -> None:
    assert set(CLAIMED) >= LIBRARY


def test_what_is_claimed_is_registered_and_the_other_way_round() -> None:
    assert CLAIMED == OWN


@pytest.mark.parametrize("name", CLAIMED)
def test_a_claimed_row_loads_and_agrees_with_its_card(name: str) -> None:
    row, found = ROWS[name], card(name)
    assert (found.name, found.catalogue_id) == (name, name)
    assert row.teachers == found.num_teachers
    assert found.paper and found.equation and found.needs and found.defaults and found.cost


@pytest.mark.parametrize("name", CLAIMED)
def test_a_claimed_row_builds_its_program_and_says_if_it_reads_unlabeled_images(name: str) -> None:
    assert ROWS[name].unlabeled == ("unlabeled" in Setting.of(name).program.streams)


@pytest.mark.parametrize("name", CLAIMED)
def test_every_parameter_of_a_claimed_row_has_a_meaning(name: str) -> None:
    silent = [p.name for p in parameters_of(METHODS.load(name).settings) if not p.meaning]
    assert silent == [], f"the docstring of the settings of `{name}` does not tell `parameter: meaning`"


def test_the_contract_runs_on_every_claimed_row() -> None:
    (names,) = (mark.args[1] for mark in vars(contract)["pytestmark"] if mark.args[0] == "name")
    assert set(CLAIMED) <= set(names)


# ---- Rows that are covered by something else --------------------------------------------------------


@cache
def defined(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef))


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.covered_by], ids=lambda row: row.id)
def test_what_covers_a_row_exists(row: Row) -> None:
    for item in row.covered_by:
        path, _, name = item.partition("::")
        if "/" not in path:
            assert path in CLAIMED
        else:
            assert (ROOT / path).is_file() and (not name or name in defined(ROOT / path)), item


def test_every_equation_of_the_surveys_has_tests() -> None:
    """`gou-eq7-student-loss` is held by tests called `test_gou_7_...` in a file that its row names."""
    for row in ROWS.values():
        if row.id.startswith(("gou-eq", "hu-eq")):
            source, number = row.id.split("-")[:2]
            files = [ROOT / item for item in row.covered_by if item.startswith("tests/")]
            tests = frozenset[str]().union(*map(defined, files))
            assert any(test.startswith(f"test_{source}_{number[2:]}_") for test in tests), row.id


# ---- Looking one up ---------------------------------------------------------------------------------


def test_an_alias_finds_its_row() -> None:
    assert survey().row("ckkd").id == "cckd"


def test_an_unknown_row_has_close_names() -> None:
    with pytest.raises(UsageError, match="close names: fitnets"):
        survey().row("fitnet")


def test_rows_are_chosen_by_status_and_group() -> None:
    chosen = survey().select(status="planned", group="G05")
    assert chosen and {(row.status, row.group) for row in chosen} == {("planned", "G05")}
    with pytest.raises(UsageError, match="not a status"):
        survey().select(status="done")
