from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgekd.core.errors import TargetError
from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import MEASUREMENTS
from edgekd.core.verdict import Outcome as Word
from edgekd.core.verdict import Verdict
from edgekd.pipeline.gate import GatePolicy
from edgekd.pipeline.run import Outcome
from edgekd.pipeline.run_folder import read_record, step_artifact
from edgekd.pipeline.session import Order, items_of, take
from edgekd.store.store import Store
from edgekd.targets.local import LocalTarget
from edgekd.targets.target import Session, Target
from tests.pipeline.small_run import make_run


class Vanished(LocalTarget):
    """A device that cannot be reached any more."""

    @contextmanager
    def session(self) -> Iterator[Session]:
        raise TargetError("no route to host", where=self.name)
        yield


def order(store: Store, folder: Path, targets: list[Target]) -> Order:
    record = read_record(folder)
    graphs = {row.graph_step: step_artifact(record, folder, row.graph_step) for row in record.rows}
    return Order(
        items=items_of(record.rows, folder, graphs, GatePolicy()),
        targets=targets,
        protocol="smoke",
        labels=record.labels,
        seed=0,
        device_facts={},
    )


def test_what_the_other_targets_say_is_kept_and_the_session_is_not_called_done(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = make_run(store, tmp_path)
    events: list[Any] = []
    wanted = order(store, folder, [LocalTarget(name="local"), Vanished(name="pi5")])
    take(wanted, folder, store, events.append, fresh=False)
    assert {m.target for m in read_measurements(folder / MEASUREMENTS)} == {"local"}
    assert [e["text"] for e in events if e["event"] == "lost"] == ["pi5: no route to host"]
    assert not (folder / "session" / "session.json").exists()


def test_without_any_target_left_the_error_is_raised(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = make_run(store, tmp_path)
    with pytest.raises(TargetError, match="no route to host"):
        take(order(store, folder, [Vanished(name="pi5")]), folder, store, lambda e: None, fresh=False)


@pytest.mark.parametrize(
    ("verdict", "lost", "code"),
    [
        ("fail", ("pi5",), 1),
        ("inconclusive", ("pi5",), 4),
        ("pass", ("pi5",), 4),
        ("inconclusive", (), 3),
        ("pass", (), 0),
        ("fail", (), 1),
    ],
)
def test_the_precedence_of_exit_codes_is_fail_then_lost_then_inconclusive_then_pass(
    tmp_path: Path, verdict: Word, lost: tuple[str, ...], code: int
) -> None:
    store = Store(tmp_path / "s")
    record = read_record(make_run(store, tmp_path))
    outcome = Outcome(tmp_path, Verdict(outcome=verdict, results=()), record, lost)
    assert outcome.exit_code == code
