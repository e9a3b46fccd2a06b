"""Root file systems of emulated devices: made once, and kept for the next tests under a key of their content.

They lie in `EDGEKD_DEVICE_TEST_CACHE`, or in a private folder below the temporary one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.digest import of_data

BUILD_S = 300.0


def kept(name: str, content: Sequence[Any], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills, unless one of the same `content` is there already.

    Several test processes that want it build it once. What `build` raises is raised here.
    """
    root = _cache_folder() / f"{name}-{of_data(list(content))[:16]}"
    with (_cache_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            part = root.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            build(part)
            part.rename(root)
    return root


def extracted(root: Path, suite: str, packages: Sequence[str], *, architecture: str | None = None) -> None:
    """Debian's packages with all they need, unpacked into `root`; none of their scripts has run.

    Raises `RuntimeError` where Debian's archive cannot be reached.
    """
    of = [] if architecture is None else [f"--arch={architecture}"]
    words = ["mmdebstrap", "--quiet", "--variant=extract", *of, f"--include={','.join(packages)}"]
    done = subprocess.run([*words, suite, str(root)], capture_output=True, timeout=BUILD_S)
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"mmdebstrap cannot fetch Debian's {suite}: {tail}")


def _cache_folder() -> Path:
    chosen = os.environ.get("EDGEKD_DEVICE_TEST_CACHE")
    folder = Path(chosen or Path(tempfile.gettempdir(), f"edgekd-device-tests-{os.getuid()}"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder
