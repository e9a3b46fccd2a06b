"""A foreign model from its file to a verdict, and what the other commands make of that run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.core.errors import ModelError, StoppedError, UsageError
from edgekd.core.measurement import read_measurements
from edgekd.pipeline.audit import Audited, Request, audit
from edgekd.pipeline.audit_spec import AuditSpec
from edgekd.pipeline.rejudge import confirm, rejudge
from edgekd.pipeline.remeasure import remeasure
from edgekd.pipeline.run_folder import read_record
from edgekd.report.collect import facts_of
from edgekd.report.facts import WaterfallRow
from edgekd.report.render import render_as
from edgekd.store.store import Store
from tests.pipeline.audit_material import CLASSES, GATE, arrays, color_model

pytestmark = pytest.mark.timeout(300)


def request_in(folder: Path, **spec: Any) -> Request:
    content = {"labels": CLASSES, "protocol": "smoke", "gate": GATE, **spec}
    return Request(
        model=color_model(folder / "model.onnx"),
        data=str(arrays(folder / "data")),
        spec=AuditSpec.model_validate(content),
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audited]:
    """One audit beside a reference that has two channels exchanged."""
    folder = tmp_path_factory.mktemp("audit")
    request = request_in(folder)
    other = color_model(folder / "other.onnx", order=(1, 0, 2))
    request = replace(request, against=(other, request.spec))
    return folder, audit(request, Store(folder / ".edgekd"))


@pytest.fixture
def copied(ended: tuple[Path, Audited], tmp_path: Path) -> Path:
    """The run's folder in a copy of the store."""
    folder, audited = ended
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / audited.folder.relative_to(folder)


def test_a_sound_model_passes_its_gate(ended: tuple[Path, Audited]) -> None:
    _, audited = ended
    assert audited.verdict.outcome == "pass", audited.verdict
    assert audited.exit_code == 0
    assert [row.name for row in audited.record.rows] == ["reference", "model"]


def test_measurements_are_of_the_file_itself_and_paired_with_the_reference(
    ended: tuple[Path, Audited],
) -> None:
    _, audited = ended
    found = read_measurements(audited.folder / "measurements.jsonl")
    digest = audited.record.provenance["audited"]["model"]["sha256"]
    assert {m.subject.digest for m in found if m.subject.name == "model"} == {digest}
    drop = next(m for m in found if m.quantity == "accuracy_drop" and m.subject.name == "model")
    assert drop.against is not None
    assert drop.against.name == "reference"
    assert drop.value is not None
    assert drop.value < -0.4  # the reference mistakes two of three classes


def test_every_report_reads_it(ended: tuple[Path, Audited]) -> None:
    facts = facts_of(ended[1].folder)
    assert facts.outcome == "pass"
    for form in ("html", "json", "md", "junit", "summary"):
        assert "audit" in render_as(form, facts)


def test_its_report_speaks_of_a_reference_and_of_no_training(ended: tuple[Path, Audited]) -> None:
    page = _body(render_as("html", facts_of(ended[1].folder)))
    assert "accuracy against the reference" in page and "Drop from reference" in page
    assert "teacher" not in page.lower() and "training" not in page.lower()
    assert ">model.onnx<" in page and "Drop from the row above" not in page


def test_the_report_of_one_file_alone_compares_it_with_nothing(ended: tuple[Path, Audited]) -> None:
    facts = facts_of(ended[1].folder)
    (final,) = (row for row in facts.targets[0].rows if row.final)
    alone = replace(
        facts, baseline=None, limits=(), targets=(replace(facts.targets[0], rows=(_alone(final),)),)
    )
    page = _body(render_as("html", alone))
    assert "Drop" not in page and "newly fail" not in page and "Lost" not in page
    assert "Recall on" in page
    assert "teacher" not in render_as("md", alone)


def _alone(row: WaterfallRow) -> WaterfallRow:
    compared = ("drop_previous", "drop_teacher", "speedup")
    return replace(row, numbers={key: one for key, one in row.numbers.items() if key not in compared})


def _body(page: str) -> str:
    return page.partition("<body>")[2]


def test_the_gate_judges_it_again_and_under_other_limits(copied: Path) -> None:
    assert rejudge(copied).outcome == "pass"
    assert rejudge(copied, ["gate.size=100B"]).outcome == "fail"
    assert rejudge(copied, ["gate.accuracy=99.9%"]).outcome != "pass"


