"""What goes into a portable run, and what stays on the machine that made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from edgekd.cli.run import _what_next
from edgekd.core.artifact import Artifact
from edgekd.core.errors import UsageError
from edgekd.core.run_record import EVENTS, LOCKED_RECIPE, RECORD, RunRecord, StepRecord
from edgekd.pipeline.portable.folder import PortableRun
from edgekd.pipeline.portable.packing import pack
from edgekd.pipeline.run import Outcome
from edgekd.store.store import Store
from tests.pipeline.portable.small_portable import silent
from tests.pipeline.small_run import make_run

PLACES = ("/home/ann/photos", "ann@build.lan:22", "10.0.0.7", "https://ann:secret@example.org/w.pt")


def telling(tmp_path: Path) -> PortableRun:
    """Packed from a run whose recipe, record and events name places of its machine."""
    store = Store(tmp_path / "s")
    folder = make_run(store, tmp_path)
    recipe = yaml.safe_load((folder / LOCKED_RECIPE).read_text())
    (folder / LOCKED_RECIPE).write_text(yaml.safe_dump({**recipe, "data": {"roots": list(PLACES)}}))
    record = RunRecord.model_validate_json((folder / RECORD).read_bytes())
    steps = tuple(one.model_copy(update={"facts": {**one.facts, "from": PLACES}}) for one in record.steps)
    told = {"command": list(PLACES), "steps": steps, "description": f"from {PLACES[0]}"}
    provenance = {"folder": PLACES[0], "platform": PLACES[1], "settings": {"weights": PLACES[3]}}
    changed = record.model_copy(update={**told, "provenance": provenance})
    (folder / RECORD).write_text(changed.model_dump_json())
    events = [{"event": "note", "text": f"found {place}"} for place in PLACES]
    events += [{"event": "run", "recipe": "small"}, {"event": "epoch", "step": "distill", "epoch": 1}]
    (folder / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))
    return pack(folder, tmp_path / "out", store, silent)


def test_places_of_the_machine_stay_there(tmp_path: Path) -> None:
    run = telling(tmp_path)
    texts = [path for path in run.folder.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")]
    for path in texts:
        text = path.read_text()
        assert [word for place in PLACES for word in (place, "ann", "secret") if word in text] == [], path
        assert str(tmp_path) not in text, path


def test_what_reports_read_comes_along(tmp_path: Path) -> None:
    run = telling(tmp_path)
    events = [json.loads(line)["event"] for line in (run.folder / EVENTS).read_text().splitlines()]
    assert events == ["note"] * len(PLACES) + ["epoch"]
    assert run.record.labels == ("a", "b", "c", "d")
    assert yaml.safe_load((run.folder / LOCKED_RECIPE).read_text())["gate"]["size"] == [{"max": "1MB"}]


def test_it_holds_no_link(tmp_path: Path) -> None:
    run = telling(tmp_path)
    assert [path for path in run.folder.rglob("*") if path.is_symlink()] == []
    for name in {row.evalset for row in run.record.rows}:
        Artifact.read(run.folder / name).verify()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = make_run(store, tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        pack(folder, tmp_path / "out", store, silent)


def test_a_damaged_artifact_is_not_packed_and_nothing_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = make_run(store, tmp_path)
    graph = next(folder.glob("steps/*distilled/model.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])
    (tmp_path / "there").mkdir()
    with pytest.raises(Exception, match="does not match its digest"):
        pack(folder, tmp_path / "there" / "out", store, silent)
    assert list((tmp_path / "there").iterdir()) == []


def test_a_run_that_stops_after_timing_says_where_the_table_lies(tmp_path: Path) -> None:
    steps = (
        StepRecord(name="latency", stage="latency", key="k", kind="latency", folder="steps/02-latency"),
        StepRecord(name="select", stage="select", key=""),
    )
    record = RunRecord(recipe="r", run_id="1", started_at="", steps=steps)
    lines = list(_what_next(Outcome(tmp_path, None, record), None))
    assert lines[0] == f"latency table: {tmp_path / 'steps/02-latency/latency-table.json'}"
    assert lines[1] == "pin it anywhere: --set select.latency=latency-table.json"
