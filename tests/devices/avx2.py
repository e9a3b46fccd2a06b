"""An x86 processor with AVX2 and without VNNI, emulated by qemu, behind a real sshd.

Its files are this machine's. qemu imitates the processor and not the kernel, so that a /proc/cpuinfo of such
a processor is put before the one of this machine.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.devices.namespaces import missing
from tests.devices.sshd import NEEDED, SSHD, Sshd, running_sshd

EMULATOR = "qemu-x86_64-static"
CPU = "Haswell-v4"
"""Without transactional memory, as Intel's microcode left it."""
FLAGS = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 "
    "syscall nx rdtscp lm constant_tsc pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx "
    "f16c rdrand lahf_lm abm fsgsbase bmi1 avx2 smep bmi2 erms"
)
_LINES = {"vendor_id": "GenuineIntel", "model name": "Intel Core (Haswell, emulated)", "flags": FLAGS}


def why_not() -> str | None:
    """What is missing here, or None."""
    if platform.machine() != "x86_64":
        return f"runs this machine's own files, which are of {platform.machine()}"
    if SSHD is None:
        return f"needs {NEEDED}"
    return missing({EMULATOR: "qemu-user-static"})


@contextmanager
def running_avx2(folder: Path) -> Iterator[Sshd]:
    """A device whose `python` (in its folder) is an emulated one."""
    files = folder / "files"
    (files / "proc").mkdir(parents=True)
    (files / "proc" / "cpuinfo").write_text(cpuinfo(Path("/proc/cpuinfo").read_text()))
    program = python_of(folder)
    program.write_text(
        f'#!/bin/sh\nexec {shutil.which(EMULATOR)} -cpu {CPU} -L {files} {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    with running_sshd(folder) as server:
        yield server


def python_of(folder: Path) -> Path:
    return folder / "python"


def cpuinfo(real: str) -> str:
    """The machine's own, of as many cores, with the emulated processor's name and flags."""
    for key, value in _LINES.items():
        real = re.sub(rf"(?m)^({key}\s*: ).*", rf"\g<1>{value}", real)
    return real
