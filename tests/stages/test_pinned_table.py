"""Selecting by a pinned latency table where its target is out of reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekd.core.run_record import RunRecord, StepRecord
from edgekd.report.caveats import caveats_of
from edgekd.report.reading import Source
from edgekd.search.features import describe_all
from edgekd.search.latency_table import Latency, LatencyTable, Row
from edgekd.stages.candidates import candidates_of
from edgekd.stages.context import StageContext
from edgekd.stages.select import SelectConfig, _remeasure
from edgekd.targets.local import LocalTarget
from tests.stages.test_training_batches import context

SPACE = {"network": "resnet_cifar", "depth": [8], "width": [0.25, 0.5]}
TABLE_MS = {"resnet_cifar-depth8-width0.25-8x8": 3.0, "resnet_cifar-depth8-width0.5-8x8": 5.0}


def made(folder: Path) -> tuple[StageContext, LatencyTable]:
    """A run on `local` and `pi5`, of which the latter is out of reach; the table's times are stated here."""
    targets = (LocalTarget(name="local"), LocalTarget(name="pi5"))
    place = replace(context(folder), targets=targets, unreached={"pi5": "no address"})
    candidates = candidates_of(place, SPACE)
    features = describe_all(candidates)
    rows = tuple(
        Row(
            candidate=one,
            features=features[one.id],
            latency={
                "local": Latency(measured_p50_ms=1000.0),
                "pi5": Latency(predicted_p50_ms=TABLE_MS[one.id], predicted_error=0.1),
            },
            estimated_size_bytes=features[one.id].size_bytes("fp32"),
        )
        for one in candidates
    )
    return place, LatencyTable(precision="fp32", targets=("local", "pi5"), rows=rows)


def test_the_winner_is_timed_again_within_reach_and_the_table_counts_for_the_rest(tmp_path: Path) -> None:
    place, table = made(tmp_path)
    winner = table.rows[0].candidate
    timed = _remeasure(place, SelectConfig(space=SPACE), table)(winner)
    assert timed.p50_ms["local"].again
    assert timed.p50_ms["local"].value < 1000.0
    assert (timed.p50_ms["pi5"].value, timed.p50_ms["pi5"].again) == (3.0, False)
    assert timed.size_bytes is not None


def test_a_report_says_so_also_of_a_step_that_was_found_in_the_store() -> None:
    p50 = {"local": {"value": 1.0, "again": True}, "pi5": {"value": 3.0, "again": False}}
    measured = {"selection": {"remeasured": {"p50_ms": p50}}}
    step = StepRecord(name="select", stage="select", key="k", status="cached", measured=measured)
    record = RunRecord(recipe="r", run_id="1", started_at="", steps=(step,))
    caveats = caveats_of(Source(Path(), record, (), None, (), "", ()))
    assert caveats == ("select: pi5 was out of reach to time the winner again: the table counted.",)
