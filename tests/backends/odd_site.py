"""A folder of installed packages, in front of the real ones, for a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli.running import REPOSITORY


def installed(folder: Path, distribution: str, version: str, module: str, code: str) -> dict[str, str]:
    """Put a package in `folder`, as pip would; the environment variables of a process that finds it first."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(code)
    about = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (about / "RECORD").write_text(f"{module}/__init__.py,,\n{about.name}/METADATA,,\n{about.name}/RECORD,,\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}
