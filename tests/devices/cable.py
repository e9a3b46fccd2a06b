"""A virtual cable between two network namespaces, with an sshd at its far end: pulled, or slow."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.devices.namespaces import HERE, THEIRS, THERE, ip, joined, within
from tests.devices.sshd import Sshd, running_sshd


@dataclass
class Cable:
    """`bin` holds the `ssh` that is to be first on PATH: it runs at our end."""

    bin: Path
    ours: str
    theirs: str

    def pull(self) -> None:
        ip("-n", self.theirs, "link", "set", THERE, "down")

    def plug(self) -> None:
        ip("-n", self.theirs, "link", "set", THERE, "up")

    def limit(self, rate: str | None) -> None:
        """Both ways at most `rate` (as tc writes it, `800kbit`); None: as fast as it can."""
        for namespace, end in ((self.ours, HERE), (self.theirs, THERE)):
            words = ["tc", "qdisc", "del" if rate is None else "replace", "dev", end, "root"]
            shape = [] if rate is None else ["tbf", "rate", rate, "burst", "16kb", "latency", "500ms"]
            done = subprocess.run([*within(namespace), *words, *shape], capture_output=True)
            if done.returncode != 0 and rate is not None:
                raise OSError(f"this kernel cannot slow a cable down: {done.stderr.decode().strip()}")


@contextmanager
def laid(folder: Path) -> Iterator[tuple[Cable, Sshd]]:
    """Afterwards no namespace is left, and with them no cable."""
    folder.mkdir(parents=True)
    with joined("ssh") as (ours, theirs):
        cable = Cable(folder / "bin", ours, theirs)
        _make_program(cable)
        with running_sshd(folder / "sshd", host=THEIRS, prefix=within(theirs)) as server:
            yield cable, server


def _make_program(cable: Cable) -> None:
    cable.bin.mkdir()
    program = cable.bin / "ssh"
    program.write_text(f'#!/bin/sh\nexec {" ".join(within(cable.ours))} {shutil.which("ssh")} "$@"\n')
    program.chmod(0o755)
