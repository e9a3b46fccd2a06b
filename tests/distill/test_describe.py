"""Parameters in words: what may be written, what stands there otherwise, what it means."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from edgekd.core.config import Config
from edgekd.distill.describe import PLUGINS, Parameter, family_of, parameters_of


class Network(Config):
    """network: a name. args: its arguments."""

    network: str
    args: dict[str, int] = {}


class Settings(Config):
    """rate: how fast: in epochs. low, high: the ends; both are
    allowed. peers: how many, or which.

    form: see the paper.
    """

    rate: float = Field(1 / 3, gt=0, lt=1)
    low: int = Field(0, ge=0)
    high: int | None = None
    peers: Annotated[int, Field(ge=1)] | list[Network] = 1
    form: Literal["code", "paper"] = "code"
    flag: bool = Field(True, description="told by the field itself")
    weight: float = 1.0


FOUND = {parameter.name: parameter for parameter in parameters_of(Settings)}


def test_parameters_stand_in_the_order_of_the_class() -> None:
    assert list(FOUND) == list(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rate", "number, > 0, < 1"),
        ("high", "whole number or none"),
        ("peers", "whole number or list of {network, args}"),
        ("form", "`code` or `paper`"),
        ("flag", "true or false"),
    ],
)
def test_legal_values_are_spelled_out(name: str, kind: str) -> None:
    assert FOUND[name].kind == kind


@pytest.mark.parametrize(
    ("name", "default"), [("rate", "0.333333"), ("high", "none"), ("form", '"code"'), ("flag", "true")]
)
def test_defaults_are_as_yaml_writes_them(name: str, default: str) -> None:
    assert FOUND[name].default == default


def test_a_required_parameter_says_so() -> None:
    assert parameters_of(Network)[0] == Parameter("network", "text", "required", "a name")


def test_meanings_come_from_the_docstring_and_may_be_shared() -> None:
    meanings = {name: parameter.meaning for name, parameter in FOUND.items()}
    assert meanings["rate"] == "how fast: in epochs"
    assert meanings["low"] == meanings["high"] == "the ends; both are allowed"
    assert meanings["form"] == "see the paper"
    assert meanings["flag"] == "told by the field itself"


def test_the_weight_means_the_same_everywhere_unless_told_otherwise() -> None:
    assert "replaces the paper's" in FOUND["weight"].meaning


def test_settings_without_parameters_have_none() -> None:
    class Nothing(Config):
        """They are empty: none."""

    assert parameters_of(Nothing) == ()


def test_the_family_is_the_folder() -> None:
    assert family_of("edgekd.distill.methods.response.kd:METHOD") == "response"
    assert family_of("my_package.mine:METHOD") == PLUGINS
