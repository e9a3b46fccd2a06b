from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.measurement import Interval, Measurement, read_measurements
from edgekd.core.run_record import MEASUREMENTS, SESSION
from edgekd.data.evaluation import LABELS
from edgekd.measure.accuracy import predictions
from edgekd.pipeline.history.record import Answers, Entry, Occasion, facts_of, packed, record
from edgekd.pipeline.history.series import find_history
from edgekd.pipeline.run_folder import read_record
from edgekd.store.history import HistoryLog
from edgekd.store.store import Store
from tests.measure import graphs
from tests.pipeline.conftest import TinyRun
from tests.pipeline.gate_cases import FINAL, TEACHER, measured


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def measurements(tiny_run: TinyRun) -> list[Measurement]:
    return read_measurements(tiny_run.folder / MEASUREMENTS)


@pytest.fixture
def entry(tiny_run: TinyRun) -> Entry:
    """What the history of a real run holds."""
    (only,) = find_history(Store(tiny_run.root / ".edgekd"), "tiny").entries
    return only


def test_a_session_is_kept_under_its_recipe_with_every_measurement(
    tiny_run: TinyRun, measurements: list[Measurement], entry: Entry
) -> None:
    assert (entry.kind, entry.recipe, entry.target) == ("run", "tiny", "local")
    found = read_record(tiny_run.folder)
    assert (entry.run_id, entry.final) == (found.run_id, found.final)
    kept = [(k.quantity, k.subject, k.against, k.value, k.interval, k.n) for k in entry.measurements]
    wanted = [
        (m.quantity, m.subject.name, m.against and m.against.name, m.value, m.interval, m.n)
        for m in measurements
    ]
    assert kept == wanted
    assert entry.subjects == {m.subject.name: m.subject for m in measurements}


def test_the_values_of_processes_are_kept_where_comparing_needs_them(
    measurements: list[Measurement], entry: Entry
) -> None:
    pairs = list(zip(measurements, entry.measurements, strict=True))
    timed = [(m, k) for m, k in pairs if m.quantity == "speedup" and "process_ratios" in m.detail]
    assert timed
    for m, k in timed:
        assert k.parts == pytest.approx(m.detail["process_ratios"], rel=1e-8)
        assert k.processes == len(k.parts)
        assert k.p90_ratio is not None
        assert k.p90_ratio.low == m.detail["p90_ratio"]["low"]


def test_the_answers_are_those_of_the_logits_image_by_image(tiny_run: TinyRun, entry: Entry) -> None:
    row = next(row for row in read_record(tiny_run.folder).rows if row.name == entry.final)
    labels = np.load(tiny_run.folder / row.evalset / LABELS)
    logits = np.load(tiny_run.folder / SESSION / "local" / f"{entry.final}.logits.npy")
    right = entry.answers[row.name].unpacked()
    assert right is not None
    assert right.tolist() == (predictions(logits) == labels).tolist()
    assert entry.answers[row.name].images == entry.answers["teacher"].images


def test_the_device_its_runtime_and_the_data_are_kept(tiny_run: TinyRun, entry: Entry) -> None:
    assert entry.device["target.threads"] == 1
    assert {"machine", "cpu", "kernel", "runtime_onnx.onnxruntime"} <= set(entry.device)
    assert entry.protocol["name"] == "smoke"
    assert entry.data == read_record(tiny_run.folder).provenance["data"]["test"]


def test_the_history_of_a_session_is_a_fraction_of_its_measurements(tiny_run: TinyRun, entry: Entry) -> None:
    history = tiny_run.root / ".edgekd" / "history" / "recipes" / "tiny.jsonl"
    assert history.stat().st_size < (tiny_run.folder / MEASUREMENTS).stat().st_size / 4


# --- without measuring --------------------------------------------------------------------------------------


def test_the_same_session_is_kept_once(store: Store) -> None:
    """As after a kill between the history and the end: the journal gives the same numbers again."""
    for _ in range(2):
        record(store, Occasion(recipe="r"), [measured("accuracy", 0.9)])
    assert len(HistoryLog(store).of_recipe("r").entries) == 1


def test_without_a_recipe_the_session_is_kept_under_its_first_artifact(store: Store) -> None:
    record(store, Occasion("bench"), [measured("speedup", 1.1, 1.0, 1.2)])
    assert [path.name for path in store.root.glob("history/artifacts/*")] == [f"{'f' * 16}.jsonl"]
    for digest in (FINAL.digest, TEACHER.digest[:8]):
        assert len(find_history(store, digest).entries) == 1


def test_each_target_is_an_entry_of_its_own(store: Store) -> None:
    record(store, Occasion(recipe="r"), [measured("accuracy", 0.9, target=t) for t in ("pi5", "local")])
    assert {entry.target for entry in find_history(store, "r").entries} == {"local", "pi5"}


def test_numbers_that_are_not_finite_are_kept_as_none(store: Store) -> None:
    endless = Interval(low=0.0, high=float("inf"), method="x")
    record(store, Occasion(recipe="r"), [measured("accuracy", float("nan"), interval=endless)])
    (entry,) = find_history(store, "r").entries
    assert (entry.measurements[0].value, entry.measurements[0].interval) == (None, None)


def test_missing_logits_leave_the_session_without_answers(store: Store, tmp_path: Path) -> None:
    path = graphs.conv_net(tmp_path / "model.onnx", width=2)
    item = graphs.item("quantized", path, graphs.evaluation_set(tmp_path / "images"))
    one = measured("accuracy", 0.9, samples="session/local/quantized.logits.npy")
    record(store, Occasion(recipe="r"), [one], items=[item], classes=graphs.CLASSES, folder=tmp_path)
    assert find_history(store, "r").entries[0].answers == {}


def test_addresses_and_load_are_no_facts_of_the_history() -> None:
    device = {
        "cpu": "A76",
        "load": 3.2,
        "hostname": "pi",
        "governor": None,
        "target": {"name": "pi5", "kind": "ssh", "threads": 4, "host_key": "ssh-ed25519 AAAA"},
        "versions": {"runtime_onnx": {"onnxruntime": "1.31.0"}},
    }
    assert facts_of(device) == {
        "cpu": "A76",
        "target.kind": "ssh",
        "target.threads": 4,
        "runtime_onnx.onnxruntime": "1.31.0",
    }


def test_ten_thousand_answers_take_a_few_kilobytes() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 10_000)
    said = np.where(random.random(10_000) < 0.9, labels, (labels + 1) % 10)
    found = packed(said, labels, "i" * 64)
    right = found.unpacked()
    assert right is not None
    assert (right == (said == labels)).all()
    assert len(found.model_dump_json()) < 2000


@pytest.mark.parametrize("right", ["", "AAAA", "not base64!", "eJwDAAAAAAE="])
def test_bits_that_were_damaged_are_none(right: str) -> None:
    assert Answers(n=9, images="i", labels="l", predictions="p", right=right).unpacked() is None


def test_bits_that_would_fill_the_memory_are_cut_at_what_was_announced() -> None:
    many = packed(np.zeros(10**6, np.int64), np.zeros(10**6, np.int64), "i")
    right = many.model_copy(update={"n": 8}).unpacked()
    assert right is not None
    assert len(right) == 8


def test_an_entry_is_plain_json_without_defaults(store: Store) -> None:
    record(store, Occasion(recipe="r"), [measured("accuracy", 0.9)])
    (path,) = store.root.glob("history/recipes/*")
    (line,) = path.read_text().split()
    data = json.loads(line)
    assert data["schema_version"] == 1
    assert "not_measured" not in data["measurements"][0]
