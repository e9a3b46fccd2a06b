"""What ships is chosen among the exported artifacts, on validation data and in a session of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgekd.core.choice import ChoiceRecord
from edgekd.core.errors import RecipeError
from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import RunRecord, StepRecord
from edgekd.pipeline.exporting import plan_of_exports
from edgekd.pipeline.plan import Plan, make_plan, plans_of
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.validation import check_recipe
from edgekd.report.collect import facts_of
from edgekd.report.render import render
from tests.pipeline.conftest import TINY, TinyRun, edgekd
from tests.pipeline.test_recipe import GOOD

CHOOSING = "export: {beside: [fp16, fp32]}\n  - choose: {protocol: smoke}"


def written(folder: Path, steps: str, gate: str = "") -> str:
    path = folder / "recipe.yaml"
    path.write_text(GOOD.replace("export: {}", steps).replace("  accuracy_drop:", f"{gate}  accuracy_drop:"))
    return str(path)


def plan_of(folder: Path, steps: str) -> Plan:
    return make_plan(load_recipe(written(folder, steps)))


def test_everything_that_was_exported_is_a_candidate_and_the_choice_ships(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, CHOOSING)
    step = next(step for step in plan.steps if step.name == "choose")
    assert step.inputs == {
        "candidates": ("export", "export-onnx-fp16", "export-onnx-fp32"),
        "references": ("teacher", "distill", "quantize"),
        "model": ("quantize",),
    }
    names = [one.name for one in plan.steps]
    assert max(map(names.index, step.inputs["candidates"])) < names.index("choose")
    final = next(row for row in plan.rows if row.name == plan.final)
    assert (final.name, final.model_step, final.graph_step) == ("shipped", "choose", "choose")
    assert plan.rows[-1] == final
    assert plans_of(plan)["profile"] == "ort_x86"


def test_candidates_may_be_named(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, CHOOSING.replace("{protocol", "{candidates: [export, export-onnx-fp16], protocol")
    )
    step = next(step for step in plan.steps if step.name == "choose")
    assert step.inputs["candidates"] == ("export", "export-onnx-fp16")
    with pytest.raises(RecipeError, match="`distill` makes a model, not a graph"):
        plan_of(tmp_path, "export: {}\n  - choose: {candidates: [distill]}")
    with pytest.raises(RecipeError, match=r"`exprt` is not an earlier step; choices: .*export-onnx-fp16"):
        plan_of(tmp_path, CHOOSING.replace("{protocol", "{candidates: [exprt], protocol"))


def test_a_choice_needs_a_limit_on_answers_and_two_candidates(tmp_path: Path) -> None:
    check_recipe(plan_of(tmp_path, CHOOSING))
    with pytest.raises(RecipeError, match="one candidate, and nothing to choose"):
        check_recipe(plan_of(tmp_path, "export: {}\n  - choose: {}"))
    unbounded = Path(written(tmp_path, CHOOSING))
    unbounded.write_text(
        unbounded.read_text().replace("accuracy_drop: {max: 1pt, against: teacher}", "size: 1MB")
    )
    with pytest.raises(RecipeError, match="the gate bounds no accuracy"):
        check_recipe(make_plan(load_recipe(str(unbounded))))


def test_a_choice_without_an_export_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"needs `candidates`(.|\n)*stages that do: export"):
        plan_of(tmp_path, "choose: {}")


def test_of_two_exports_of_one_model_the_last_one_ships(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "export: {}\n  - export: {name: again}")
    final = next(row for row in plan.rows if row.name == plan.final)
    assert (final.name, final.graph_step) == ("quantized", "again")


def test_an_export_command_widens_the_export_step_before_the_choice(tmp_path: Path) -> None:
    plan = plan_of_exports(written(tmp_path, CHOOSING), backends=["onnx", "openvino"], beside=[])
    step = next(step for step in plan.steps if step.name == "choose")
    assert step.inputs["candidates"] == ("export", "export-openvino")


# ---- A real run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's student, float and INT8; a drop of 2 points is allowed, so the limits leave a choice."""
    root = tmp_path_factory.mktemp("choosing") / "root"
    shutil.copytree(tiny_run.root, root, symlinks=True)
    text = TINY.replace("export: {}", CHOOSING).replace(
        "size: 200KB", "speedup: {min: 1.01x, against: teacher}"
    )
    (root / "choosing.yaml").write_text(text)
    done = edgekd("run", "choosing.yaml", "--threads", "1", cwd=root)
    assert done.code in (0, 1, 3), done.err
    return next((root / ".edgekd" / "runs" / "choosing").glob("*/record.json")).parent


