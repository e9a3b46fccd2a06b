"""Writes a folder that builds, checks and times a network on a device that edgekd does not reach.

Copy it to the device, run `sh run.sh` there, and bring `result.json` back: `kit_result.py` reads it.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from edgekd.backends.tensorrt import kit_check, trtexec
from edgekd.backends.tensorrt.graph_scope import name_of, scopes_of
from edgekd.backends.tensorrt.placement_rules import MATRIX, is_quantized
from edgekd.core.digest import of_file, of_files
from edgekd.core.durable import write_bytes, write_json, write_text
from edgekd.core.errors import ModelError, UsageError

MOST_IMAGES = 64
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}
"""Of the largest logit. A guard against a wrong engine, not a measure of it; not held against a GPU."""
_LOOK = """\
#!/bin/sh
# Builds the engine of model.onnx on this machine, checks its logits and times it. `TRTEXEC=/path sh run.sh`
set -eu
cd "$(dirname "$0")"
sha256sum -c --quiet SHA256SUMS
rm -f result.json model.engine answer_*.json times.json layers.json profile.json
T=${TRTEXEC:-}
for place in trtexec @PLACES@; do
  if [ -z "$T" ] && command -v "$place" >/dev/null; then T=$place; fi
done
if [ -z "$T" ]; then echo "trtexec was not found: set TRTEXEC to its path" >&2; exit 2; fi
run() {
  log=$1; shift
  if ! "$T" "$@" >"$log" 2>&1; then tail -n 20 "$log" >&2; echo "trtexec failed, see $log" >&2; exit 2; fi
}
"$T" --help >banner.log 2>&1 || true
case "$(sed -n 's/.*\\[TensorRT v\\([0-9]*\\)\\].*/\\1/p' banner.log | head -n 1)" in
"""
_END = """\
  *) echo "this kit knows TensorRT 10 and 11, and $T is neither (see banner.log)" >&2; exit 2 ;;
esac
exec "${PYTHON:-python3}" check.py
"""
_README = """\
# On-device kit

    sh run.sh

needs TensorRT 10 or 11 with trtexec, and Python 3.8 with NumPy. It builds the engine of `model.onnx`, runs it
on {images} images whose logits ONNX Runtime computed without any optimization, times the network alone (no
copies, CUDA graph), and writes `result.json`, which goes back into edgekd's report. Set the power mode and
clocks that you want to measure before (`nvpmodel`, `jetson_clocks`).

Not executed where this kit was written: no GPU.
"""


def write_kit(
    graph: Path, images: npt.NDArray[np.float32], folder: Path, precision: str, **engine: Any
) -> dict[str, Any]:
    """Write the kit of an exported graph into `folder`; returns its manifest.

    `images`: preprocessed `[N, C, H, W]`. `engine`: further fields of `trtexec.Engine` (`dla_core`, ...).
    Raises `ModelError` for a graph that is not of the exporter's form, `UsageError` where files are already.
    """
    if not 1 <= len(images) <= MOST_IMAGES:
        raise ModelError(f"a kit takes 1 to {MOST_IMAGES} images, not {len(images)}", where=str(graph))
    model = onnx.load(str(graph))
    source = model.graph.input[0]
    dims = [dim.dim_value or None for dim in source.type.tensor_type.shape.dim]
    if dims[1:] != list(images.shape[1:]):
        raise ModelError(f"the graph takes {dims}, the images are {list(images.shape)}", where=str(graph))
    built = trtexec.Engine(
        onnx="model.onnx",
        file="model.engine",
        input=source.name,
        shape=(1, *images.shape[1:]),
        is_dynamic=dims[0] is None,
        timing_cache="timing.cache",
        **engine,
    )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError("the folder is not empty", where=str(folder), fix="name a new one")
    shutil.copyfile(graph, folder / "model.onnx")
    _write_images(folder, images, reference(graph, images))
    _write_programs(folder, built, len(images))
    return _write_manifest(folder, built, precision, len(images), weighed(model))


def reference(graph: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits `[N, classes]` as the file says them: ONNX Runtime with every optimization off.

    Its optimizer `WeightBiasQuantization` computes garbage of Q/DQ graphs in half precision.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    session = ort.InferenceSession(
        str(graph),
        settings,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["WeightBiasQuantization"],
    )
    name, kind = session.get_inputs()[0].name, session.get_inputs()[0].type
    x = images.astype(np.float16 if kind == "tensor(float16)" else np.float32)
    rows = [session.run(None, {name: x[n : n + 1]})[0] for n in range(len(x))]
    return np.concatenate(rows).astype(np.float32)


def weighed(model: onnx.ModelProto) -> dict[str, str]:
    """Node -> `int8`, `fp16` or `fp32`, of everything with weights: what the engine should compute it in."""
    found = {}
    for scope in scopes_of(model):
        for node in scope.nodes:
            if node.op_type in MATRIX:
                int8 = all(is_quantized(name, scope) for name in node.input[:2])
                half = scope.types.get(node.input[1]) == TensorProto.FLOAT16
                found[name_of(node)] = "int8" if int8 else "fp16" if half else "fp32"
    return found


def script(engine: trtexec.Engine, images: int) -> str:
    """run.sh: finds trtexec, asks its version, and calls it as that version needs."""
    text = _LOOK.replace("@PLACES@", " ".join(trtexec.PLACES))
    for major in trtexec.MAJORS:
        text += f"  {major}????)\n"
        text += "".join(f"    run {log} {shlex.join(argv)}\n" for log, argv in calls(major, engine, images))
        text += "    ;;\n"
    return text + _END


def calls(major: int, engine: trtexec.Engine, images: int) -> list[tuple[str, list[str]]]:
    """(log file, arguments) of every call of trtexec."""
    found = [("build.log", trtexec.build_argv(major, engine))]
    for n in range(images):
        argv = trtexec.answer_argv(major, engine, f"image_{n:03}.bin", f"answer_{n:03}.json")
        found.append(("answer.log", argv))
    return [*found, ("time.log", trtexec.time_argv(major, engine))]


def _write_images(folder: Path, images: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> None:
    for n, image in enumerate(images):
        write_bytes(folder / f"image_{n:03}.bin", np.ascontiguousarray(image, "<f4").tobytes())
    np.savez(folder / "reference.npz", logits=logits)


def _write_programs(folder: Path, engine: trtexec.Engine, images: int) -> None:
    write_text(folder / "run.sh", script(engine, images))
    shutil.copyfile(Path(kit_check.__file__), folder / "check.py")
    shutil.copyfile(Path(trtexec.__file__), folder / "trtexec.py")
    write_text(folder / "README.md", _README.format(images=images))


def _write_manifest(
    folder: Path, engine: trtexec.Engine, precision: str, images: int, layers: dict[str, str]
) -> dict[str, Any]:
    """kit.json, which names every other file; and SHA256SUMS of all, for sha256sum."""
    files = sorted(path.name for path in folder.iterdir() if path.name not in ("kit.json", "SHA256SUMS"))
    manifest = {
        "format": kit_check.FORMAT,
        "files": of_files(folder, files),
        "model_sha256": of_file(folder / "model.onnx"),
        "precision": precision,
        "tolerance": TOLERANCES[precision],
        "images": images,
        "engine": {**engine._asdict(), "shape": list(engine.shape)},
        "layers": layers,
    }
    write_json(folder / "kit.json", manifest)
    sums = {**of_files(folder, files), "kit.json": of_file(folder / "kit.json")}
    write_text(folder / "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return json.loads((folder / "kit.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
