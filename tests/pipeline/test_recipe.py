from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.core.errors import RecipeError, UsageError
from edgekd.pipeline.plan import make_plan
from edgekd.pipeline.recipe import load_recipe

GOOD = """
data: {source: digits}
teacher: {network: resnet_cifar, args: {depth: 8}}
gate:
  accuracy_drop: {max: 1pt, against: teacher}
steps:
  - teacher: {epochs: 1}
  - student: {network: resnet_cifar, args: {depth: 8, width: 0.5}}
  - distill: {method: kd, epochs: 2}
  - quantize: {method: kd, epochs: 1}
  - export: {}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return str(path)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        make_plan(load_recipe(write(tmp_path, text)))
    return str(caught.value)


def test_a_good_recipe_is_resolved_with_every_default_written_out(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.name == "r"
    assert [step.name for step in recipe.steps] == ["teacher", "student", "distill", "quantize", "export"]
    assert recipe.resolved["steps"][2]["distill"]["optimizer"] == "sgd"
    assert recipe.resolved["seed"] == 0


def test_the_locked_recipe_is_itself_a_recipe_with_the_same_meaning(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    again = load_recipe(write(tmp_path, recipe.locked()))
    assert again.resolved == {**recipe.resolved}


def test_all_problems_are_told_at_once_each_with_file_line_and_path(tmp_path: Path) -> None:
    text = GOOD.replace("epochs: 2", "epoch: 2").replace("source: digits", "source: digit")
    text = text.replace("max: 1pt", "max: 1") + "sedd: 3\n"
    message = problems(tmp_path, text)
    assert "4 problems" in message
    assert "r.yaml:2: data.source: `digit` is not a data source; close names: digits" in message
    assert "r.yaml:9: steps[2].distill.epoch: `epoch` is not a key here; close names: epochs" in message
    assert "r.yaml:5: gate.accuracy_drop" in message
    assert "`sedd` is not a key here; close names: seed" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("distill: {method: kd,", "distil: {method: kd,"), "close names: distill"),
        (("method: kd, epochs: 2", "method: kdd, epochs: 2"), "close names: kd"),
        (("epochs: 2", "epochs: two"), "steps[2].distill.epochs"),
        (("network: resnet_cifar, args: {depth: 8}}", "network: wrn, torchvision: b}"), "one of"),
        (("  - student: {network: resnet_cifar, args: {depth: 8, width: 0.5}}\n", ""), "needs `student`"),
        (("  - export: {}\n", ""), "nothing is exported"),
        (("- quantize: {method: kd", "- quantize: {when: sometimes, method: kd"), "ptq_drop > 0.3pt"),
        (("export: {}", "export: {backends: [onx]}"), "close names: onnx"),
    ],
)
def test_a_mistake_is_answered_with_the_law_and_the_choices(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    assert change[0] in GOOD
    assert expected in problems(tmp_path, GOOD.replace(*change))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "mapping of keys"),
        ("- a\n- b\n", "mapping of keys"),
        ("data: {source: digits\n", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "`seed` stands twice"),
        ("steps: 3\n", "must be a list of steps"),
        ("seed: true\nsteps: [export]\n", "must be a whole number"),
        ("targets: [moon]\nsteps: [export]\n", "`moon` is not a target"),
    ],
)
def test_a_file_that_is_no_recipe_is_a_clear_error(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problems(tmp_path, text)


def test_bytes_that_are_not_text_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00steps")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match="quickstart"):
        load_recipe("quickstrat")


def test_set_changes_one_key_by_step_name_and_by_section(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe = load_recipe(path, overrides=["distill.epochs=7", "gate.size=1MB", "seed=4"])
    assert recipe.resolved["steps"][2]["distill"]["epochs"] == 7
    assert recipe.seed == 4
    assert recipe.gate.size


def test_set_reaches_a_step_that_is_written_without_keys(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("- export: {}", "- export"))
    assert "- export\n" in Path(path).read_text()
    recipe = load_recipe(path, overrides=["export.name=shipped"])
    assert [step.name for step in recipe.steps][-1] == "shipped"


@pytest.mark.parametrize("text", ["distill.epochs", "=3", "distil.epochs=3", "distill=3"])
def test_a_wrong_set_says_how_it_is_written(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"--set|neither a step nor a key"):
        load_recipe(write(tmp_path, GOOD), overrides=[text])


def test_extends_takes_keys_from_one_other_recipe(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD)
    path = write(tmp_path, "extends: base.yaml\nseed: 9\n")
    recipe = load_recipe(path)
    assert recipe.seed == 9
    assert recipe.name == "r"
    assert len(recipe.steps) == 5


def test_extends_goes_one_level_deep_only(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RecipeError, match="only one level"):
        load_recipe(write(tmp_path, "extends: b.yaml\n"))


def test_controls_and_probe_exports_are_planned_beside_the_steps(tmp_path: Path) -> None:
    plan = make_plan(load_recipe(write(tmp_path, GOOD)))
    names = [step.name for step in plan.steps]
    assert {"distill-control", "quantize-ptq", "probe-teacher", "probe-distill"} <= set(names)
    assert [row.name for row in plan.rows] == ["teacher", "undistilled", "distilled", "ptq", "quantized"]
    assert plan.final == "quantized"
    control = next(step for step in plan.steps if step.name == "distill-control")
    assert [use.name for use in control.config.method] == ["none"]  # type: ignore[attr-defined]
    assert control.inputs["pace"] == ("distill",)


def test_a_step_may_name_its_inputs_and_a_wrong_name_lists_the_choices(tmp_path: Path) -> None:
    good = GOOD.replace("quantize: {method", "quantize: {model: distill, method")
    assert make_plan(load_recipe(write(tmp_path, good)))
    message = problems(tmp_path, GOOD.replace("quantize: {method", "quantize: {model: distil, method"))
    assert "`distil` is not an earlier step; choices: teacher, student, distill" in message
    message = problems(tmp_path, GOOD.replace("quantize: {method", "quantize: {model: student, method"))
    assert "makes a architecture, not a model" in message


def test_a_stage_used_twice_needs_a_name(tmp_path: Path) -> None:
    twice = GOOD.replace("  - quantize", "  - distill: {method: kd}\n  - quantize")
    assert "two steps are called `distill`" in problems(tmp_path, twice)
    named = GOOD.replace("  - quantize", "  - distill: {name: again, method: kd}\n  - quantize")
    plan = make_plan(load_recipe(write(tmp_path, named)))
    assert [row.name for row in plan.rows if not row.control] == [
        "teacher",
        "distilled",
        "again",
        "quantized",
    ]


def test_until_an_unknown_step_lists_the_steps(tmp_path: Path) -> None:
    plan = make_plan(load_recipe(write(tmp_path, GOOD)))
    assert [s.name for s in plan.until("student").steps] == ["teacher", "student"]
    with pytest.raises(RecipeError, match="teacher, student, distill"):
        plan.until("distil")
