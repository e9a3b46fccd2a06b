"""Fetches on this machine the wheels that another one needs: its processor, its C library, its Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.errors import TargetError

_DOWNLOAD_S = 900.0
_TAIL_CHARACTERS = 800
_LEGACY = {"x86_64": {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}, "i686": {5: "manylinux1"}}
_LEGACY_ELSEWHERE = {17: "manylinux2014"}
_32_BIT = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}
_NEWEST_MUSL = 2


@dataclass(frozen=True)
class Platform:
    """What decides which wheels fit; `libc` as `platform.libc_ver()` says it, ("", "") where it is musl."""

    python: str
    machine: str
    bits: int
    libc: tuple[str, str]

    @property
    def processor(self) -> str:
        """Of the userland: a 64-bit kernel may carry a 32-bit one."""
        return _32_BIT.get(self.machine, self.machine) if self.bits == 32 else self.machine

    @property
    def python_minor(self) -> str:
        return ".".join(self.python.split(".")[:2])

    def tags(self) -> list[str]:
        """Every platform tag that runs there, the most demanding first.

        pip compares tags literally: a wheel for `manylinux2014` is not found by asking for `manylinux_2_28`.
        """
        return list(self._tags())

    def _tags(self) -> Iterator[str]:
        processor, (libc, version) = self.processor, self.libc
        number = re.fullmatch(r"2\.(\d+)", version)
        if libc == "glibc" and number:
            legacy = _LEGACY.get(processor, _LEGACY_ELSEWHERE)
            for minor in range(int(number[1]), min(legacy) - 1, -1):
                yield f"manylinux_2_{minor}_{processor}"
                if minor in legacy:
                    yield f"{legacy[minor]}_{processor}"
        else:
            yield from (f"musllinux_1_{minor}_{processor}" for minor in range(_NEWEST_MUSL, -1, -1))
        yield f"linux_{processor}"


def download(packages: Sequence[str], platform: Platform, folder: Path, *, name: str) -> list[Path]:
    """The wheels of `packages` and all they need, for `platform`, in `folder`, by this machine's pip.

    Raises `TargetError` where there is no such wheel, no network or no pip.
    """
    tags = [part for tag in platform.tags() for part in ("--platform", tag)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", platform.python_minor]
    try:
        done = subprocess.run(
            [*command, *tags, "--dest", str(folder), *packages],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DOWNLOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"pip download took more than {_DOWNLOAD_S:.0f} s here", where=name) from error
    if done.returncode != 0:
        raise explain(done.stderr.decode(errors="replace"), platform, name=name, here=True)
    return sorted(folder.glob("*.whl"))


def explain(said: str, platform: Platform, *, name: str, here: bool) -> TargetError:
    """What pip's failure means; `here`: on this machine, else on the device."""
    machine = "this machine" if here else "the device"
    missing = re.search(r"No matching distribution found for (\S+)", said)
    if "No module named pip" in said:
        return TargetError(
            f"{machine} has no pip",
            where=name,
            fix=f"`{sys.executable} -m ensurepip`, or `uv pip install pip`",
        )
    if re.search(r"name resolution|NewConnectionError|ConnectTimeout|Network is unreachable|No route", said):
        other = (
            "fetch the wheels where there is a network" if here else "`--offline`: this machine fetches them"
        )
        return TargetError(f"{machine} does not reach the package index", where=name, fix=other)
    if missing:
        return TargetError(
            f"there is no wheel of `{missing[1]}` for Python {platform.python_minor} on {platform.processor} "
            f"({' '.join(platform.libc).strip() or 'musl'})",
            where=name,
            fix="a 64-bit system with glibc, and a Python that the package supports (see pypi.org)",
        )
    if "No space left" in said:
        return TargetError(f"the disk of {machine} is full", where=name, fix="free about 500 MB there")
    return TargetError(f"pip failed on {machine}: {said.strip()[-_TAIL_CHARACTERS:]}", where=name)
