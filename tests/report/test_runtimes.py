"""What ships beside the same student in other runtimes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.core.measurement import Measurement
from edgekd.core.run_record import RECORD, RunRecord
from edgekd.report.collect import facts_of
from edgekd.report.facts import RuntimesFact
from edgekd.report.render import render
from edgekd.report.terminal import runtime_lines
from tests.report.synthetic import ROWS, Rates

MakeRun = Callable[..., Path]
OTHER = Rates(
    "quantized-openvino", "trained in INT8, OpenVINO", "export", False, "int8", 0.999, 0.1, 0.41, 990_000
)
ABSENT = replace(OTHER, name="quantized-executorch", title="trained in INT8, ExecuTorch", precision="fp16")
REASON = "the runtime of `quantized-executorch` is not on this device: No module named 'executorch'"


def change(one: Measurement) -> Measurement:
    """The rows beside: their backends, what they computed in, and why one was not run."""
    backend = {OTHER.name: "openvino", ABSENT.name: "executorch"}.get(one.subject.name)
    if backend is None:
        return one
    update: dict[str, object] = {"subject": one.subject.model_copy(update={"backend": backend})}
    if one.subject.name == ABSENT.name and one.quantity != "size_bytes":
        update |= {"value": None, "interval": None, "not_measured": REASON}
    elif one.quantity == "accuracy":
        update["detail"] = {"precisions": {"u8": 21, "f32": 3}}
    return one.model_copy(update=update)


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    """The synthetic run puts what ships last, so the rows beside stand before it."""
    *before, final = ROWS
    folder = make_run(rows=(*before, OTHER, ABSENT, final), change=change)
    record = RunRecord.model_validate_json((folder / RECORD).read_bytes())
    beside = {OTHER.name, ABSENT.name}
    rows = tuple(
        row.model_copy(update={"role": "alternative"} if row.name in beside else {}) for row in record.rows
    )
    (folder / RECORD).write_text(record.model_copy(update={"rows": rows}).model_dump_json())
    return folder


def group(run: Path) -> RuntimesFact:
    (found,) = facts_of(run).runtimes
    return found


def test_what_ships_and_what_stands_beside_it_and_nothing_else(run: Path) -> None:
    rows = group(run).rows
    assert [(row.runtime, row.precision, row.final) for row in rows] == [
        ("ONNX Runtime", "int8", True),
        ("OpenVINO", "int8", False),
        ("ExecuTorch (XNNPACK)", "fp16", False),
    ]
    assert rows[1].executed == "21 u8, 3 f32"


@pytest.mark.parametrize(
    ("exported", "told"),
    [
        ({"int8_form": "trained", "float_layers": "fp32"}, "trained"),
        ({"int8_form": "trained", "float_layers": "fp16"}, "trained, FP16 around"),
        ({"int8_form": "native-ptq"}, "native-ptq"),
        ({}, ""),
    ],
)
def test_it_tells_what_integers_came_of_and_what_is_around_them(
    run: Path, exported: dict[str, str], told: str
) -> None:
    record = RunRecord.model_validate_json((run / RECORD).read_bytes())
    (graph,) = {row.graph_step for row in record.rows if row.name == OTHER.name}
    steps = tuple(
        step.model_copy(update={"facts": {**step.facts, "export": exported} if step.name == graph else {}})
        for step in record.steps
    )
    (run / RECORD).write_text(record.model_copy(update={"steps": steps}).model_dump_json())
    assert group(run).rows[1].form == told


def test_speed_is_against_what_ships(run: Path) -> None:
    final, other, _ = group(run).rows
    assert other.numbers["speedup"].value == pytest.approx(0.83 / 0.41, rel=0.02)
    assert "speedup" not in final.numbers


def test_what_was_not_run_says_why_everywhere(run: Path) -> None:
    assert group(run).rows[2].missing == REASON
    written = render(run, run / "report")
    for name in ("html", "md"):
        text = written[name].read_text().replace("\\", "").replace("<code>", "`").replace("</code>", "`")
        assert "not measured: the runtime of" in text.replace("&#39;", "'")
    assert any(REASON in line for line in runtime_lines(group(run)))
    told = json.loads(written["json"].read_text())["runtimes"]
    assert told[0]["rows"][2]["missing"] == REASON


def test_a_run_with_one_runtime_has_no_such_section(run_folder: Path, tmp_path: Path) -> None:
    assert facts_of(run_folder).runtimes == ()
    assert "In other runtimes" not in render(run_folder, tmp_path)["html"].read_text()
