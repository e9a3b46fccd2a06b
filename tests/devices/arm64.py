"""A 64-bit Arm userland behind a real sshd: Debian's, with the wheels that a Raspberry Pi gets, run by qemu.

The server itself is this machine's; whoever logs in is in the board's root (see `boot.py`). It shows what an
Arm processor computes, what is in the wheels, and how the device is talked to. It shows nothing of times.
"""

from __future__ import annotations

import compileall
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgekd.core.errors import TargetError
from edgekd.targets.wheels import Platform, download
from tests.devices import board_files
from tests.devices.namespaces import missing
from tests.devices.root_filesystem import extracted, kept
from tests.devices.sshd import NEEDED, SSHD, Sshd, running_sshd

SUITE = "bookworm"
SYSTEM = Platform("3.11.2", "aarch64", 64, ("glibc", "2.36"))
"""Bookworm's Python, processor and C library."""
PACKAGES = ("python3-minimal", "libpython3.11-stdlib", "libstdc++6", "bash", "dash", "coreutils")
PYTHON = "/usr/bin/python3"
SITE = "usr/local/lib/python3.11/dist-packages"
CPU = "cortex-a76"
EMULATOR = "qemu-aarch64-static"
BOOT = Path(__file__).with_name("boot.py")
AT = "/srv"
"""Where the board's root appears, in namespaces of its own: sshd asks that nobody else may write above it."""


def why_not() -> str | None:
    """What is missing here, or None."""
    if os.geteuid() != 0:
        return "needs root, for a user namespace with more than one user"
    if platform.machine() != "x86_64":
        return f"compares with x86, and this machine is of {platform.machine()}"
    if SSHD is None:
        return f"needs {NEEDED}"
    lacking = missing({EMULATOR: "qemu-user-static", "mmdebstrap": "mmdebstrap", "chroot": "coreutils"})
    if lacking is not None:
        return lacking
    tried = subprocess.run([*_booted(), "true"], capture_output=True)
    if tried.returncode != 0:
        return f"namespaces with a binfmt_misc of their own are not allowed here: {_last_line(tried.stderr)}"
    return None


def _last_line(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]


def _booted(**settings: str) -> list[str]:
    emulator = shutil.which(EMULATOR)
    return [sys.executable, str(BOOT), json.dumps({"emulator": emulator, **settings})]


def root_filesystem() -> Path:
    """The board's files, made once. Raises `RuntimeError` where packages cannot be had."""
    runtime = [f"{name}=={version(name)}" for name in ("numpy", "onnxruntime")]
    sources = [Path(module.__file__ or "").read_text() for module in (sys.modules[__name__], board_files)]

    def build(root: Path) -> None:
        extracted(root, SUITE, PACKAGES, architecture="arm64")
        _install(runtime, root / SITE)
        board_files.write(root)
        if sys.version_info[:2] == (3, 11):  # else it compiles at every start, which is slow
            compileall.compile_dir(root / "usr", stripdir=root, quiet=2)

    content: list[Any] = [SUITE, PACKAGES, runtime, sources]
    return kept(f"arm64-{SUITE}", content, build)


def _install(packages: list[str], site: Path) -> None:
    """The wheels that `edgekd device setup` would send, unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            wheels = download(packages, SYSTEM, Path(folder), name="arm64")
        except TargetError as error:
            raise RuntimeError(str(error)) from error
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)


class Arm64(Sshd):
    """The server, and what was written on the board outside of its shared folder."""

    @property
    def written(self) -> list[str]:
        """Files that are not of the root that was made."""
        upper = self.folder.parent / "upper"
        return sorted(str(path.relative_to(upper)) for path in upper.rglob("*") if path.is_file())


@contextmanager
def running_arm64(folder: Path) -> Iterator[Arm64]:
    """A board; afterwards none of its processes and mounts is left."""
    for name in ("upper", "work"):
        (folder / name).mkdir(parents=True)
    places = {name: str(folder / name) for name in ("upper", "work")}
    prefix = _booted(root=str(root_filesystem()), share=str(folder / "sshd"), at=AT, **places)
    with running_sshd(
        folder / "sshd", prefix=prefix, more=f"ChrootDirectory {AT}", variables={"QEMU_CPU": CPU}
    ) as server:
        yield Arm64(**vars(server))
