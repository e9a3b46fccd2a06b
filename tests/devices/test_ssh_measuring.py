"""A whole measuring session over ssh says what one on this machine says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.core.errors import TargetError
from edgekd.targets.local import LocalTarget
from edgekd.targets.remote import RemoteSession
from tests.devices.measuring import Journal, measure, values
from tests.devices.sshd import NAME, Sshd

pytestmark = [pytest.mark.devices, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_a_device_over_ssh_is_measured_like_this_machine(known: Sshd, tmp_path: Path) -> None:
    here = measure(LocalTarget(name="local"), tmp_path, Journal())
    there = measure(known.target(cache="10MB"), tmp_path, Journal())
    assert {m.quantity for m in there} - {m.quantity for m in here} == {"host_agreement"}
    assert {m.quantity for m in here} <= {m.quantity for m in there}
    assert set(values(there, "host_agreement").values()) == {1.0}
    same = ("accuracy", "macro_recall", "size_bytes")
    assert values(here, *same) == values(there, *same)
    for name in ("teacher", "int8"):
        logits = [
            np.load(tmp_path / "session" / target / f"{name}.logits.npy", allow_pickle=False)
            for target in ("local", NAME)
        ]
        np.testing.assert_array_equal(*logits)
    times = values(there, "latency_p50_ms", "memory_bytes")
    assert all(value is not None and value > 0 for value in times.values())
    told = json.dumps([m.model_dump(mode="json") for m in there])
    assert known.host not in told and str(known.port) not in told
    assert known.sessions == known.tickets == []


@pytest.mark.timeout(600)
def test_a_session_whose_link_breaks_goes_on_where_it_was(
    known: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, runs = Journal(), 0
    run = RemoteSession.run

    def breaking(session: RemoteSession, *arguments: Any, **named: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 4:
            session._link._process.kill()
        return run(session, *arguments, **named)

    monkeypatch.setattr(RemoteSession, "run", breaking)
    with pytest.raises(TargetError):
        measure(known.target(), tmp_path, journal)
    done = dict(journal.values)
    assert done
    measured = measure(known.target(), tmp_path, journal)
    assert {key: journal.values[key] for key in done} == done
    assert values(measured, "accuracy")
