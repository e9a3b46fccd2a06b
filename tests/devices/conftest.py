"""Ends a run of the device tests with what ran and what did not, and why; and what they share."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekd.targets.traces import processes_of
from tests.devices import namespaces
from tests.devices.cable import Cable, laid
from tests.devices.sshd import NEEDED, SSHD, Sshd, running_sshd

WAIT_S = 60.0
PARTS = {
    "server": "a real sshd on loopback",
    "wired": "a real sshd in a network namespace, behind a cable that is pulled and slowed",
    "device": "a real adbd (Debian's) in a network namespace, behind a cable that is pulled",
    "arm": "a 64-bit Arm userland (Debian's, run by qemu) behind a real sshd",
    "haswell": "an x86 processor without VNNI (qemu's) behind a real sshd",
    "_package_index": "a package index, pip and virtual environments",
}
"""Fixture -> the real part that a test has by it."""
_PART = "real part"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd on loopback; afterwards nothing of any session is left."""
    if SSHD is None:
        pytest.skip(f"needs {NEEDED}")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running
        assert running.sessions == []
        assert running.tickets == []


@pytest.fixture
def known(server: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sshd:
    """The server, whose address and key this test's environment names."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cable, Sshd]]:
    """A cable with an sshd at its far end."""
    reason = f"needs {NEEDED}" if SSHD is None else namespaces.why_not()
    if reason is not None:
        pytest.skip(reason)
    with laid(tmp_path_factory.mktemp("cable") / "x") as both:
        yield both


@pytest.fixture
def cable(wired: tuple[Cable, Sshd], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cable, Sshd]]:
    """The same, known to this test's environment; afterwards it is plugged in, and the device is clean."""
    cable, server = wired
    monkeypatch.setenv("PATH", f"{cable.bin}:{os.environ['PATH']}")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    yield wired
    cable.plug()
    cable.limit(None)
    clean(server, Path("/no/folder"))


def clean(server: Sshd, folder: Path) -> None:
    """Nothing of the session is left, or soon so."""
    eventually(lambda: not folder.exists(), "the folder is left")
    eventually(lambda: not processes_of(folder), "a process is left")
    eventually(lambda: not server.tickets, "the lease is left")


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait for what is about to happen: machines that run tests are slow."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# --- the summary --------------------------------------------------------------------------------------------


def pytest_itemcollected(item: Any) -> None:
    """Which real parts a test has; its reports carry that, from a worker as well, to whoever tells it."""
    chosen = getattr(item, "callspec", None)
    names = {*item.fixturenames, *(str(value) for value in (chosen.params.values() if chosen else ()))}
    item.user_properties += [(_PART, part) for name, part in PARTS.items() if name in names]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line a real part: how many tests had it; then what was skipped, and why."""
    ran: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for part in _parts(report):
                ran[part][outcome] += 1
                if outcome == "skipped":
                    reasons[part, str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
    if not ran:
        return
    terminalreporter.section("real parts: what ran, what did not, and why")
    for part, counts in sorted(ran.items()):
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        terminalreporter.write_line(f"{part}: {told}")
    for (part, reason), count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run ({count}) with {part}: {reason}")


def _parts(report: Any) -> list[str]:
    if not report.nodeid.startswith("tests/devices/"):
        return []
    return [part for name, part in report.user_properties if name == _PART] or ["without any of these"]
