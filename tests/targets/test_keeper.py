"""What is sent to a device runs there: old Pythons, no packages, and only what is sent."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError
from edgekd.targets import keeper, keeping
from tests.targets.pipe import PipeTarget

SENT = [Path(keeper.__file__).with_name(f"{name}.py") for name in keeping._MODULES]


def interpreter(version: str) -> str:
    """A real Python of that version, from PATH or pyenv; skips without."""
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    found = [str(path) for path in pyenv] or [shutil.which(f"python{version}") or ""]
    if not found[-1]:
        pytest.skip(f"there is no Python {version} on this machine")
    return found[-1]


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.name)
def test_what_is_sent_is_python_3_8_and_needs_nothing_else(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    modules = [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    sent = {f"edgekd.targets.{name}" for name in keeping._MODULES}
    assert {name for name in modules if name not in sys.stdlib_module_names} <= sent


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.13"])
def test_a_session_is_kept_by_a_real_python(tmp_path: Path, version: str) -> None:
    target = PipeTarget(folder=tmp_path / "device", python=interpreter(version), cache="1MB")
    (tmp_path / "file").write_bytes(b"content")
    with target.open() as session:
        assert str(session.about["python"]).startswith(version)
        session.push(tmp_path / "file")
        assert session.run(["cat", "file"], timeout_s=20).stdout == b"content"
        session.pull("file", tmp_path / "back")
    assert target.sessions() == target.tickets() == []


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_a_real_python_that_is_too_old_is_refused(tmp_path: Path, version: str) -> None:
    target = PipeTarget(folder=tmp_path, python=interpreter(version))
    with pytest.raises(TargetError, match=rf"its Python is {version}\.\d+, 3\.8 or newer"), target.session():
        pass
