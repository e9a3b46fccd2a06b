"""Sessions of several machines brought together, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core.digest import of_data, of_file
from edgekd.core.errors import UsageError
from edgekd.core.measurement import read_measurements, write_measurements
from edgekd.core.run_record import MEASUREMENTS, RECORD, VERDICT
from edgekd.core.verdict import Verdict
from edgekd.pipeline.bundle import make_bundle
from edgekd.pipeline.portable.folder import SESSIONS, PortableRun
from edgekd.pipeline.portable.gathering import gather, open_run
from edgekd.pipeline.portable.sessions import MEASURED, read_sessions
from edgekd.pipeline.rejudge import rejudge
from edgekd.pipeline.remeasure import remeasure
from edgekd.pipeline.run_folder import read_record
from edgekd.report.collect import facts_of
from edgekd.store.store import Store
from tests.pipeline.portable.small_portable import made, opened, rewritten, silent
from tests.pipeline.small_run import make_run


def verdict(run: PortableRun) -> Verdict:
    return Verdict.model_validate_json((run.folder / VERDICT).read_bytes())


def session(run: PortableRun, target: str) -> Path:
    return next(one.folder for one in read_sessions(run) if one.target == target)


def test_what_was_not_measured_is_open_and_names_the_command(run: PortableRun) -> None:
    shutil.rmtree(session(run, "pi5"))
    gather(run)
    found = {(r.limit.quantity, r.limit.target): r for r in verdict(run).results}
    assert verdict(run).outcome == "inconclusive"
    missing = found["accuracy_drop", "pi5"]
    assert missing.reason == "accuracy_drop against teacher was not measured on pi5"
    assert missing.decide == "measure it: `edgekd measure out --target pi5`"
    assert found["accuracy_drop", "local"].outcome == "pass"


def test_without_any_session_everything_is_open(unmeasured: PortableRun, tmp_path: Path) -> None:
    shutil.copytree(unmeasured.folder, tmp_path / "out")
    gather(opened(tmp_path / "out"))
    results = verdict(opened(tmp_path / "out")).results
    assert {result.outcome for result in results} == {"inconclusive"}
    assert all("edgekd measure out" in str(result.decide) for result in results)


def test_with_all_sessions_it_is_judged(run: PortableRun) -> None:
    gather(run)
    assert verdict(run).outcome == "pass"
    assert {result.limit.target for result in verdict(run).results} == {"local", "pi5", "any"}


@pytest.mark.parametrize("order", [("local", "pi5"), ("pi5", "local")])
def test_the_order_in_which_sessions_come_does_not_matter(
    run: PortableRun, tmp_path: Path, order: tuple[str, str]
) -> None:
    gather(run)
    whole = verdict(run), read_measurements(run.folder / MEASUREMENTS)
    shutil.copytree(run.folder / SESSIONS, tmp_path / "brought")
    again = tmp_path / "again"
    shutil.copytree(run.folder, again, ignore=shutil.ignore_patterns(SESSIONS))
    for target in order:
        (brought,) = (tmp_path / "brought").glob(f"{target}-*")
        shutil.copytree(brought, again / SESSIONS / brought.name)
        gather(opened(again))
    found = verdict(opened(again)), read_measurements(again / MEASUREMENTS)
    assert [r.model_copy(update={"decide": None}) for r in found[0].results] == [
        r.model_copy(update={"decide": None}) for r in whole[0].results
    ]
    assert found[1] == whole[1]


def test_the_same_session_twice_is_one(run: PortableRun) -> None:
    folder = session(run, "pi5")
    shutil.copytree(folder, folder.with_name("downloaded again"))
    gather(run)
    measurements = read_measurements(run.folder / MEASUREMENTS)
    assert len(measurements) == len({of_data(m.model_dump(mode="json")) for m in measurements})
    assert verdict(run).outcome == "pass"


def test_two_sessions_that_differ_are_refused(run: PortableRun, twice: PortableRun) -> None:
    new = session(twice, "local")
    shutil.copytree(new, run.folder / SESSIONS / new.name)
    with pytest.raises(UsageError, match="`local` was measured 2 times") as caught:
        gather(run)
    assert new.name in str(caught.value)
    assert not (run.folder / VERDICT).exists()


def test_the_verdict_is_that_of_a_run_in_one_place_with_the_same_measurements(
    run: PortableRun, tmp_path: Path
) -> None:
    gather(run)
    gate = {"accuracy_drop": [{"max": "90pt", "against": "teacher"}], "host_agreement": [{"min": "50%"}]}
    sized = {**gate, "size": [{"max": "1MB"}]}
    one_place = make_run(Store(tmp_path / "s"), tmp_path, gate=sized, targets=["local", "pi5"])
    write_measurements(one_place / MEASUREMENTS, read_measurements(run.folder / MEASUREMENTS))
    for change in ([], ["gate.accuracy_drop=-50pt"], ["gate.speedup=1.01x"], ["gate.size=10B"]):
        here, there = rejudge(one_place, change), rejudge(run.folder, change)
        assert here.outcome == there.outcome
        assert here.results == there.results


def test_a_report_shows_both_targets_and_the_images(run: PortableRun) -> None:
    gather(run)
    facts = facts_of(run.folder)
    assert [target.name for target in facts.targets] == ["local", "pi5"]
    assert facts.outcome == "pass"
    assert facts.distributions
    assert facts.finished_at == max(m.taken_at for m in read_measurements(run.folder / MEASUREMENTS))


def test_a_bundle_for_people_is_made_of_it(run: PortableRun, tmp_path: Path) -> None:
    gather(run)
    bundle = make_bundle(run.folder, tmp_path / "bundle")
    bundle.verify()
    assert bundle.manifest.verdict == "pass"


def test_what_was_pooled_with_a_session_stays_when_another_arrives(run: PortableRun, tmp_path: Path) -> None:
    brought = tmp_path / "brought"
    shutil.move(session(run, "pi5"), brought)
    gather(run)
    path = run.folder / MEASUREMENTS
    pooled = [m.model_copy(update={"n": m.n + 1000}) for m in read_measurements(path)]
    write_measurements(path, pooled)
    shutil.copytree(brought, run.folder / SESSIONS / brought.name)
    gather(run)
    assert [m for m in read_measurements(path) if m.target == "local"] == pooled
    assert {m.target for m in read_measurements(path)} == {"local", "pi5"}


def test_what_was_changed_by_hand_after_gathering_is_gathered_anew(run: PortableRun) -> None:
    gather(run)
    path = run.folder / MEASUREMENTS
    before, record = path.read_text(), (run.folder / RECORD).read_text()
    path.write_text(before.replace('"value":', '"value":0.99,"was":'))
    (run.folder / RECORD).write_text(record.replace('"final": "distilled"', '"final": "teacher"'))
    (run.folder / VERDICT).write_text('{"outcome": "pass", "results": []}')
    gather(run)
    assert path.read_text() == before
    assert read_record(run.folder).final == "distilled"
    assert len(verdict(run).results) == 5


@pytest.mark.runs
def test_a_release_comes_along_and_is_compared_with(tmp_path: Path) -> None:
    store = Store(tmp_path / "earlier")
    (tmp_path / "work").mkdir()
    earlier = make_run(store, tmp_path / "work")
    remeasure(store, str(earlier), ["local"], None, None, silent)
    release = make_bundle(earlier, tmp_path / "release").folder
    gate = {"release": str(release), "accuracy_drop": [{"max": "5pt", "against": "release"}]}
    run = made(tmp_path, gate)
    shutil.rmtree(release)
    remeasure(Store(tmp_path / "store"), str(run.folder), ["local"], None, None, silent)
    gather(run)
    (result,) = [r for r in verdict(run).results if r.limit.target == "local"]
    assert result.limit.against == "release"
    assert result.measurement is not None
    assert result.measurement.value == 0.0
    assert str(tmp_path) not in (run.folder / "recipe.lock.yaml").read_text()


def test_any_other_run_is_found_as_before(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = make_run(store, tmp_path)
    assert open_run(store, "small") == folder


# --- what is refused --------------------------------------------------------------------------------------


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _link(path: Path) -> None:
    path.replace(path.parents[3] / "elsewhere")
    path.symlink_to(path.parents[3] / "elsewhere")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image set cut short": (lambda o: _cut(images(o)), "changed since it was bundled: evalsets"),
    "other labels": (lambda o: _cut(images(o).with_name("labels.npy")), "labels.npy"),
    "an image set that is not there": (lambda o: images(o).unlink(), "missing: evalsets"),
    "an image set elsewhere": (lambda o: _link(images(o)), "links to a file outside the portable run"),
    "a looser limit": (lambda o: edit(o / "recipe.lock.yaml", "90pt", "99pt"), "recipe.lock.yaml"),
    "other host answers": (lambda o: _cut(o / "host" / "teacher.logits.npy"), "host/teacher.logits.npy"),
    "a file too many": (lambda o: (o / "steps" / "x.py").write_text("boo"), "not part of the portable run"),
    "a list cut short": (lambda o: _cut(o / "portable.json"), "does not match portable.sha256"),
    "an edited list": (
        lambda o: edit(o / "portable.json", '"final": "distilled"', '"final": "teacher"'),
        "match",
    ),
    "no seal": (lambda o: (o / "portable.sha256").unlink(), "portable.json: cannot be read"),
    "a list of something else": (
        lambda o: rewritten(o / "portable.json", lambda c: c.pop("record")),
        "not what edgekd writes here: record",
    ),
    "a newer list": (
        lambda o: rewritten(o / "portable.json", lambda c: c.update(schema_version=99)),
        "newer edgekd",
    ),
    "a file outside": (
        lambda o: rewritten(o / "portable.json", lambda c: c["files"].update({"../../x": "0" * 64})),
        "names a file outside its folder: `../../x`",
    ),
    "images outside": (
        lambda o: rewritten(o / "portable.json", lambda c: c["record"]["rows"][0].update(evalset="/etc")),
        "names a file outside its folder: `/etc`",
    ),
    "a graph outside": (
        lambda o: rewritten(o / "portable.json", lambda c: c["record"]["steps"][0].update(folder="../../a")),
        "names a file outside",
    ),
}


def images(out: Path) -> Path:
    return next(out.glob("evalsets/*/images.npy"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_run_is_refused_and_nothing_is_judged(run: PortableRun, case: str) -> None:
    spoil, words = SPOILED[case]
    spoil(run.folder)
    with pytest.raises(UsageError) as caught:
        gather(opened(run.folder))
    assert words in str(caught.value)
    assert not (run.folder / VERDICT).exists()


def _forge(folder: Path) -> None:
    """A better number, with every digest made anew but that of the measurements' own seal."""
    edit(folder / MEASUREMENTS, '"value":', '"value":1.0,"n":')
    digest = of_file(folder / MEASUREMENTS)
    rewritten(folder / MEASURED, lambda content: content["files"].update({MEASUREMENTS: digest}))


