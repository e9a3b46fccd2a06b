"""A whole session on this machine with real graphs: what is measured, reused, resumed and refused.

The machine that runs the tests may be busy, so nothing here asserts a time or that a time is valid.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgekd.core.errors import DataError, ModelError, UsageError
from edgekd.core.measurement import Measurement, Quantity, read_measurements, write_measurements
from edgekd.measure.protocol import Protocol, WarmUp
from edgekd.measure.runner import Item, measure_session
from edgekd.targets.local import LocalTarget
from tests.measure import graphs

PROTOCOL = Protocol(
    name="tiny",
    min_duration_s=0.5,
    min_count=64,
    warm_up=WarmUp(min_s=0.02, max_s=0.05),
    memory_processes=2,
    memory_runs=2,
    cooldown_s=0,
    retry=False,
)
TIMED: tuple[Quantity, ...] = (
    "latency_p50_ms",
    "latency_p90_ms",
    "cold_start_ms",
    "memory_bytes",
    "energy_mj",
)
ONE = PROTOCOL.model_copy(update={"num_processes": 1, "memory_processes": 1, "min_duration_s": 0.05})


@dataclass
class Journal:
    """Remembers in memory; forgets what `lost` names; refuses to compute more than `allowed` pieces."""

    values: dict[str, str] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)
    allowed: int = 10**6

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.values:
            if len(self.computed) == self.allowed:
                raise KeyboardInterrupt
            self.values[key] = json.dumps(compute(), allow_nan=False)
            self.computed.append(key)
        return json.loads(self.values[key])


@dataclass
class Setup:
    """What a session is made of, and what it left."""

    items: list[Item]
    folder: Path
    journal: Journal = field(default_factory=Journal)
    events: list[dict[str, Any]] = field(default_factory=list)
    target: LocalTarget = field(default_factory=lambda: LocalTarget(name="local"))
    protocol: Protocol = PROTOCOL
    classes: tuple[str, ...] = graphs.CLASSES

    def measure(self) -> list[Measurement]:
        return measure_session(
            self.items,
            target=self.target,
            protocol=self.protocol,
            baselines=[item.subject.name for item in self.items],
            labels=self.classes,
            folder=self.folder / "session",
            journal=self.journal,
            emit=lambda event: self.events.append(dict(event)),
            seed=7,
        )


def find(
    measurements: list[Measurement], quantity: Quantity, subject: str, against: str | None = None
) -> Measurement:
    (found,) = [
        m
        for m in measurements
        if (m.quantity, m.subject.name, m.against.name if m.against else None) == (quantity, subject, against)
    ]
    return found


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Teacher, student, its INT8 form, and a second row with the student's very graph."""
    folder = tmp_path_factory.mktemp("session")
    evalset = graphs.evaluation_set(folder / "evalset")
    teacher = graphs.conv_net(folder / "teacher.onnx", width=24, depth=2)
    student = graphs.conv_net(folder / "student.onnx", seed=1)
    quantized = graphs.quantized_net(folder / "int8.onnx", seed=1)
    items = [
        graphs.item("teacher", teacher, evalset),
        graphs.item("student", student, evalset),
        graphs.item("int8", quantized, evalset, "int8"),
        graphs.item("again", student, evalset),
    ]
    return Setup(items, folder)


@pytest.fixture(scope="module")
def measured(setup: Setup) -> list[Measurement]:
    return setup.measure()


def test_every_row_has_every_quantity_once(setup: Setup, measured: list[Measurement]) -> None:
    alone = {
        "accuracy",
        "macro_recall",
        "worst_class_recall",
        "latency_p50_ms",
        "latency_p90_ms",
        "cold_start_ms",
        "memory_bytes",
        "size_bytes",
        "energy_mj",
    }
    paired = {"accuracy_drop", "new_errors", "agreement", "speedup"}
    names = [item.subject.name for item in setup.items]
    for name in names:
        mine = [m for m in measured if m.subject.name == name]
        assert sorted(m.quantity for m in mine if m.against is None) == sorted(alone)
        pairs = [(m.quantity, m.against.name) for m in mine if m.against]
        assert sorted(pairs) == sorted((q, other) for q in paired for other in names if other != name)


