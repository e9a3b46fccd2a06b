"""What a target is: a place that files can be pushed to, commands run on and files pulled from."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator

from edgekd.core.config import Config

MOST_THREADS = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Finished:
    """A command that came to its end: exit code (negative: killed by that signal) and both streams."""

    code: int
    stdout: bytes
    stderr: bytes


class Session(ABC):
    """A private folder on a target, and the commands that run in it, as long as the session is open."""

    python: tuple[str, ...]
    """How the target's Python is called."""

    @abstractmethod
    def push(self, local: Path, name: str | None = None) -> str:
        """Copy a file into the session's folder as `name`; returns its path as commands there see it."""

    @abstractmethod
    def pull(self, remote: str, local: Path) -> None:
        """Fetch a file from the session's folder to `local`.

        Raises `TargetError` when it is not there, `OSError` when `local` cannot be written.
        """

    @abstractmethod
    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run a command in the session's folder and wait for it.

        A command that ends, however badly, is returned; one that exceeds `timeout_s` is killed with all it
        started. Raises `TargetError` for that and for a target that cannot be reached.
        """

    def undisturbed(self) -> AbstractContextManager[None]:
        """Around timed work: no other session of edgekd works on the machine meanwhile.

        A device at the other end of a wire belongs to one session as long as it is open; this machine is
        shared until something is timed. Raises `TargetError` when others keep it for too long.
        """
        return nullcontext()


class Target(Config):
    """A named place to run on. A kind of target is a subclass, whose further fields are its options."""

    name: str
    kind: str
    threads: int = 1
    """Threads of the runtime within one run."""
    cores: tuple[int, ...] | None = None
    """Cores to pin to (on big.LITTLE: the big cluster); None leaves it to the kernel."""
    options: dict[str, Any] = {}
    """Passed to the backend's runtime, such as `{"providers": [...]}`."""
    expect: dict[str, str] = {}
    """Facts that the device must report (`cpu: Cortex-A76`: contained in it); else nothing timed is valid."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a target's name has letters, digits, `.`, `_` and `-` only: it names a folder")
        return name

    @field_validator("threads")
    @classmethod
    def _positive(cls, threads: int) -> int:
        if not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads must be at least 1 and at most {MOST_THREADS}")
        return threads

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The same place, its runtime asked for something else."""
        return self.model_copy(update={"options": {**self.options, **options}})

    def facts(self) -> dict[str, Any]:
        """How it is reached and set up; what the device is, its agent says."""
        return self.model_dump(mode="json")

    def session(self) -> AbstractContextManager[Session]:
        """Open a session; leaving it removes everything that was pushed or written there.

        Raises `TargetError` when the target cannot be reached.
        """
        raise NotImplementedError(f"{type(self).__name__} has no session")
