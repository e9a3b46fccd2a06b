"""Makes a foreign ONNX graph one that our runtime measures: one file, one dynamic dimension `batch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.backends.onnx.anatomy import read
from edgekd.backends.onnx.external_data import ONE_FILE_BYTES, gather
from edgekd.backends.onnx.onnx_file import COMPANION
from edgekd.core.errors import ModelError

BATCH = "batch"


def adopt(
    source: Path,
    input_shape: tuple[int, int, int],
    path: Path,
    *,
    one_file_bytes: int = ONE_FILE_BYTES,
) -> dict[str, Any]:
    """Write the graph in `source` to `path` for inputs `[batch, *input_shape]`; its operators stay.

    External data are taken into the file, or where weights take more than `one_file_bytes`, into one beside
    it. Raises `ModelError` for a damaged or hostile file, and for a graph whose batch is fixed to more than
    one image, or whose size is fixed to another.
    """
    model = read(source)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    _set_batch(dimensions[0], source)
    for dimension, size in zip(dimensions[1:], input_shape, strict=True):
        if dimension.HasField("dim_value") and dimension.dim_value not in (0, size):
            found = [d.dim_value or d.dim_param for d in dimensions]
            raise ModelError(
                f"the graph takes {found}, the preprocessing gives {list(input_shape)}",
                where=str(source),
                fix="give the size it expects: `preprocess: {size: [HEIGHT, WIDTH]}`",
            )
        dimension.dim_value = size
    _set_batch(model.graph.output[0].type.tensor_type.shape.dim[0], source)
    gather(model, source, path, one_file_bytes=one_file_bytes)
    beside = path.with_suffix(COMPANION)
    size = path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
    return {"adopted": source.name, "size_bytes": size}


def _set_batch(dimension: Any, source: Path) -> None:
    """Give a dynamic first dimension our name; one that is fixed to a single image stays."""
    fixed = dimension.dim_value if dimension.HasField("dim_value") else 0
    if fixed > 1:
        raise ModelError(
            f"the graph's batch is fixed to {fixed} images; it is measured one image at a time",
            where=str(source),
            fix="export it with a dynamic batch, or with a batch of 1",
        )
    if fixed == 0:
        dimension.dim_param = BATCH
