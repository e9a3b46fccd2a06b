"""A transport to this very machine: a shell at the other end of a pipe, with folders of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from edgekd.core.errors import TargetError
from edgekd.targets.processes import finish, kill_group
from edgekd.targets.remote import RemoteTarget
from edgekd.targets.target import Finished
from edgekd.targets.transport import Transport

NAME = "pipe"


class PipeTransport(Transport):
    """Real processes, real files; nothing is in between that could be lost, but a keeper can be killed."""

    name = NAME

    def __init__(self, environment: Mapping[str, str], noise: str) -> None:
        self._environment, self._noise = {**os.environ, **environment}, noise
        self.started: list[subprocess.Popen[bytes]] = []
        self.put_files: list[str] = []

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float) -> Finished:
        return finish(self._popen(command), stdin, timeout_s, self.name)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        self.started.append(self._popen(f"{self._noise}{command}"))
        return self.started[-1]

    def put(self, local: Path, remote: str, *, timeout_s: float) -> None:
        self.put_files.append(Path(remote).name)
        try:
            shutil.copyfile(local, remote)
        except OSError as error:
            raise TargetError(f"cannot push {local}: {error}", where=self.name) from error

    def get(self, remote: str, local: Path, *, timeout_s: float) -> None:
        shutil.copyfile(remote, local)

    def close(self) -> None:
        for process in self.started:
            kill_group(process)
            for stream in (process.stdin, process.stdout, process.stderr):
                with suppress(OSError):
                    if stream is not None:
                        stream.close()
            process.wait()

    def _popen(self, command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", command],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


class PipeTarget(RemoteTarget):
    """`folder` is where the "device" keeps its cache and its lease."""

    name: str = NAME
    kind: str = "pipe"
    python: str = sys.executable
    folder: Path
    noise: str = ""
    """Shell commands before the keeper, as a login shell's start-up file may hold."""

    def transport(self) -> PipeTransport:
        places = {"XDG_CACHE_HOME": f"{self.folder}/cache", "EDGEKD_LEASE_DIR": f"{self.folder}/lease"}
        return PipeTransport(places, self.noise)

    def sessions(self) -> list[Path]:
        return sorted((self.folder / "cache" / "edgekd" / "sessions").glob("s-*"))

    def tickets(self) -> list[Path]:
        return sorted((self.folder / "lease").glob("*"))

    def objects(self) -> list[Path]:
        return sorted((self.folder / "cache" / "edgekd" / "objects").glob("*"))
