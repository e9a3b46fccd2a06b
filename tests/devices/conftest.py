"""Ends a run of the device tests with what ran and what did not, and why; and what they share."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.devices.sshd import NEEDED, SSHD, Sshd, running_sshd

WAIT_S = 60.0


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


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait for what is about to happen: machines that run tests are slow."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# --- the summary --------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line a file: how many ran; then what was skipped, and why."""
    ran: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            file = report.nodeid.partition("::")[0]
            if not file.startswith("tests/devices/"):
                continue
            ran[file][outcome] += 1
            if outcome == "skipped":
                reasons[(file, str(report.longrepr[2]).removeprefix("Skipped: "))] += 1
    if not ran:
        return
    terminalreporter.section("devices: what ran, what did not, and why")
    for file, counts in sorted(ran.items()):
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        terminalreporter.write_line(f"{file}: {told}")
    for (file, reason), count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run ({count}) in {Path(file).name}: {reason}")
