"""Every shipped recipe loads and plans; the quickstart runs whole in a shortened form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekd.core.run_record import RunRecord
from edgekd.core.shipped import shipped_recipes
from edgekd.pipeline.plan import make_plan
from edgekd.pipeline.recipe import load_recipe
from edgekd.search.latency_table import TABLE, read_table
from tests.pipeline.conftest import edgekd

PUBLIC = {"quickstart", "fashion-mnist", "image-folder", "cifar10-resnet20"}


def test_the_recipes_that_the_issue_names_are_shipped() -> None:
    assert set(shipped_recipes()) >= PUBLIC


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_loads_and_plans(name: str) -> None:
    recipe = load_recipe(name)
    plan = make_plan(recipe)
    assert recipe.description
    (final,) = (row for row in plan.rows if row.name == plan.final)
    assert {step.name: step.stage for step in plan.steps}[final.graph_step] in ("export", "choose")
    assert {"teacher", "undistilled", "distilled", "ptq", "quantized"} <= {row.name for row in plan.rows}
    assert plan.recipe.gate.accuracy_drop
    assert plan.recipe.gate.size


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_the_locked_form_of_a_shipped_recipe_means_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    locked = tmp_path / f"{name}.yaml"
    locked.write_text(recipe.locked())
    assert load_recipe(str(locked)).resolved == recipe.resolved


SHORT = [
    "select.epochs=1",
    "select.strategy_keys={size: 2}",
    "distill.epochs=2",
    "quantize.epochs=1",
    "measure.protocol=smoke",
]


@pytest.mark.runs
@pytest.mark.timeout(600)
def test_the_quickstart_runs_whole_in_a_shortened_form(tmp_path: Path) -> None:
    changes = [word for change in SHORT for word in ("--set", change)]
    done = edgekd("run", "quickstart", "--json", *changes, cwd=tmp_path, timeout=500)
    assert done.code in (0, 1, 3), done.err
    answer = json.loads(done.out)
    folder = tmp_path / answer["run"]
    assert Path(tmp_path, answer["reports"]["html"]).is_file()
    record = RunRecord.model_validate_json((folder / "record.json").read_bytes())
    steps = {step.name: step for step in record.steps}
    table = read_table(folder / str(steps["latency"].folder) / TABLE)
    assert len(table.rows) >= 50
    assert table.num_timed >= 8
    selection = steps["select"].measured["selection"]
    budget = {bound["on"]: bound["value"] for bound in selection["budget"]["bounds"]}
    winner = next(one for one in selection["considered"] if one["status"] == "selected")
    assert winner["remeasured"]["p50_ms"]["local"]["value"] <= budget["latency_ms"]
    assert winner["size_bytes"] <= budget["size_bytes"]
    over = [one for one in selection["considered"] if one["status"] == "over_budget"]
    assert over, "the quickstart's budget does not bite"
