"""`edgekd ablate`: one real ablation, and everything about it that can be asked without another."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekd.cli.main import exit_code_of
from edgekd.core.digest import of_file
from edgekd.core.errors import RecipeError
from edgekd.core.run_record import RunRecord
from edgekd.pipeline.ablation import ablation_of, variants
from edgekd.pipeline.plan import Plan, make_plan
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.run_folder import RunFolder, again, find_run
from edgekd.pipeline.session import student_row
from edgekd.store.store import Store
from tests.pipeline.conftest import Finished, edgekd

pytestmark = [pytest.mark.runs, pytest.mark.timeout(400)]

RECIPE = """
data: {{source: digits, calibration: 64}}
teacher: {{network: resnet_cifar, args: {{depth: 8}}, batch_size: 32}}
gate: {{size: 200KB, accuracy_drop: {{max: 90pt, against: student}}}}
measure: {{protocol: smoke}}
steps:
  - teacher: {{epochs: 1}}
  - student: {{network: resnet_cifar, args: {{depth: 8, width: 0.25}}}}
  - distill: {distill}
  - export: {{}}
"""
NOTHING = "{name: at, weight: 1.0e-30}"
"""A term whose gradient is too small to be seen beside the others'."""
KINDS = RECIPE.format(distill=f"{{method: [kd, {NOTHING}], epochs: 1, batch_size: 64}}")
ROWS = ["without-task", "without-kd", "without-at"]
VARIANTS = [f"distill-{row}" for row in ROWS]


@dataclass(frozen=True)
class Ablated:
    """The finished ablation of `KINDS`; `usual` is a plain run of the recipe on the same store."""

    root: Path
    folder: Path
    first: Finished
    usual: Path


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Ablated:
    root = tmp_path_factory.mktemp("ablated")
    (root / "kinds.yaml").write_text(KINDS)
    first = edgekd("ablate", "kinds.yaml", "--threads", "1", "--json", cwd=root)
    assert first.code in (0, 1, 3), first.err
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert exit_code_of(["run", "kinds.yaml", "--threads", "1", "--until", "distill-control", "-q"]) == 0
    (folder,) = (root / ".edgekd" / "runs" / "kinds.ablation").iterdir()
    (usual,) = (root / ".edgekd" / "runs" / "kinds").iterdir()
    return Ablated(root, folder, first, usual)


def record(folder: Path) -> RunRecord:
    return RunRecord.model_validate_json((folder / "record.json").read_bytes())


def planned(text: str, folder: Path) -> Plan:
    (folder / "recipe.yaml").write_text(text)
    return ablation_of(load_recipe(str(folder / "recipe.yaml")))


# ---- The run -------------------------------------------------------------------------------------


def test_every_variant_is_trained_and_measured_like_any_other_row(ablated: Ablated) -> None:
    rows = record(ablated.folder).rows
    assert [row.name for row in rows] == ["teacher", "undistilled", *ROWS, "distilled"]
    assert {row.role for row in rows[1:-1]} == {"control"}
    assert record(ablated.folder).final == "distilled"


def test_each_variant_trains_as_long_as_the_whole_without_its_one_term(ablated: Ablated) -> None:
    events = [json.loads(line) for line in (ablated.folder / "events.jsonl").read_text().splitlines()]
    terms = {e["step"]: set(e["train"]) - {"total"} for e in events if e["event"] == "epoch"}
    whole = {"task", "kd", "at"}
    assert terms["distill"] == whole
    assert [whole - terms[name] for name in VARIANTS] == [{"task"}, {"kd"}, {"at"}]
    epochs = {step.name: step.facts.get("num_epochs") for step in record(ablated.folder).steps}
    assert {epochs[name] for name in (*VARIANTS, "distill", "distill-control")} == {1}


def test_a_variant_differs_from_the_whole_by_its_term_alone(ablated: Ablated) -> None:
    """Same start, same batches, as many updates: where the term does nothing, the weights are the same."""
    digests = {}
    for step in record(ablated.folder).steps:
        path = ablated.folder / str(step.folder) / "model" / "weights.safetensors"
        if path.is_file():
            digests[step.name] = of_file(path)
    assert digests["distill-without-at"] == digests["distill"]
    assert len({digests[name] for name in VARIANTS}) == len(VARIANTS)


