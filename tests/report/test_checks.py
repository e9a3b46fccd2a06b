"""What was executed of an artifact of TensorRT, in words, and its computation alone beside its latency."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd.backends.tensorrt.export import NO_GPU
from edgekd.core.measurement import Measurement
from edgekd.core.run_record import RECORD, RunRecord, StepRecord
from edgekd.report.checks import check_lines
from edgekd.report.collect import facts_of
from edgekd.report.render import render
from edgekd.report.runtimes import columns_of
from edgekd.report.terminal import runtime_lines
from tests.report.synthetic import ROWS, Rates

MakeRun = Callable[..., Path]
ENGINE = Rates("quantized-tensorrt", "trained in INT8, TensorRT", "export", False, "int8", 0.999, 0.1, 0.4, 9)
CHECKS: dict[str, Any] = {
    "linter": "nothing rejected",
    "tensorrt_rtx": {
        "version": "1.7.1.116",
        "targets": ["SM89"],
        "engine_bytes": 13_900_000,
        "layers": {"Conv_3": "int8", "Gemm_4": "int8"},
    },
    "tensorrt": NO_GPU,
}
FINDING = {
    "severity": "accepted, but wrong or slow",
    "rule": "unsigned",
    "node": "Conv_3",
    "what": "uint8",
    "why": "taken as int8",
}


def run_with(make_run: MakeRun, change: Callable[[Measurement], dict[str, Any]], **export: Any) -> Path:
    """The synthetic run with a row of TensorRT beside what ships; `change` alters that row's measurements."""

    def altered(one: Measurement) -> Measurement:
        if one.subject.name != ENGINE.name:
            return one
        subject = one.subject.model_copy(update={"backend": "tensorrt"})
        return one.model_copy(update={"subject": subject, **change(one)})

    *before, final = ROWS
    folder = make_run(rows=(*before, ENGINE, final), change=altered)
    record = RunRecord.model_validate_json((folder / RECORD).read_bytes())
    made = {"graph_step": "export-tensorrt", "role": "alternative"}
    rows = [row.model_copy(update=made if row.name == ENGINE.name else {}) for row in record.rows]
    facts = {"backend": "tensorrt", "export": {"checks": CHECKS, **export}}
    step = StepRecord(name="export-tensorrt", stage="export", key="k", status="ran", facts=facts)
    changed = record.model_copy(update={"rows": tuple(rows), "steps": (*record.steps, step)})
    (folder / RECORD).write_text(changed.model_dump_json())
    return folder


def entries(folder: Path) -> list[tuple[str, str]]:
    (checked,) = facts_of(folder).checks
    assert (checked.title, checked.precision) == (ENGINE.title, "int8")
    return list(checked.entries)


def absent(one: Measurement) -> dict[str, Any]:
    if one.quantity == "size_bytes":
        return {}
    return {"value": None, "interval": None, "not_measured": "TensorRT cannot be imported"}


def engine(one: Measurement) -> dict[str, Any]:
    if one.quantity == "latency_p50_ms":
        return {"detail": {"compute_p50_ms": 0.25}}
    untold = [f"Conv_{number}" for number in range(8)]
    told = {"engine": "built: none was kept", "untold": untold, "unexpected": ["Conv_9 runs in fp16"]}
    return {"detail": told} if one.quantity == "accuracy" else {}


def test_what_was_not_executed_is_said_in_those_words(make_run: MakeRun, tmp_path: Path) -> None:
    folder = run_with(make_run, absent)
    assert entries(folder) == [
        ("Q/DQ linter, where it was made", "nothing rejected"),
        (
            "TensorRT-RTX, where it was made",
            "1.7.1.116: parsed, an engine built for SM89 (13.9 MB, 2 layers with weights)",
        ),
        ("TensorRT, where it was made", "not executed: no GPU"),
        ("on local", "not executed: TensorRT cannot be imported"),
    ]
    written = render(folder, tmp_path)
    assert written["html"].read_text().count("not executed: no GPU") == 1
    assert "not executed: no GPU" in written["md"].read_text().replace("\\", "")
    assert "nothing rejected" in json.dumps(json.loads(written["json"].read_text())["checks"])
    (checked,) = facts_of(folder).checks
    assert any(line.endswith("not executed: no GPU") for line in check_lines(checked))


def test_where_the_engine_came_from_and_what_it_does_not_tell_is_said(make_run: MakeRun) -> None:
    told = [text for where, text in entries(run_with(make_run, engine)) if where == "on local"]
    assert told == [
        "executed; the engine was built: none was kept",
        "not told in what it computes Conv_0, Conv_1, Conv_2, Conv_3, Conv_4 and 3 more",
        "unexpected: Conv_9 runs in fp16",
    ]


def test_what_the_linter_found_slow_or_wrong_is_said(make_run: MakeRun) -> None:
    found = entries(run_with(make_run, engine, findings=[FINDING]))
    assert ("accepted, but wrong or slow", "Conv_3: uint8 (taken as int8)") in found


@pytest.mark.parametrize("told", ["not executed: TensorRT-RTX is not installed", {}, {"layers": 3}])
def test_other_words_of_the_exporter_are_shown_as_they_are(told: Any, make_run: MakeRun) -> None:
    found = dict(entries(run_with(make_run, engine, checks={"tensorrt_rtx": told})))
    text = found["TensorRT-RTX, where it was made"]
    assert text == (told if isinstance(told, str) else "?: parsed")


def test_other_artifacts_have_no_such_section(run_folder: Path, tmp_path: Path) -> None:
    assert facts_of(run_folder).checks == ()
    assert "What was executed" not in render(run_folder, tmp_path)["html"].read_text()


def test_the_computation_alone_has_a_column_where_a_runtime_tells_it(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folder = run_with(make_run, engine)
    (group,) = facts_of(folder).runtimes
    by_name = {row.name: row.numbers for row in group.rows}
    assert by_name[ENGINE.name]["compute"].value == 0.25
    assert "compute" not in by_name[ROWS[-1].name]
    written = render(folder, tmp_path)
    assert "Computing alone" in written["html"].read_text() and "computing alone" in written["md"].read_text()
    assert any("computing alone" in line for line in runtime_lines(group))


def test_it_has_none_where_none_tells(make_run: MakeRun, tmp_path: Path) -> None:
    folder = run_with(make_run, lambda one: {})
    (group,) = facts_of(folder).runtimes
    assert "compute" not in columns_of(group)
    assert "Computing alone" not in render(folder, tmp_path)["html"].read_text()
