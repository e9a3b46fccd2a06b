"""Holds every call of the device's runtime against the real bindings of a TensorRT version, without a GPU.

`python -m edgekd.backends.tensorrt.api_check WHEEL` unpacks a wheel of `tensorrt-cu12-bindings` or
`tensorrt-cu13-bindings` into a temporary folder, lets it find libraries of ours that export its nine symbols
and do nothing, and builds, keeps, opens, runs and profiles with stand-ins: what the real class lacks is an
`AttributeError`, and arguments must fit the signature in pybind11's docstring. That checks names and counts
of arguments, not what TensorRT does with them: no engine is built, nothing is computed. Needs gcc, and the
Python that the wheel is for.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.backends.tensorrt.api_stand_ins import stand_in
from edgekd.backends.tensorrt.runtime import Graph
from edgekd.backends.tensorrt.tensorrt_cuda import Cuda
from edgekd.backends.tensorrt.tensorrt_settings import FallbackError, Settings
from edgekd.core.errors import UsageError

_STUB = """
#define F(n) void* n(void){return 0;}
F(createInferBuilder_INTERNAL) F(createInferRefitter_INTERNAL) F(createInferRuntime_INTERNAL)
F(getBuilderPluginRegistry) F(getPluginRegistry)
F(createNvOnnxParserRefitter_INTERNAL) F(createNvOnnxParser_INTERNAL)
int getNvOnnxParserVersion(void){return 0;} _Bool initLibNvInferPlugins(void*a,const char*b){return 0;}
"""
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_MAJORS = (10, 11)

PATHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fixed batch": {},
    "no timing cache": {"timing_cache": False},
    "CUDA graph": {"cuda_graph": True},
    "TF32": {"tf32": True},
    "AMPERE_PLUS": {"hardware_compatibility": "AMPERE_PLUS"},
    "SAME_COMPUTE_CAPABILITY": {"hardware_compatibility": "SAME_COMPUTE_CAPABILITY"},
    "version compatible": {"version_compatible": True},
    "DLA": {"dla_core": 0},
    "optimization level": {"optimization_level": 3},
}
"""The ways through the runtime, and the settings that take them."""


def check_wheel(wheel: Path) -> dict[str, Any]:
    """`version`, and of every path `calls` (their number) or `error`. Raises `UsageError`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(wheel) as content:
                content.extractall(folder)
            _compile_stubs(folder)
        except (OSError, zipfile.BadZipFile, subprocess.CalledProcessError) as error:
            raise UsageError(f"cannot be checked: {error}", where=str(wheel)) from error
        package = str(Path(__file__).parents[3])
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": name,
            "PYTHONPATH": os.pathsep.join([name, package, *sys.path]),
        }
        done = subprocess.run(
            [sys.executable, "-m", "edgekd.backends.tensorrt.api_check", "--inside"],
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise UsageError(f"its bindings cannot be imported: {last}", where=str(wheel))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_module(bindings: Any) -> dict[str, Any]:
    """As `check_wheel`, for bindings that are imported."""
    paths: dict[str, Any] = {}
    for path, settings in PATHS.items():
        calls: list[str] = []
        trt = stand_in(bindings, calls, is_dynamic=path != "fixed batch")
        try:
            with tempfile.TemporaryDirectory() as folder:
                paths[path] = _tried(trt, Path(folder), settings, calls)
        except (AttributeError, TypeError) as error:
            paths[path] = {"error": f"{type(error).__name__}: {error}"}
    return {"version": str(bindings.__version__), "paths": paths}


class _NoCuda(Cuda):
    """Stands where CUDA would be; its memory is the host's, and nothing is computed."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def call(self, name: str, *arguments: Any) -> None:
        """Does nothing."""

    def memory(self, size: int) -> tuple[int, int]:
        self._kept += [ctypes.create_string_buffer(size) for _ in range(2)]
        on_device, on_host = (ctypes.addressof(one) for one in self._kept[-2:])
        return on_device, on_host


def _tried(trt: Any, folder: Path, settings: dict[str, Any], calls: list[str]) -> dict[str, Any]:
    """Build and keep, then open what was kept; run, time and profile it."""
    (folder / "model.onnx").touch()
    asked = Settings(**settings, cache=str(folder / "cache"))
    try:
        for engine in ("built", "kept"):
            graph = Graph(trt, _NoCuda(), folder / "model.onnx", 1, asked)
            x = np.zeros(graph.input_shape, graph.dtype)
            graph.run(x)
            graph.compute_ms(1)
            graph.layers([x], 0)
            assert str(graph.profile()["engine"]).startswith(engine)
    except FallbackError as error:
        return {"refused": str(error)}
    return {"calls": len(calls), "names": sorted(set(calls))}


def _compile_stubs(folder: Path) -> None:
    source = folder / "stub.c"
    source.write_text(_STUB, encoding="utf-8")
    for library in _LIBRARIES:
        for major in _MAJORS:
            target = folder / f"lib{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(target), str(source)]
            subprocess.run(command, check=True, capture_output=True)


def main(arguments: list[str]) -> int:
    if arguments == ["--inside"]:
        import tensorrt_bindings  # type: ignore[import-not-found,unused-ignore]

        print(json.dumps(check_module(tensorrt_bindings)))
        return 0
    reports = [check_wheel(Path(wheel)) for wheel in arguments]
    print(json.dumps(reports, indent=2))
    return int(any("error" in path for report in reports for path in report["paths"].values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
