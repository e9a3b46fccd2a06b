"""Holds every call of `build_engine` against the real bindings of a TensorRT version, without its library.

`python -m edgekd.backends.tensorrt.api_check WHEEL` unpacks a wheel of `tensorrt-cu12-bindings` or
`tensorrt-cu13-bindings` into a temporary folder, lets it find libraries of ours that export its nine symbols
and do nothing, and runs `build_engine` against stand-ins: what the real class lacks is an `AttributeError`,
and arguments must fit the signature in pybind11's docstring. That checks names and counts of arguments, not
what TensorRT does with them: no engine is built. Needs gcc, and the Python that the wheel is for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

from edgekd.backends.tensorrt.build import BuildError, build_engine
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
_SHAPE = (1, 3, 8, 8)

PATHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dynamic batch": {"shapes": {"input": (_SHAPE, _SHAPE, _SHAPE)}},
    "timing cache": {"timing_cache": Path("no such cache")},
    "AMPERE_PLUS": {"hardware_compatibility": "AMPERE_PLUS"},
    "SAME_COMPUTE_CAPABILITY": {"hardware_compatibility": "SAME_COMPUTE_CAPABILITY"},
    "version compatible": {"version_compatible": True},
    "DLA": {"dla_core": 0},
    "optimization level": {"optimization_level": 3},
    "compute capability": {"compute_capabilities": ("SM89",)},
}
"""The ways through `build_engine`, and the arguments that take them."""


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
        trt = _stand_in(bindings, calls, is_dynamic="shapes" in settings)
        try:
            with tempfile.TemporaryDirectory() as folder:
                paths[path] = _tried(trt, Path(folder), settings, calls)
        except (AttributeError, TypeError) as error:
            paths[path] = {"error": f"{type(error).__name__}: {error}"}
    return {"version": str(bindings.__version__), "paths": paths}


class StandIn:
    """An object of a real class of the bindings that does nothing, and notes what is asked of it."""

    def __init__(self, real: type, calls: list[str], **answers: Any) -> None:
        for name in answers:
            getattr(real, name)
        self.__dict__.update(_real=real, _calls=calls, _answers=answers)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)  # AttributeError: the bindings have no such name
        self._calls.append(f"{self._real.__name__}.{name}")
        answer = self._answers.get(name)
        if isinstance(found, property):
            return answer

        def call(*arguments: Any, **named: Any) -> Any:
            _check_signature(name, found.__doc__ or "", arguments, named)
            return answer

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        found = getattr(self._real, name)
        if not isinstance(found, property) or found.fset is None:
            raise TypeError(f"{self._real.__name__}.{name} cannot be set")
        self._calls.append(f"{self._real.__name__}.{name}=")


def parameters(signature: str) -> list[tuple[str, bool]]:
    """(name, needed) of each parameter in a pybind11 signature, without `self`."""
    parts, depth, current = [], 0, ""
    for letter in signature:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += letter
    names = [part.strip() for part in [*parts, current] if part.strip()]
    return [(name.split(":")[0], "=" not in name) for name in names if not name.startswith("self")]


def _check_signature(name: str, doc: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    signatures = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> ", doc, re.MULTILINE)
    known = [parameters(one) for one in signatures if not one.startswith("*args")]
    if known and not any(_fits(one, len(arguments), set(named)) for one in known):
        raise TypeError(f"{name} takes {signatures}, not {len(arguments)} arguments and {sorted(named)}")


def _fits(known: list[tuple[str, bool]], count: int, named: set[str]) -> bool:
    rest = known[count:]
    needed = {name for name, is_needed in rest if is_needed}
    return count <= len(known) and named <= {name for name, _ in rest} and needed <= named


def _tried(trt: Any, folder: Path, settings: dict[str, Any], calls: list[str]) -> dict[str, Any]:
    (folder / "model.onnx").touch()
    if "timing_cache" in settings:
        settings = {**settings, "timing_cache": folder / "timing.cache"}
    try:
        build_engine(trt, folder / "model.onnx", **settings)
    except BuildError as error:
        return {"refused": str(error)}
    return {"calls": len(calls)}


def _stand_in(bindings: Any, calls: list[str], *, is_dynamic: bool) -> Any:
    """A module whose enums are the real ones, and whose builder and parser are stand-ins."""
    module = types.ModuleType("tensorrt")
    module.__dict__.update({name: getattr(bindings, name) for name in dir(bindings) if name[:2] != "__"})
    shape = (-1, *_SHAPE[1:]) if is_dynamic else _SHAPE
    source = StandIn(bindings.ITensor, calls, name="input", shape=shape)
    cache = StandIn(bindings.ITimingCache, calls, serialize=b"cache")
    config = StandIn(
        bindings.IBuilderConfig,
        calls,
        create_timing_cache=cache,
        get_timing_cache=cache,
        set_timing_cache=True,
    )
    network = StandIn(bindings.INetworkDefinition, calls, num_inputs=1, num_outputs=1, get_input=source)
    builder = StandIn(
        bindings.Builder,
        calls,
        create_network=network,
        create_builder_config=config,
        create_optimization_profile=StandIn(bindings.IOptimizationProfile, calls),
        build_serialized_network=b"engine",
    )
    parser = StandIn(bindings.OnnxParser, calls, parse_from_file=True)
    module.__dict__.update(Builder=lambda logger: builder, OnnxParser=lambda network, logger: parser)
    return module


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
