"""`gate --against`: the released artifact measured beside the run's, for real, and judged by limits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekd.core.digest import files_below, of_file
from edgekd.core.errors import UsageError
from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import MEASUREMENTS, VERDICT
from edgekd.core.verdict import LimitResult, Verdict
from edgekd.measure.protocol import PROTOCOLS
from edgekd.pipeline.bundle import Bundle, make_bundle
from edgekd.pipeline.gate_policy import GatePolicy
from edgekd.pipeline.judging import judge_with
from edgekd.pipeline.regression import ReleaseCheck, regression_limits
from edgekd.pipeline.remeasure import remeasure
from edgekd.pipeline.run_folder import RunFolder, read_record
from edgekd.store.store import Store
from tests.pipeline.small_run import make_run
from tests.pipeline.test_decide import TINY

GATE = {"size": [{"max": "1MB"}], "accuracy_drop": [{"max": "60pt", "against": "teacher"}]}


@dataclass
class Compared:
    """A run, the bundle of another artifact, what the gate said of both, and the digests of before."""

    folder: Path
    bundle: Bundle
    verdict: Verdict
    notes: list[str]
    before: dict[str, str]

    def result(self, quantity: str, against: str | None) -> LimitResult:
        (found,) = [
            r for r in self.verdict.results if (r.limit.quantity, r.limit.against) == (quantity, against)
        ]
        return found


def digests(folder: Path) -> dict[str, str]:
    return {name: of_file(folder / name) for name in files_below(folder)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    """A run that ships the small graph, held against a release that is the large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "smoke", TINY.model_copy(update={"name": "smoke"}))
        store = Store(tmp_path_factory.mktemp("store"))
        folder = make_run(store, tmp_path_factory.mktemp("work"), gate=GATE)
        remeasure(store, "small", None, None, None, lambda event: None)
        bundle = _released(folder, tmp_path_factory.mktemp("bundles") / "release", "teacher")
        before, notes = digests(bundle.folder), []

        def listen(event: object) -> None:
            if isinstance(event, dict) and event["event"] == "note":
                notes.append(event["text"])

        verdict = judge_with(store, folder, (), listen, release=bundle.folder)
        yield Compared(folder, bundle, verdict, notes, before)


def _released(folder: Path, out: Path, final: str) -> Bundle:
    """The bundle that the run would have made if another of its rows had shipped."""
    record = read_record(folder)
    RunFolder(folder).write_record(record.model_copy(update={"final": final}))
    try:
        return make_bundle(folder, out)
    finally:
        RunFolder(folder).write_record(record)


def test_both_are_measured_in_one_session(compared: Compared) -> None:
    drop, speedup = (compared.result(q, "release").measurement for q in ("accuracy_drop", "speedup"))
    assert drop is not None and speedup is not None
    assert (drop.subject.name, drop.n) == ("distilled", 60)
    assert drop.against is not None
    assert drop.against.digest == compared.bundle.digest
    assert speedup.protocol["processes"] == 5
    assert drop.taken_at <= speedup.taken_at


def test_the_limits_of_the_run_and_those_against_the_release_make_one_verdict(compared: Compared) -> None:
    kinds = [(r.limit.quantity, r.limit.against) for r in compared.verdict.results]
    own = [("accuracy_drop", "teacher"), ("size_bytes", None)]
    assert kinds == [*own, ("accuracy_drop", "release"), ("speedup", "release"), ("size_bytes", None)]
    assert compared.verdict.results[-1].outcome == "pass", "the release is larger"


def test_the_defaults_are_named(compared: Compared) -> None:
    (note,) = compared.notes
    assert "defaults: accuracy drop at most 60pt, as the gate asks anyway" in note
    assert "not slower by more than 3 %" in note
    assert compared.result("speedup", "release").limit.min == pytest.approx(0.97)
    assert compared.result("accuracy_drop", "release").limit.max == pytest.approx(0.6)
    size = compared.bundle.graph.stat().st_size
    assert compared.verdict.results[-1].limit.max == int(size * 1.05)


def test_nothing_is_written_into_the_bundle(compared: Compared) -> None:
    assert digests(compared.bundle.folder) == compared.before
    compared.bundle.verify()


def test_the_runs_own_measurements_and_verdict_stay(compared: Compared) -> None:
    subjects = {m.subject.name for m in read_measurements(compared.folder / MEASUREMENTS)}
    assert subjects == {"teacher", "distilled"}
    stored = Verdict.model_validate_json((compared.folder / VERDICT).read_bytes())
    assert {r.limit.against for r in stored.results} == {"teacher", None}


def test_the_session_is_kept_below_the_run(compared: Compared) -> None:
    folder = compared.folder / "against" / compared.bundle.digest[:16]
    assert (folder / "session" / "local" / "latency.json").is_file()
    assert {m.subject.name for m in read_measurements(folder / MEASUREMENTS)} == {"distilled", "release"}
    stored = Verdict.model_validate_json((folder / VERDICT).read_bytes())
    assert len(stored.results) == 3


def test_a_changed_bundle_is_refused_before_anything_is_measured(compared: Compared, tmp_path: Path) -> None:
    shutil.copytree(compared.bundle.folder, tmp_path / "copy")
    (tmp_path / "copy" / "labels.txt").write_text("other\n")
    with pytest.raises(UsageError, match=r"changed since it was bundled: labels\.txt"):
        ReleaseCheck(compared.folder, tmp_path / "copy")


def test_a_release_of_another_input_size_says_how_to_compare(compared: Compared, tmp_path: Path) -> None:
    shutil.copytree(compared.bundle.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "bundle.json"
    manifest = compared.bundle.manifest
    other = manifest.preprocess.model_copy(update={"size": (16, 16)})
    path.write_text(manifest.model_copy(update={"preprocess": other}).model_dump_json())
    with pytest.raises(UsageError, match="takes images of 16x16, and the run has its test images in 8x8"):
        ReleaseCheck(compared.folder, tmp_path / "copy")


def test_a_folder_that_is_no_bundle_is_refused(compared: Compared, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no bundle"):
        ReleaseCheck(compared.folder, tmp_path)


def test_the_gates_own_limits_against_a_release_replace_the_defaults(compared: Compared) -> None:
    policy = GatePolicy.model_validate(
        {"release": "elsewhere", "size": "1MB", "speedup": {"min": "1.1x", "against": "release"}}
    )
    chosen, notes = regression_limits(policy, ["local", "pi5"], compared.bundle)
    assert [(one.quantity, one.target, one.min) for one in chosen] == [
        ("speedup", "local", 1.1),
        ("speedup", "pi5", 1.1),
    ]
    assert notes == ()


def test_without_any_drop_in_the_gate_one_point_is_usual(compared: Compared) -> None:
    chosen, notes = regression_limits(GatePolicy(), ["local"], compared.bundle)
    assert [one.quantity for one in chosen] == ["accuracy_drop", "speedup", "size_bytes"]
    assert chosen[0].max == pytest.approx(0.01)
    assert "accuracy drop at most 1.0pt" in notes[0]
