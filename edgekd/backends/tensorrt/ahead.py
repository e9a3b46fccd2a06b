"""What TensorRT-RTX's parser and builder say of a file: the part of NVIDIA's own code that needs no GPU.

It is evidence that the graph is taken and that an engine is built of it; none of speed, of numerics or of any
Jetson. In a process of its own, since a parser may crash.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekd.backends.tensorrt.tensorrt_build import build_engine
from edgekd.backends.tensorrt.tensorrt_file import ArtifactError
from edgekd.backends.tensorrt.tensorrt_settings import FallbackError
from edgekd.core.errors import ModelError

TARGETS = ("SM89",)
ABSENT = "not executed: TensorRT-RTX is not installed (`pip install tensorrt-rtx`, needs no GPU)"
_LIMIT_S = 600.0


def built_ahead(path: Path, targets: tuple[str, ...] = TARGETS) -> dict[str, Any] | str:
    """Version, `targets`, `engine_bytes` and `layers` (those with weights) of a build; `ABSENT` without it.

    Raises `ModelError` where the file is refused.
    """
    if find_spec("tensorrt_rtx") is None:
        return ABSENT
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekd.backends.tensorrt.ahead", str(path), *targets],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"not executed: TensorRT-RTX took more than {_LIMIT_S:g} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    answer: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": _ending(done)}
    if "error" in answer:
        raise ModelError(str(answer["error"]), where=path.name)
    return answer


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or ["(no words)"])[-1]
    return f"TensorRT-RTX ended with code {done.returncode}: {last}"


def main(path: str, targets: list[str]) -> None:
    import tensorrt_rtx

    try:
        built = build_engine(tensorrt_rtx, Path(path), compute_capabilities=targets)
    except (ArtifactError, FallbackError) as error:
        print(json.dumps({"error": str(error)}))
        return
    facts = {"version": tensorrt_rtx.__version__, "targets": targets, "engine_bytes": len(built.engine)}
    print(json.dumps({**facts, "layers": built.layers}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
