"""A session on a device, whatever the way to it: a real keeper at the other end of a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgekd.core.errors import TargetError
from edgekd.targets import keeping, remote
from edgekd.targets.remote import RemoteSession
from edgekd.targets.traces import processes_of
from tests.targets.pipe import PipeTarget, PipeTransport

WAIT_S = 20.0


@pytest.fixture
def target(tmp_path: Path) -> PipeTarget:
    return PipeTarget(folder=tmp_path / "device")


def eventually(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def transport_of(session: RemoteSession) -> PipeTransport:
    transport = session._transport
    assert isinstance(transport, PipeTransport)
    return transport


def test_files_go_there_and_come_back(target: PipeTarget, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\x00content\n")
    with target.session() as session:
        there = session.push(tmp_path / "in", "out")
        finished = session.run(["cat", there], timeout_s=WAIT_S)
        session.pull(there, tmp_path / "back")
    assert finished.stdout == b"\x00content\n"
    assert (tmp_path / "back").read_bytes() == b"\x00content\n"


def test_large_files_go_through_the_transport(target: PipeTarget, tmp_path: Path) -> None:
    content = os.urandom(remote._SMALL_BYTES + 1)
    (tmp_path / "large").write_bytes(content)
    with target.open() as session:
        session.push(tmp_path / "large")
        session.pull("large", tmp_path / "back")
        assert transport_of(session).put_files == ["large"]
    assert (tmp_path / "back").read_bytes() == content


def test_exit_code_and_both_streams_are_kept_apart(target: PipeTarget) -> None:
    with target.session() as session:
        finished = session.run(["sh", "-c", "cat; echo err >&2; exit 255"], stdin=b"in", timeout_s=WAIT_S)
        killed = session.run(["sh", "-c", "kill -9 $$"], timeout_s=WAIT_S)
    assert (finished.code, finished.stdout, finished.stderr) == (255, b"in", b"err\n")
    assert killed.code == -signal.SIGKILL


def test_arguments_arrive_as_they_are(target: PipeTarget) -> None:
    odd = ["a b", "it's", '"$HOME"', "*", "", "new\nline", "ü"]
    with target.session() as session:
        show = [*session.python, "-c", "import sys; print(ascii(sys.argv[1:]))", *odd]
        finished = session.run(show, timeout_s=WAIT_S, env={"X": "$(exit 1)"})
    assert finished.stdout.decode().strip() == ascii(odd)


def test_much_goes_in_and_out(target: PipeTarget) -> None:
    with target.session() as session:
        finished = session.run(["cat"], stdin=b"x" * 3_000_000, timeout_s=WAIT_S)
    assert len(finished.stdout) == 3_000_000


def test_a_command_that_ignores_its_input_does_not_block(target: PipeTarget) -> None:
    with target.session() as session:
        assert session.run(["true"], stdin=b"x" * 3_000_000, timeout_s=WAIT_S).code == 0


def test_a_command_that_closes_its_output_is_waited_for(target: PipeTarget) -> None:
    with target.session() as session:
        finished = session.run(["sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 5"], timeout_s=WAIT_S)
    assert finished.code == 5


def test_a_command_that_takes_too_long_is_killed_with_its_children(target: PipeTarget) -> None:
    with target.open() as session:
        with pytest.raises(TargetError, match=r"within 1 s.*last words: tail") as raised:
            session.run(["sh", "-c", "sleep 60 & echo tail >&2; wait"], timeout_s=0.6)
        eventually(lambda: not processes_of(Path(session.folder)), "the child lives on")
        assert session.run(["echo", "next"], timeout_s=WAIT_S).stdout == b"next\n"
    assert raised.value.exit_code == 4


def test_a_program_that_is_not_there_cannot_be_started(target: PipeTarget) -> None:
    with target.session() as session, pytest.raises(TargetError, match="cannot start /no/such"):
        session.run(["/no/such"], timeout_s=WAIT_S)


def test_a_file_that_is_not_there_cannot_be_pulled(target: PipeTarget, tmp_path: Path) -> None:
    with target.session() as session, pytest.raises(TargetError, match="cannot pull absent: No such file"):
        session.pull("absent", tmp_path / "x")


@pytest.mark.parametrize("name", ["../up", "a/b", ".keeper"])
def test_a_file_cannot_be_pushed_out_of_the_folder(target: PipeTarget, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").write_bytes(b"")
    with target.session() as session, pytest.raises(TargetError, match="cannot name a file"):
        session.push(tmp_path / "in", name)


def test_what_is_not_here_cannot_be_pushed(target: PipeTarget, tmp_path: Path) -> None:
    with target.session() as session, pytest.raises(TargetError, match="cannot push"):
        session.push(tmp_path / "absent")


def test_nothing_stays_behind(target: PipeTarget, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x")
    with target.open() as session:
        folder = Path(session.folder)
        session.push(tmp_path / "in")
        session.run(["sh", "-c", "cd / && setsid sleep 60 > /dev/null 2>&1 &"], timeout_s=WAIT_S)
        assert len(processes_of(folder)) == 1, "it left the folder, but carries the session's variable"
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
    assert processes_of(folder) == []
    assert target.tickets() == []


def test_a_login_shells_chatter_is_no_answer(tmp_path: Path) -> None:
    noise = """echo Welcome; echo '{"keeper": 2}'; echo "[1]"; printf half; """
    noisy = PipeTarget(folder=tmp_path, noise=noise)
    with noisy.session() as session:
        assert session.run(["echo", "hello"], timeout_s=WAIT_S).stdout == b"hello\n"


def test_a_killed_keeper_ends_the_session_and_the_next_one_cleans_up(target: PipeTarget) -> None:
    with target.open() as session:
        folder = Path(session.folder)
        os.killpg(transport_of(session).started[0].pid, signal.SIGKILL)
        with pytest.raises(TargetError, match="the link to it was lost"):
            session.run(["true"], timeout_s=WAIT_S)
    assert folder.exists()
    with target.open() as session:
        assert session.about["orphans"] == 1
        assert not folder.exists()


def test_a_killed_host_leaves_nothing(target: PipeTarget) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom tests.targets.pipe import PipeTarget\n"
        f"with PipeTarget(folder=Path({str(target.folder)!r})).open() as session:\n"
        "    print(session.folder, flush=True)\n"
        "    session.run(['sleep', '100'], timeout_s=100)\n"
    )
    host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with host:
        assert host.stdout is not None
        folder = Path(host.stdout.readline().strip())
        eventually(lambda: processes_of(folder), "the command does not run")
        assert len(target.tickets()) == 1
        host.kill()
        eventually(lambda: not folder.exists(), "the folder stays")
    eventually(lambda: not target.tickets(), "the lease stays")
    assert processes_of(folder) == []


def test_a_host_that_is_no_longer_heard_is_gone(target: PipeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SILENCE_S", 0.8)
    monkeypatch.setattr(keeping, "BEAT_S", 0.1)
    with target.open() as session:
        folder = Path(session.folder)
        session.run(["sleep", "1.2"], timeout_s=WAIT_S)
        session._link._over.set()  # no more signs of life
        eventually(lambda: not folder.exists(), "the keeper waits on")
        with pytest.raises(TargetError, match="no sign of life from here for 1 s"):
            session._link.ask("free")
        with pytest.raises(TargetError):
            session.run(["true"], timeout_s=WAIT_S)
    assert target.tickets() == []


def test_an_interrupted_command_is_killed_there(target: PipeTarget) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with target.open() as session:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(Interrupted):
                session.run(["sleep", "100"], timeout_s=100)
            eventually(lambda: not processes_of(Path(session.folder)), "it runs on")
            assert session.run(["echo", "on"], timeout_s=WAIT_S).stdout == b"on\n"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_device_without_python_says_so(tmp_path: Path) -> None:
    bare = PipeTarget(folder=tmp_path, python="/no/python3")
    with (
        pytest.raises(TargetError, match=r"it has no `/no/python3`(.|\n)*apt install python3"),
        bare.session(),
    ):
        pass


def test_a_python_that_is_too_old_says_so(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho edgekd-needs-python-3.8 2.7.18\nexit 1\n")
    old.chmod(0o755)
    target = PipeTarget(folder=tmp_path, python=str(old))
    with pytest.raises(TargetError, match=r"its Python is 2\.7\.18, 3\.8 or newer"), target.session():
        pass


def test_a_full_or_closed_disk_is_the_devices_own_error(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("a file where a folder should be")
    target = PipeTarget(folder=tmp_path)
    with pytest.raises(TargetError, match=r"no session there: .*is not a folder"), target.session():
        pass


def test_threads_do_not_outlive_their_session(target: PipeTarget) -> None:
    with target.session():
        pass
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "edgekd-pipe"], "a thread lives on")


# --- the cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def caching(target: PipeTarget, monkeypatch: pytest.MonkeyPatch) -> PipeTarget:
    monkeypatch.setattr(remote, "_SMALL_BYTES", 10)
    return target.model_copy(update={"cache": "1.5kB"})


def push(target: PipeTarget, path: Path) -> list[str]:
    """What went through the transport, and so was not in the cache."""
    with target.open() as session:
        session.push(path)
        assert session.run(["cat", path.name], timeout_s=WAIT_S).stdout == path.read_bytes()
        return list(transport_of(session).put_files)


def make(path: Path, size: int, letter: bytes) -> Path:
    path.write_bytes(letter * size)
    return path


def test_nothing_is_kept_unless_asked_for(target: PipeTarget, tmp_path: Path) -> None:
    push(target, make(tmp_path / "a", remote._SMALL_BYTES + 1, b"a"))
    assert target.objects() == []


def test_what_is_there_is_not_sent_again(caching: PipeTarget, tmp_path: Path) -> None:
    one = make(tmp_path / "one", 1000, b"a")
    assert push(caching, one) == ["one"]
    assert push(caching, one) == []
    assert push(caching, make(tmp_path / "other-name", 1000, b"a")) == []


def test_a_damaged_object_is_sent_again(caching: PipeTarget, tmp_path: Path) -> None:
    one = make(tmp_path / "one", 1000, b"a")
    push(caching, one)
    (stored,) = caching.objects()
    stored.chmod(0o600)
    stored.write_bytes(b"b" * 1000)
    assert push(caching, one) == ["one"]
    assert push(caching, one) == []


def test_the_longest_unused_goes_first(caching: PipeTarget, tmp_path: Path) -> None:
    a, b, c = (make(tmp_path / name, 600, name.encode()) for name in "abc")
    push(caching, a)
    push(caching, b)
    for age, stored in enumerate(caching.objects()):
        is_a = stored.read_bytes()[:1] == b"a"
        os.utime(stored, (1e9 + is_a + age, 1e9 + 10 * is_a))
    assert push(caching, c) == ["c"]
    assert sorted(stored.read_bytes()[:1] for stored in caching.objects()) == [b"a", b"c"]
    assert push(caching, b) == ["b"]


def test_what_is_larger_than_the_cap_is_not_kept(caching: PipeTarget, tmp_path: Path) -> None:
    push(caching, make(tmp_path / "small", 1000, b"s"))
    push(caching, make(tmp_path / "large", 2000, b"l"))
    assert [stored.stat().st_size for stored in caching.objects()] == [1000]


@pytest.mark.parametrize(
    ("cache", "size"), [("200MB", 200_000_000), ("1.5 GB", 1_500_000_000), ("10kB", 10_000), (None, 0)]
)
def test_a_cache_has_a_size(tmp_path: Path, cache: str | None, size: int) -> None:
    assert PipeTarget(folder=tmp_path, cache=cache).cache_bytes == size


@pytest.mark.parametrize("wrong", [{"cache": "much"}, {"cache": "-1MB"}, {"python": ""}, {"python": "-c"}])
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PipeTarget.model_validate({"folder": tmp_path, **wrong})


def test_the_cache_is_no_property_of_a_measurement(tmp_path: Path) -> None:
    assert "cache" not in PipeTarget(folder=tmp_path, cache="1MB").facts()
