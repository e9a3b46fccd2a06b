from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgekd.core.errors import RecipeError, UsageError
from edgekd.core.measurement import Interval, Measurement, Quantity, Subject, write_measurements
from edgekd.core.run_record import LOCKED_RECIPE, MEASUREMENTS, VERDICT
from edgekd.core.verdict import Verdict
from edgekd.pipeline.rejudge import rejudge
from edgekd.pipeline.run_folder import RunFolder, final_graph, read_record
from edgekd.pipeline.session import graph_digest
from edgekd.store.store import Store
from tests.pipeline.small_run import make_run

GATE = {
    "size": [{"max": "1MB"}],
    "accuracy_drop": [{"max": "1.0pt", "against": "teacher"}],
}


def _measurement(subject: Subject, quantity: Quantity, value: float, against: Subject | None) -> Measurement:
    interval = Interval(low=value - 0.002, high=value + 0.002, method="test") if against else None
    return Measurement(
        quantity=quantity,
        unit="",
        value=value,
        interval=interval,
        n=1000,
        subject=subject,
        against=against,
        target="local",
        taken_at=datetime.now(UTC).isoformat(),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 100 kB that loses half a point."""
    folder = make_run(Store(tmp_path / "store"), tmp_path, gate=GATE)
    digest = graph_digest(final_graph(read_record(folder), folder))
    subject, teacher = Subject(name="distilled", digest=digest), Subject(name="teacher", digest="7" * 64)
    measurements = [
        _measurement(subject, "size_bytes", 100_000, None),
        _measurement(subject, "accuracy_drop", 0.005, teacher),
    ]
    write_measurements(folder / MEASUREMENTS, measurements)
    return folder


def test_the_run_is_judged_by_its_own_gate_and_the_verdict_is_kept(run: Path) -> None:
    verdict = rejudge(run)
    assert verdict.outcome == "pass"
    assert Verdict.model_validate_json((run / VERDICT).read_bytes()) == verdict


@pytest.mark.parametrize(
    ("override", "outcome"),
    [
        ("gate.size=50KB", "fail"),
        ("gate.size=200KB", "pass"),
        ("gate.accuracy_drop.max=0.1pt", "fail"),
        ("gate.accuracy_drop.max=0.6pt", "inconclusive"),
        ("gate.latency_p90=30ms", "inconclusive"),
    ],
)
def test_a_changed_limit_changes_the_verdict(run: Path, override: str, outcome: str) -> None:
    assert rejudge(run, [override]).outcome == outcome


def test_a_changed_gate_leaves_the_stored_verdict_alone(run: Path) -> None:
    rejudge(run)
    before = (run / VERDICT).read_bytes()
    assert rejudge(run, ["gate.size=50KB"]).outcome == "fail"
    assert (run / VERDICT).read_bytes() == before


def test_a_target_that_the_recipe_does_not_name_is_not_judged(run: Path) -> None:
    record = read_record(run)
    RunFolder(run).write_record(record.model_copy(update={"targets": ("local", "pi5")}))
    assert rejudge(run).outcome == "pass"


def test_only_the_gate_of_a_finished_run_can_be_changed(run: Path) -> None:
    with pytest.raises(UsageError, match="gate alone can be changed"):
        rejudge(run, ["distill.epochs=3"])


def test_a_misspelt_limit_names_the_choices(run: Path) -> None:
    with pytest.raises(RecipeError, match=r"`sise` is not a key here; close names: size"):
        rejudge(run, ["gate.sise=1MB"])


def test_measurements_of_another_artifact_do_not_count(run: Path) -> None:
    path = run / MEASUREMENTS
    digest = graph_digest(final_graph(read_record(run), run))
    path.write_text(path.read_text().replace(digest, "0" * 64))
    assert rejudge(run).outcome == "inconclusive"


def test_a_damaged_locked_recipe_is_named(run: Path) -> None:
    (run / LOCKED_RECIPE).write_text("steps: []\n")
    with pytest.raises(UsageError, match="not a resolved recipe"):
        rejudge(run)


def test_an_artifact_that_the_store_let_go_of_is_named(run: Path) -> None:
    (run / "steps" / "02-export-distilled").unlink()
    with pytest.raises(UsageError, match="no longer in the store"):
        rejudge(run)
