from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.cli.doctor import command
from edgekd.pipeline import diagnosis  # noqa: F401 - here, because its agent limits NumPy's threads
from tests.cli.running import edgekd


def test_it_shows_the_machine_and_what_cannot_be_measured(tmp_path: Path) -> None:
    done = edgekd("doctor", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for title in ("Machine", "Instruction set", "Packages", "Targets", "Cannot be measured here"):
        assert f"\n{title}\n  " in f"\n{done.stdout}"


def test_the_json_holds_facts_and_the_same_sections(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BACKENDS, "_entries", {"onnx": BACKENDS.entry("onnx")})
    command(json_=True)
    found = json.loads(capsys.readouterr().out)
    assert found["device"]["cores"] >= 1
    assert found["sections"]["Machine"]
    assert found["packages"][""]["onnxruntime"]
