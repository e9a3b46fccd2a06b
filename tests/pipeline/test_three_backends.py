"""One recipe, one quantized student, several runtimes: each exported, measured and reported by itself."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import MissingDependencyError
from edgekd.core.measurement import Measurement, read_measurements
from edgekd.core.run_record import MEASUREMENTS, RECORD, RunRecord
from tests.pipeline.conftest import TINY, edgekd

ROWS = {"onnx": "quantized", "openvino": "quantized-openvino", "executorch": "quantized-executorch"}

ABSENT = "tensorrt"
"""No machine that builds edgekd has a GPU; one that has measures it."""

for _name in ROWS:
    try:
        BACKENDS.load(_name).require()
    except MissingDependencyError as error:
        pytest.skip(str(error), allow_module_level=True)


def _is_here(name: str) -> bool:
    try:
        BACKENDS.load(name).require()
    except MissingDependencyError:
        return False
    return True


if _is_here("litert"):
    ROWS["litert"] = "quantized-litert"
FLOAT_ROWS = {name: f"distilled-{name}" for name in ("ncnn",) if _is_here(name)}
"""Of backends without INT8: they get the student before quantization."""

pytestmark = [pytest.mark.backends, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("three")
    text = TINY.replace(
        "- export: {}",
        f"- export: {{backends: [{', '.join([*ROWS, *FLOAT_ROWS, ABSENT])}], beside: [fp16]}}",
    )
    assert text != TINY
    (root / "tiny.yaml").write_text(text)
    done = edgekd("run", "tiny.yaml", "--threads", "1", cwd=root)
    assert done.code in (0, 1, 3), done.err
    return next((root / ".edgekd" / "runs" / "tiny").glob("*/record.json")).parent


def measured(run: Path, quantity: str) -> dict[str, Measurement]:
    own = [m for m in read_measurements(run / MEASUREMENTS) if m.quantity == quantity and m.against is None]
    return {m.subject.name: m for m in own}


def test_every_backend_has_a_row_below_the_one_that_ships(run: Path) -> None:
    record = RunRecord.model_validate_json((run / RECORD).read_bytes())
    shipped = [*ROWS.values(), f"quantized-{ABSENT}"]
    assert [row.name for row in record.rows][-len(shipped) :] == shipped
    assert [row.role for row in record.rows][-len(shipped) :] == ["stage", *["alternative"] * len(ROWS)]
    assert {*FLOAT_ROWS.values()} <= {row.name for row in record.rows if row.role == "alternative"}
    assert record.final == "quantized"


def test_each_artifact_has_accuracy_time_memory_and_size_of_its_own(run: Path) -> None:
    for quantity in ("accuracy", "latency_p50_ms", "memory_bytes", "size_bytes"):
        found = measured(run, quantity)
        rows = {**ROWS, **FLOAT_ROWS}
        values = {found[row].value for row in rows.values()}
        assert None not in values
        assert quantity == "accuracy" or len(values) == len(rows)
        assert {found[row].subject.backend for row in rows.values()} == {*rows}


def test_the_trained_integers_carry_over(run: Path) -> None:
    """The same student in INT8: not the same rounding, so a few of 719 images may get another answer."""
    accuracies = [measured(run, "accuracy")[row].value or 0.0 for row in ROWS.values()]
    assert max(accuracies) - min(accuracies) <= 0.01
    record = RunRecord.model_validate_json((run / RECORD).read_bytes())
    forms = {step.name: step.facts.get("export", {}).get("int8_form") for step in record.steps}
    assert {forms[f"export-{name}"] for name in ROWS if name != "onnx"} == {"trained"}


def test_a_backend_without_integers_answers_as_the_float_student(run: Path) -> None:
    record = RunRecord.model_validate_json((run / RECORD).read_bytes())
    for name, row in FLOAT_ROWS.items():
        assert measured(run, "accuracy")[row].subject.precision == "fp32"
        assert measured(run, "accuracy")[row].value == measured(run, "accuracy")["distilled"].value
        (written,) = [step.facts for step in record.steps if step.name == f"export-{name}"]
        assert written["val_agreement"] == 1.0


def test_the_report_shows_them_side_by_side(run: Path) -> None:
    rows = json.loads((run / "report" / "report.json").read_text())["targets"][0]["rows"]
    titles = [row["title"] for row in rows]
    assert any(title.endswith(", OpenVINO") for title in titles)
    for name in [*ROWS, *FLOAT_ROWS][1:]:
        assert any(BACKENDS.load(name).title.split()[0] in title for title in titles), name


def test_a_runtime_that_is_not_here_is_told_and_nothing_else_suffers(run: Path) -> None:
    found = measured(run, "accuracy")[f"quantized-{ABSENT}"]
    if found.value is not None:
        pytest.skip("there is a GPU")
    assert "TensorRT" in str(found.not_measured)
    assert measured(run, "size_bytes")[f"quantized-{ABSENT}"].value is not None
    record = RunRecord.model_validate_json((run / RECORD).read_bytes())
    assert any("TensorRT" in reason for reason in record.not_measured)
    written = next(step.facts for step in record.steps if step.name == f"export-{ABSENT}")
    assert written["export"]["int8_form"] == "re-calibrated"
    assert written["export"]["checks"]["tensorrt"] == "not executed: no GPU"
    assert written["checked_by"] == "onnx"


def test_the_versions_of_all_libraries_are_told(run: Path) -> None:
    record = RunRecord.model_validate_json((run / RECORD).read_bytes())
    told = record.provenance["versions"]
    for name in ("onnxruntime", "openvino", "executorch", "torchao"):
        assert told[name] == version(name)
    assert "tensorrt" not in told, "it is not here"


def test_the_float_student_stands_beside_in_half_precision(run: Path) -> None:
    for name in ("distilled-onnx-fp16", "distilled-openvino-fp16"):
        found = measured(run, "accuracy")[name]
        assert found.subject.precision == "fp16"
        assert found.detail["precisions"]
    for name in ("executorch", *FLOAT_ROWS):
        assert f"distilled-{name}-fp16" not in measured(run, "accuracy")
    if "litert" in ROWS:
        assert measured(run, "accuracy")["distilled-litert-fp16"].detail["precisions"].keys() == {"fp32"}


def test_a_target_without_the_runtime_of_what_ships_is_refused_before_any_compute(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("- export: {}", f"- export: {{backends: [{ABSENT}]}}"))
    done = edgekd("run", "tiny.yaml", "--threads", "1", cwd=tmp_path)
    if done.code != 4:
        pytest.skip("there is a GPU")
    assert "TensorRT cannot run on this device" in done.err
    assert "name a target that has it (`edgekd device add`), or put another backend first" in done.err
    assert not [*(tmp_path / ".edgekd").glob("runs/tiny/*/steps/*")]


def test_files_alone_are_exported_and_copied_out(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = edgekd("export", "tiny.yaml", "--backends", "openvino", "--out", "out", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [(one["backend"], one["precision"]) for one in told["artifacts"]] == [
        ("onnx", "int8"),
        ("openvino", "int8"),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "export-openvino.bin",
        "export-openvino.xml",
        "export.onnx",
    ]
    assert all(one["agreement"] > 0.98 for one in told["artifacts"])
    assert told["compared"] == []
    record = RunRecord.model_validate_json((Path(tmp_path, told["run"]) / RECORD).read_bytes())
    assert not any(step.control for step in record.steps)
