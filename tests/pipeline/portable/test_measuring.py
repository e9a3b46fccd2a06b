"""Measuring a portable run: sealed sessions, complete, resumable, and nothing else in the folder changes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.digest import files_below, of_file
from edgekd.core.errors import TargetError, UsageError
from edgekd.core.measurement import Measurement
from edgekd.measure.protocol import PROTOCOLS
from edgekd.pipeline import remeasure as remeasuring
from edgekd.pipeline.further import Wish, measure_further
from edgekd.pipeline.portable.folder import SESSIONS, PortableRun
from edgekd.pipeline.portable.sessions import read_sessions
from edgekd.pipeline.remeasure import remeasure
from edgekd.store.store import Store
from tests.pipeline.interrupting import Interrupted, counting
from tests.pipeline.portable.small_portable import OUT_OF_REACH, opened, rewritten, silent

Measured = tuple[PortableRun, list[Measurement]]


def test_every_artifact_is_measured_on_every_target_in_one_session_each(measured: Measured) -> None:
    run, found = measured
    sessions = read_sessions(run)
    assert [one.target for one in sessions] == ["local", "pi5"]
    assert [m for one in sessions for m in one.measurements] == found
    for one in sessions:
        pairs = {
            (m.subject.name, m.quantity, m.against.name if m.against else None) for m in one.measurements
        }
        assert ("distilled", "accuracy_drop", "teacher") in pairs
        assert ("distilled", "speedup", "teacher") in pairs
        assert ("teacher", "latency_p50_ms", None) in pairs


def test_targets_are_compared_with_the_machine_that_made_the_artifacts(measured: Measured) -> None:
    found = [m for m in measured[1] if m.quantity == "host_agreement"]
    assert {(m.target, m.subject.name) for m in found} == {
        (target, name) for target in ("local", "pi5") for name in ("teacher", "distilled")
    }
    assert {m.value for m in found} == {1.0}


def test_a_machine_that_answered_otherwise_is_told_of(unmeasured: PortableRun, tmp_path: Path) -> None:
    shutil.copytree(unmeasured.folder, tmp_path / "out")
    path = tmp_path / "out" / "host" / "distilled.logits.npy"
    logits = np.load(path)
    np.save(path, np.roll(logits, 1, axis=1))
    rewritten(tmp_path / "out" / "portable.json", lambda content: content["files"].update(digests(path)))
    found = remeasure(Store(tmp_path / "store"), str(tmp_path / "out"), ["local"], None, None, silent)
    by_name = {m.subject.name: m for m in found if m.quantity == "host_agreement"}
    assert (by_name["teacher"].value, by_name["distilled"].value) == (1.0, 0.0)
    assert "otherwise than the machine that made it does" in by_name["distilled"].validity.reasons[0]


def digests(path: Path) -> dict[str, str]:
    return {f"host/{path.name}": of_file(path)}


def test_only_sealed_sessions_are_added(measured: Measured, unmeasured: PortableRun) -> None:
    added = set(files_below(measured[0].folder)) - set(files_below(unmeasured.folder))
    assert {name.split("/")[0] for name in added} == {SESSIONS}
    measured[0].verify()


def test_interrupted_it_goes_on_where_it_was(unmeasured: PortableRun, tmp_path: Path) -> None:
    """No question of the first attempt is asked again, in whatever phase it ended."""
    shutil.copytree(unmeasured.folder, tmp_path / "out")
    store, asked = Store(tmp_path / "store"), Counter[str]()
    for stop_at in (1, 4, 6, None):
        with pytest.MonkeyPatch.context() as patch:
            counting(patch, asked, stop_at)
            if stop_at is None:
                remeasure(store, str(tmp_path / "out"), ["local"], None, None, silent)
                continue
            with pytest.raises(Interrupted):
                remeasure(store, str(tmp_path / "out"), ["local"], None, None, silent)
            assert files_below(tmp_path / "out") == files_below(unmeasured.folder)
    smoke = PROTOCOLS["smoke"]
    assert not smoke.retry
    counts = {"accuracy": 2, "memory": 3 * smoke.memory_processes, "latency": smoke.num_processes}
    assert {mode: asked[mode] for mode in counts} == counts
    assert list((store.root / "work").iterdir()) == []


def test_killed_between_measuring_and_sealing_nothing_is_measured_again(
    unmeasured: PortableRun, tmp_path: Path
) -> None:
    shutil.copytree(unmeasured.folder, tmp_path / "out")
    store, asked = Store(tmp_path / "store"), Counter[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remeasuring, "add_session", lambda *arguments: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            remeasure(store, str(tmp_path / "out"), ["local"], None, None, silent)
    with pytest.MonkeyPatch.context() as patch:
        counting(patch, asked)
        remeasure(store, str(tmp_path / "out"), ["local"], None, None, silent)
    assert asked == {}
    (session,) = read_sessions(opened(tmp_path / "out"))
    assert session.target == "local"


def test_a_target_measured_again_has_the_new_session_alone(measured: Measured, twice: PortableRun) -> None:
    before, after = ({one.target: one.digest for one in read_sessions(run)} for run in (measured[0], twice))
    assert len(read_sessions(twice)) == 2
    assert after["pi5"] == before["pi5"]
    assert after["local"] != before["local"]


def test_a_lost_target_is_an_error_after_the_others_were_measured(
    unmeasured: PortableRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(unmeasured.folder, tmp_path / "out")
    (tmp_path / "edgekd-devices.yaml").write_text(OUT_OF_REACH)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match="pi5: its address is not known on this machine"):
        remeasure(Store(tmp_path / "store"), "out", ["pi5", "local"], None, None, silent)
    assert [one.target for one in read_sessions(opened(tmp_path / "out"))] == ["local"]


def test_an_evaluation_set_of_ones_own_is_refused(unmeasured: PortableRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out `--evalset`"):
        remeasure(Store(tmp_path), str(unmeasured.folder), ["local"], None, "elsewhere", silent)


def test_what_is_no_session_is_refused(unmeasured: PortableRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whole sessions only"):
        measure_further(
            Store(tmp_path), str(unmeasured.folder), None, None, None, [], Wish(layers=True), silent
        )


def test_a_spoiled_run_is_not_measured(run: PortableRun, tmp_path: Path) -> None:
    graph = next((run.folder / "steps").rglob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(UsageError, match="changed since it was bundled: steps"):
        remeasure(Store(tmp_path / "store"), str(run.folder), ["local"], None, None, silent)
