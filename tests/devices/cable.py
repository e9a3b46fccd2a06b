"""A virtual cable between two network namespaces, with an sshd at its far end: it can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.devices.sshd import Sshd, running_sshd

OURS, THEIRS = "192.0.2.1", "192.0.2.2"


@dataclass
class Cable:
    """`bin` holds the `ssh` that is to be first on PATH: it runs at our end."""

    bin: Path
    ours: str
    theirs: str

    def pull(self) -> None:
        _ip("-n", self.theirs, "link", "set", "there", "down")

    def plug(self) -> None:
        _ip("-n", self.theirs, "link", "set", "there", "up")


def why_not() -> str | None:
    """What is missing here, or None."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs `ip` (Debian: `apt-get install --no-install-recommends iproute2`)"
    name = f"edgekd-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    if made.returncode != 0:
        return f"network namespaces are not allowed here: {made.stderr.decode().strip()}"
    _ip("netns", "delete", name)
    return None


@contextmanager
def laid(folder: Path) -> Iterator[tuple[Cable, Sshd]]:
    """Afterwards no namespace is left, and with them no cable."""
    folder.mkdir(parents=True)
    cable = Cable(folder / "bin", f"edgekd-ssh-{os.getpid()}-ours", f"edgekd-ssh-{os.getpid()}-theirs")
    try:
        _lay(cable)
        _make_program(cable)
        with running_sshd(
            folder / "sshd", host=THEIRS, prefix=["ip", "netns", "exec", cable.theirs]
        ) as server:
            yield cable, server
    finally:
        for name in (cable.ours, cable.theirs):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _lay(cable: Cable) -> None:
    for name in (cable.ours, cable.theirs):
        _ip("netns", "add", name)
    _ip("link", "add", "here", "netns", cable.ours, "type", "veth", "peer", "there", "netns", cable.theirs)
    for name, end, address in ((cable.ours, "here", OURS), (cable.theirs, "there", THEIRS)):
        _ip("-n", name, "address", "add", f"{address}/30", "dev", end)
        _ip("-n", name, "link", "set", end, "up")
        _ip("-n", name, "link", "set", "lo", "up")


def _make_program(cable: Cable) -> None:
    cable.bin.mkdir()
    program = cable.bin / "ssh"
    program.write_text(f'#!/bin/sh\nexec ip netns exec {cable.ours} {shutil.which("ssh")} "$@"\n')
    program.chmod(0o755)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
