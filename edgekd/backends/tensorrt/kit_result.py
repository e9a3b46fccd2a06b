"""Reads the result.json that comes back from a kit, which anybody may have written, into plain facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from pydantic import AllowInfNan, ConfigDict, Field, StringConstraints, ValidationError

from edgekd.backends.tensorrt import kit_check
from edgekd.backends.tensorrt.kit import MOST_IMAGES, TOLERANCES, reference, weighed
from edgekd.backends.tensorrt.tensorrt_layers import summarize
from edgekd.backends.tensorrt.tensorrt_settings import Settings
from edgekd.core.config import Config
from edgekd.core.digest import of_file
from edgekd.core.errors import DataError

RESULT = kit_check.RESULT
KIT = "kit.json"
_LARGEST = 32 << 20
"""Bytes."""

Words = Annotated[str, StringConstraints(max_length=5000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, AllowInfNan(False), Field(ge=-1e30, le=1e30)]
Milliseconds = Annotated[float, AllowInfNan(False), Field(ge=0, lt=1e7)]
Side = Annotated[int, Field(ge=1, le=1 << 14)]


class _Strict(Config):
    model_config = ConfigDict(strict=True)


class _Built(Config):
    """How the kit builds its engine; what else stands there is of no account here."""

    model_config = ConfigDict(strict=True, extra="ignore")

    shape: Annotated[list[Side], Field(min_length=4, max_length=4)]
    dla_core: int | None
    tf32: bool


class Manifest(_Strict):
    """kit.json, which was on the device, too."""

    format: Literal[1]
    files: dict[Words, Digest] = Field(max_length=200)
    model_sha256: Digest
    precision: Literal["fp32", "fp16", "int8"]
    tolerance: Number
    images: int = Field(ge=1, le=MOST_IMAGES)
    engine: _Built
    layers: dict[Words, Words] = Field(max_length=20_000)


class _Engine(_Strict):
    sha256: Digest
    size_bytes: int = Field(gt=0)


class _Layer(_Strict):
    name: Words
    medianMs: Milliseconds


class Result(_Strict):
    """What the kit's check.py writes."""

    format: Literal[1]
    kit_sha256: Digest
    model_sha256: Digest
    engine: _Engine
    tensorrt: Annotated[str, StringConstraints(pattern=r"^1[01]\.\d{1,2}\.\d{1,2}$")]
    gpu: dict[Words, Words] = Field(max_length=8)
    machine: dict[Words, Words] = Field(max_length=8)
    logits: list[Annotated[list[Number], Field(min_length=1, max_length=100_000)]] = Field(max_length=64)
    compute_ms: list[Milliseconds] = Field(min_length=1, max_length=1_000_000)
    layers: list[dict[Words, Words | dict[Words, Words] | list[dict[Words, Words]]]] = Field(
        max_length=20_000
    )
    profile: list[_Layer] = Field(max_length=20_000)


T = TypeVar("T", Manifest, Result)


def read_manifest(kit: Path) -> Manifest:
    """What the kit in the folder `kit` says of itself. Raises `DataError`."""
    return _parsed(kit / KIT, Manifest)


def read_result(kit: Path, answer: Path, model: Path) -> dict[str, Any]:
    """Facts of the result in the file `answer` of the kit in the folder `kit`, which must be of `model`.

    The model's logits of the kit's images are computed here anew, without any optimization, and compared with
    the result's: what the kit holds as reference is not read. Raises `DataError` for a file that is not of
    this kit, a kit that is not of this model, and what is not of the form or too large.
    """
    manifest, result = read_manifest(kit), _parsed(answer, Result)
    if result.kit_sha256 != of_file(kit / KIT) or result.model_sha256 != manifest.model_sha256:
        fix = f"run the kit in {kit}, and bring its {RESULT}"
        _refuse(answer, "it is the result of another kit", fix=fix)
    if of_file(model) != manifest.model_sha256:
        _refuse(kit / KIT, f"it is a kit of another artifact than {model.name}")
    if "compute_capability" not in result.gpu or "name" not in result.gpu:
        _refuse(answer, "it does not say on which GPU it ran")
    loaded = onnx.load(str(model))
    images = _images(
        kit, manifest, [dim.dim_value for dim in loaded.graph.input[0].type.tensor_type.shape.dim]
    )
    expected = reference(model, images)
    if not np.isfinite(expected).all():
        _refuse(kit / KIT, "the model's own answers to its images are not finite")
    try:
        logits = np.array(result.logits, np.float32)
        numerics = kit_check.compare(logits, expected, TOLERANCES[manifest.precision])
    except ValueError as error:
        _refuse(answer, str(error))
    return {
        "precision": manifest.precision,
        "tensorrt": result.tensorrt,
        "gpu": result.gpu,
        "machine": result.machine,
        "engine": result.engine.model_dump(),
        "numerics": numerics,
        "compute_ms": _summed(result.compute_ms),
        "profile": _placed(result, manifest, weighed(loaded)),
        "layers": [{"name": one.name, "p50_ms": one.medianMs} for one in result.profile],
    }


def _images(kit: Path, manifest: Manifest, dims: list[int]) -> npt.NDArray[np.float32]:
    """Those that were answered, `[N, C, H, W]`; `dims` are the model's."""
    shape = tuple(manifest.engine.shape[1:])
    if list(shape) != dims[1:]:
        _refuse(kit / KIT, f"its images are {list(shape)}, the model takes {dims[1:]}")
    found = []
    for number in range(manifest.images):
        path = kit / f"image_{number:03}.bin"
        try:
            if path.stat().st_size != 4 * int(np.prod(shape)) or of_file(path) != manifest.files.get(
                path.name
            ):
                _refuse(path, "it is not the image that was written there", fix="bring the kit back whole")
            found.append(np.frombuffer(path.read_bytes(), "<f4").reshape(shape))
        except OSError as error:
            _refuse(path, f"cannot read: {error.strerror or error}", fix="bring the kit back whole")
    images = np.stack(found).astype(np.float32)
    if not np.isfinite(images).all():
        _refuse(kit, "it holds pixels that are no finite numbers")
    return images


def _parsed(path: Path, kind: type[T]) -> T:
    try:
        if path.stat().st_size > _LARGEST:
            _refuse(path, f"it is larger than {_LARGEST >> 20} MiB")
        return kind.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        _refuse(path, f"cannot read: {error.strerror or error}")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        _refuse(path, f"`{place}`: {first['msg']} ({error.error_count()} in all)")
    except (ValueError, RecursionError) as error:
        _refuse(path, f"it is not JSON: {str(error)[:200]}")


def _refuse(path: Path, what: str, *, fix: str | None = None) -> NoReturn:
    raise DataError(what, where=str(path), fix=fix)


def _summed(compute_ms: list[float]) -> dict[str, float]:
    p10, p50, p90 = (float(value) for value in np.percentile(compute_ms, [10, 50, 90]))
    return {"runs": len(compute_ms), "mean": float(np.mean(compute_ms)), "p10": p10, "p50": p50, "p90": p90}


def _placed(result: Result, manifest: Manifest, layers: dict[str, str]) -> dict[str, Any]:
    settings = Settings(dla_core=manifest.engine.dla_core, tf32=manifest.engine.tf32)
    found = summarize({"Layers": result.layers}, layers, settings)
    return {key: value for key, value in found.items() if key not in ("nodes", "ends")}
