"""Every registered method keeps the contract, and the contract finds what it is for."""

from __future__ import annotations

import pytest

from edgekd.core.registry import Entry
from edgekd.distill.catalogue import METHODS
from edgekd.testing.distill_contract import CHECKS, Check
from tests.distill.odd_methods import DEFECTS

checks = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@checks
@pytest.mark.parametrize("name", METHODS.names())
def test_method_keeps_the_contract(name: str, check: Check) -> None:
    check(name)


def register(monkeypatch: pytest.MonkeyPatch, attribute: str) -> None:
    """Under the name `odd`, for this test."""
    entry = Entry("odd", f"tests.distill.odd_methods:{attribute}", "-")
    monkeypatch.setattr(METHODS, "_entries", {**METHODS._entries, "odd": entry})


@checks
def test_a_scheme_that_uses_everything_keeps_it(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "EVERYTHING")
    check("odd")


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, name, words = DEFECTS[defect]
    monkeypatch.setattr("tests.distill.odd_methods.EVERYTHING", method)
    register(monkeypatch, "EVERYTHING")
    (check,) = [check for check in CHECKS if check.__name__ == name]
    with pytest.raises(Exception, match=words):
        check("odd")


def test_every_check_finds_a_defect() -> None:
    assert {name for _, name, _ in DEFECTS.values()} == {check.__name__ for check in CHECKS}
