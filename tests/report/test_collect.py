"""What a folder says: waterfall, controls, curves, distributions, classes, caveats; and what is not there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from edgekd.core.measurement import Interval, Measurement, Validity
from edgekd.core.run_record import RECORD, RunRecord, StepRecord
from edgekd.report.collect import facts_of
from edgekd.report.facts import ControlFact, Facts
from edgekd.report.terminal import plain_text
from tests.report.synthetic import LIMITS, ROWS, Synthetic, noisy

MakeRun = Callable[..., Path]


def changed(quantity: str, subject: str, against: str | None, **update: object) -> Callable[..., Measurement]:
    """A change of one kind of measurement."""

    def change(one: Measurement) -> Measurement:
        same = (one.quantity, one.subject.name) == (quantity, subject)
        if same and (one.against.name if one.against else None) == against:
            return one.model_copy(update=update)
        return one

    return change


def control(facts: Facts, words: str) -> ControlFact:
    return next(one for one in facts.controls if words in one.question)


def test_rows_stand_in_the_order_of_the_record(run_folder: Path) -> None:
    (target,) = facts_of(run_folder).targets
    assert [row.name for row in target.rows] == [row.name for row in ROWS]
    assert [row.final for row in target.rows] == [False] * 4 + [True]


def test_drops_are_from_the_row_above_and_from_the_teacher(run_folder: Path) -> None:
    (target,) = facts_of(run_folder).targets
    accuracy = [row.numbers["accuracy"].value or 0.0 for row in target.rows]
    for index, row in enumerate(target.rows[1:], 1):
        assert row.numbers["drop_previous"].value == pytest.approx(accuracy[index - 1] - accuracy[index])
        assert row.numbers["drop_teacher"].value == pytest.approx(accuracy[0] - accuracy[index])
    assert "drop_teacher" not in target.rows[0].numbers


def test_a_drop_that_was_not_measured_is_counted_from_the_answers(
    make_run: MakeRun, run_folder: Path
) -> None:
    folder = make_run(change=lambda one: None if one.quantity == "accuracy_drop" else one)
    (counted,), (measured,) = facts_of(folder).targets, facts_of(run_folder).targets
    for mine, theirs in zip(counted.rows, measured.rows, strict=True):
        assert mine.numbers.get("drop_teacher") == theirs.numbers.get("drop_teacher")


def test_a_control_that_loses_clearly_says_yes(run_folder: Path) -> None:
    answer = control(facts_of(run_folder), "teacher buy anything")
    assert answer.answer == "yes"
    assert "over 2,000 images" in answer.because


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(-0.02, -0.01, "yes"), (-0.01, 0.01, "can't tell"), (0.01, 0.02, "no"), (-0.01, 0.0, "can't tell")],
)
def test_the_teachers_worth_is_decided_by_the_interval(
    make_run: MakeRun, low: float, high: float, answer: str
) -> None:
    interval = Interval(low=low, high=high, method="test")
    change = changed("accuracy_drop", "distilled", "student", value=(low + high) / 2, interval=interval)
    assert control(facts_of(make_run(change=change)), "teacher buy anything").answer == answer


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (1.7, 1.8, "yes"),
        (1.001, 1.009, "no"),  # under the 1 % that is claimed at all
        (0.99, 1.2, "can't tell"),
        (0.7, 0.8, "no"),
    ],
)
def test_faster_needs_an_interval_that_excludes_one(
    make_run: MakeRun, low: float, high: float, answer: str
) -> None:
    interval = Interval(low=low, high=high, method="test")
    change = changed("speedup", "quantized", "distilled", value=(low + high) / 2, interval=interval)
    assert control(facts_of(make_run(change=change)), "INT8 faster than FP32").answer == answer


def test_an_invalid_speedup_answers_nothing(make_run: MakeRun) -> None:
    invalid = Validity(valid=False, reasons=("noise: too wide",))
    change = changed("speedup", "quantized", "distilled", validity=invalid)
    found = control(facts_of(make_run(change=change)), "INT8 faster")
    assert found.answer == "can't tell"
    assert "noise: too wide" in found.because


def test_a_run_without_quantization_is_not_asked_about_int8(make_run: MakeRun) -> None:
    facts = facts_of(make_run(rows=ROWS[:3]))
    assert [one.question for one in facts.controls] == ["Did the teacher buy anything?"]


def test_curves_follow_the_epoch_events(run_folder: Path) -> None:
    curves = facts_of(run_folder).curves
    assert [(curve.step, len(curve.epochs), list(curve.terms)) for curve in curves] == [
        ("teacher", 12, ["ce"]),
        ("distill", 20, ["ce", "kd"]),
        ("quantize", 6, ["ce", "kd"]),
    ]


def test_an_epoch_told_again_after_a_resume_counts_once(make_run: MakeRun) -> None:
    folder = make_run(events=False)
    event = {"event": "epoch", "step": "distill", "epoch": 1, "train": {"kd": 2.0}}
    lines = [{**event, "val_accuracy": 0.1}, {**event, "val_accuracy": 0.2}]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (curve,) = facts_of(folder).curves
    assert curve.val_accuracy == (0.2,)


def test_events_that_make_no_sense_are_left_out_and_told(make_run: MakeRun) -> None:
    folder = make_run(events=False)
    lines = [
        '{"event": "epoch", "step": "a", "epoch": 1, "train": {"ce": NaN}, "val_accuracy": "high"}',
        '{"event": "epoch", "step": "a", "epoch": "two"}',
        '{"event": "epoch", "train": 3, "epoch": 2}',
        "[]",
        '{"event": "epo',
    ]
    (folder / "events.jsonl").write_text("\n".join(lines))
    facts = facts_of(folder)
    assert facts.curves[0].terms == {"ce": (None,)}
    assert "events.jsonl: 2 unreadable lines left out." in facts.caveats


def test_distributions_hold_every_sample_but_the_cut_tail(run_folder: Path) -> None:
    found = facts_of(run_folder).distributions
    assert [(one.n, one.processes) for one in found] == [(1300, 5)] * 5
    assert all(one.n * 0.98 <= sum(one.bins) <= one.n for one in found)
    assert found[0].p50_ms == pytest.approx(5.9, rel=0.1)


def test_zipped_samples_are_read_the_same(make_run: MakeRun) -> None:
    folder = make_run()
    plain = facts_of(folder).distributions
    path = folder / "session" / "local" / "latency.json"
    (path.parent / "latency.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert facts_of(folder).distributions == plain


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"processes": 1}',
        '{"processes": [{"rows": {"teacher": {"blocks_ns": ["x", -1]}}}]}',
    ],
)
def test_samples_of_another_shape_are_taken_for_absent(make_run: MakeRun, text: str) -> None:
    folder = make_run()
    (folder / "session" / "local" / "latency.json").write_text(text)
    assert facts_of(folder).distributions == ()


def test_classes_agree_with_the_counts_of_the_measured_drop(run_folder: Path) -> None:
    facts = facts_of(run_folder)
    assert facts.classes is not None
    lost = sum(row.lost for row in facts.classes.rows)
    won = sum(row.won for row in facts.classes.rows)
    drop = facts.targets[0].rows[-1].numbers["drop_teacher"].value
    assert lost == facts.classes.num_errors
    assert (lost - won) / facts.classes.n == pytest.approx(drop)


def test_newly_failing_images_were_right_before(run_folder: Path) -> None:
    facts = facts_of(run_folder)
    assert facts.classes is not None
    labels = np.load(run_folder / "steps" / "evalset" / "labels.npy")
    teacher = np.load(run_folder / "session" / "local" / "teacher.logits.npy").argmax(axis=1)
    final = np.load(run_folder / "session" / "local" / "quantized.logits.npy").argmax(axis=1)
    assert len(facts.classes.errors) == 24
    for error in facts.classes.errors:
        assert teacher[error.index] == labels[error.index] != final[error.index]
        assert error.png.startswith(b"\x89PNG")


def test_logits_that_are_not_finite_count_as_wrong(make_run: MakeRun) -> None:
    folder = make_run()
    path = folder / "session" / "local" / "quantized.logits.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    facts = facts_of(folder)
    assert facts.classes is not None
    assert all(row.final == 0 for row in facts.classes.rows)
    assert facts.classes.errors[0].said == "no finite answer"


def rename_outputs(folder: Path, row: str, labels: object) -> None:
    """Write into the record what the row's graph calls its outputs."""
    record = RunRecord.model_validate_json((folder / RECORD).read_bytes())
    step = StepRecord(name="its-graph", stage="export", key="", facts={"labels": labels})
    rows = [
        one.model_copy(update={"graph_step": step.name}) if one.name == row else one for one in record.rows
    ]
    changed = record.model_copy(update={"steps": (*record.steps, step), "rows": tuple(rows)})
    (folder / RECORD).write_text(changed.model_dump_json())


