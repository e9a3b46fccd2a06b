"""Who waits for a busy device, and how long: set once by a command, asked for by every target.

A device is leased by one session at a time, because two jobs on one device are each other's noise. The queue
itself is `edgekd.targets.tickets`; on a remote device its keeper stands in it, on this machine we do.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from edgekd.core.errors import TargetError
from edgekd.targets.tickets import Ticket, lease_folder

PATIENCE_S = 600.0
"""How long timing on this machine waits at least: the others let go after every process of theirs."""
_POLL_S = 0.2
_wait_s: ContextVar[float] = ContextVar("edgekd_wait_s", default=0.0)
_tell: ContextVar[Callable[[str], None] | None] = ContextVar("edgekd_wait_tell", default=None)


@contextmanager
def waiting(seconds: float, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within, a busy device is waited for up to `seconds`; `tell` is told whom we wait for."""
    before, told = _wait_s.set(seconds), _tell.set(tell)
    try:
        yield
    finally:
        _wait_s.reset(before)
        _tell.reset(told)


def wait_s() -> float:
    """How long to wait for a busy device, in seconds."""
    return _wait_s.get()


def tell_queue(name: str, holder: Mapping[str, Any], before: int) -> None:
    """Say whom the device `name` is waited for, to whoever asked to be told."""
    tell = _tell.get()
    if tell is not None:
        others = f", {before - 1} more before us" if before > 1 else ""
        tell(f"waiting for {name}: {_held(holder)}{others}")


def busy(name: str, holder: Mapping[str, Any], before: int) -> TargetError:
    """The device is somebody else's."""
    others = f", {before - 1} more waiting" if before > 1 else ""
    waited = f" (waited {wait_s():.0f} s)" if wait_s() else ""
    return TargetError(
        f"busy: {_held(holder)}{others}{waited}", where=name, fix="wait in the queue: `--wait 30m`"
    )


def who() -> str:
    """This user, machine and process, as others in the queue see us."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} (process {os.getpid()})"


@contextmanager
def this_machine(name: str) -> Iterator[None]:
    """Have this machine to ourselves. Raises `TargetError` when others keep it for too long."""
    try:
        ticket = Ticket(lease_folder(), {"who": who(), "beats": False})
    except OSError as error:
        raise TargetError(
            f"cannot queue for this machine in {lease_folder()}: {error.strerror or error}",
            where=name,
            fix="set EDGEKD_LEASE_DIR to a folder that every user of this machine may write to",
        ) from error
    try:
        _stand(ticket, name)
        yield
    finally:
        ticket.leave()


def _stand(ticket: Ticket, name: str) -> None:
    deadline, told = time.monotonic() + max(wait_s(), PATIENCE_S), 0
    while ahead := ticket.ahead():
        if time.monotonic() >= deadline:
            raise busy(name, ahead[0], len(ahead))
        if len(ahead) != told:
            told = len(ahead)
            tell_queue(name, ahead[0], told)
        time.sleep(_POLL_S)


def _held(holder: Mapping[str, Any]) -> str:
    age = holder.get("for_s")
    since = "" if age is None else f" for {age:.0f} s" if age < 120 else f" for {age / 60:.0f} min"
    return f"{holder.get('who', 'somebody')} has held it{since}"
