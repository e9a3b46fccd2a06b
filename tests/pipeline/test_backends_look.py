"""A library that ends the process that imports it costs its own backend only."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.backend import BACKEND as ONNX
from edgekd.core.registry import Entry
from edgekd.measure.device import open_device
from edgekd.pipeline.backends_look import look_for_runtimes
from edgekd.targets.local import LocalTarget
from tests.backends.odd_site import installed
from tests.cli.running import environment

CRASHING: Backend = ONNX


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime, and one that ends its process."""
    runtime = tmp_path / "runtime.py"
    runtime.write_text("import os\nos._exit(7)\n")
    monkeypatch.setattr(f"{__name__}.CRASHING", replace(ONNX, name="crashing", runtime=runtime))
    entry = Entry("crashing", f"{__name__}:CRASHING", "ends the process")
    kept = {"onnx": BACKENDS.entry("onnx"), "crashing": entry}
    monkeypatch.setattr(BACKENDS, "_entries", kept)


def test_a_runtime_that_crashes_leaves_the_others(crashing: None) -> None:
    with open_device(LocalTarget(name="local")) as device:
        found = look_for_runtimes(device, deadline_s=60)
    assert found.told()["onnx"].startswith("onnxruntime ")
    assert "exit code 7" in found.absent["crashing"]
    assert found.facts["cores"]


@pytest.mark.backends
def test_an_exporter_that_crashes_leaves_the_others(tmp_path: Path) -> None:
    surroundings = installed(
        tmp_path / "site", "openvino", "2026.4.1", "openvino", "import os\nos._exit(7)\n"
    )
    script = (
        "import json\nfrom edgekd.backends.catalogue import BACKENDS\n"
        "from edgekd.pipeline.backends_look import exporters\n"
        "BACKENDS._entries = {name: BACKENDS.entry(name) for name in ('onnx', 'openvino')}\n"
        "print(json.dumps(exporters()))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment(**surroundings), capture_output=True, text=True, timeout=100
    )
    found = json.loads(done.stdout)
    assert found == {"onnx": None, "openvino": "importing its libraries ends the process"}
