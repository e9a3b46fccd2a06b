"""Whatever ends a session over ssh, nothing of it is left on the device, and the next one finds its place."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError
from edgekd.measure.device import Device
from edgekd.targets import keeping, lease
from edgekd.targets.remote import RemoteSession
from edgekd.targets.traces import processes_of
from tests.devices.cable import Cable
from tests.devices.conftest import WAIT_S, clean, eventually
from tests.devices.sshd import HOST, Sshd, children, command_of

pytestmark = pytest.mark.devices


def ssh_of(session: RemoteSession) -> subprocess.Popen[bytes]:
    return session._link._process


def later(seconds: float, action: Callable[..., object], *arguments: object) -> threading.Timer:
    timer = threading.Timer(seconds, action, arguments)
    timer.start()
    return timer


@contextlib.contextmanager
def while_running(
    session: RemoteSession, action: Callable[..., object], *arguments: object
) -> Iterator[None]:
    """Do it once a command of the session is seen to run."""

    def act() -> None:
        eventually(lambda: processes_of(Path(session.folder)), "the command does not run")
        action(*arguments)

    acting = later(0, act)
    yield
    acting.join()


def kill_all(folder: Path) -> None:
    for pid in processes_of(folder):
        os.kill(pid, signal.SIGKILL)


# --- ends of processes --------------------------------------------------------------------------------------


def test_a_killed_agent_is_told_with_its_signal(known: Sshd) -> None:
    target = known.target()
    with target.open() as session:
        device = Device(target, session)
        slow = "import time; time.sleep(100)"
        (known.folder / "agent.py").write_text(slow)
        session.push(known.folder / "agent.py")
        with (
            while_running(session, kill_all, Path(session.folder)),
            pytest.raises(TargetError, match=r"no answer, killed by signal 9"),
        ):
            device.call("facts")
        assert session.run(["echo", "on"], timeout_s=WAIT_S).stdout == b"on\n"


def test_a_killed_host_leaves_nothing(known: Sshd) -> None:
    words = [sys.executable, "-c", HOST, known.target().model_dump_json()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        folder = Path(host.stdout.readline().strip())
        eventually(lambda: processes_of(folder), "the command does not run")
        clients = children(host.pid)
        host.kill()
        clean(known, folder)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in clients), "an ssh is left here")


def test_an_interrupted_host_leaves_nothing(known: Sshd) -> None:
    words = [sys.executable, "-c", HOST, known.target().model_dump_json()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        folder = Path(host.stdout.readline().strip())
        eventually(lambda: processes_of(folder), "the command does not run")
        host.send_signal(signal.SIGINT)
        host.wait(WAIT_S)
        assert not folder.exists(), "it ended before the device was clean"
    clean(known, folder)


def test_a_killed_ssh_is_a_lost_link(known: Sshd) -> None:
    with known.target().open() as session:
        folder = Path(session.folder)
        with (
            while_running(session, ssh_of(session).kill),
            pytest.raises(TargetError, match=r"ssh connection failed|link to it was lost"),
        ):
            session.run(["sleep", "100"], timeout_s=WAIT_S)
        with pytest.raises(TargetError):
            session.push(Path(__file__))
        clean(known, folder)


def test_a_server_that_drops_the_connection_is_a_lost_link(known: Sshd) -> None:
    def drop() -> None:
        for pid in _above(known.keepers()[0], known.process.pid):
            os.kill(pid, signal.SIGKILL)

    with known.target().open() as session:
        folder = Path(session.folder)
        with while_running(session, drop), pytest.raises(TargetError, match="link to it was lost"):
            session.run(["sleep", "100"], timeout_s=WAIT_S)
        clean(known, folder)


def _above(pid: int, root: int) -> list[int]:
    """The processes of sshd that serve the connection of `pid`."""
    found = []
    while (pid := int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])) != root:
        if b"sshd" in command_of(pid):
            found.append(pid)
    return found


def test_a_stopped_ssh_is_no_sign_of_life(known: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SILENCE_S", 2.0)
    monkeypatch.setattr(keeping, "BEAT_S", 0.3)
    with known.target().open() as session:
        folder, ssh = Path(session.folder), ssh_of(session)
        os.kill(ssh.pid, signal.SIGSTOP)

        def wake_when_clean() -> None:
            clean(known, folder)
            os.kill(ssh.pid, signal.SIGCONT)

        later(0, wake_when_clean)
        with pytest.raises(TargetError, match=r"no sign of life from here for 2 s"):
            session.run(["sleep", "100"], timeout_s=WAIT_S)
        assert not folder.exists()


def test_a_killed_keeper_is_cleaned_up_after_by_the_next(known: Sshd) -> None:
    with known.target().open() as session:
        folder = Path(session.folder)
        os.kill(known.keepers()[0], signal.SIGKILL)
        with pytest.raises(TargetError):
            session.run(["true"], timeout_s=WAIT_S)
    with known.target().open() as session:
        assert session.about["orphans"] == 1
    clean(known, folder)


def test_a_keeper_that_was_stopped_is_ended_by_the_next_session(known: Sshd) -> None:
    with known.target().open(lease=False) as session:
        folder = Path(session.folder)
        os.kill(known.keepers()[0], signal.SIGSTOP)
        ssh_of(session).kill()
    os.utime(folder / ".keeper", (0, 0))  # as after a minute and a half
    with known.target().open(lease=False) as session:
        assert session.about["orphans"] == 1
    clean(known, folder)


def test_a_keeper_whose_clock_jumped_goes_on(known: Sshd) -> None:
    with known.target().open(lease=False) as session:
        os.utime(Path(session.folder) / ".keeper", (0, 0))
        with known.target().open(lease=False) as other:
            assert other.about["orphans"] == 0
        assert session.run(["echo", "on"], timeout_s=WAIT_S).stdout == b"on\n"


# --- the lease ----------------------------------------------------------------------------------------------


def test_a_busy_device_is_waited_for_if_asked(known: Sshd) -> None:
    target = known.target()
    told: list[str] = []
    with target.open() as first:
        with pytest.raises(TargetError, match=r"busy: (.|\n)*--wait 30m"), target.session():
            pass
        release = later(1.5, first._link.end)
        with lease.waiting(WAIT_S, told.append), target.session() as second:
            assert second.run(["echo", "mine"], timeout_s=WAIT_S).stdout == b"mine\n"
        release.join()
    assert len(told) == 1 and "has held it" in told[0]


def queued(server: Sshd, count: int) -> bool:
    return len(server.tickets) == count


def test_three_wait_in_the_order_they_came(known: Sshd) -> None:
    order: list[int] = []

    def wait_in_line(number: int) -> None:
        with lease.waiting(WAIT_S), known.target().session():
            order.append(number)

    line = [threading.Thread(target=wait_in_line, args=(number,)) for number in range(3)]
    with known.target().session():
        for number, thread in enumerate(line):
            thread.start()
            eventually(partial(queued, known, number + 2), "it does not queue")
        assert order == []
    for thread in line:
        thread.join(WAIT_S)
    assert order == [0, 1, 2]


# --- the cable ----------------------------------------------------------------------------------------------


def test_a_pulled_cable_is_noticed_and_the_next_session_takes_the_place(cable: tuple[Cable, Sshd]) -> None:
    wire, server = cable
    with server.target().open() as session:
        folder, started = Path(session.folder), 0.0

        def pull() -> None:
            nonlocal started
            started = time.monotonic()
            wire.pull()

        with while_running(session, pull), pytest.raises(TargetError, match="link to it was lost") as lost:
            session.run(["sleep", "100"], timeout_s=100)
        assert time.monotonic() - started < 45
        assert server.host not in str(lost.value)
        assert folder.exists(), "the device cannot know yet"
    wire.plug()
    eventually(server.answers, "the cable carries nothing")
    with server.target().open() as session:
        assert not folder.exists(), "our own lost session held our place, no longer than needed"
        assert session.run(["echo", "on"], timeout_s=WAIT_S).stdout == b"on\n"


def test_a_cable_pulled_for_a_moment_is_no_loss(cable: tuple[Cable, Sshd]) -> None:
    wire, server = cable

    def wiggle() -> None:
        wire.pull()
        time.sleep(1.5)
        wire.plug()

    with server.target().open() as session, while_running(session, wiggle):
        finished = session.run(["sh", "-c", "sleep 4; echo done"], timeout_s=WAIT_S)
    assert finished.stdout == b"done\n"


def test_a_device_behind_a_pulled_cable_cannot_be_reached(cable: tuple[Cable, Sshd]) -> None:
    wire, server = cable
    wire.pull()
    with pytest.raises(TargetError, match="cannot be reached"), server.target().session():
        pass
