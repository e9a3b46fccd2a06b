"""Stands where trtexec would be, for the shell script around it: notes its arguments, computes nothing.

It writes files of the form that trtexec's source says (logits are those of `logits.json` beside it), and so
tests the script and what is read, not TensorRT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(argv: list[str]) -> int:
    number = (HERE / "version").read_text()
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec")
    print("[I] Selected Device: Stand-in\n[I] Compute Capability: 0.0")
    given = {word.partition("=")[0]: word.partition("=")[2] for word in argv}
    if "--help" in given:
        return 0
    with (HERE / "calls.jsonl").open("a") as stream:
        stream.write(json.dumps(argv) + "\n")
    if (HERE / "fails").exists():
        print("[E] it cannot")
        return 1
    write(given)
    return 0


def write(given: dict[str, str]) -> None:
    if "--saveEngine" in given:
        Path(given["--saveEngine"]).write_bytes(b"engine")
    if "--exportOutput" in given:
        image = Path(given["--loadInputs"].partition(":")[2])
        assert image.stat().st_size == 4 * 3 * 12 * 12
        values = json.loads((HERE / "logits.json").read_text())[int(image.stem[-3:])]
        row = {"name": "logits", "dimensions": f"1x{len(values)}", "values": values}
        Path(given["--exportOutput"]).write_text(json.dumps([row]))
    if "--exportTimes" in given:
        times = [{"h2dMs": 0, "computeMs": 1 + n / 100, "d2hMs": 0, "latencyMs": 1} for n in range(20)]
        Path(given["--exportTimes"]).write_text(json.dumps(times))
        layer = {"Name": "Conv_3 + Relu_4", "LayerType": "CaskConvolution", "Weights": {"Type": "Int8"}}
        layer["Metadata"] = "[ONNX Layer: Conv_3]\x1e[ONNX Layer: Relu_4]"
        information = {"Layers": [layer, "no details"], "Bindings": ["input", "logits"]}
        Path(given["--exportLayerInfo"]).write_text(json.dumps(information))
        profile = [{"count": 20}, {"name": "Conv_3 + Relu_4", "timeMs": 20, "averageMs": 1, "medianMs": 0.9}]
        Path(given["--exportProfile"]).write_text(json.dumps(profile))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
