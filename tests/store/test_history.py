from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.core.errors import StoreError, UsageError
from edgekd.store.history import ARTIFACTS, RECIPES, HistoryLog
from edgekd.store.store import Store


@pytest.fixture
def log(tmp_path: Path) -> HistoryLog:
    return HistoryLog(Store(tmp_path))


def ids(log: HistoryLog, name: str = "tiny") -> list[str]:
    return [entry["id"] for entry in log.of_recipe(name).entries]


def test_entries_are_read_back_in_the_order_they_came(log: HistoryLog) -> None:
    for name in ("one", "two", "three"):
        assert log.append(RECIPES, "tiny", {"id": name, "n": 1.5})
    assert ids(log) == ["one", "two", "three"]
    assert log.of_recipe("tiny").entries[0] == {"id": "one", "n": 1.5}


def test_the_same_entry_is_kept_once(log: HistoryLog) -> None:
    assert [log.append(RECIPES, "tiny", {"id": "one"}) for _ in range(2)] == [True, False]
    assert ids(log) == ["one"]


def test_files_that_were_joined_by_hand_give_each_entry_once(log: HistoryLog) -> None:
    log.append(RECIPES, "tiny", {"id": "one"})
    path = log.folder / RECIPES / "tiny.jsonl"
    path.write_bytes(2 * path.read_bytes())
    assert ids(log) == ["one"]


def test_a_last_line_cut_short_costs_only_itself(log: HistoryLog) -> None:
    for name in ("one", "two"):
        log.append(RECIPES, "tiny", {"id": name})
    path = log.folder / RECIPES / "tiny.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    log.append(RECIPES, "tiny", {"id": "three"})
    lines = log.of_recipe("tiny")
    assert [entry["id"] for entry in lines.entries] == ["one", "three"]
    assert lines.problems == [f"{path}: 1 line is damaged and left out"]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b"{}", b'{"id": 3}', b"[" * 100_000])
def test_lines_that_are_no_entries_are_counted(log: HistoryLog, line: bytes) -> None:
    log.append(RECIPES, "tiny", {"id": "one"})
    with (log.folder / RECIPES / "tiny.jsonl").open("ab") as stream:
        stream.write(line + b"\n")
    lines = log.of_recipe("tiny")
    assert ([entry["id"] for entry in lines.entries], len(lines.problems)) == (["one"], 1)


def test_an_artifact_is_found_in_whichever_file_holds_it(log: HistoryLog) -> None:
    log.append(RECIPES, "tiny", {"id": "one", "digest": "abc123"})
    log.append(ARTIFACTS, "abc1", {"id": "two", "digest": "abc124"})
    log.append(RECIPES, "other", {"id": "three", "digest": "def"})
    assert {entry["id"] for entry in log.holding("abc12").entries} == {"one", "two"}
    assert log.holding("fff").entries == []


def test_recipes_are_named_the_last_measured_at_the_end(log: HistoryLog) -> None:
    for number, name in enumerate(("b.ablation", "a", "c")):
        log.append(RECIPES, name, {"id": name})
        os.utime(log.folder / RECIPES / f"{name}.jsonl", (number, number))
    assert log.recipes() == ["b.ablation", "a", "c"]


def test_nothing_measured_is_an_empty_history(log: HistoryLog) -> None:
    assert (log.recipes(), log.of_recipe("tiny").entries, log.holding("a").entries) == ([], [], [])


@pytest.mark.parametrize("name", ["../tiny", "a/b", ".hidden", "", "nul\0"])
def test_a_name_that_leaves_the_folder_is_refused(log: HistoryLog, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a history"):
        log.append(RECIPES, name, {"id": "one"})


def test_a_history_that_cannot_be_written_is_an_error_of_the_store(log: HistoryLog) -> None:
    (log.folder / RECIPES / "tiny.jsonl").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"tiny\.jsonl: cannot write"):
        log.append(RECIPES, "tiny", {"id": "one"})


_WRITER = """
import sys
from pathlib import Path
from edgekd.store.history import HistoryLog
from edgekd.store.store import Store
log = HistoryLog(Store(Path(sys.argv[1])))
for number in range(15):
    log.append("recipes", "tiny", {"id": f"{sys.argv[2]}{number}", "text": "x" * 20_000})
"""


def test_two_processes_at_once_lose_nothing(log: HistoryLog) -> None:
    root = str(log.folder.parent)
    both = [subprocess.Popen([sys.executable, "-c", _WRITER, root, name]) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    lines = log.of_recipe("tiny")
    assert (len(lines.entries), lines.problems) == (30, [])
