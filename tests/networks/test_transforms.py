"""Transforms are found by name, given their settings, and applied in order."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from edgekd.core.errors import ModelError, UsageError
from edgekd.core.registry import Entry
from edgekd.networks.transforms import TRANSFORMS, apply_transforms


def appended(module: nn.Module, settings: dict[str, Any]) -> nn.Module:
    """Puts a layer of `width` behind the module."""
    return nn.Sequential(module, nn.Linear(1, settings["width"]))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {**TRANSFORMS._entries, "append": Entry("append", f"{__name__}:appended", "")}
    monkeypatch.setattr(TRANSFORMS, "_entries", entries)


def test_they_are_applied_in_order_with_their_settings() -> None:
    module = apply_transforms(
        nn.Identity(), [{"transform": "append", "width": 2}, {"transform": "append", "width": 3}]
    )
    assert (module[1].out_features, module[0][1].out_features) == (3, 2)


def test_none_leave_the_module_as_it_is() -> None:
    module = nn.Identity()
    assert apply_transforms(module, []) is module


def test_an_unknown_one_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="choices: quantize, append"):
        apply_transforms(nn.Identity(), [{"transform": "prune"}])


def test_a_dict_without_a_name_is_an_error() -> None:
    with pytest.raises(ModelError, match="needs the key `transform`"):
        apply_transforms(nn.Identity(), [{"width": 2}])
