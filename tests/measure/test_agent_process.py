"""The agent's process: one line whatever is printed, an end whatever hangs, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgekd.measure import agent

AGENT = sorted(Path(agent.__file__).parent.glob("agent*.py"))
RUNTIME = """
import ctypes, gc, os, sys, threading
import numpy as np
SEEN = {"affinity": sorted(os.sched_getaffinity(0)), "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY")}
libc = ctypes.CDLL(None)
class Graph:
    input_shape, dtype, path = (1, 1), np.dtype(np.float32), ""
    def run(self, x):
        RUN
        SEEN["gc"] = gc.isenabled()
        return np.zeros((1, 2), np.float32)
def versions():
    return {key: str(value) for key, value in SEEN.items()}
def load(path, threads=1, batch=1, options=None):
    LOAD
    return Graph()
"""
LATENCY = {
    "mode": "latency",
    "seed": 0,
    "block": 2,
    "min_s": 0,
    "min_count": 2,
    "min_rounds": 1,
    "warm_up": {"min_s": 0, "min_count": 10, "max_s": 0, "tolerance": 1},
}


def start(
    folder: Path, request: dict[str, Any], *, run: str = "pass", load: str = "pass", close: bool = True
) -> subprocess.Popen[bytes]:
    """The agent in a folder of its own, with a runtime that does `run` in every run."""
    for path in AGENT:
        shutil.copy(path, folder)
    (folder / "runtime_x.py").write_text(RUNTIME.replace("RUN", run).replace("LOAD", load))
    (folder / "graph.bin").write_bytes(b"graph")
    artifact = {
        "name": "g",
        "path": "graph.bin",
        "sha256": hashlib.sha256(b"graph").hexdigest(),
        "runtime": "runtime_x",
        "images": None,
    }
    whole = {"version": 1, "deadline_s": 30, "threads": 1, "batch": 1, "artifacts": [artifact], **request}
    process = subprocess.Popen(
        [sys.executable, "-B", "agent.py"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(whole).encode() + b"\n")
    process.stdin.flush()
    if close:
        process.stdin.close()
        process.stdin = None
    return process


def finish(process: subprocess.Popen[bytes]) -> tuple[int, list[dict[str, Any]], str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr.decode()


def test_whatever_native_code_prints_there_is_one_line(tmp_path: Path) -> None:
    """To descriptor 1, to C's buffered stdout that is flushed when the process ends, and by print()."""
    noise = 'os.write(1, b"native\\n"); libc.puts(b"buffered"); print("python")'
    code, lines, stderr = finish(start(tmp_path, LATENCY, run=noise, load=noise))
    assert code == 0
    assert len(lines) == 1
    assert lines[0]["ok"] is True
    assert all(word in stderr for word in ("native", "buffered", "python"))


def test_the_deadline_holds_inside_native_code_that_never_lets_go(tmp_path: Path) -> None:
    """PyDLL keeps Python's lock: no thread of the agent can act, and none needs to."""
    request = {"mode": "memory", "runs": 1, "deadline_s": 1.0}
    started = time.monotonic()
    code, lines, stderr = finish(start(tmp_path, request, run="ctypes.PyDLL(None).sleep(60)"))
    assert time.monotonic() - started < 30
    assert (code, lines) == (1, [])
    assert "Timeout" in stderr


def test_the_agent_ends_when_the_line_it_hangs_on_is_cut(tmp_path: Path) -> None:
    """In native code, which lets go of Python's lock as ONNX Runtime does."""
    request = {"mode": "memory", "runs": 1, "lifeline": True}
    process = start(tmp_path, request, run='os.write(2, b"running"); libc.sleep(60)', close=False)
    assert process.stderr is not None
    assert process.stderr.read(7) == b"running"
    started = time.monotonic()
    code, lines, stderr = finish(process)  # closes its input
    assert time.monotonic() - started < 20
    assert (code, lines) == (3, [])
    assert "nobody waits" in stderr


def test_a_line_that_holds_changes_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, {**LATENCY, "lifeline": True}, close=False)
    assert process.wait(timeout=60) == 0
    assert finish(process)[1][0]["ok"] is True


def test_a_killed_agent_leaves_nothing_outside_its_folder(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "tmp", tmp_path / "session"
    elsewhere.mkdir()
    folder.mkdir()
    leave = 'import tempfile; tempfile.mkdtemp(); open(os.environ["TMPDIR"] + "/native", "w")'
    before = dict(os.environ)
    os.environ["TMPDIR"] = str(elsewhere)
    try:
        finish(start(folder, {"mode": "memory", "runs": 1}, run=leave + "; os.kill(os.getpid(), 9)"))
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert list(elsewhere.iterdir()) == []
    assert (folder / "native").is_file()
    assert not (folder / "__pycache__").exists()


def test_cores_are_chosen_before_the_runtime_is_imported_and_the_collector_rests(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    _, (line,), _ = finish(start(tmp_path, {**LATENCY, "cores": [core]}))
    seen = line["versions"]["runtime_x"]
    assert seen["affinity"] == f"[{core}]"
    assert seen["telemetry"] == "1"
    assert seen["gc"] == "False"
    assert line["facts"]["cores_allowed"] == [core]


def test_files_are_removed_when_asked(tmp_path: Path) -> None:
    (tmp_path / "part.npy").write_bytes(b"pixels")
    code, _, _ = finish(start(tmp_path, {"mode": "memory", "runs": 1, "remove": ["part.npy"]}))
    assert code == 0
    assert not (tmp_path / "part.npy").exists()


def test_python_3_8_tells_the_facts(tmp_path: Path) -> None:
    """Where one is found; without NumPy facts are all that it can tell, but every file is read by it."""
    found = [*Path.home().glob(".pyenv/versions/3.8*/bin/python3.8"), shutil.which("python3.8")]
    working = [path for path in found if path and _runs(Path(path))]
    if not working:
        pytest.skip("no Python 3.8 on this machine")
    for path in AGENT:
        shutil.copy(path, tmp_path)
    request = {"version": 1, "mode": "facts", "deadline_s": 30}
    done = subprocess.run(
        [str(working[0]), "-B", "agent.py"],
        cwd=tmp_path,
        input=json.dumps(request).encode(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["facts"]["python"].startswith("3.8.")
    modules = ", ".join(path.stem for path in AGENT)
    subprocess.run([str(working[0]), "-B", "-c", f"import {modules}"], cwd=tmp_path, check=True)


def _runs(python: Path) -> bool:
    return subprocess.run([str(python), "--version"], capture_output=True, check=False).returncode == 0
