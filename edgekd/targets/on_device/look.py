"""Runs on the device: says which Python this is, what it lacks, and which modules it can import.

Sent by `edgekd.targets.asking`; imports only the standard library and `edgekd.targets.traces`, Python 3.8.
The request: `modules` (distribution to module name), which are really imported. The answer: see `main`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import struct
import sys
from pathlib import Path
from typing import Any

from edgekd.targets.traces import cache_home


def main(request: dict[str, Any]) -> dict[str, Any]:
    # OpenVINO imports it where it can, and then reports to its makers.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    venv = Path(cache_home(), "venv")
    return {
        "home": str(Path("~").expanduser()),
        "venv": str(venv),
        "venv_python": (venv / "bin" / "python").exists(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "base": str(Path(sys.base_prefix).resolve()),
        "machine": platform.machine(),
        "bits": struct.calcsize("P") * 8,
        "libc": list(platform.libc_ver()),
        "has_venv": present("venv"),
        "has_ensurepip": present("ensurepip"),
        "system_site": system_site(),
        "tensorrt": present("tensorrt"),
        "modules": {name: imported(module, name) for name, module in request["modules"].items()},
    }


def present(module: str) -> bool:
    """Whether it could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def imported(module: str, distribution: str) -> dict[str, str]:
    """`version` after a real import, `?` where it cannot be told, or `error`."""
    try:
        version = getattr(importlib.import_module(module), "__version__", None)
    except Exception as error:  # a broken installation raises anything
        return {"error": f"{type(error).__name__}: {error}"}
    return {"version": str(version or installed_version(distribution) or "?")}


def installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def system_site() -> bool:
    """Whether this is a virtual environment that sees the system's packages."""
    try:
        lines = Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8").lower().splitlines()
    except OSError:
        return False
    return any(line.replace(" ", "") == "include-system-site-packages=true" for line in lines)
