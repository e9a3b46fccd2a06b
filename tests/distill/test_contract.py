"""Every registered method keeps the contract."""

from __future__ import annotations

import pytest

from edgekd.distill.catalogue import METHODS
from edgekd.testing.distill_contract import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", METHODS.names())
def test_method_keeps_the_contract(name: str, check: Check) -> None:
    check(name)
