"""What a recipe may write under `distill`, and the messages for what it may not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from edgekd.distill.settings import DistillSettings


def names(method: object) -> list[str]:
    return [use.name for use in DistillSettings(method=method).method]  # type: ignore[arg-type]


def test_nothing_said_means_kd() -> None:
    assert [use.name for use in DistillSettings().method] == ["kd"]


@pytest.mark.parametrize(
    "method", ["at", {"name": "at"}, ["at"], [{"name": "at", "weight": 5}], ({"name": "at"},)]
)
def test_a_method_is_a_name_a_mapping_or_a_list(method: object) -> None:
    assert names(method) == ["at"]


def test_settings_survive_being_written_and_read() -> None:
    settings = DistillSettings(method=["kd", {"name": "at", "weight": 10}])  # type: ignore[arg-type]
    assert DistillSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("dkdd", "not a method"),
        ("fitnet", "close names: fitnets"),
        ({"name": "kd", "temprature": 2}, "temprature.*parameters: temperature, weight"),
        ({"name": "kd", "temperature": -1}, "temperature"),
        (["kd", "kd"], "named twice"),
        ([], "at least 1"),
        ({"weight": 3}, "name"),
        (7, "method"),
    ],
)
def test_a_wrong_method_is_named_with_what_would_be_right(method: object, message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        DistillSettings(method=method)  # type: ignore[arg-type]


def test_negative_task_weight_and_unknown_keys_are_refused() -> None:
    for wrong in ({"task_weight": -1}, {"metod": "kd"}, {"label_smoothing": 1.0}):
        with pytest.raises(ValidationError):
            DistillSettings.model_validate(wrong)


def test_the_schema_offers_all_three_forms() -> None:
    forms = DistillSettings.model_json_schema()["properties"]["method"]["anyOf"]
    assert {form.get("type", "reference") for form in forms} == {"string", "reference", "array"}


def test_names_are_checked_without_torch() -> None:
    code = (
        "import sys; from edgekd.distill.settings import DistillSettings; from edgekd.distill.catalogue "
        "import METHODS; DistillSettings(method='at'); METHODS.names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
