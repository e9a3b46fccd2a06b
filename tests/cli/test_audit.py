"""`edgekd audit` from the outside: without torch, with its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from edgekd.cli.main import exit_code_of
from tests.cli.running import edgekd, without_training
from tests.pipeline.audit_material import GATE, arrays, color_model


def test_the_example_is_yaml_and_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["audit", "--example"]) == 0
    example = yaml.safe_load(capsys.readouterr().out)
    assert {"labels", "preprocess", "input", "output", "gate", "accept", "sha256", "images"} <= set(example)


@pytest.mark.parametrize("arguments", [[], ["model.onnx"], ["--data", "x"], ["no.onnx", "--data", "x"]])
def test_what_is_missing_is_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["audit", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_base_installation_audits_gates_and_reports(tmp_path: Path) -> None:
    color_model(tmp_path / "model.onnx")
    arrays(tmp_path / "data")
    spec = {"labels": ["red", "green", "blue"], "protocol": "smoke", "gate": GATE}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(spec))
    base = without_training(tmp_path)
    done = edgekd(
        *("audit", "model.onnx", "--data", "data", "--spec", "model.yaml", "--json"), folder=tmp_path, **base
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"]["outcome"] == "pass"
    assert told["findings"] == []
    assert "<html" in Path(told["reports"]["html"]).read_text()[:500]
    tighter = edgekd("gate", "model.audit", "--set", "gate.size=100B", folder=tmp_path, **base)
    assert tighter.returncode == 1, tighter.stderr
    stopped = edgekd(
        *("audit", "model.onnx", "--data", "data", "--time", "0.001s", "--quiet"), folder=tmp_path, **base
    )
    assert stopped.returncode == 75, stopped.stderr
    assert "same command" in stopped.stderr