def test_accuracy_is_what_the_artifact_answers_here(setup: Setup, measured: list[Measurement]) -> None:
    images = np.load(setup.items[0].evalset / "images.npy", allow_pickle=False)
    labels = np.load(setup.items[0].evalset / "labels.npy", allow_pickle=False)
    for item in setup.items:
        session = onnxruntime.InferenceSession(str(item.path), providers=["CPUExecutionProvider"])
        logits = session.run(None, {"input": item.preprocess.apply(images)})[0]
        found = find(measured, "accuracy", item.subject.name)
        assert found.value == pytest.approx((logits.argmax(axis=1) == labels).mean())
        assert found.n == len(labels)
        assert found.validity.valid
        assert found.interval is not None
        assert found.interval.method == "wilson"


def test_logits_are_left_for_the_report(setup: Setup, measured: list[Measurement]) -> None:
    sample = find(measured, "accuracy", "student").samples
    assert sample == "session/local/student.logits.npy"
    logits = np.load(setup.folder / str(sample), allow_pickle=False)
    assert (logits.shape, logits.dtype) == ((60, 4), np.float32)


def test_fused_int8_kernels_are_part_of_what_ran(measured: list[Measurement]) -> None:
    assert find(measured, "accuracy", "int8").detail["kernels"]["QLinearConv"] == 1
    assert "QLinearConv" not in find(measured, "accuracy", "student").detail["kernels"]


def test_a_shared_graph_is_timed_once_and_marked(measured: list[Measurement]) -> None:
    again, student = (find(measured, "latency_p50_ms", name) for name in ("again", "student"))
    assert again.reused_from == "student"
    assert student.reused_from is None
    assert again.value == student.value
    twin = find(measured, "speedup", "again", "student")
    assert twin.value == 1
    assert not twin.detail["faster"]


def test_latency_rests_on_at_least_five_processes(measured: list[Measurement]) -> None:
    found = find(measured, "latency_p50_ms", "teacher")
    assert found.protocol["processes"] == 5
    assert len(found.detail["process_p50_ms"]) == 5
    assert found.n >= 64
    assert found.interval is not None
    assert 0 < found.interval.low <= (found.value or 0) <= found.interval.high
    assert len(found.detail["state"]) == 5


def test_speedups_of_a_pair_are_reciprocal(measured: list[Measurement]) -> None:
    there = find(measured, "speedup", "teacher", "student").value
    back = find(measured, "speedup", "student", "teacher").value
    assert there is not None
    assert back is not None
    assert there * back == pytest.approx(1, rel=0.2)


def test_no_size_or_energy_is_invented(setup: Setup, measured: list[Measurement]) -> None:
    assert find(measured, "size_bytes", "int8").value == setup.items[2].path.stat().st_size
    energy = find(measured, "energy_mj", "int8")
    assert energy.value is None
    assert energy.not_measured


def test_memory_is_split_into_runtime_and_model(measured: list[Measurement]) -> None:
    found = find(measured, "memory_bytes", "teacher")
    assert found.value is not None
    assert found.value == pytest.approx(found.detail["attributable_bytes"] + found.detail["baseline_bytes"])
    assert found.protocol["processes"] == 2


def test_cold_start_is_loading_and_the_first_run(measured: list[Measurement]) -> None:
    found = find(measured, "cold_start_ms", "teacher")
    assert found.interval is not None
    assert found.n == found.protocol["processes"] == 2
    sums = [a + b for a, b in zip(found.detail["load_ms"], found.detail["first_run_ms"], strict=True)]
    assert found.detail["process_ms"] == pytest.approx(sums)
    assert min(found.detail["import_ms"]) > 0
    assert found.validity.reasons == ("2 processes, judging needs 5",)


