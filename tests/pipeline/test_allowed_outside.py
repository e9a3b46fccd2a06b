"""A network with an operator that XNNPACK lacks: refused, or allowed by the recipe and told in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import MissingDependencyError
from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import MEASUREMENTS, RECORD, RunRecord
from tests.pipeline.conftest import edgekd

try:
    BACKENDS.load("executorch").require()
except MissingDependencyError as _error:
    pytest.skip(str(_error), allow_module_level=True)

pytestmark = [pytest.mark.backends, pytest.mark.timeout(600)]

NET = """
from torch import cumsum, nn

class Sums(nn.Module):
    def forward(self, x):
        return cumsum(x, 3)

def net(*, num_classes, in_channels):
    convolution = nn.Conv2d(in_channels, 4, 3)
    body = nn.Sequential(convolution, nn.ReLU(), Sums(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(4, num_classes))
"""
RECIPE = """
trust_code: true
data: {source: digits}
teacher: {network: resnet_cifar, args: {depth: 8}, accept_poor: true, epochs: 1}
measure: {protocol: smoke}
steps:
  - teacher
  - student: {network: 'net.py:net'}
  - distill: {epochs: 1}
  - export: {backends: [onnx, executorch]OPTIONS}
"""


def recipe(folder: Path, options: str) -> None:
    (folder / "net.py").write_text(NET)
    (folder / "r.yaml").write_text(RECIPE.replace("OPTIONS", options))


def test_it_is_refused_with_operator_module_and_what_to_do(tmp_path: Path) -> None:
    recipe(tmp_path, "")
    done = edgekd("run", "r.yaml", "--threads", "1", cwd=tmp_path)
    assert done.code == 2, done.err
    for told in ("aten.cumsum.default", "`0.2` (Sums)", "options: {executorch: {allow_outside: true}}"):
        assert told in " ".join(done.err.split())


def test_allowed_it_is_measured_and_what_ran_outside_is_told(tmp_path: Path) -> None:
    recipe(tmp_path, ", options: {executorch: {allow_outside: true}}")
    done = edgekd("run", "r.yaml", "--threads", "1", cwd=tmp_path)
    assert done.code in (0, 1, 3), done.err
    run = next((tmp_path / ".edgekd" / "runs" / "r").glob("*/record.json")).parent
    record = RunRecord.model_validate_json((run / RECORD).read_bytes())
    (written,) = [step.facts["export"] for step in record.steps if step.name == "export-executorch"]
    assert [one for one in written["outside"] if "cumsum" in one]
    (accuracy,) = [
        one
        for one in read_measurements(run / MEASUREMENTS)
        if one.quantity == "accuracy" and one.subject.backend == "executorch" and one.against is None
    ]
    assert accuracy.value is not None
    assert accuracy.validity.valid, accuracy.validity
    assert accuracy.detail["precisions"]["portable kernels"] >= 1
    assert "portable kernels" in (run / "report" / "report.md").read_text()