SPOILED_SESSIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an edited number": (lambda s: edit(s / MEASUREMENTS, '"value":', '"value":1.0,"n":'), MEASUREMENTS),
    "a forged number": (_forge, "does not match measurements.sha256"),
    "logits cut short": (lambda s: _cut(next(s.rglob("*.npy"))), ".logits.npy"),
    "logits that are not there": (lambda s: next(s.rglob("*.npy")).unlink(), "missing: session/pi5"),
    "a file too many": (lambda s: (s / "more.npy").write_bytes(b"0"), "not part of the session: more.npy"),
    "no list": (lambda s: (s / MEASURED).unlink(), f"{MEASURED}: cannot be read"),
    "an edited list": (lambda s: edit(s / MEASURED, '"pi5"', '"local"'), "match measured.sha256"),
    "another run": (
        lambda s: rewritten(s / MEASURED, lambda c: c.update(run="0" * 64)),
        "was measured of another run",
    ),
    "another target": (
        lambda s: rewritten(s / MEASURED, lambda c: c.update(target="jetson")),
        "holds more than a session on `jetson`",
    ),
    "a target that leaves its folder": (
        lambda s: rewritten(s / MEASURED, lambda c: c.update(target="../pi5")),
        "`../pi5` is no target's name",
    ),
}


