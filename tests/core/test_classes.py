from __future__ import annotations

import pytest

from edgekd.core.classes import places
from edgekd.core.errors import UsageError


def test_classes_are_found_by_name() -> None:
    assert places(("eel", "cat"), ("cat", "dog", "eel")) == (2, 0)
    assert places((), ("cat",)) == ()


def test_the_first_unknown_class_is_named_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"(?s)the release's class `gnu` is not.*choices: cat, dog"):
        places(("cat", "gnu", "elk"), ("cat", "dog"), whose="the release's")
