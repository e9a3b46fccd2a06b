"""One export step, several backends: a graph and a row for each, of which the first ships.

The second backend is ONNX Runtime under another name, so that everything is real and needs no extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.backend import BACKEND as ONNX
from edgekd.core.errors import MissingDependencyError, RecipeError, UnprovenVersionError
from edgekd.core.registry import Entry
from edgekd.pipeline.plan import Plan, make_plan, plans_of
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.validation import check_recipe
from edgekd.stages.export import ExportConfig
from edgekd.stages.latency import LatencyConfig
from tests.pipeline.test_recipe import GOOD

OTHER: Backend = replace(ONNX, name="other", title="Other Runtime")


@pytest.fixture(autouse=True)
def another_backend() -> Iterator[None]:
    BACKENDS.add(Entry("other", f"{__name__}:OTHER", "ONNX Runtime once more"))
    yield
    BACKENDS._entries.pop("other")


def plan_of(folder: Path, backends: str, more: str = "") -> Plan:
    path = folder / "recipe.yaml"
    path.write_text(GOOD.replace("export: {}", f"export: {{backends: [{backends}]{more}}}"))
    return make_plan(load_recipe(str(path)))


def test_the_first_ships_and_the_others_stand_below_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "onnx, other")
    assert [row.name for row in plan.rows] == [
        *("teacher", "undistilled", "distilled", "ptq", "quantized", "quantized-other"),
    ]
    row = plan.rows[-1]
    assert (row.model_step, row.graph_step, row.runtime) == ("quantize", "export-other", "Other Runtime")
    assert plan.final == "quantized"


def test_each_part_is_a_step_of_its_own_with_the_same_inputs(tmp_path: Path) -> None:
    steps = {step.name: step for step in plan_of(tmp_path, "onnx, other").steps}
    assert steps["export"].config.backends == ("onnx",)  # type: ignore[attr-defined]
    assert steps["export-other"].config.backends == ("other",)  # type: ignore[attr-defined]
    assert steps["export"].inputs == steps["export-other"].inputs
    probes = [step for step in steps.values() if step.name.startswith("probe-")]
    assert {step.config.backends for step in probes} == {("onnx",)}  # type: ignore[attr-defined]


def test_a_further_backend_leaves_the_first_ones_step_as_it_was(tmp_path: Path) -> None:
    alone, both = (plan_of(tmp_path, names) for names in ("other", "other, onnx"))
    by_name = [{step.name: step for step in plan.steps} for plan in (alone, both)]
    assert by_name[0]["export"] == by_name[1]["export"]
    assert {*by_name[1]} - {*by_name[0]} == {"export-onnx"}


@pytest.mark.parametrize("names", ["", "onnx, onnx"])
def test_none_and_the_same_twice_are_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(RecipeError, match="at least one backend, and each once"):
        plan_of(tmp_path, names)


def test_a_backend_that_is_not_installed_is_told_before_any_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_recipe(plan_of(tmp_path, "onnx, other"))
    monkeypatch.setattr(f"{__name__}.OTHER", replace(OTHER, package="not_there", extra="other-extra"))
    with pytest.raises(
        MissingDependencyError, match=r"backend `other`(.|\n)*edgekd\[other-extra\]"
    ) as caught:
        check_recipe(plan_of(tmp_path, "onnx, other"))
    assert caught.value.exit_code == 6


def test_a_package_that_lacks_only_when_it_is_used_is_told_too(tmp_path: Path) -> None:
    lacking = replace(OTHER, baseline=f"{__name__}:_needs_a_package")
    with pytest.raises(MissingDependencyError, match=r"`not_there`(.|\n)*edgekd\[train\]"):
        lacking.baseline_graph()


def _needs_a_package() -> bytes:
    import not_there  # type: ignore[import-not-found]

    return bytes(not_there)


def test_the_latency_step_knows_only_backends_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="`onxx` is not a backend"):
        LatencyConfig(backend="onxx")


def test_the_float_model_stands_beside_in_every_precision_that_a_backend_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.OTHER", replace(OTHER, precisions=("fp32", "int8")))
    plan = plan_of(tmp_path, "onnx, other", ", beside: [fp16, fp32]")
    assert [row.name for row in plan.rows] == [
        *("teacher", "undistilled", "distilled"),
        *("distilled-onnx-fp16", "distilled-onnx-fp32", "distilled-other-fp32"),
        *("ptq", "quantized", "quantized-other"),
    ]
    half = next(step for step in plan.steps if step.name == "export-onnx-fp16")
    assert half.inputs["model"] == ("distill",)
    assert (half.config.backends, half.config.precision) == (("onnx",), "fp16")  # type: ignore[attr-defined]
    assert plan.rows[3].runtime == "ONNX Runtime FP16"
    assert plan.final == "quantized"


def test_what_is_beside_changes_no_step_that_was_there(tmp_path: Path) -> None:
    alone, more = (
        {step.name: step for step in plan_of(tmp_path, "onnx", text).steps}
        for text in ("", ", beside: [fp16]")
    )
    assert {name: more[name] for name in alone} == alone


def test_a_quantized_model_is_not_shipped_in_a_float_precision(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`precision: fp16` is of a float model(.|\n)*beside: \[fp16\]"):
        check_recipe(plan_of(tmp_path, "onnx", ", precision: fp16, model: quantize"))
    check_recipe(plan_of(tmp_path, "onnx", ", precision: fp16, model: distill"))


def test_a_precision_that_a_backend_lacks_is_refused_with_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.OTHER", replace(OTHER, precisions=("fp32", "int8")))
    with pytest.raises(RecipeError, match="other has no fp16; it has: fp32, int8"):
        plan_of(tmp_path, "other", ", precision: fp16, model: distill")


def test_a_backend_without_int8_gets_the_student_before_quantization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.OTHER", replace(OTHER, precisions=("fp32",)))
    plan = plan_of(tmp_path, "onnx, other")
    step = next(step for step in plan.steps if step.name == "export-other")
    assert step.inputs["model"] == ("distill",)
    assert [row.name for row in plan.rows][-3:] == ["distilled-other", "ptq", "quantized"]
    with pytest.raises(RecipeError, match="other has no INT8, and the model that ships is quantized"):
        check_recipe(plan_of(tmp_path, "other, onnx"))


def test_installed_is_every_backend_whose_package_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ExportConfig.model_validate({"backends": "installed"}).backends
    assert here[0] == "onnx"
    assert "other" in here
    monkeypatch.setattr(f"{__name__}.OTHER", replace(OTHER, package="not_there"))
    assert ExportConfig.model_validate({"backends": "installed"}).backends == here[:-1]


def test_an_installed_backend_of_an_unproven_version_is_told_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.OTHER", replace(OTHER, versions={"numpy": "<1"}))
    with pytest.raises(UnprovenVersionError, match=r"numpy .* is out of the range <1") as caught:
        ExportConfig.model_validate({"backends": "installed"})
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("latency", "shipped", "timed"),
    [("{}", "other", "other"), ("{}", "onnx", "onnx"), ("{backend: onnx}", "other", "onnx")],
)
def test_candidates_are_timed_in_the_runtime_that_ships_unless_one_is_written(
    tmp_path: Path, latency: str, shipped: str, timed: str
) -> None:
    """Told after `latency` in the recipe."""
    before, after = GOOD.split("  - student:")
    rest = after.partition("\n")[2].replace("export: {}", f"export: {{backends: [{shipped}]}}")
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{before}  - latency: {latency}\n  - select: {{}}\n{rest}")
    steps = {step.name: step for step in make_plan(load_recipe(str(file))).steps}
    assert steps["latency"].config.runs_in() == (timed,)
    assert steps["latency"].config.model_dump()["backend"] == timed


@pytest.mark.parametrize(
    ("export", "precision"),
    [("{}", "int8"), ("{model: distill, precision: fp16}", "fp16"), ("{model: distill}", "fp32")],
)
def test_earlier_steps_know_the_precision_that_ships(tmp_path: Path, export: str, precision: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(GOOD.replace("export: {}", f"export: {export}"))
    assert plans_of(make_plan(load_recipe(str(file))))["precision"] == precision