@pytest.mark.parametrize("case", SPOILED_SESSIONS)
def test_a_spoiled_session_is_refused_and_named(run: PortableRun, case: str) -> None:
    spoil, words = SPOILED_SESSIONS[case]
    folder = session(run, "pi5")
    spoil(folder)
    with pytest.raises(UsageError) as caught:
        gather(run)
    assert words in str(caught.value)
    assert folder.name in str(caught.value)
    assert not (run.folder / VERDICT).exists()


def test_a_session_of_another_artifact_is_refused(run: PortableRun, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = made(tmp_path / "other", {"size": [{"max": "2MB"}]})
    shutil.copytree(session(run, "local"), other.folder / SESSIONS / "local-0")
    with pytest.raises(UsageError, match="measured of another run: another recipe, other artifacts"):
        gather(other)


def test_what_a_kill_left_half_written_is_no_session(run: PortableRun) -> None:
    shutil.copytree(session(run, "pi5"), run.folder / SESSIONS / ".pi5-x1")
    (run.folder / SESSIONS / ".pi5-x1" / MEASURED).unlink()
    gather(run)
    assert verdict(run).outcome == "pass"


def test_made_again_from_the_same_artifacts_it_takes_the_same_sessions(
    run: PortableRun, tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    again = made(tmp_path / "again")
    assert again.identity == run.identity
    shutil.copytree(run.folder / SESSIONS, again.folder / SESSIONS)
    gather(again)
    assert verdict(again).outcome == "pass"