def test_answers_have_a_digest(setup: Setup, measured: list[Measurement]) -> None:
    digests = {
        name: find(measured, "accuracy", name).detail["predictions_sha256"]
        for name in ("teacher", "student", "again")
    }
    assert digests["student"] == digests["again"] != digests["teacher"]
    logits = np.load(setup.folder / "session" / "local" / "student.logits.npy", allow_pickle=False)
    assert digests["student"] == hashlib.sha256(logits.argmax(axis=1).astype("<i4").tobytes()).hexdigest()


def test_raw_samples_are_kept_by_process_and_row(setup: Setup, measured: list[Measurement]) -> None:
    sample = find(measured, "latency_p50_ms", "int8").samples
    raw = json.loads((setup.folder / str(sample)).read_text())
    assert len(raw["processes"]) == 5
    assert set(raw["processes"][0]["rows"]) == {"teacher", "student", "int8"}
    assert raw["reused"] == {"again": "student"}
    assert len(raw["processes"][0]["rows"]["int8"]["blocks_ns"][0]) == raw["block"]


def test_measurements_survive_writing_and_reading(measured: list[Measurement], tmp_path: Path) -> None:
    write_measurements(tmp_path / "m.jsonl", measured)
    assert read_measurements(tmp_path / "m.jsonl") == measured


def test_progress_is_told_to_the_end(setup: Setup, measured: list[Measurement]) -> None:
    steps = [event for event in setup.events if event["event"] == "progress"]
    assert [step["done"] for step in steps] == list(range(len(steps)))
    assert steps[-1]["done"] == steps[-1]["total"]


def test_device_and_protocol_stand_in_every_measurement(measured: list[Measurement]) -> None:
    for one in measured:
        assert one.device["cpu"]
        assert one.device["versions"]["runtime_onnx"]["onnxruntime"] == onnxruntime.__version__
        assert one.protocol["name"] == "tiny"
        assert one.protocol["seed"] == 7


def test_a_finished_session_is_read_back_without_running_anything(
    setup: Setup, measured: list[Measurement]
) -> None:
    before = list(setup.journal.computed)
    assert setup.measure() == measured
    assert setup.journal.computed == before


def test_lost_logits_are_made_again(setup: Setup, measured: list[Measurement]) -> None:
    logits = setup.folder / "session" / "local" / "student.logits.npy"
    content = logits.read_bytes()
    logits.write_bytes(content[:-4])
    setup.measure()
    assert logits.read_bytes() == content


@pytest.fixture
def small(tmp_path: Path, graph: Path, evalset: Path) -> Setup:
    return Setup([graphs.item("net", graph, evalset)], tmp_path, protocol=ONE)


def test_a_killed_session_goes_on_with_what_was_finished(small: Setup) -> None:
    small.journal.allowed = 2
    with pytest.raises(KeyboardInterrupt):
        small.measure()
    finished = list(small.journal.computed)
    small.journal.allowed = 10**6
    small.measure()
    assert small.journal.computed[:2] == finished
    assert len(set(small.journal.computed)) == len(small.journal.computed) == 4


def test_a_continued_session_is_as_old_as_its_oldest_part(small: Setup) -> None:
    small.journal.allowed = 2
    with pytest.raises(KeyboardInterrupt):
        small.measure()
    first, *_ = small.journal.computed
    early = "2020-01-01T00:00:00+00:00"
    small.journal.values[first] = json.dumps({**json.loads(small.journal.values[first]), "taken_at": early})
    small.journal.allowed = 10**6
    assert {m.taken_at for m in small.measure()} == {early}