def test_a_step_says_what_it_left_out_and_the_whole_says_nothing(ablated: Ablated) -> None:
    facts = {step.name: step.facts for step in record(ablated.folder).steps}
    assert facts["distill-without-kd"]["left_out"] == [
        {"term": "kd", "method": "kd", "knowledge": "response", "weight": [0.9, 0.9]}
    ]
    assert "left_out" not in facts["distill"]
    assert "left_out" not in facts["distill-control"]


def test_json_tells_the_contributions(ablated: Ablated) -> None:
    told = json.loads(ablated.first.out)
    (ablation,) = told["ablations"]
    terms: list[dict[str, Any]] = ablation["terms"]
    assert [(one["term"], one["knowledge"]) for one in terms] == [
        ("task", "labels"),
        ("kd", "response"),
        ("at", "feature"),
    ]
    assert (terms[2]["gain"]["value"], terms[2]["worth"]) == (0.0, "can't tell")
    for one in [*terms, ablation["all_of_them"]]:
        assert one["gain"]["low"] < one["gain"]["value"] < one["gain"]["high"]
        assert one["gain"]["n"] == 719
    assert Path(ablated.root, told["reports"]["html"]).is_file()


def test_the_exit_code_is_the_verdict_on_the_whole(ablated: Ablated) -> None:
    verdict = json.loads((ablated.folder / "verdict.json").read_text())
    assert ablated.first.code == {"pass": 0, "fail": 1, "inconclusive": 3}[verdict["outcome"]]


def test_a_plain_run_shares_its_steps_with_the_ablation(ablated: Ablated) -> None:
    done = [step for step in record(ablated.usual).steps if step.status != "pending"]
    assert [step.name for step in done] == ["teacher", "student", "distill", "export", "distill-control"]
    assert {step.status for step in done} == {"cached"}


# ---- What is judged ------------------------------------------------------------------------------


def test_an_ablation_is_found_by_its_own_name_only(ablated: Ablated) -> None:
    store = Store(ablated.root / ".edgekd")
    assert find_run(store, "kinds.ablation") == ablated.folder
    (ablated.folder / "record.json").touch()
    assert find_run(store, "kinds") == ablated.usual
    assert find_run(store, None) == ablated.usual


def test_against_student_means_the_same_row_as_in_a_plain_run(ablated: Ablated) -> None:
    """A student ships here, so that `student` is the first float control: not one that lacks its labels."""
    assert student_row(record(ablated.folder)) == "undistilled"


def test_what_to_do_again_is_the_ablation(ablated: Ablated) -> None:
    assert again(record(ablated.folder)) == "edgekd ablate kinds"


