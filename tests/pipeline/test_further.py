"""What is measured beside a run's session: what it is measured on, and where it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgekd.core.errors import UsageError
from edgekd.core.measurement import Measurement, Subject, read_measurements, write_measurements
from edgekd.core.run_record import MEASUREMENTS
from edgekd.pipeline.bundle import make_bundle
from edgekd.pipeline.further import Found, Wish, measure_further
from edgekd.pipeline.rejudge import rejudge
from edgekd.store.store import Store
from tests.pipeline.small_run import STARTED, make_run


def _silent(event: Mapping[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was measured before: its p50, and a throughput that is no longer true."""
    folder = make_run(store, tmp_path_factory.mktemp("work"))
    subject = Subject(name="distilled", digest="d")
    before = [
        Measurement(quantity=q, unit="", value=1.0, subject=subject, target="local", taken_at=STARTED)
        for q in ("latency_p50_ms", "throughput_ips")
    ]
    write_measurements(folder / MEASUREMENTS, before)
    return folder


@pytest.fixture(scope="module")
def found(store: Store, run: Path) -> Found:
    wish = Wish(batch=2, layers=True)
    return measure_further(store, "small", None, "smoke", None, [], wish, _silent)


def test_it_is_the_artifact_that_ships_unless_a_row_is_named(found: Found) -> None:
    assert [(one.quantity, one.subject.name) for one in found.measurements] == [
        ("throughput_ips", "distilled")
    ]
    assert [(one["kind"], one["subject"]) for one in found.tables] == [("layers", "distilled")]


def test_measurements_stand_beside_the_sessions_and_replace_older_ones(found: Found, run: Path) -> None:
    kept = read_measurements(run / MEASUREMENTS)
    assert [one.quantity for one in kept] == ["latency_p50_ms", "throughput_ips"]
    assert kept[1] == found.measurements[0]
    assert kept[1].subject.digest != "d"


def test_raw_results_lie_in_the_sessions_folder(found: Found, run: Path) -> None:
    assert found.folder == run / "session"
    assert (run / str(found.measurements[0].samples)).is_file()
    assert (run / "session" / "local" / "distilled.layers.json").is_file()


def test_an_unknown_row_lists_the_rows(store: Store, run: Path) -> None:
    with pytest.raises(UsageError, match="choices: teacher, distilled"):
        measure_further(store, "small", None, "smoke", None, ["pupil"], Wish(layers=True), _silent)


def test_a_bundle_needs_images_and_has_no_rows(store: Store, run: Path, tmp_path: Path) -> None:
    rejudge(run)
    bundle = make_bundle(run, tmp_path / "bundle")
    with pytest.raises(UsageError, match="no images to be timed on"):
        measure_further(store, str(bundle.folder), None, "smoke", None, [], Wish(layers=True), _silent)
    with pytest.raises(UsageError, match="leave out `--row`"):
        measure_further(
            store, str(bundle.folder), None, "smoke", None, ["teacher"], Wish(layers=True), _silent
        )


def test_nothing_is_wished_for_by_default() -> None:
    assert not Wish()
    assert Wish(soak_s=600.0)