def test_it_can_be_measured_again(copied: Path) -> None:
    store = Store(copied.parents[2])
    measured = remeasure(store, str(copied), None, None, None, lambda event: None)
    assert {m.subject.name for m in measured} == {"reference", "model"}
    assert rejudge(copied).outcome == "pass"


def test_a_number_changed_by_hand_is_not_judged(copied: Path) -> None:
    path = copied / "measurements.jsonl"
    path.write_text(path.read_text().replace('"quantity":"accuracy"', '"quantity": "accuracy"'))
    verdict = rejudge(copied)
    assert verdict.outcome == "inconclusive"
    assert {result.finding for result in verdict.results} == {None, "measurements-changed"}


def test_a_verdict_changed_by_hand_is_noticed(copied: Path) -> None:
    confirm(copied)
    lock = copied / "recipe.lock.yaml"
    lock.write_text(lock.read_text().replace("10KB", "10B"))
    with pytest.raises(UsageError, match="measurements give `fail`"):
        confirm(copied)


def test_limits_changed_by_hand_are_not_judged_by(copied: Path) -> None:
    lock = copied / "recipe.lock.yaml"
    lock.write_text(lock.read_text().replace("80%", "10%"))
    verdict = rejudge(copied)
    assert verdict.outcome == "inconclusive"
    assert "limits-changed" in {result.finding for result in verdict.results}


def test_a_model_exported_anew_is_not_judged_by_the_old_one(ended: tuple[Path, Audited]) -> None:
    folder, audited = ended
    before = (folder / "model.onnx").read_bytes()
    try:
        color_model(folder / "model.onnx", gain=2.0)
        findings = {result.finding for result in rejudge(audited.folder).results}
        assert "model-changed" in findings
    finally:
        (folder / "model.onnx").write_bytes(before)
    assert rejudge(audited.folder).outcome == "pass"


def test_without_limits_nothing_passes(tmp_path: Path) -> None:
    found = audit(request_in(tmp_path, gate={}), Store(tmp_path / ".edgekd"))
    assert found.verdict.outcome == "inconclusive"
    assert found.verdict.results == ()
    assert rejudge(found.folder, ["gate.accuracy=80%"]).outcome == "pass"


def test_a_finding_keeps_a_gate_of_size_alone_from_passing_unless_it_is_accepted(tmp_path: Path) -> None:
    spec = {"gate": {"size": "10KB"}, "labels": ("green", "red", "blue")}
    found = audit(request_in(tmp_path, **spec), Store(tmp_path / ".edgekd"))
    assert found.verdict.outcome == "inconclusive"
    (finding,) = found.record.findings
    assert finding.name == "label-order"
    assert finding.fix == "labels: [red, green, blue]"
    assert rejudge(found.folder, ["gate.accuracy=10%"]).outcome == "inconclusive"
    known = audit(request_in(tmp_path, **spec, accept=["label-order"]), Store(tmp_path / ".edgekd"))
    assert known.verdict.outcome == "pass"


def test_stopped_in_the_middle_the_same_command_goes_on(tmp_path: Path) -> None:
    request, store = request_in(tmp_path), Store(tmp_path / ".edgekd")
    with pytest.raises(StoppedError) as caught:
        audit(replace(request, max_seconds=1e-6), store)
    assert caught.value.exit_code == 75
    (folder,) = (tmp_path / ".edgekd" / "runs" / "model.audit").iterdir()
    assert read_record(folder).finished_at is None
    asked: list[str] = []

    def stop_after_three(event: Mapping[str, Any]) -> None:
        if event["event"] == "progress":
            asked.append(event["text"])
            if len(asked) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(request, store, [stop_after_three])
    (journal,) = (tmp_path / ".edgekd" / "work").glob("session-*/journal.jsonl")
    kept = [json.loads(line)["key"] for line in journal.read_text().splitlines() if line]
    assert len(kept) == 2
    found = audit(request, store)
    assert found.verdict.outcome == "pass"
    assert found.folder == folder


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"speedup": {"min": "2x", "against": "reference"}}, "--against OTHER"),
        ({"speedup": {"min": "2x", "against": "teacher"}}, "has no teacher"),
    ],
)
def test_limits_against_what_is_not_there_are_refused_before_anything_runs(
    tmp_path: Path, gate: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        audit(request_in(tmp_path, gate=gate), Store(tmp_path / ".edgekd"))


def test_a_reference_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    request = request_in(tmp_path)
    (tmp_path / "other.onnx").write_text("no graph")
    with pytest.raises(ModelError):
        audit(replace(request, against=(tmp_path / "other.onnx", request.spec)), Store(tmp_path / ".edgekd"))