def test_no_recipe_can_be_called_like_an_ablation(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: kinds.ablation\n" + KINDS)
    with pytest.raises(RecipeError, match=r"`kinds.ablation` must be lower-case letters"):
        load_recipe(str(tmp_path / "r.yaml"))


# ---- The plan ------------------------------------------------------------------------------------


def test_the_plan_is_the_recipe_s_with_one_more_control_per_term(tmp_path: Path) -> None:
    plan = planned(KINDS, tmp_path)
    assert [step.name for step in variants(plan)] == VARIANTS
    usual = make_plan(load_recipe(str(tmp_path / "recipe.yaml")))
    names = [step.name for step in plan.steps]
    assert [name for name in names if "without" not in name] == [step.name for step in usual.steps]
    configs = {step.name: step.config for step in plan.steps}
    for name, term in zip(VARIANTS, ("task", "kd", "at"), strict=True):
        expected = configs["distill"].model_copy(update={"name": name, "leave_out": (term,)})
        assert configs[name] == expected


def test_a_single_term_beside_the_task_is_ablated(tmp_path: Path) -> None:
    plan = planned(RECIPE.format(distill="{method: kd}"), tmp_path)
    assert [step.name for step in variants(plan)] == ["distill-without-task", "distill-without-kd"]


def test_what_the_recipe_leaves_out_stays_left_out(tmp_path: Path) -> None:
    plan = planned(RECIPE.format(distill="{method: [kd, at], leave_out: [at]}"), tmp_path)
    assert [step.name for step in variants(plan)] == VARIANTS[:2]
    configs = [step.config.model_dump() for step in variants(plan)]
    assert [config["leave_out"] for config in configs] == [("at", "task"), ("at", "kd")]
    (control,) = [step for step in plan.steps if step.name == "distill-control"]
    assert control.config.model_dump()["leave_out"] == ()


def test_a_scheme_is_taken_apart_where_the_student_learns(tmp_path: Path) -> None:
    plan = planned(RECIPE.format(distill="{method: dml}"), tmp_path)
    assert [step.name.removeprefix("distill-without-") for step in variants(plan)] == [
        "task",
        "task-peer1",
        "dml-student",
        "dml-peer1",
    ]


def test_a_second_step_s_variants_are_named_after_it(tmp_path: Path) -> None:
    text = KINDS.replace("  - export", "  - distill: {name: more, method: at, epochs: 1}\n  - export")
    plan = planned(text, tmp_path)
    rows = [row.name for row in plan.rows if "without" in row.name]
    assert rows == [*ROWS, "more-without-task", "more-without-at"]


def test_the_terms_of_a_student_that_is_yet_to_be_selected_are_known(tmp_path: Path) -> None:
    text = KINDS.replace("distill: {method: [kd", "distill: {leave_out: [sp], method: [sp, kd")
    plan = planned(re.sub(r"- student: .*", "- select: {space: zoo}", text), tmp_path)
    assert [step.name for step in variants(plan)] == VARIANTS


def test_a_step_called_like_a_variant_is_refused(tmp_path: Path) -> None:
    text = KINDS.replace("  - export", "  - distill: {name: without-kd, method: at}\n  - export")
    with pytest.raises(RecipeError, match="give the step another `name:`"):
        planned(text, tmp_path)


# ---- What cannot be ablated ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        ("{method: none}", "distills nothing"),
        ("{method: dafl}", "the student learns from dafl alone"),
        ("{method: conditional-ts}", "task weigh nothing or train other networks"),
        ("{method: kd, leave_out: [sp]}", "`sp` is no term of the student's loss"),
        ("{method: kd, task_weight: 0, leave_out: [kd]}", "nothing left that the student learns from"),
        ("{method: fitnets, leave_out: [hin]}", "choices: hint, task, fitnets-kd"),
    ],
)
def test_2_where_nothing_can_be_left_out(
    distill: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE.format(distill=distill))
    assert exit_code_of(["ablate", "r.yaml"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not Path(".edgekd").exists()


# ---- Before it starts ----------------------------------------------------------------------------


def test_the_plan_is_told_with_an_estimate_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(KINDS)
    assert exit_code_of(["ablate", "r.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    assert all(f"run     {name} (control)  about " in said for name in VARIANTS)
    assert "measure  6 artifacts" in said
    assert not list(Path(".edgekd/runs").iterdir())


def test_once_run_it_is_all_cached(
    ablated: Ablated, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ablated.root)
    assert exit_code_of(["ablate", "kinds.yaml", "--threads", "1", "--plan", "--json"]) == 0
    assert all(step["cached"] for step in json.loads(capsys.readouterr().out)["steps"])


def test_a_variant_is_expected_to_take_as_long_as_the_whole_did(
    ablated: Ablated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known from a plain run of the recipe in another store, which has no artifact of it."""
    monkeypatch.chdir(tmp_path)
    Path("kinds.yaml").write_text(KINDS)
    past = record(ablated.folder)
    steps = tuple(
        step.model_copy(update={"seconds": 777.0, "status": "ran"})
        for step in past.steps
        if step.name == "distill"
    )
    folder = RunFolder(Store(Path(".edgekd")).root / "runs" / "kinds" / "0123456789ab")
    folder.write_record(past.model_copy(update={"recipe": "kinds", "steps": steps}))
    assert exit_code_of(["ablate", "kinds.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} (control)  about 777 s" in said for name in VARIANTS)


def test_it_says_what_it_will_train_and_stops_resumably_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kinds.yaml").write_text(KINDS)
    assert exit_code_of(["ablate", "kinds.yaml", "--max-time", "0.001s"]) == 75
    said = capsys.readouterr().err
    assert f"3 more trainings for the ablation: {', '.join(VARIANTS)}" in said
    assert "run the same command again to continue" in said