def test_answers_in_other_classes_are_told_in_those_of_the_data(make_run: MakeRun) -> None:
    folder = make_run()
    before = facts_of(folder).classes
    path = folder / "session" / "local" / "teacher.logits.npy"
    classes = RunRecord.model_validate_json((folder / RECORD).read_bytes()).labels
    np.save(path, np.load(path)[:, [2, 0]])
    rename_outputs(folder, "teacher", [classes[2], classes[0]])
    after = facts_of(folder).classes
    assert before is not None and after is not None
    for number, (then, now) in enumerate(zip(before.rows, after.rows, strict=True)):
        if number == 2:
            assert now.teacher is not None and now.teacher >= (then.teacher or 0)
        elif number != 0:
            assert now.teacher == 0


@pytest.mark.parametrize("labels", [["a", "b"], "ab", 3, [1, None]])
def test_outputs_that_are_called_something_else_are_taken_for_absent(
    make_run: MakeRun, labels: object
) -> None:
    folder = make_run()
    rename_outputs(folder, "quantized", labels)
    found = facts_of(folder).classes
    assert (found is None) == isinstance(labels, list)


@pytest.mark.parametrize("damage", ["truncate", "pickle", "shape", "length"])
def test_damaged_logits_are_taken_for_absent(make_run: MakeRun, damage: str) -> None:
    folder = make_run()
    path = folder / "session" / "local" / "quantized.logits.npy"
    logits = np.load(path)
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        np.save(path, logits[:, 0] if damage == "shape" else logits[:-1])
    assert facts_of(folder).classes is None


