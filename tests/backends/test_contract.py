"""Every registered backend keeps the contract, and the contract finds what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import AbsentRuntimeError, MissingDependencyError
from edgekd.core.registry import Entry
from edgekd.testing.backend_contract import CHECKS, Check
from tests.backends.odd_backends import DEFECTS

pytestmark = pytest.mark.backends


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", BACKENDS.names())
def test_backend_keeps_the_contract(name: str, check: Check, tmp_path: Path) -> None:
    try:
        check(name, tmp_path)
    except (MissingDependencyError, AbsentRuntimeError) as error:
        pytest.skip(f"not checked: {error}")


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, name = DEFECTS[defect]
    monkeypatch.setattr("tests.backends.odd_backends.ODD", backend)
    entry = Entry("odd", "tests.backends.odd_backends:ODD", "-")
    monkeypatch.setattr(BACKENDS, "_entries", {**BACKENDS._entries, "odd": entry})
    (check,) = [check for check in CHECKS if check.__name__ == name]
    with pytest.raises(AssertionError):
        check("odd", tmp_path)
