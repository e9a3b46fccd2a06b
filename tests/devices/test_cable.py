"""Whole measuring sessions through a cable that is pulled, slow, or ends at another device the next time."""

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

from edgekd.core.errors import TargetError
from edgekd.targets.remote import RemoteSession
from edgekd.targets.traces import processes_of
from tests.devices.cable import Cable
from tests.devices.conftest import WAIT_S, eventually
from tests.devices.measuring import Journal, measure, values
from tests.devices.sshd import HOST, Sshd, children, make_key, restart

pytestmark = [pytest.mark.devices, pytest.mark.slow, pytest.mark.timeout(600)]
LARGE = 3_000_000


def during_run(patch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> None:
    """Do it while the agent's process of that number (from 1) is seen to run on the device."""
    run, count = RemoteSession.run, 0

    def watched(session: RemoteSession, *arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            threading.Thread(target=act, args=(Path(session.folder),)).start()
        return run(session, *arguments, **named)

    def act(folder: Path) -> None:
        eventually(lambda: processes_of(folder), "no agent runs")
        action()

    patch.setattr(RemoteSession, "run", watched)


@pytest.mark.parametrize("number", [2, 4], ids=["while answering", "while timing"])
def test_a_cable_pulled_while_measuring_costs_one_process(
    cable: tuple[Cable, Sshd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    wire, server = cable
    journal = Journal()
    with monkeypatch.context() as patch:
        during_run(patch, number, wire.pull)
        with pytest.raises(TargetError, match="the link to it was lost") as lost:
            measure(server.target(), tmp_path, journal)
    assert server.host not in str(lost.value)
    assert len(journal.values) == number - 1
    done = dict(journal.values)
    wire.plug()
    eventually(server.answers, "the cable carries nothing")
    measured = measure(server.target(), tmp_path, journal)
    assert {key: journal.values[key] for key in done} == done
    assert set(values(measured, "host_agreement").values()) == {1.0}


def test_an_agent_killed_while_measuring_costs_one_process(
    cable: tuple[Cable, Sshd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, server = cable
    journal = Journal()

    def kill() -> None:
        for folder in server.sessions:
            for pid in processes_of(folder):
                os.kill(pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        during_run(patch, 2, kill)
        with pytest.raises(TargetError, match="no answer, killed by signal 9"):
            measure(server.target(), tmp_path, journal)
    assert len(journal.values) == 1
    assert values(measure(server.target(), tmp_path, journal), "accuracy")


def test_a_slow_cable_changes_no_answer(cable: tuple[Cable, Sshd], tmp_path: Path) -> None:
    wire, server = cable
    try:
        wire.limit("400kbit")
    except OSError as error:
        pytest.skip(str(error))
    started = time.monotonic()
    measured = measure(server.target(), tmp_path, Journal())
    assert time.monotonic() - started > 3, "it was not slow"
    assert set(values(measured, "host_agreement").values()) == {1.0}


def test_the_place_of_a_command_that_was_killed_is_taken_by_the_next(cable: tuple[Cable, Sshd]) -> None:
    """The device cannot know: the cable was out when the command was killed."""
    wire, server = cable
    words = [sys.executable, "-c", HOST, server.target().model_dump_json()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        folder = Path(host.stdout.readline().strip())
        eventually(lambda: processes_of(folder), "the command does not run")
        wire.pull()
        clients = children(host.pid)
        host.kill()
        for pid in clients:
            os.kill(pid, signal.SIGKILL)
    assert server.tickets
    wire.plug()
    with server.target().session() as session:
        assert not folder.exists()
        assert session.run(["echo", "on"], timeout_s=WAIT_S).stdout == b"on\n"


def test_a_keeper_that_hangs_does_not_keep_its_own_host_out(cable: tuple[Cable, Sshd]) -> None:
    _, server = cable
    with server.target().open() as session:
        folder = Path(session.folder)
        (keeper,) = server.keepers()
        os.kill(keeper, signal.SIGSTOP)
        session._link._process.kill()
    with server.target().session() as session:
        assert not folder.exists()
        assert session.run(["echo", "on"], timeout_s=WAIT_S).stdout == b"on\n"


def test_an_upload_that_a_cable_cuts_leaves_no_half_file(
    cable: tuple[Cable, Sshd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, server = cable
    (tmp_path / "large").write_bytes(os.urandom(LARGE))
    try:
        wire.limit("4mbit")
    except OSError as error:
        pytest.skip(str(error))

    def cut(folder: Path) -> None:
        eventually((folder / "large.part").exists, "nothing arrives")
        wire.pull()

    with server.target().open() as session:
        folder = Path(session.folder)
        cutting = threading.Thread(target=cut, args=(folder,))
        cutting.start()
        with pytest.raises(TargetError, match=r"the link to it was lost|no progress"):
            session.push(tmp_path / "large")
        cutting.join()
        assert not (folder / "large").exists()
    wire.plug()
    wire.limit(None)
    eventually(server.answers, "the cable carries nothing")
    with server.target().open() as session:
        assert not folder.exists()
        session.push(tmp_path / "large")
        assert (Path(session.folder) / "large").read_bytes() == (tmp_path / "large").read_bytes()


def test_another_device_at_the_same_address_is_refused(
    cable: tuple[Cable, Sshd],
) -> None:
    """Exchanged while nobody looked: it lets us in, and it is not the one that was pinned."""
    _, server = cable
    target, pinned = server.target(), server.host_key
    keys = {name: (server.folder / name).read_bytes() for name in ("host", "host.pub")}
    for name in keys:
        (server.folder / name).unlink()
    make_key(server.folder / "host")
    restart(server)
    try:
        with pytest.raises(TargetError, match="its host key is") as refused, target.session():
            pass
        assert pinned.fingerprint in str(refused.value) and server.host_key.fingerprint in str(refused.value)
        assert server.host not in str(refused.value)
    finally:
        for name, content in keys.items():
            (server.folder / name).write_bytes(content)
        restart(server)
    with target.session() as session:
        assert session.run(["echo", "on"], timeout_s=WAIT_S).stdout == b"on\n"
