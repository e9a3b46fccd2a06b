"""`edgekd validate` holds methods against the networks that a recipe names, shipped teachers among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.cli.main import exit_code_of
from edgekd.core.shipped import shipped_models
from edgekd.measure import agent  # noqa: F401 - here, because importing it limits NumPy's threads
from edgekd.networks.shipped import shipped_spec
from edgekd.stages.network_check import trial_labels, trial_taps
from edgekd.stages.stage import KnownStep
from edgekd.stages.student import StudentConfig
from edgekd.stages.teacher import TeacherConfig

SHIPPED = next(iter(shipped_models()))
RECIPE = f"""
data: {{source: cifar10, root: nowhere}}
teacher: {{model: {SHIPPED}}}
steps:
  - student: {{network: resnet_cifar, args: {{depth: 8}}}}
  - teacher
  - distill: {{method: {{name: at, taps: {{stage1: stage9}}}}}}
  - export
"""


def test_a_tap_that_a_shipped_teacher_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert exit_code_of(["validate", "r.yaml"]) == 2
    assert "the teacher has no tap `stage9`" in " ".join(capsys.readouterr().err.split())


def test_the_taps_and_classes_of_a_shipped_teacher_are_known_without_data() -> None:
    teacher = KnownStep("teacher", TeacherConfig(model=SHIPPED))
    trained = KnownStep("teacher", TeacherConfig(network="resnet_cifar", args={"depth": 8}))
    student = KnownStep("student", StudentConfig(network="resnet_cifar", args={"depth": 8}))
    (taps,) = trial_taps([teacher]) or [[]]
    assert {"stage1", "stage3", "logits"} <= set(taps)
    assert trial_labels([teacher, trained, student]) == [shipped_spec(SHIPPED).labels, None, None]
