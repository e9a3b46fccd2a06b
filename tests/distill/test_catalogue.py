"""The list of methods: cheap to read, complete, with a card each."""

from __future__ import annotations

import pytest

from edgekd.core.errors import UsageError
from edgekd.distill.catalogue import METHODS, card


def test_every_entry_loads_and_its_card_carries_its_name() -> None:
    assert {card(name).name for name in METHODS.names()} == set(METHODS.names())


def test_an_unknown_method_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="close names: kd"):
        METHODS.entry("kdd")
