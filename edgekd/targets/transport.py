"""What ssh and adb have in common: commands and files on one device."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from edgekd.core.errors import TargetError
from edgekd.targets.target import Finished


class Transport(ABC):
    """Commands and files on one device: no folder of its own, no lease.

    Raises `TargetError` for a device that is unreachable, lost, refuses or exceeds a limit.
    """

    name: str
    """The device's name in the devices file; never its address."""

    @abstractmethod
    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float) -> Finished:
        """Run one POSIX shell command line and wait for it; however badly it ends, it is returned."""

    @abstractmethod
    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a long-lived command, whose standard input and output are pipes."""

    @abstractmethod
    def put(self, local: Path, remote: str, *, timeout_s: float) -> None:
        """Copy a file to `remote`, whole or not at all: under another name first."""

    @abstractmethod
    def get(self, remote: str, local: Path, *, timeout_s: float) -> None:
        """Fetch `remote` to `local`. Raises `OSError` when `local` cannot be written."""

    @abstractmethod
    def close(self) -> None:
        """End what the transport itself keeps open on this machine."""

    def trouble(self) -> TargetError:
        """Why what was started ended unexpectedly, as far as the transport knows."""
        return TargetError("the link to it was lost", where=self.name)


def full_disk(name: str, doing: str, free_bytes: int | None) -> TargetError:
    """There is no room on the device `name` for what was to be done."""
    room = "" if free_bytes is None else f", {free_bytes / 1e6:.1f} MB free"
    return TargetError(
        f"cannot {doing}: its disk is full{room}",
        where=name,
        fix=f"make room there; `edgekd device clean {name}` removes what edgekd keeps",
    )