def test_noise_is_retried_once_and_pooled(small: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.measure.latency.P50_OVER_MIN_MAX", 0.5)
    small.protocol = ONE.model_copy(update={"retry": True})
    found = find(small.measure(), "latency_p50_ms", "net")
    (retry,) = [event for event in small.events if event["event"] == "retry"]
    assert "p50 / minimum" in retry["reason"]
    assert found.protocol["processes"] == 2
    assert found.protocol["retried"]["processes_before"] == 1
    assert not found.validity.valid, "still noisy by that rule, so it stays unfit to judge"


def test_an_emulated_device_proves_answers_but_no_times(
    small: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_EMULATED", "qemu cortex-a72")
    twin = graphs.item("twin", small.items[0].path, small.items[0].evalset)
    small.items.append(twin)
    measured = small.measure()
    timed = [find(measured, quantity, "net") for quantity in TIMED]
    for one in [*timed, find(measured, "speedup", "net", "twin")]:
        assert one.value is None, one.quantity
        assert one.interval is None
        assert one.not_measured == "emulated device: qemu cortex-a72"
        assert not one.validity.valid
        assert "emulated device: qemu cortex-a72" in one.validity.reasons
    assert {key.split("/")[2] for key in small.journal.computed} == {"accuracy"}, "nothing else was asked"
    assert not (small.folder / "session" / "local" / "latency.json").exists()
    accuracy = find(measured, "accuracy", "net")
    assert accuracy.validity.valid
    assert accuracy.validity.reasons == ("emulated device: qemu cortex-a72",)
    assert accuracy.device["emulated"] == "qemu cortex-a72"


def test_another_device_than_expected_makes_everything_measured_there_invalid(small: Setup) -> None:
    small.target = LocalTarget(name="local", expect={"cpu": "Cortex-A76"})
    measured = small.measure()
    for quantity in ("accuracy", "latency_p50_ms", "memory_bytes"):
        assert any("wrong device" in r for r in find(measured, quantity, "net").validity.reasons)
        assert not find(measured, quantity, "net").validity.valid
    assert find(measured, "size_bytes", "net").validity.valid


def test_a_silent_fall_back_makes_everything_that_ran_invalid(small: Setup) -> None:
    """ONNX Runtime's wheel brings the Azure provider, which can run none of these kernels."""
    options = {"providers": ["AzureExecutionProvider", "CPUExecutionProvider"]}
    small.target = LocalTarget(name="local", options=options)
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no second provider to fall back from")
    measured = small.measure()
    for quantity in ("accuracy", "latency_p50_ms", "memory_bytes"):
        validity = find(measured, quantity, "net").validity
        assert not validity.valid
        assert any(reason.startswith("fall-back") for reason in validity.reasons)


def test_a_row_that_knows_some_of_the_classes_gets_no_image_of_the_others_right(
    small: Setup, graph: Path, evalset: Path
) -> None:
    """The same graph twice: over the session's classes, and with its outputs called d, b, a, z."""
    other = replace(graphs.item("other", graph, evalset), labels=("d", "b", "a", "z"))
    small.items.append(other)
    small.classes = (*graphs.CLASSES, "z")
    small.items[0] = replace(small.items[0], labels=graphs.CLASSES)
    measured = small.measure()
    logits = np.load(small.folder / "session" / "local" / "other.logits.npy", allow_pickle=False)
    labels = np.load(evalset / "labels.npy", allow_pickle=False)
    answers = np.array([3, 1, 0, 4])[logits.argmax(axis=1)]
    found = find(measured, "accuracy", "other")
    assert found.value == pytest.approx((answers == labels).mean())
    assert found.validity.valid
    note = "`other` knows 4 of 5 classes and gets no image of the others right"
    assert note in found.validity.reasons
    drop = find(measured, "accuracy_drop", "net", "other")
    assert drop.value == pytest.approx((answers == labels).mean() - (logits.argmax(1) == labels).mean())
    assert drop.validity.reasons == (note,) and not drop.validity.valid, "it flatters whoever is compared"


def test_a_class_that_the_session_lacks_is_refused_before_anything_runs(small: Setup) -> None:
    small.items[0] = replace(small.items[0], labels=("a", "b", "c", "z"))
    with pytest.raises(UsageError, match="`net`'s class `z` is not among the 4"):
        small.measure()
    assert not small.journal.computed


def test_energy_comes_from_the_meter_that_the_target_names(small: Setup, tmp_path: Path) -> None:
    """A made-up meter that shows 4 W for ten minutes: idling and running alike, so no energy is claimed."""
    now = time.time()
    lines = [f"{now - 60 + 0.5 * i},4.0" for i in range(1200)]
    (tmp_path / "power.csv").write_text("t_epoch_s,watts\n" + "\n".join(lines) + "\n")
    small.target = LocalTarget(name="local", options={"energy": {"meter": str(tmp_path / "power.csv")}})
    small.protocol = ONE.model_copy(update={"energy_s": 0.3})
    found = find(small.measure(), "energy_mj", "net")
    assert found.detail["source"] == "meter power.csv"
    assert np.ravel(found.detail["idle_w"]).tolist() == pytest.approx([4.0, 4.0])
    assert found.detail["load_w"] == pytest.approx([4.0])
    assert found.not_measured == "running took no more power than idling, as far as meter power.csv tells"
    assert found.value is None


def test_a_meter_that_saw_nothing_costs_no_other_measurement(small: Setup, tmp_path: Path) -> None:
    (tmp_path / "power.csv").write_text("1,2\n2,3\n")
    small.target = LocalTarget(name="local", options={"energy": {"meter": str(tmp_path / "power.csv")}})
    small.protocol = ONE.model_copy(update={"energy_s": 0.05})
    measured = small.measure()
    assert "do not cover" in str(find(measured, "energy_mj", "net").not_measured)
    assert find(measured, "latency_p50_ms", "net").value is not None


def test_images_of_another_set_are_not_compared(small: Setup, graph: Path, tmp_path: Path) -> None:
    other = graphs.evaluation_set(tmp_path / "other", n=61)
    small.items.append(graphs.item("elsewhere", graphs.conv_net(tmp_path / "o.onnx", seed=5), other))
    drop = find(small.measure(), "accuracy_drop", "net", "elsewhere")
    assert drop.value is None
    assert drop.not_measured == "`elsewhere` was measured on other images"


def test_a_row_named_twice_is_refused(small: Setup) -> None:
    small.items *= 2
    with pytest.raises(UsageError, match="must be unique"):
        small.measure()


def test_a_name_that_leaves_the_folder_is_refused(small: Setup, graph: Path, evalset: Path) -> None:
    small.items = [graphs.item("../net", graph, evalset)]
    with pytest.raises(UsageError, match="cannot name a row"):
        small.measure()


def test_an_unknown_baseline_lists_the_rows(small: Setup) -> None:
    with pytest.raises(UsageError, match="choices: net"):
        measure_session(
            small.items,
            target=small.target,
            protocol=ONE,
            baselines=["teacher"],
            labels=graphs.CLASSES,
            folder=small.folder,
            journal=small.journal,
            emit=lambda event: None,
            seed=0,
        )


def test_labels_out_of_range_are_refused(small: Setup, graph: Path, tmp_path: Path) -> None:
    evalset = graphs.evaluation_set(tmp_path / "bad")
    np.save(evalset / "labels.npy", np.full(60, 9))
    small.items = [graphs.item("net", graph, evalset)]
    with pytest.raises(DataError, match=r"labels are 9\.\.9 for 4 classes"):
        small.measure()


def test_a_graph_that_vanished_is_refused(small: Setup, tmp_path: Path, evalset: Path) -> None:
    path = graphs.conv_net(tmp_path / "gone.onnx")
    small.items = [graphs.item("net", path, evalset)]
    path.unlink()
    with pytest.raises(ModelError, match="cannot read"):
        small.measure()
