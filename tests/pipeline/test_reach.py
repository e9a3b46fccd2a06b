"""What a run that is measured elsewhere does about targets that are out of reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.core.errors import RecipeError, TargetError, UsageError
from edgekd.pipeline.plan import Plan, make_plan
from edgekd.pipeline.reach import look_at_targets
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.validation import check_recipe
from edgekd.search.latency_table import write_table
from tests.pipeline.portable.small_portable import OUT_OF_REACH
from tests.search import material

RECIPE = """
data: {source: digits}
teacher: {model: resnet_cifar.digits}
targets: [pi5]
steps:
  - teacher
  - student: {network: resnet_cifar, args: {depth: 8}}
  - distill
  - quantize: {}
  - export
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "edgekd-devices.yaml").write_text(OUT_OF_REACH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def plan(project: Path, *overrides: str, select: str = "") -> Plan:
    path = project / "r.yaml"
    path.write_text(
        RECIPE.replace("student: {network: resnet_cifar, args: {depth: 8}}", select) if select else RECIPE
    )
    return make_plan(load_recipe(str(path), overrides=overrides))


def pinned(project: Path, target: str = "pi5") -> str:
    """A table that says of `target` what its agent said of it."""
    table = material.table(material.candidates())
    facts = {"machine": "aarch64", "cpu": "Cortex-A76", "vnni": False}
    write_table(project / "table.json", table.model_copy(update={"devices": {target: facts}}))
    return "select: {latency: table.json}"


def test_a_run_that_measures_needs_all_of_them(project: Path) -> None:
    with pytest.raises(TargetError, match="its address is not known"):
        look_at_targets(plan(project), elsewhere=False)


def test_what_depends_on_an_unknown_cpu_is_refused_before_anything_is_made(project: Path) -> None:
    with pytest.raises(UsageError, match="step `quantize`, `pi5`: `weight_bits: auto` asks its CPU"):
        look_at_targets(plan(project), elsewhere=True)


def test_a_table_cannot_be_timed_without_its_target(project: Path) -> None:
    with pytest.raises(UsageError, match="step `latency`, `pi5`: times candidates there; pin a table"):
        look_at_targets(plan(project, select="select: {}"), elsewhere=True)


def test_a_recipe_that_says_what_the_cpu_would_goes_on_without_it(project: Path) -> None:
    facts, unreached = look_at_targets(plan(project, "quantize.weight_bits=8"), elsewhere=True)
    assert facts == {"pi5": {}}
    assert unreached == {"pi5": "its address is not known on this machine"}


def test_a_pinned_table_tells_of_the_device(project: Path) -> None:
    facts, unreached = look_at_targets(plan(project, select=pinned(project)), elsewhere=True)
    assert facts["pi5"]["machine"] == "aarch64"
    assert facts["pi5"]["target"]["kind"] == "ssh"
    assert list(unreached) == ["pi5"]


def test_a_table_of_another_device_tells_nothing(project: Path) -> None:
    with pytest.raises(UsageError, match="`weight_bits: auto`"):
        look_at_targets(plan(project, select=pinned(project, "jetson")), elsewhere=True)


def test_a_pinned_file_that_is_no_table_is_refused_with_the_recipe(project: Path) -> None:
    (project / "table.json").write_text("{}")
    with pytest.raises(RecipeError, match="not a latency table"):
        check_recipe(plan(project, select="select: {latency: table.json}"))
