"""Child processes that cannot outlive what they are for: limits, Ctrl-C, and last words."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

from edgekd.core.errors import TargetError
from edgekd.targets.target import Finished

_TAIL_BYTES = 2000
_PIECE = 1 << 16


def finish(
    process: subprocess.Popen[bytes],
    stdin: bytes,
    timeout_s: float,
    where: str,
    told: Callable[[str], str] = str,
) -> Finished:
    """Give a process (started in a session of its own) its input, and wait for its end.

    Raises `TargetError` after `timeout_s`. Then, and when interrupted, it is killed with all it started;
    `told` is what may be told of its last words.
    """
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            kill_group(process)
            _, stderr = process.communicate()
            raise late(stderr, timeout_s, where, told) from error
        except BaseException:  # Ctrl-C among them: nothing may be left running
            kill_group(process)
            raise
    return Finished(process.returncode, stdout, stderr)


def late(stderr: bytes, timeout_s: float, where: str, told: Callable[[str], str] = str) -> TargetError:
    """A command took longer than it may."""
    tail = told(stderr[-_TAIL_BYTES:].decode(errors="replace").strip())
    return TargetError(
        f"no answer within {timeout_s:.0f} s, killed; its last words: {tail or '(none)'}", where=where
    )


def watch(process: subprocess.Popen[bytes], position: Callable[[], int], stall_s: float) -> Finished:
    """Wait for a process as long as `position()` goes on changing, at least every `stall_s`.

    Raises `TimeoutError` when it does not; then, and when interrupted, the process is killed.
    """
    seen = position()
    with process:
        try:
            while True:
                try:
                    stdout, stderr = process.communicate(timeout=stall_s)
                    return Finished(process.returncode, stdout, stderr)
                except subprocess.TimeoutExpired:
                    before, seen = seen, position()
                    if seen == before:
                        raise TimeoutError from None
        except BaseException:
            kill_group(process)
            raise


def pieces(stream: IO[bytes], stall_s: float) -> Iterator[bytes]:
    """What comes through a pipe, until its end. Raises `TimeoutError` when nothing comes for `stall_s`."""
    while True:
        readable, _, _ = select.select([stream], [], [], stall_s)
        if not readable:
            raise TimeoutError
        piece = os.read(stream.fileno(), _PIECE)
        if not piece:
            return
        yield piece


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started. Not once it was reaped: its number may then be a stranger's."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