def test_an_evaluation_set_outside_the_folder_is_not_opened(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    record = json.loads((folder / "record.json").read_text())
    for row in record["rows"]:
        row["evalset"] = "../run/steps/evalset"
    (folder / "record.json").write_text(json.dumps(record))
    assert facts_of(folder).classes is None


def test_noise_is_told_once_for_a_whole_target(make_run: MakeRun) -> None:
    caveats = facts_of(make_run(change=noisy)).caveats
    assert sum("p50 spread between processes" in one for one in caveats) == 2


def test_an_experimental_way_to_a_device_is_told(make_run: MakeRun) -> None:
    settings = {"kind": "adb", "experimental": True}
    by_adb = facts_of(
        make_run(change=lambda m: m.model_copy(update={"device": {**m.device, "target": settings}}))
    )
    assert "`local` is reached by adb, which is experimental: untried on real hardware." in by_adb.caveats
    assert not any("experimental" in one for one in facts_of(make_run()).caveats)


def test_what_was_not_measured_has_its_reason(run_folder: Path) -> None:
    found = facts_of(run_folder).not_measured
    assert "openvino on pi5: the runtime is not installed there" in found
    assert "Energy of every row on local: no energy counter is readable on this device" in found


def test_a_quantity_that_the_session_lacks_is_told(make_run: MakeRun) -> None:
    folder = make_run(change=lambda one: None if one.quantity == "memory_bytes" else one)
    found = facts_of(folder).not_measured
    assert any(line.startswith("Peak memory of teacher") for line in found)


def test_an_empty_run_says_what_is_missing(make_run: MakeRun) -> None:
    folder = make_run(change=lambda one: None, judged=False, events=False, logits=False, samples=False)
    (folder / "measurements.jsonl").unlink()
    facts = facts_of(folder)
    assert facts.outcome is None
    assert any("final session has not run" in one for one in facts.caveats)
    assert "NOT JUDGED" in plain_text(facts)


def test_a_folder_that_is_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run"):
        facts_of(tmp_path)


@pytest.mark.parametrize("name", ["record.json", "verdict.json", "measurements.jsonl"])
def test_a_file_cut_short_is_an_error_that_names_it(make_run: MakeRun, name: str) -> None:
    folder = make_run()
    path = folder / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=name):
        facts_of(folder)


def make_bundle(folder: Path) -> Path:
    """What a bundle keeps of a run."""
    digest = ROWS[-1].name.encode().hex().ljust(64, "0")
    manifest = {"recipe": "eurosat", "run_id": "1", "graph": "model.onnx", "files": {"model.onnx": digest}}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "record.json").unlink()
    return folder


def test_a_bundle_is_reported_from_its_measurements(make_run: MakeRun) -> None:
    facts = facts_of(make_bundle(make_run(logits=False, samples=False, events=False)))
    assert facts.outcome == "inconclusive"
    assert [row.name for row in facts.targets[0].rows if row.final] == ["quantized"]
    assert facts.targets[0].rows[-1].numbers["drop_teacher"].value is not None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": {}, "graph": "x"}'])
def test_a_damaged_bundle_is_an_error(make_run: MakeRun, text: str) -> None:
    folder = make_bundle(make_run(logits=False, samples=False, events=False))
    (folder / "bundle.json").write_text(text)
    with pytest.raises(UsageError, match="not a readable bundle"):
        facts_of(folder)


def test_limits_are_named_for_people(tmp_path: Path) -> None:
    facts = facts_of(Synthetic(tmp_path / "run", limits=LIMITS).write())
    assert [one.title for one in facts.limits] == [
        "Accuracy drop against teacher on local",
        "Worst class recall on local",
        "Speed-up against teacher on local",
        "Size",
    ]
