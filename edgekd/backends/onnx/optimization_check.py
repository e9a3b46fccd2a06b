"""Runs an exported graph as ONNX Runtime optimizes it and as it is written, for its optimizers may be wrong.

Known to be wrong: `WeightBiasQuantization` gives a bias the step of its convolution's input times that of its
weights; in half precision that product is nearly zero, and the answers are garbage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.backends.onnx.baking import baked_preprocess, preprocess_of
from edgekd.backends.onnx.runtime import LEVELS, load
from edgekd.backends.source import Source
from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess

Logits = npt.NDArray[np.float32]
Inputs = npt.NDArray[np.float32]

NUM_IMAGES = 8
TOLERANCE: Mapping[str, float] = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.05}
"""Largest difference of a logit, relative to the largest logit. Integer kernels round elsewhere than the
quantizers that they stand for."""
SUSPECT = "WeightBiasQuantization"
_WITHOUT_SUSPECT = {"config": {"optimization.disable_specified_optimizers": SUSPECT}}
_WITHOUT_SATURATION = {"config": {"session.x64quantprecision": "1"}}
"""On x86 without VNNI, integer kernels add two products in 16 bits, and weights beyond 64 overflow these."""


def check(path: Path, source: Source) -> dict[str, Any]:
    """`Backend.check`."""
    return {"optimized": compared(path, source)}


def compared(path: Path, source: Source) -> dict[str, Any]:
    """How far the optimized answers of the graph at `path` are from those of the graph as written.

    Answers one image at a time, as the runtime runs by default, to `NUM_IMAGES` of the source's calibration
    images, else to random ones in the range of its preprocessing. Raises `ModelError` where the answers
    differ by more than the precision's `TOLERANCE`, unless that is this processor's saturation alone.
    """
    normalized, kind = _inputs(source)
    inputs = _as_taken(normalized, source)
    tolerance = TOLERANCE[source.precision]
    as_written = answers(path, inputs, optimization="none")
    found = difference(answers(path, inputs), as_written)
    facts: dict[str, Any] = {"images": f"{len(inputs)} {kind}", "tolerance": tolerance}
    if found <= tolerance:
        return {**facts, "largest_difference": _rounded(found)}
    precise = difference(answers(path, inputs, **_WITHOUT_SATURATION), as_written)
    if precise <= tolerance:
        return {**facts, "largest_difference": _rounded(precise), "saturates_here": _rounded(found)}
    raise _error(path, source, inputs, as_written, found)


def _error(
    path: Path, source: Source, inputs: npt.NDArray[Any], as_written: Logits, found: float
) -> ModelError:
    tolerance = TOLERANCE[source.precision]
    off = {level: difference(answers(path, inputs, optimization=level), as_written) for level in LEVELS}
    level = next((level for level, one in off.items() if not one <= tolerance), "all")
    cured = difference(answers(path, inputs, **_WITHOUT_SUSPECT), as_written) <= tolerance
    culprit = f" (optimizer `{SUSPECT}`)" if cured else ""
    return ModelError(
        f"ONNX Runtime's optimizations change what the graph computes, from level `{level}` on{culprit}: a "
        f"logit differs by {found:.2g} of the largest one; {source.precision} may differ by {tolerance:g}",
        where=type(source.module).__name__,
        fix="keep quantizers and what is between them in float32, or export fp32 or fp16 without quantizers; "
        "for such a file of others, set `options: {optimization: none}` on the target",
    )


def answers(path: Path, inputs: npt.NDArray[Any], **options: Any) -> Logits:
    """Logits `[N, classes]` of `inputs` as the graph takes them; with one thread, so the same every time."""
    graph = load(str(path), options=options)
    return np.concatenate([graph.run(inputs[at : at + 1].astype(graph.dtype)) for at in range(len(inputs))])


def difference(found: Logits, expected: Logits) -> float:
    """The largest of a logit, relative to the largest expected one; infinite where one is finite and the
    other is not."""
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return 0.0
    apart = np.abs(found[finite].astype(np.float64) - expected[finite])
    return float(apart.max() / max(np.abs(expected[finite]).max(), np.finfo(np.float32).tiny))


def _rounded(number: float) -> float:
    """To two digits: the rest is the processor's."""
    return float(f"{number:.1e}")


def _inputs(source: Source) -> tuple[Inputs, str]:
    if source.calibration is not None:
        for batch in source.calibration():
            return np.asarray(batch[:NUM_IMAGES], np.float32), "calibration images"
    return _random(source), "random images"


def _random(source: Source) -> Inputs:
    channels, height, width = source.input_shape
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, height, width, channels), np.uint8)
    plan = preprocess_of(source.metadata) or Preprocess(size=(height, width), mean=(0.0,), std=(1.0,))
    return plan.apply(pixels)


def _as_taken(inputs: Inputs, source: Source) -> npt.NDArray[Any]:
    """The pixels that normalized `inputs` were, for a graph that takes those."""
    if not source.options.get("bake_preprocess"):
        return inputs
    plan = baked_preprocess(source.metadata, type(source.module).__name__)
    shares = inputs.transpose(0, 2, 3, 1) * np.asarray(plan.std) + np.asarray(plan.mean)
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(shares / plan.scale), 0, 255).astype(np.uint8)
    return pixels
