"""One session at a time on a device, in the order they came; the dead and the silent lose their turn."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError
from edgekd.targets import lease, tickets
from edgekd.targets.tickets import STALE_S, Ticket, holders
from tests.targets.pipe import PipeTarget
from tests.targets.test_remote import eventually

NOTE = {"who": "ann@build"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lease"


@pytest.fixture
def target(tmp_path: Path) -> PipeTarget:
    return PipeTarget(folder=tmp_path)


def make_old(ticket: Ticket) -> None:
    old = time.time() - STALE_S - 1
    os.utime(ticket.path, (old, old))


# --- the queue ----------------------------------------------------------------------------------------------


def test_the_first_owns_it_and_the_others_see_who_it_is(folder: Path) -> None:
    first, second, third = (Ticket(folder, {"who": f"user {i}"}) for i in range(3))
    assert first.ahead() == []
    assert [note["who"] for note in third.ahead()] == ["user 0", "user 1"]
    assert [note["who"] for note in holders(folder)] == ["user 0", "user 1", "user 2"]
    first.leave()
    assert second.ahead() == []
    assert len(third.ahead()) == 1
    second.leave()
    third.leave()
    assert list(folder.iterdir()) == []


def test_a_dead_owner_holds_nobody_up(folder: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom edgekd.targets.tickets import Ticket\n"
        f"ticket = Ticket(Path({str(folder)!r}), {NOTE!r})\nprint('in', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        ticket = Ticket(folder, NOTE)
        assert len(ticket.ahead()) == 1
        owner.kill()
    assert ticket.ahead() == []
    assert [path.name for path in folder.iterdir()] == [ticket.path.name]
    ticket.leave()


def test_an_owner_that_hangs_loses_its_turn_and_knows_it(folder: Path) -> None:
    hanging, next_one = Ticket(folder, NOTE), Ticket(folder, NOTE)
    make_old(hanging)
    assert next_one.ahead() == []
    assert hanging.expired()
    hanging.leave()
    assert not next_one.expired()
    next_one.leave()


def test_an_owner_without_a_pulse_is_believed_as_long_as_it_lives(folder: Path) -> None:
    timing, next_one = Ticket(folder, {**NOTE, "beats": False}), Ticket(folder, NOTE)
    make_old(timing)
    assert len(next_one.ahead()) == 1
    timing.leave()
    next_one.leave()


def test_a_touched_ticket_stays_fresh(folder: Path) -> None:
    owner, next_one = Ticket(folder, NOTE), Ticket(folder, NOTE)
    make_old(owner)
    owner.touch()
    assert len(next_one.ahead()) == 1
    owner.leave()
    next_one.leave()


def test_the_next_one_with_the_same_number_is_not_mistaken_for_an_old_one(folder: Path) -> None:
    old = Ticket(folder, NOTE)
    old.path.unlink()
    new = Ticket(folder, NOTE)
    assert new.path == old.path
    assert old.expired()
    old.leave()
    assert new.path.exists()
    new.leave()


def test_every_user_may_queue_and_none_may_take_anothers_place(folder: Path) -> None:
    ticket = Ticket(folder, NOTE)
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert ticket.path.stat().st_mode & 0o777 == 0o644
    ticket.leave()


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "lease").symlink_to(tmp_path / "real")
    with pytest.raises(NotADirectoryError):
        Ticket(tmp_path / "lease", NOTE)


@pytest.mark.parametrize(
    "text", ["", "not json", "[1]", json.dumps({"who": "a\x1b[2Jb" * 99, "since": "yesterday"})]
)
def test_what_others_write_is_not_believed(folder: Path, text: str) -> None:
    folder.mkdir()
    path = folder / "000000000001.ticket"
    path.write_text(text)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mine = Ticket(folder, NOTE)
        (note,) = mine.ahead()
    assert note["who"].isprintable() and len(note["who"]) <= 80
    assert note["for_s"] is None
    mine.leave()


def test_what_was_killed_before_it_became_a_ticket_goes(folder: Path) -> None:
    folder.mkdir()
    abandoned = folder / ".new-1-x"
    abandoned.touch()
    os.utime(abandoned, (1e9, 1e9))
    Ticket(folder, NOTE).leave()
    assert list(folder.iterdir()) == []


# --- devices ------------------------------------------------------------------------------------------------


def test_a_busy_device_says_who_holds_it_and_how_to_wait(target: PipeTarget) -> None:
    with (
        target.session(),
        pytest.raises(TargetError, match=r"busy: \S+@\S+ \(process \d+\) has held it for \d+ s(.|\n)*--wait"),
        target.session(),
    ):
        pass


def test_looking_neither_waits_nor_keeps_others_out(target: PipeTarget) -> None:
    with target.session(), target.open(lease=False) as look:
        assert len(look.about["queue"]) == 1
    with target.open(lease=False), target.session():
        pass


def test_waiting_for_too_long_ends(target: PipeTarget) -> None:
    with (
        target.session(),
        lease.waiting(0.5),
        pytest.raises(TargetError, match=r"busy: .*\(waited 0 s\)|busy: .*\(waited 1 s\)"),
        target.session(),
    ):
        pass


def queued(target: PipeTarget, count: int) -> bool:
    return len(target.tickets()) == count


def test_those_who_wait_come_in_the_order_they_came(target: PipeTarget) -> None:
    order: list[int] = []
    told: list[str] = []

    def wait_in_line(number: int) -> None:
        with lease.waiting(60, told.append), target.session():
            order.append(number)

    line = [threading.Thread(target=wait_in_line, args=(number,)) for number in range(3)]
    with target.session():
        for number, thread in enumerate(line):
            thread.start()
            eventually(partial(queued, target, number + 2), "it does not queue")
        assert order == []
    for thread in line:
        thread.join(60)
    assert order == [0, 1, 2]
    assert any("waiting for pipe: " in text and "2 more before us" in text for text in told)


def test_a_session_that_was_lost_is_replaced_at_once(target: PipeTarget) -> None:
    """Its keeper cannot know yet; nobody else may push in."""
    with target.open() as lost:
        link = lost._link
        link._over.set()
        keeper = int(json.loads(target.tickets()[0].read_text())["pid"])
        link._note.close(lost=True)  # as when our process is killed
        with target.session() as session:
            assert session.run(["true"], timeout_s=20).code == 0
        eventually(lambda: not Path(f"/proc/{keeper}/cwd").exists(), "the old keeper lives")


# --- this machine -------------------------------------------------------------------------------------------


def test_timing_here_waits_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_LEASE_DIR", str(tmp_path))
    other = Ticket(tmp_path, NOTE)
    threading.Timer(0.5, other.leave).start()
    told: list[str] = []
    started = time.monotonic()
    with lease.waiting(0, told.append), lease.this_machine("local"):
        assert time.monotonic() - started > 0.4
        assert len(holders(tmp_path)) == 1
    assert holders(tmp_path) == []
    assert told == ["waiting for local: ann@build has held it for 0 s"]


def test_timing_here_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_LEASE_DIR", str(tmp_path))
    monkeypatch.setattr(lease, "PATIENCE_S", 0.3)
    other = Ticket(tmp_path, NOTE)
    with pytest.raises(TargetError, match="busy: ann@build"), lease.this_machine("local"):
        pass
    other.leave()


def test_a_folder_that_cannot_be_used_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKD_LEASE_DIR", str(tmp_path / "file"))
    with (
        pytest.raises(TargetError, match=r"is not a folder(.|\n)*EDGEKD_LEASE_DIR"),
        lease.this_machine("local"),
    ):
        pass


def test_all_users_of_a_machine_meet_in_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKD_LEASE_DIR")
    assert tickets.lease_folder() == Path("/tmp/edgekd-lease")
