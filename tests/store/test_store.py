from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgekd.core.errors import StoreError, UsageError
from edgekd.store.journal import Journal
from edgekd.store.store import Store
from edgekd.store.upkeep import collect, export, garbage, import_archive, sizes


def make(store: Store, key: str, content: bytes = b"weights") -> str:
    folder = store.work_folder(key)
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "w.bin").write_bytes(content)
    artifact = store.commit(
        key, kind="model", facts={"n": 1}, folder=folder, files=["sub/w.bin"], ingredients={"seed": 0}
    )
    store.discard_work(key)
    return artifact.digest


def test_a_committed_artifact_is_found_by_its_key_with_the_same_content(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = make(store, "k1")
    found = store.lookup("k1")
    assert found is not None
    assert found.digest == digest
    assert found.path("sub/w.bin").read_bytes() == b"weights"
    assert found.facts == {"n": 1}


def test_equal_content_under_two_keys_is_stored_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    assert make(store, "k1") == make(store, "k2")
    assert len(list((store.root / "objects").iterdir())) == 1


def test_what_is_measured_is_kept_with_the_key_and_changes_no_digest(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = make(store, "k1")
    folder = store.work_folder("k2")
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(b"weights")
    artifact = store.commit(
        "k2",
        kind="model",
        facts={"n": 1},
        folder=folder,
        files=["sub/w.bin"],
        ingredients={},
        measured={"p50": 3.1},
    )
    assert artifact.digest == digest
    record = store.key_record("k2")
    assert record is not None
    assert record["measured"] == {"p50": 3.1}


def test_a_changed_byte_in_an_object_is_an_error_not_a_result(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = make(store, "k1")
    (store.object_folder(digest) / "sub" / "w.bin").write_bytes(b"weightz")
    with pytest.raises(StoreError, match="does not match its digest"):
        store.lookup("k1")


def test_a_key_whose_object_is_gone_is_simply_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = make(store, "k1")
    (store.object_folder(digest) / "manifest.json").unlink()
    assert store.lookup("k1") is None


def test_a_half_made_object_without_manifest_is_replaced_by_a_commit(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    digest = make(store, "k1")
    (store.object_folder(digest) / "manifest.json").unlink()
    assert make(store, "k1") == digest
    assert store.lookup("k1") is not None


def test_a_truncated_key_file_names_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    make(store, "k1")
    path = store.root / "keys" / "k1.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(StoreError, match=r"keys/k1\.json"):
        store.lookup("k1")


def test_a_file_in_the_place_of_the_store_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write"):
        Store(tmp_path / "s")


def test_a_store_of_another_layout_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s")
    (tmp_path / "s" / "layout.json").write_text('{"version": 99}')
    with pytest.raises(StoreError, match="layout 99"):
        Store(tmp_path / "s")


def test_the_journal_computes_once_and_survives_a_reopening(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"x": len(calls)}

    path = tmp_path / "journal.jsonl"
    assert Journal(path)("a", compute) == {"x": 1}
    assert Journal(path)("a", compute) == {"x": 1}
    assert len(calls) == 1


def test_a_journal_line_cut_short_is_computed_again_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal("a", lambda: 1)
    journal("b", lambda: 2)
    path.write_bytes(path.read_bytes()[:-5])
    again = Journal(path)
    assert again("a", lambda: 10) == 1
    assert again("b", lambda: 20) == 20
    assert Journal(path)("b", lambda: 30) == 20


def test_two_holders_of_one_lock_exclude_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    first, second = store.lock("k"), store.lock("k")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    code = f"""
        import time
        from pathlib import Path
        from edgekd.store.store import Store
        lock = Store(Path({str(tmp_path / "s")!r})).lock("k")
        assert lock.try_acquire()
        print("held", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not store.lock("k").try_acquire()
        os.kill(process.pid, signal.SIGKILL)
    lock = store.lock("k")
    deadline = time.monotonic() + 5
    while not lock.try_acquire():
        assert time.monotonic() < deadline
    lock.release()


def test_garbage_is_what_no_key_and_no_run_uses(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    kept, dropped = make(store, "k1", b"a"), make(store, "k2", b"b")
    store.forget("k2")
    (store.cache_folder("c") / "x").write_bytes(b"123")
    assert {p.name for p in garbage(store).paths} == {"c"}, "a new object may be about to get its key"
    os.utime(store.object_folder(dropped), (0, 0))
    assert {p.name for p in garbage(store).paths} == {dropped, "c"}
    collect(store)
    assert store.lookup("k1") is not None
    assert not store.object_folder(dropped).exists()
    assert store.object_folder(kept).exists()


def test_unfinished_work_is_not_garbage(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    (store.work_folder("k9") / "checkpoint.pt").write_bytes(b"x")
    collect(store)
    assert (store.root / "work" / "k9" / "checkpoint.pt").exists()


def test_work_that_nobody_came_back_to_for_a_week_is_garbage(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = store.work_folder("k9")
    os.utime(folder, (0, 0))
    collect(store)
    assert not folder.exists()


def test_sizes_count_bytes_by_part(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    (store.work_folder("k") / "x").write_bytes(b"12345")
    assert sizes(store)["work"] == 5


def test_an_exported_archive_gives_another_store_the_same_artifacts(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    digest = make(one, "k1")
    assert export(one, ["k1", "absent"], tmp_path / "x.tar") == 1
    assert import_archive(other, tmp_path / "x.tar") == 1
    found = other.lookup("k1")
    assert found is not None
    assert found.digest == digest


@pytest.mark.parametrize("cut", [0, 100, 1500])
def test_an_archive_cut_short_is_refused_and_leaves_the_store_as_it_was(tmp_path: Path, cut: int) -> None:
    one, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    make(one, "k1")
    export(one, ["k1"], tmp_path / "x.tar")
    (tmp_path / "y.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:cut])
    with pytest.raises(UsageError):
        import_archive(other, tmp_path / "y.tar")
    assert list((other.root / "objects").iterdir()) == []


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "e.tar", "w") as tar:
        tar.add(tmp_path / "evil", arcname="objects/../../evil")
    with pytest.raises(UsageError, match="unexpected member"):
        import_archive(Store(tmp_path / "s"), tmp_path / "e.tar")


def test_an_archive_whose_artifact_was_changed_is_refused(tmp_path: Path) -> None:
    one = Store(tmp_path / "a")
    digest = make(one, "k1")
    export(one, ["k1"], tmp_path / "x.tar")
    blob = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "y.tar").write_bytes(blob.replace(b"weights", b"weightz"))
    with pytest.raises(UsageError, match="broken artifact"):
        import_archive(Store(tmp_path / "b"), tmp_path / "y.tar")
    assert not (tmp_path / "b" / "objects" / digest).exists()


def test_the_key_record_is_json_that_says_what_the_key_is_made_of(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    make(store, "k1")
    assert json.loads((store.root / "keys" / "k1.json").read_text())["ingredients"] == {"seed": 0}
