"""From encoded image files to answers: decode, resize, normalize and infer, each timed. Python 3.8 and newer.

Decodes and resizes with Pillow where it is installed; without it reads only .ppm, .pgm and .npy and resizes
with NumPy.
"""

from __future__ import annotations

import gc
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035 - typing's own, for Python 3.8

if TYPE_CHECKING or __package__:
    from .agent import DataError, check_digest, load, preprocess
    from .agent_facts import state
else:
    from agent import DataError, check_digest, load, preprocess
    from agent_facts import state

PARTS = ("decode", "resize", "normalize", "infer")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """`rounds` passes over `files`; the pixels of the first go to `out_images`, its logits to `out_logits`.

    `ns` is `[rounds][files][parts]`.
    """
    import numpy as np

    (artifact,) = request["artifacts"]
    check_digest(artifact)
    graph, plan = load(request, artifact), artifact["preprocess"]
    reader = pillow_reader(plan) or numpy_reader(plan)
    once = _Pass(graph, plan, reader)
    first = [once.image(path) for path in request["files"]]  # untimed: it fills the caches
    np.save(request["out_images"], np.stack([pixels for pixels, _ in first]), allow_pickle=False)
    np.save(request["out_logits"], np.concatenate([logits for _, logits in first]), allow_pickle=False)
    before, rounds = state(), []
    gc.collect()
    gc.disable()
    for _ in range(request["rounds"]):
        rounds.append([once.times(path) for path in request["files"]])
    gc.enable()
    states = {"before": before, "after": state()}
    return {"resizer": reader.name, "parts": PARTS, "ns": rounds, "state": states}


class Reader:
    """How this device turns a file into pixels uint8 `[H, W, C]` and those into the model's size."""

    def __init__(self, name: str, decode: Callable[[str], Any], resize: Callable[[Any], Any]) -> None:
        self.name, self.decode, self.resize = name, decode, resize


class _Pass:
    """One image after another through all parts."""

    def __init__(self, graph: Any, plan: dict[str, Any], reader: Reader) -> None:
        self._graph, self._plan, self._reader = graph, plan, reader

    def image(self, path: str) -> tuple[Any, Any]:
        pixels = self._reader.resize(self._reader.decode(path))
        return pixels, self._graph.run(preprocess(pixels[None], self._plan, self._graph.dtype))

    def times(self, path: str) -> list[int]:
        clock = time.perf_counter_ns
        marks = [clock()]
        decoded = self._reader.decode(path)
        marks.append(clock())
        pixels = self._reader.resize(decoded)
        marks.append(clock())
        x = preprocess(pixels[None], self._plan, self._graph.dtype)
        marks.append(clock())
        self._graph.run(x)
        marks.append(clock())
        return [end - start for start, end in zip(marks, marks[1:])]


# --- with Pillow --------------------------------------------------------------------------------------------


def pillow_reader(plan: dict[str, Any]) -> Reader | None:
    """None where Pillow is not installed."""
    try:
        import PIL
        from PIL import Image, ImageOps
    except ImportError:
        return None
    import numpy as np

    height, width = plan["size"]
    mode = "L" if len(plan["mean"]) == 1 else "RGB"
    filters = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers, the same in every version

    def decode(path: str) -> Any:
        try:
            with Image.open(path) as image:
                return ImageOps.exif_transpose(image).convert(mode)
        except Exception as error:  # Pillow's readers raise whatever their parsing trips over
            raise DataError(f"cannot decode {path}: {error}") from error

    def resize(image: Any) -> Any:
        if image.size != (width, height):
            image = image.resize((width, height), filters[plan["resize"]])
        pixels = np.array(image, np.uint8)
        return pixels[:, :, None] if mode == "L" else pixels

    return Reader(f"Pillow {PIL.__version__}", decode, resize)


# --- without Pillow -----------------------------------------------------------------------------------------


def numpy_reader(plan: dict[str, Any]) -> Reader:
    import numpy as np

    channels = len(plan["mean"])

    def decode(path: str) -> Any:
        if Path(path).suffix == ".npy":
            pixels = np.load(path, allow_pickle=False)
        elif Path(path).suffix in (".ppm", ".pgm"):
            pixels = read_netpbm(path)
        else:
            raise DataError(f"cannot decode {path}: Pillow is not installed on the device")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels:
            raise DataError(f"{path} is {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W, {channels}]")
        return pixels

    return Reader(f"NumPy {np.__version__}", decode, lambda pixels: resample(pixels, plan))


def read_netpbm(path: str) -> Any:
    """Binary P5 (gray) or P6 (RGB) with one byte a value and no comments: uint8 `[H, W, C]`."""
    import numpy as np

    content = Path(path).read_bytes()
    head = re.match(rb"P([56])\s+(\d+)\s+(\d+)\s+255\s", content)
    if head is None:
        raise DataError(f"{path} is not a PPM or PGM file of bytes")
    shape = int(head.group(3)), int(head.group(2)), 3 if head.group(1) == b"6" else 1
    size = shape[0] * shape[1] * shape[2]
    if size < 1 or len(content) - head.end() != size:
        raise DataError(f"{path} does not hold the pixels that it declares")
    return np.frombuffer(content, np.uint8, offset=head.end()).reshape(shape)


def resample(pixels: Any, plan: dict[str, Any]) -> Any:
    """uint8 `[H, W, C]` to the plan's size with Pillow's filters, wider when shrinking (antialiased)."""
    import numpy as np

    height, width = plan["size"]
    if plan["resize"] == "nearest":
        return pixels[nearest(pixels.shape[0], height)][:, nearest(pixels.shape[1], width)]
    across = filter_matrix(pixels.shape[1], width, plan["resize"])
    down = filter_matrix(pixels.shape[0], height, plan["resize"])
    x = _rounded(np.einsum("ow,hwc->hoc", across, pixels.astype(np.float64)))  # Pillow rounds in between, too
    return _rounded(np.einsum("oh,hwc->owc", down, x)).astype(np.uint8)


def nearest(source: int, target: int) -> Any:
    """Which of `source` positions stands for each of `target`; summed up step by step, as Pillow does."""
    import numpy as np

    steps = np.full(target, source / target)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(int), source - 1)


def _rounded(x: Any) -> Any:
    import numpy as np

    return np.clip(np.floor(x + 0.5), 0, 255)


def filter_matrix(source: int, target: int, name: str) -> Any:
    """Weights float64 `[target, source]` of Pillow's separable filter `bilinear` or `bicubic` (a = -0.5)."""
    import numpy as np

    support = {"bilinear": 1.0, "bicubic": 2.0}[name]
    scale = source / target
    stretch = max(scale, 1.0)
    weights = np.zeros((target, source))
    for at in range(target):
        center = (at + 0.5) * scale
        low = max(0, int(center - support * stretch + 0.5))
        high = min(source, int(center + support * stretch + 0.5))
        for index in range(low, high):
            weights[at, index] = _filter((index - center + 0.5) / stretch, name)
    return weights / weights.sum(axis=1, keepdims=True)


def _filter(x: float, name: str) -> float:
    x = math.fabs(x)
    if name == "bilinear":
        return max(0.0, 1.0 - x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0 if x < 2.0 else 0.0
