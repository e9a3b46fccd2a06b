"""Keeps a hostile graph from taking a device's memory; pushed beside runtime.py, standard library alone."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def limit_to_what_is_free() -> None:
    """From now on this process gets no more memory than is free now: what asks for more fails at once.

    Else Linux promises any amount, and kills a process, not always this one, when it is used. Nothing is
    limited where the system does not say what is free.
    """
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    used = _kilobytes(Path("/proc/self/status"), "VmData")
    if resource is None or free is None or used is None:
        return
    wanted = (free + used) << 10
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _kilobytes(path: Path, name: str) -> Optional[int]:  # noqa: UP045 - Python 3.8
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), None)
