"""Runs the command line as its users do: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(**changes: str) -> dict[str, str]:
    """This environment, in which edgekd is importable and output is plain."""
    kept = {k: v for k, v in os.environ.items() if k not in ("EDGEKD_STORE", "GITHUB_STEP_SUMMARY")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100", "NO_COLOR": "1", **changes}


def edgekd(
    *arguments: str, folder: Path, timeout_s: float = 100.0, **changes: str
) -> subprocess.CompletedProcess[str]:
    """`edgekd ARGUMENTS` in `folder`; `changes` are environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "edgekd.cli.main", *arguments],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def without_training(folder: Path) -> dict[str, str]:
    """Environment variables under which the packages of the extra `train` cannot be found."""
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(_WITHOUT_TRAINING)
    return {"PYTHONPATH": f"{hidden}{os.pathsep}{REPOSITORY}"}


_WITHOUT_TRAINING = """
import sys
from importlib.machinery import PathFinder

HIDDEN = ("torch", "torchvision", "onnxscript", "optuna", "sklearn")


class BaseInstallation(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = BaseInstallation
"""
