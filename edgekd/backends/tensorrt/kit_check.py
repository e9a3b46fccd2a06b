"""Compares what trtexec wrote with the reference, and writes result.json: standard library and NumPy, 3.8.

    python3 check.py

The kit's check.py, beside its trtexec.py; imports nothing of edgekd. Ends with 0 when the engine's logits are
within the kit's tolerance, with 1 when they are not, with 2 when something is missing or cannot be read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from . import trtexec
else:  # on the device, where the files lie side by side
    import trtexec

FORMAT = 1
RESULT = "result.json"
_LONGEST = 4000
"""Characters of a name or kernel that are sent back."""
_LAYER_KEYS = ("Name", "LayerType", "TacticName", "Metadata")


def main(folder: Path) -> int:
    try:
        result = gather(folder)
    except (OSError, KeyError, ValueError) as error:
        print(f"not checked: {error}", file=sys.stderr)
        return 2
    (folder / RESULT).write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    kit = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
    told = compare(np.array(result["logits"], np.float32), reference(folder), kit["tolerance"])
    told["compute_ms_median"] = statistics.median(result["compute_ms"])
    print(json.dumps(told, indent=2))
    print(f"send {RESULT} back: edgekd puts it into the report")
    return 0 if told["agrees"] else 1


def gather(folder: Path) -> dict[str, Any]:
    """Everything that goes back, as plain JSON."""
    kit_text = (folder / "kit.json").read_bytes()
    kit = json.loads(kit_text)
    log = _read(folder, "build.log")
    engine = folder / "model.engine"
    answers = [trtexec.read_output(_read(folder, f"answer_{n:03}.json")) for n in range(kit["images"])]
    return {
        "format": FORMAT,
        "kit_sha256": hashlib.sha256(kit_text).hexdigest(),
        "model_sha256": sha256(folder / "model.onnx"),
        "engine": {"sha256": sha256(engine), "size_bytes": engine.stat().st_size},
        "tensorrt": ".".join(map(str, trtexec.version_of(log))),
        "gpu": trtexec.device_of(log),
        "machine": machine(),
        "logits": answers,
        "compute_ms": [run["computeMs"] for run in trtexec.read_times(_read(folder, trtexec.TIMES))],
        "layers": [short(layer) for layer in trtexec.read_layers(_read(folder, trtexec.LAYERS))["Layers"]],
        "profile": trtexec.read_profile(_read(folder, trtexec.PROFILE)),
    }


def compare(logits: Any, expected: Any, tolerance: float) -> dict[str, Any]:
    """Float `[N, classes]` both; `agrees`: no logit is off by more than `tolerance` of the largest one."""
    if logits.shape != expected.shape:
        raise ValueError(f"logits are {list(logits.shape)}, the reference is {list(expected.shape)}")
    largest, off = float(np.abs(expected).max()), float(np.abs(logits - expected).max())
    same = int((logits.argmax(1) == expected.argmax(1)).sum())
    return {
        "images": len(expected),
        "largest_logit": largest,
        "max_abs_difference": off,
        "same_top1": same,
        "tolerance": tolerance,
        "agrees": bool(off <= tolerance * largest),
    }


def reference(folder: Path) -> Any:
    with np.load(folder / "reference.npz", allow_pickle=False) as arrays:
        return arrays["logits"]


def short(layer: Any) -> dict[str, Any]:
    """Of the inspector's account of a layer what tells which kernel it is, and its types."""
    if not isinstance(layer, dict):
        return {"Name": str(layer)[:_LONGEST]}
    found: dict[str, Any] = {key: str(layer[key])[:_LONGEST] for key in _LAYER_KEYS if key in layer}
    weights, inputs = layer.get("Weights"), layer.get("Inputs")
    if isinstance(weights, dict) and "Type" in weights:
        found["Weights"] = {"Type": str(weights["Type"])[:_LONGEST]}
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        types = {
            key: str(inputs[0][key])[:_LONGEST]
            for key in inputs[0]
            if "ormat" in key or "type" in key.lower()
        }
        found["Inputs"] = [types]
    return found


def machine() -> dict[str, str]:
    """What the board calls itself, its release and its power mode, where it tells."""
    found = {}
    for key, path in {"model": "/proc/device-tree/model", "l4t": "/etc/nv_tegra_release"}.items():
        try:
            found[key] = Path(path).read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
    if shutil.which("nvpmodel"):
        done = subprocess.run(
            ["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10
        )
        found["power_mode"] = done.stdout.decode("utf-8", "replace").strip()[:_LONGEST]
    return found


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 16), b""):
            digest.update(piece)
    return digest.hexdigest()


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
