"""What a container leaves of the machine: the processor and memory limits of this process's control group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


def core_quota(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> float | None:
    """Cores' worth of time that the group may use, the least of its parents; None: not limited."""
    quotas = [_quota_v2(folder / "cpu.max") for folder in _folders(root, membership, "")]
    quotas += [_quota_v1(folder) for folder in _folders(root, membership, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Bytes that the group may use, the least of its parents; None: not limited."""
    files = [folder / "memory.max" for folder in _folders(root, membership, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _folders(root, membership, "memory")]
    limits = [limit for file in files if (limit := _number(file)) is not None]
    return min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None)


def _folders(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """The group's folder and its parents. `controller` is empty for version 2's one hierarchy."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            group = root / controller / path.lstrip("/")
            yield from (group, *(p for p in group.parents if p.is_relative_to(root / controller)))


def _quota_v2(file: Path) -> float | None:
    """`cpu.max` holds `max 100000` or `50000 100000`: microseconds of time per period."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
