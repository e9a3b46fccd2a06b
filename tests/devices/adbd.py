"""A real adbd (Debian trixie's) behind a virtual cable, with mksh and toybox as its shell and its tools.

Two network namespaces, `ours` and `theirs`, joined by one cable; adb's server runs in `ours`, adbd in
`theirs`, in namespaces of its own (processes, mounts), so that nothing of it outlives the test. It is not
Android: no SELinux, no Android binaries, and it runs as root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekd.targets.adb import AdbTarget
from tests.devices import namespaces
from tests.devices.namespaces import THEIRS, THERE, ip, joined, missing, within
from tests.devices.root_filesystem import extracted, kept

SUITE = "trixie"
PACKAGES = (
    *("adbd", "mksh", "toybox", "python3.13-minimal", "libpython3.13-stdlib"),
    *("libc6", "libstdc++6", "libgcc-s1", "zlib1g"),
)
PORT, SERVER_PORT = 5555, 5199
NAME = "phone"
START_S = 20.0
# The last mount is small, so that it can be full. Android's folder for files of the shell is /data/local/tmp.
DEVICE = """set -e
R={root}
mount -t proc proc $R/proc
for d in null zero urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
mount -t devpts devpts $R/dev/pts -o newinstance,ptmxmode=0666
ln -sf pts/ptmx $R/dev/ptmx
mount -t tmpfs tmpfs $R/tmp
mount -t tmpfs tmpfs $R/data
mkdir -p $R/data/local/tmp $R/data/small
mount -t tmpfs -o size=8m tmpfs $R/data/small
exec chroot $R /system/bin/env -i PATH=/system/bin ADBD_PORT={port} HOME=/data/local/tmp {adbd}
"""
ADBD = "/usr/lib/android-sdk/platform-tools/adbd"


def why_not() -> str | None:
    """What is missing here, or None."""
    lacking = missing({"adb": "adb", "mmdebstrap": "mmdebstrap", "unshare": "util-linux"})
    return lacking or namespaces.why_not()


def root_filesystem() -> Path:
    """The device's files, made once. Raises `RuntimeError` where Debian's archive cannot be reached."""
    return kept(f"adbd-{SUITE}", [SUITE, PACKAGES, Path(__file__).read_text()], _build)


def _build(root: Path) -> None:
    extracted(root, SUITE, PACKAGES)
    for name in ("bin", "sbin", "lib", "lib64"):  # what Debian's package `base-files` would do
        (root / "usr" / name).mkdir(exist_ok=True)
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for name in ("proc", "dev/pts", "tmp", "data", "system/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    _only_toybox(root)


def _only_toybox(root: Path) -> None:
    """As on Android: mksh is `sh`, toybox is nearly everything else; and a Python, as Termux has one."""
    for path in (root / "usr/bin/sh", root / "system/bin/sh"):
        path.unlink(missing_ok=True)
        path.symlink_to("/usr/bin/mksh")
    applets = (
        subprocess.run([root / "usr/bin/toybox"], capture_output=True, check=True).stdout.decode().split()
    )
    for name in applets:
        if name != "[" or not (root / "system/bin/[").exists():
            (root / "system/bin" / name).symlink_to("/usr/bin/toybox")
    (root / "system/bin/python3").symlink_to("/usr/bin/python3.13")


@dataclass
class Adbd:
    """A device that runs. `bin` holds the `adb` that is to be first on PATH."""

    folder: Path
    root: Path
    ours: str
    theirs: str

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever uses the device: where it is, and an `adb` that is in the right namespace."""
        return {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            f"EDGEKD_DEVICE_{NAME.upper()}": f"adb://{THEIRS}:{PORT}",
        }

    def target(self, **fields: object) -> AdbTarget:
        return AdbTarget.model_validate({"name": NAME, "server_port": SERVER_PORT, **fields})

    def cable(self, state: str) -> None:
        """`up` or `down`."""
        ip("-n", self.theirs, "link", "set", THERE, state)

    def processes(self) -> list[str]:
        """Command lines of what runs on the device, adbd apart."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (path / "root").readlink() == self.root:
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
        return [line for line in found if line and not line.startswith(ADBD)]

    def files(self) -> list[str]:
        """Files below the folders that a session may write, as the device sees them."""
        words = [str(self.bin / "adb"), "-s", f"{THEIRS}:{PORT}", "shell", "-T", "find /data /tmp -type f"]
        environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(SERVER_PORT)}
        connect = [words[0], "connect", f"{THEIRS}:{PORT}"]
        subprocess.run(connect, env=environment, capture_output=True, timeout=START_S, check=True)
        done = subprocess.run(words, env=environment, capture_output=True, timeout=START_S, check=True)
        return done.stdout.decode().split()


@contextmanager
def running_adbd(folder: Path) -> Iterator[Adbd]:
    """A device at the other end of a cable; afterwards no process, namespace or server is left."""
    root = root_filesystem()
    with joined("adb") as (ours, theirs):
        device, process = Adbd(folder, root, ours, theirs), None
        try:
            _make_program(device)
            script = DEVICE.format(root=root, port=PORT, adbd=ADBD)
            # Killing `unshare` kills the first process of its namespace, and with that all others.
            apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
            with (folder / "adbd.log").open("wb") as log:
                process = subprocess.Popen([*within(theirs), *apart], stdout=log, stderr=log)
            _wait_for(device, process)
            yield device
        finally:
            _tear_down(device, process)


def _make_program(device: Adbd) -> None:
    """An `adb` whose server, keys and notes are the test's own."""
    device.bin.mkdir(parents=True)
    program = device.bin / "adb"
    home = f"HOME={device.folder} ANDROID_SDK_HOME={device.folder}"
    real = shutil.which("adb")
    program.write_text(f'#!/bin/sh\nexec {" ".join(within(device.ours))} env {home} {real} "$@"\n')
    program.chmod(0o755)


def _wait_for(device: Adbd, process: subprocess.Popen[bytes]) -> None:
    log, deadline = device.folder / "adbd.log", time.monotonic() + START_S
    while "adbd started" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"adbd does not run:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)


def _tear_down(device: Adbd, process: subprocess.Popen[bytes] | None) -> None:
    if (device.bin / "adb").exists():
        environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(SERVER_PORT)}
        stop = [str(device.bin / "adb"), "kill-server"]
        subprocess.run(stop, env=environment, capture_output=True, timeout=START_S, check=False)
    if process is not None:
        process.send_signal(signal.SIGKILL)
        process.wait()
