"""A network given as `file.py:function` is part of what a step depends on, and travels with its artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.cli.main import exit_code_of
from edgekd.core.artifact import Artifact
from edgekd.measure import agent  # noqa: F401 - here, because importing it limits NumPy's threads

NET = """
from torch import nn

def net(*, num_classes, in_channels):
    body = nn.Sequential(nn.Conv2d(in_channels, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(WIDTH, num_classes))
"""
RECIPE = """
trust_code: true
teacher: {network: resnet_cifar, args: {depth: 8}, accept_poor: true, epochs: 1}
steps: [{student: {network: 'net.py:net'}}, teacher, distill, export]
"""


def _student(folder: Path) -> Artifact:
    (link,) = folder.glob(".edgekd/runs/r/*/steps/01-student")
    return Artifact.read(link.resolve())


def test_another_content_of_the_file_is_another_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    found = []
    for width in ("4", "5"):
        (tmp_path / "net.py").write_text(NET.replace("WIDTH", width))
        assert exit_code_of(["run", "r.yaml", "--until", "student", "--quiet"]) == 0
        found.append(_student(tmp_path))
    assert found[0].digest != found[1].digest
    assert found[0].path("net.py").read_text() == NET.replace("WIDTH", "4")