def step_of(run: Path) -> StepRecord:
    record = RunRecord.model_validate_json((run / "record.json").read_bytes())
    return next(step for step in record.steps if step.name == "choose")


@pytest.mark.runs
@pytest.mark.timeout(400)
def test_what_ships_is_one_of_the_candidates_byte_for_byte(chosen: Path) -> None:
    record = RunRecord.model_validate_json((chosen / "record.json").read_bytes())
    choice = ChoiceRecord.model_validate(step_of(chosen).measured["choice"])
    assert {one.name for one in choice.candidates} == {
        *("ONNX Runtime INT8", "ONNX Runtime FP16", "ONNX Runtime FP32"),
    }
    assert record.final == "shipped"
    digests = {
        m.subject.name: m.subject.digest
        for m in read_measurements(chosen / "measurements.jsonl")
        if m.quantity == "accuracy"
    }
    row = next(row for row in record.rows if row.name == "shipped")
    assert row.title == f"ships: {choice.winner}"
    beside = {"ONNX Runtime FP16": "distilled-onnx-fp16", "ONNX Runtime FP32": "distilled-onnx-fp32"}
    assert digests["shipped"] == digests[beside.get(choice.winner, "quantized")]
    shipped = next(one for one in choice.candidates if one.name == choice.winner)
    assert shipped.slowness <= min(one.slowness for one in choice.candidates if one.standing == "pass") * 1.2


@pytest.mark.runs
def test_it_was_decided_on_validation_data_by_the_gates_limits(chosen: Path) -> None:
    choice = ChoiceRecord.model_validate(step_of(chosen).measured["choice"])
    record = RunRecord.model_validate_json((chosen / "record.json").read_bytes())
    accuracies = {
        step.name: step.facts["val_accuracy"] for step in record.steps if "val_accuracy" in step.facts
    }
    by_name = {one.name: one for one in choice.candidates}
    assert by_name["ONNX Runtime INT8"].val_accuracy == accuracies["export"]
    assert by_name["ONNX Runtime FP32"].val_accuracy == accuracies["export-onnx-fp32"]
    for one in choice.candidates:
        (held,) = one.limits
        assert held.limit == "gate.accuracy_drop.max = 90pt"
        assert held.value == pytest.approx(accuracies["teacher"] - one.val_accuracy)
        assert held.low is not None
        assert held.low <= held.value
    assert choice.not_asked == ("gate.speedup.min = 1.01x",)


@pytest.mark.runs
def test_the_same_command_again_chooses_nothing_anew(chosen: Path) -> None:
    before = step_of(chosen)
    assert edgekd("run", "choosing.yaml", "--threads", "1", cwd=chosen.parents[3]).code in (0, 1, 3)
    after = step_of(chosen)
    assert (after.status, after.digest, after.measured) == ("cached", before.digest, before.measured)


@pytest.mark.runs
def test_every_report_says_what_ships_among_what_and_why(chosen: Path, tmp_path: Path) -> None:
    fact = facts_of(chosen).choice
    assert fact is not None
    assert [one.chosen for one in fact.candidates].count(True) == 1
    reports = render(chosen, tmp_path)
    for name in ("html", "md"):
        text = reports[name].read_text()
        assert "What ships, and among what it was chosen" in text
        assert "before test data were read" in text
    told = json.loads(reports["json"].read_text())["choice"]
    assert [one["name"] for one in told["candidates"]] == [one.name for one in fact.candidates]
    assert edgekd("show", "choosing", cwd=chosen.parents[3]).out.count(f"{fact.winner} ships") == 1
