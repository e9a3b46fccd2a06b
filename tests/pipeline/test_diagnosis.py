from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.pipeline.cgroup import core_quota, memory_limit
from edgekd.pipeline.diagnosis import Diagnosis, describe, diagnose

REPOSITORY = Path(__file__).resolve().parents[2]

PI5: dict[str, Any] = {
    "device": {
        "machine": "aarch64",
        "cpu": "Cortex-A76",
        "os": "Debian GNU/Linux 12",
        "cores": 4,
        "cores_allowed": [0, 1, 2, 3],
        "cpu_features": ["asimd", "asimddp"],
        "vnni": True,
        "cache_bytes": 2 << 20,
        "memory_bytes": 8 * 10**9,
        "governor": "ondemand",
        "hypervisor": False,
        "emulated": None,
        "energy_rails": [],
    },
    "runtimes": {"onnx": {"told": "onnxruntime 1.30.0", "providers": "CPUExecutionProvider"}},
    "absent_runtimes": {"openvino": "No module named 'openvino'"},
    "exporters": {"onnx": None, "openvino": "this needs the package `openvino`, which is not installed"},
    "local_error": None,
    "flags": ["asimd", "asimddp"],
    "state": {
        "load": 0.1,
        "clocks_khz": {"0": 1_500_000, "1": 2_400_000},
        "temperatures_mc": {"cpu-thermal": 45000},
        "throttle_count": None,
        "ticks": [900, 0, 50, 50, 0, 0, 0, 0],
    },
    "core_quota": None,
    "memory_limit_bytes": None,
    "disk_free_bytes": 10**10,
    "packages": {"": {"onnxruntime": "1.30.0"}, "train": {"torch": None}},
    "gpus": [],
    "targets": {"local": {"name": "local", "kind": "local", "threads": 2}},
    "targets_error": None,
}


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return diagnose()


def _with(**device: Any) -> dict[str, list[str]]:
    return describe({**PI5, "device": {**PI5["device"], **device}})


def test_this_machine_is_described_in_every_section(found: Diagnosis) -> None:
    assert all(lines and all(lines) for lines in found.sections.values())
    assert f"{os.cpu_count()} cores" in "\n".join(found.sections["Machine"])


def test_the_facts_are_plain_data(found: Diagnosis) -> None:
    assert json.loads(json.dumps(found.as_data()))["sections"] == found.sections


def test_every_backend_is_told_with_its_runtime_or_why_it_lacks_one(found: Diagnosis) -> None:
    facts = found.facts
    assert facts["runtimes"]["onnx"]["told"] == f"onnxruntime {version('onnxruntime')}"
    assert "CPUExecutionProvider" in facts["runtimes"]["onnx"]["providers"]
    assert {*facts["runtimes"], *facts["absent_runtimes"]} == {*BACKENDS.names()}
    assert all(facts["absent_runtimes"].values())
    assert {*facts["exporters"]} == {*BACKENDS.names()} and facts["exporters"]["onnx"] is None


def test_what_runs_and_what_exports_are_told_apart() -> None:
    lines = _with()["Backends"]
    at = next(number for number, line in enumerate(lines) if line.startswith("onnx: "))
    assert lines[at + 1 : at + 3] == ["  runs here, onnxruntime 1.30.0", "  exports here"]
    at = next(number for number, line in enumerate(lines) if line.startswith("openvino: "))
    assert lines[at + 1] == "  does not run here: No module named 'openvino'"
    assert lines[at + 2] == (
        "  does not export here: this needs the package `openvino`, which is not installed"
    )


def test_looking_loads_no_runtime_into_the_process() -> None:
    code = (
        "import sys; from edgekd.pipeline.diagnosis import diagnose, BACKENDS\n"
        "BACKENDS._entries = {'onnx': BACKENDS.entry('onnx')}; diagnose()\n"
        "print([n for n in ('torch', 'onnx', 'onnxruntime', 'sklearn', 'plotly') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_without_vnni_the_seven_bits_are_explained() -> None:
    lines = _with(machine="x86_64", vnni=False)["Instruction set"]
    assert any("7 bits" in line and "int16" in line for line in lines)


def test_with_dot_products_nothing_is_said_of_seven_bits() -> None:
    assert not any("7 bits" in line for line in _with()["Instruction set"])


@pytest.mark.parametrize(("flags", "text"), [([], "no bf16"), (["amx_bf16"], "AMX"), (["bf16"], "bf16: ")])
def test_bf16_decides_what_training_uses(flags: list[str], text: str) -> None:
    lines = describe({**PI5, "flags": flags})["Instruction set"]
    assert any(line.startswith((text, "bf16 by " + text)) for line in lines)


def test_a_governor_that_follows_the_load_is_named_with_its_fix() -> None:
    lines = "\n".join(_with()["Clocks"])
    assert "ondemand" in lines and "cpupower" in lines


def test_fewer_allowed_cores_than_present_are_listed() -> None:
    assert "may use 2 (2, 3)" in "\n".join(_with(cores_allowed=[2, 3])["Machine"])


def test_missing_packages_come_with_the_command_that_installs_them() -> None:
    assert "  missing: torch (pip install 'edgekd[train]')" in _with()["Packages"]


def test_what_cannot_be_measured_says_why() -> None:
    lines = _with(hypervisor=True)["Cannot be measured here"]
    assert any(line.startswith("energy: no power rail") for line in lines)
    assert any(line.startswith("absolute latency") and "virtual machine" in line for line in lines)
    assert not any(line.startswith("throttling") for line in lines)


def test_a_broken_devices_file_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgekd-devices.yaml").write_text("pi5: {kind: sssh}\n")
    monkeypatch.setattr(BACKENDS, "_entries", {"onnx": BACKENDS.entry("onnx")})
    lines = diagnose().sections["Targets"]
    assert "`sssh` is not a kind of target" in lines[0]


@pytest.fixture
def group(tmp_path: Path) -> tuple[Path, Path]:
    """A control group `/box/inner` of version 2, not limited yet."""
    membership = tmp_path / "membership"
    membership.write_text("0::/box/inner\n")
    (tmp_path / "cgroup" / "box" / "inner").mkdir(parents=True)
    return tmp_path / "cgroup", membership


def test_the_tightest_group_above_the_process_counts(group: tuple[Path, Path]) -> None:
    root, membership = group
    (root / "box" / "inner" / "cpu.max").write_text("max 100000\n")
    (root / "box" / "cpu.max").write_text("150000 100000\n")
    (root / "box" / "memory.max").write_text("1000000\n")
    assert core_quota(root, membership) == 1.5
    assert memory_limit(root, membership) == 1_000_000


def test_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("4:memory:/box\n2:cpu,cpuacct:/box\n")
    for name, value in (("cpu/box/cpu.cfs_quota_us", "50000"), ("cpu/box/cpu.cfs_period_us", "100000")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert core_quota(tmp_path, membership) == 0.5
    assert memory_limit(tmp_path, membership) is None


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert core_quota(tmp_path, tmp_path / "absent") is None
    assert memory_limit(tmp_path, tmp_path / "absent") is None
