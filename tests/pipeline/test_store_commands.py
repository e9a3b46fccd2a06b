"""`edgekd store` on the store of a real run: what it weighs, what may go, and how it travels."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from edgekd.core.artifact import Artifact
from edgekd.core.run_record import RunRecord
from edgekd.store.store import Store
from edgekd.store.upkeep import collect, garbage, sizes
from tests.pipeline.conftest import TinyRun, edgekd

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def root(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A copy of the tiny run's folder."""
    shutil.copytree(tiny_run.root, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def age(folder: Path) -> None:
    """Yesterday's: what is new may be about to be used, so `gc` leaves it alone."""
    for path in folder.iterdir():
        os.utime(path, times=(path.stat().st_atime, path.stat().st_mtime - 86_400))


def statuses(root: Path) -> dict[str, str]:
    (path,) = (root / ".edgekd" / "runs" / "tiny").glob("*/record.json")
    return {s.name: s.status for s in RunRecord.model_validate_json(path.read_bytes()).steps}


def test_size_counts_every_part(root: Path) -> None:
    done = edgekd("store", "size", "--json", cwd=root)
    found = json.loads(done.out)
    assert found == sizes(Store(root / ".edgekd"))
    assert found["objects"] > 500_000
    assert set(found) >= {"objects", "keys", "runs", "work", "cache"}


def test_gc_keeps_all_that_a_finished_run_needs(root: Path) -> None:
    store = Store(root / ".edgekd")
    (store.root / "cache" / "teacher").mkdir()
    (store.root / "cache" / "teacher" / "logits.npy").write_bytes(bytes(100))
    (store.root / "objects" / ".cut-short.tmp").mkdir()
    age(store.root / "objects")
    before = {path.name for path in (store.root / "objects").iterdir()} - {".cut-short.tmp"}
    told = edgekd("store", "gc", "--dry-run", cwd=root)
    assert "would free" in told.out
    assert (store.root / "objects" / ".cut-short.tmp").exists()
    done = edgekd("store", "gc", cwd=root)
    assert done.code == 0, done.err
    assert {path.name for path in (store.root / "objects").iterdir()} == before
    assert [*(store.root / "cache").iterdir()] == []
    assert edgekd("gate", "tiny", "--set", "gate.accuracy_drop=[]", cwd=root).code == 0


def test_gc_without_the_runs_forgets_their_artifacts(root: Path) -> None:
    store = Store(root / ".edgekd")
    shutil.rmtree(store.root / "runs" / "tiny")
    assert not garbage(store).paths
    age(store.root / "objects")
    collect(store, forget_keys=True)
    assert [*(store.root / "objects").iterdir()] == []
    assert [*(store.root / "keys").iterdir()] == []


def test_work_under_way_is_not_garbage(root: Path) -> None:
    store = Store(root / ".edgekd")
    store.work_folder("unfinished")
    assert garbage(store).paths == ()
    key = next((store.root / "keys").glob("*.json")).stem
    leftover = store.work_folder(key)
    with store.lock(key):
        assert garbage(store).paths == ()
    assert garbage(store).paths == (leftover,)


def test_an_archive_brings_a_run_s_artifacts_to_another_store_where_nothing_is_made_again(
    root: Path, tiny_run: TinyRun, tmp_path: Path
) -> None:
    made = edgekd("store", "export", str(tmp_path / "a.tar"), "--run", "tiny", cwd=root)
    assert made.code == 0, made.err
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(root / "tiny.yaml", other)
    brought = edgekd("store", "import", str(tmp_path / "a.tar"), cwd=other)
    assert brought.code == 0, brought.err
    assert "11 artifacts" in brought.out
    done = edgekd("run", "tiny.yaml", "--threads", "1", "--until", "probe-quantize-ptq", cwd=other)
    assert done.code == 0, done.err
    assert set(statuses(other).values()) == {"cached"}


def test_importing_twice_changes_nothing(root: Path, tmp_path: Path) -> None:
    assert edgekd("store", "export", str(tmp_path / "a.tar"), cwd=root).code == 0
    before = sorted(str(path) for path in (root / ".edgekd").rglob("*"))
    assert edgekd("store", "import", str(tmp_path / "a.tar"), cwd=root).code == 0
    assert sorted(str(path) for path in (root / ".edgekd").rglob("*")) == before


def test_a_damaged_artifact_is_told_with_the_way_to_make_it_again(root: Path) -> None:
    store = Store(root / ".edgekd")
    (path,) = (store.root / "runs" / "tiny").glob("*/steps/*-student")
    (path.resolve() / "spec.json").write_text("{}")
    done = edgekd("run", "tiny.yaml", "--threads", "1", "--until", "student", cwd=root)
    assert done.code == 5, done.err
    assert "does not match its digest" in done.err
    assert "--fresh" in done.err
    assert "Traceback" not in done.err


def test_making_a_damaged_artifact_again_repairs_it(root: Path) -> None:
    store = Store(root / ".edgekd")
    (path,) = (store.root / "runs" / "tiny").glob("*/steps/*-student")
    artifact = Artifact.read(path.resolve())
    whole = (artifact.folder / "spec.json").read_bytes()
    (artifact.folder / "spec.json").write_text("{}")
    work = store.work_folder("again")
    (work / "spec.json").write_bytes(whole)
    facts = {"kind": artifact.kind, "facts": artifact.facts, "files": ["spec.json"]}
    made = store.commit("again", folder=work, ingredients={}, **facts)
    made.verify()
    assert made.digest == artifact.digest
