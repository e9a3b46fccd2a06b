"""Defects that come after measuring: files that are edited, replaced or too old, and then judged again."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from edgekd.core.measurement import read_measurements, write_measurements
from planted.running import WEAK, Outcome, Place, audited, defect, specification, test_file
from planted.zoo import built


def failed(place: Place) -> Path:
    """The run of a model that is too inaccurate for its gate, so that it pays to lie."""
    ended = audited(place, net=WEAK, spec=specification(WEAK))
    assert ended.code == 1, ended.text
    return place.run_folder()


def passed(place: Place) -> Path:
    """The run of a model that passes."""
    ended = audited(place)
    assert ended.code == 0, ended.text
    return place.run_folder()


@defect("measurements-changed|accuracy", fast=True)
def edited_measurements(place: Place) -> Outcome:
    run = failed(place)
    path = run / "measurements.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for one in lines:
        if one["quantity"] == "accuracy":
            one["value"], one["interval"]["low"], one["interval"]["high"] = 0.99, 0.985, 0.995
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return place.command("gate", str(run), "--json")


@defect("measurements-changed|accuracy")
def measurements_of_another_run(place: Place) -> Outcome:
    """A better model's measurements, with their digest, laid over those of a worse one."""
    run = failed(place)
    other = passed(Place(place / "other"))
    for name in ("measurements.jsonl", "measurements.sha256"):
        shutil.copyfile(other / name, run / name)
    return place.command("gate", str(run), "--json")


@defect("limits-changed")
def edited_limits(place: Place) -> Outcome:
    run = failed(place)
    lock = run / "recipe.lock.yaml"
    lock.write_text(lock.read_text().replace("93%", "50%"))
    return place.command("gate", str(run), "--json")


@defect("accuracy|verdict")
def edited_verdict_judged_again(place: Place) -> Outcome:
    run = failed(place)
    _forge(run)
    return place.command("gate", str(run), "--json")


@defect("verdict")
def edited_verdict_reported(place: Place) -> Outcome:
    run = failed(place)
    _forge(run)
    return place.command("report", str(run))


@defect("verdict")
def edited_verdict_bundled(place: Place) -> Outcome:
    run = failed(place)
    _forge(run)
    return place.command("bundle", str(run), "--out", "bundle")


def _forge(run: Path) -> None:
    verdict = json.loads((run / "verdict.json").read_text())
    verdict["outcome"] = "pass"
    for result in verdict["results"]:
        result["outcome"] = "pass"
    (run / "verdict.json").write_text(json.dumps(verdict))


@defect("days ago|max_age")
def stale_measurement(place: Place) -> Outcome:
    run = passed(place)
    path = run / "measurements.jsonl"
    old = (datetime.now(UTC) - timedelta(days=60)).isoformat()
    write_measurements(path, [m.model_copy(update={"taken_at": old}) for m in read_measurements(path)])
    return place.command("gate", str(run), "--json")


@defect("future")
def measurement_of_the_future(place: Place) -> Outcome:
    run = passed(place)
    path = run / "measurements.jsonl"
    late = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    write_measurements(path, [m.model_copy(update={"taken_at": late}) for m in read_measurements(path)])
    return place.command("gate", str(run), "--json")


@defect("model-changed", fast=True)
def stale_artifact(place: Place) -> Outcome:
    """The file is exported anew, and judged by what was measured of the old one."""
    run = passed(place)
    built(WEAK).save(place / "model.onnx")
    return place.command("gate", str(run), "--json")


@defect("digest")
def artifact_replaced_in_the_store(place: Place) -> Outcome:
    run = passed(place)
    (graph,) = run.glob("steps/*-model/model.onnx")
    built(WEAK).save(graph.resolve())
    return place.command("gate", str(run), "--json")


@defect("digest")
def measured_under_another_digest(place: Place) -> Outcome:
    run = passed(place)
    path = run / "measurements.jsonl"
    other = [
        m.model_copy(update={"subject": m.subject.model_copy(update={"digest": "0" * 64})})
        for m in read_measurements(path)
    ]
    write_measurements(path, other)
    return place.command("gate", str(run), "--json")


@defect("changed since")
def bundle_with_another_model(place: Place) -> Outcome:
    run = passed(place)
    made = place.command("bundle", str(run), "--out", "bundle")
    assert made.code == 0, made.text
    built(WEAK).save(place / "bundle" / "model.onnx")
    return place.command("verify", "bundle")


@defect("changed since|digest")
def release_with_another_model(place: Place) -> Outcome:
    """Compared with a release that was made worse, anything looks like progress."""
    run = passed(place)
    made = place.command("bundle", str(run), "--out", "bundle")
    assert made.code == 0, made.text
    built(WEAK).save(place / "bundle" / "model.onnx")
    shutil.rmtree(place / ".edgekd")
    gate = {"release": "bundle", "accuracy_drop": {"max": "2pt", "against": "release"}}
    model = built(WEAK).save(place / "worse.onnx")
    spec = {**specification(WEAK), "gate": gate}
    return place.audit(model, test_file(place), spec=spec)


@defect("nothing was|evaluation|images|damaged|digest")
def evaluation_set_replaced_in_the_store(place: Place) -> Outcome:
    """Easier images under the same name, then measured again."""
    run = passed(place)
    (images,) = run.glob("evalsets/*/images.npy")
    (labels,) = run.glob("evalsets/*/labels.npy")
    first = np.load(images)[:1]
    np.save(images.resolve(), first.repeat(len(np.load(labels)), axis=0))
    np.save(labels.resolve(), np.load(labels)[:1].repeat(len(np.load(labels))))
    ended = place.command("measure", str(run), "--protocol", "smoke")
    return ended if ended.code else place.command("gate", str(run), "--json")
