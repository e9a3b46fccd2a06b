"""Network namespaces of one test process, in pairs that a virtual cable joins."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

OURS, THEIRS = "192.0.2.1", "192.0.2.2"
HERE, THERE = "here", "there"
"""Names of the cable's ends; each is in a namespace of its own."""


def missing(programs: Mapping[str, str]) -> str | None:
    """The first of `programs` (name -> Debian package) that is not there, in words; or None."""
    for program, package in programs.items():
        if shutil.which(program) is None:
            return f"needs `{program}` (Debian: `apt-get install --no-install-recommends {package}`)"
    return None


def why_not() -> str | None:
    """Why there can be no network namespaces here, or None."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    lacking = missing({"ip": "iproute2"})
    if lacking is not None:
        return lacking
    name = f"edgekd-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    if made.returncode != 0:
        return f"network namespaces are not allowed here: {made.stderr.decode().strip()}"
    ip("netns", "delete", name)
    return None


@contextmanager
def joined(purpose: str) -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between, ours and theirs; afterwards none is left, and no cable."""
    ours, theirs = (f"edgekd-{purpose}-{os.getpid()}-{end}" for end in ("ours", "theirs"))
    try:
        for name in (ours, theirs):
            ip("netns", "add", name)
        ip("link", "add", HERE, "netns", ours, "type", "veth", "peer", THERE, "netns", theirs)
        for name, end, address in ((ours, HERE, OURS), (theirs, THERE, THEIRS)):
            ip("-n", name, "address", "add", f"{address}/30", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield ours, theirs
    finally:
        for name in (ours, theirs):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def within(namespace: str) -> list[str]:
    """What stands before a command that is to run there."""
    return ["ip", "netns", "exec", namespace]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
