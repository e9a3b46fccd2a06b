"""This machine as a target: fresh processes in a private temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from edgekd.core.errors import TargetError
from edgekd.targets.folders import private_folder
from edgekd.targets.lease import this_machine
from edgekd.targets.processes import finish
from edgekd.targets.target import Finished, Session, Target

_PREFIX = "edgekd-target-"
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONDEVMODE", "PYTHONWARNINGS", "LD_PRELOAD")


class LocalTarget(Target):
    """The machine edgekd runs on."""

    kind: Literal["local"] = "local"

    @contextmanager
    def session(self) -> Iterator[Session]:
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(private_folder(_PREFIX))
            except OSError as error:
                raise TargetError(f"cannot make a temporary folder: {error}", where=self.name) from error
            yield LocalSession(self.name, folder)


class LocalSession(Session):
    """A temporary folder; a command is a child process in a process group of its own."""

    python = (sys.executable, "-B")

    def __init__(self, target: str, folder: Path) -> None:
        self.target = target
        self.folder = folder

    def push(self, local: Path, name: str | None = None) -> str:
        name = name or local.name
        try:
            shutil.copyfile(local, self.folder / name)
        except OSError as error:
            raise TargetError(f"cannot push {local}: {error}", where=self.target) from error
        return name

    def pull(self, remote: str, local: Path) -> None:
        try:
            source = (self.folder / remote).open("rb")
        except OSError as error:
            raise TargetError(f"cannot pull {remote}: {error}", where=self.target) from error
        with source, local.open("wb") as copy:  # a full disk here is the host's, not the target's
            shutil.copyfileobj(source, copy)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=self.folder,
                env={**_clean_environment(), **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(f"cannot start {argv[0]}: {error}", where=self.target) from error
        return finish(process, stdin, timeout_s, self.target)

    def undisturbed(self) -> AbstractContextManager[None]:
        return this_machine(self.target)


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _DROPPED}
