"""Asks TensorRT-RTX about graphs, one path a line, in a process of its own: its parser may crash.

Answers one JSON object a line: `verdict` (`parsed`, `refused`, `built`, `not built`) and `errors`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def answer(trt: Any, logger: Any, path: str, build: bool) -> dict[str, Any]:
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(path).read_bytes()):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        return {"verdict": "refused", "errors": [f"{one.node_name()}: {one.desc()}" for one in errors]}
    if not build:
        return {"verdict": "parsed", "errors": []}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    _fix_batch(builder, network, config)
    built = builder.build_serialized_network(network, config) is not None
    return {"verdict": "built" if built else "not built", "errors": []}


def _fix_batch(builder: Any, network: Any, config: Any) -> None:
    """A dynamic input needs a profile, else the builder refuses whatever the graph holds."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    dynamic = [one for one in inputs if any(size < 0 for size in one.shape)]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for one in dynamic:
        shape = tuple(size if size > 0 else 1 for size in one.shape)
        profile.set_shape(one.name, shape, shape, shape)
    config.add_optimization_profile(profile)


def main() -> None:
    import tensorrt_rtx

    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR)
    print(json.dumps({"version": tensorrt_rtx.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answer(tensorrt_rtx, logger, request["path"], request["build"])), flush=True)


if __name__ == "__main__":
    main()
