"""Reads the result.json that comes back from a kit, which anybody may have written, into plain facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from pydantic import AllowInfNan, ConfigDict, Field, StringConstraints, ValidationError

from edgekd.backends.tensorrt import kit_check, runtime
from edgekd.core.config import Config
from edgekd.core.digest import of_file
from edgekd.core.errors import DataError

_LARGEST = 32 << 20
"""Bytes."""

Words = Annotated[str, StringConstraints(max_length=5000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, AllowInfNan(False), Field(ge=-1e30, le=1e30)]
Milliseconds = Annotated[float, AllowInfNan(False), Field(ge=0, lt=1e7)]


class _Strict(Config):
    model_config = ConfigDict(strict=True)


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


def read_result(kit: Path, answer: Path) -> dict[str, Any]:
    """Facts of the result in the file `answer` of the kit in the folder `kit`.

    The logits are compared here, with the kit's own reference. Raises `DataError` for a file that is not of
    this kit, is not of the form, or is too large.
    """
    result = _parsed(answer)
    manifest = json.loads((kit / "kit.json").read_text(encoding="utf-8"))
    if result.kit_sha256 != of_file(kit / "kit.json") or result.model_sha256 != manifest["model_sha256"]:
        _refuse(
            answer, "it is the result of another kit", fix=f"run the kit in {kit}, and bring its result.json"
        )
    if "compute_capability" not in result.gpu or "name" not in result.gpu:
        _refuse(answer, "it does not say on which GPU it ran")
    try:
        numerics = kit_check.compare(
            np.array(result.logits, np.float32), kit_check.reference(kit), manifest["tolerance"]
        )
    except ValueError as error:
        _refuse(answer, str(error))
    return {
        "precision": manifest["precision"],
        "tensorrt": result.tensorrt,
        "gpu": result.gpu,
        "machine": result.machine,
        "engine": result.engine.model_dump(),
        "numerics": numerics,
        "compute_ms": _summed(result.compute_ms),
        "profile": _placed(result, manifest),
        "layers": [{"name": one.name, "p50_ms": one.medianMs} for one in result.profile],
    }


def _parsed(answer: Path) -> Result:
    try:
        if answer.stat().st_size > _LARGEST:
            _refuse(answer, f"it is larger than {_LARGEST >> 20} MiB")
        return Result.model_validate(json.loads(answer.read_bytes()))
    except OSError as error:
        _refuse(answer, f"cannot read: {error.strerror or error}")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        _refuse(answer, f"`{place}`: {first['msg']} ({error.error_count()} in all)")
    except (ValueError, RecursionError) as error:
        _refuse(answer, f"it is not JSON: {str(error)[:200]}")


def _refuse(answer: Path, what: str, *, fix: str | None = None) -> NoReturn:
    raise DataError(what, where=str(answer), fix=fix)


def _summed(compute_ms: list[float]) -> dict[str, float]:
    p10, p50, p90 = (float(value) for value in np.percentile(compute_ms, [10, 50, 90]))
    return {"runs": len(compute_ms), "mean": float(np.mean(compute_ms)), "p10": p10, "p50": p50, "p90": p90}


def _placed(result: Result, manifest: dict[str, Any]) -> dict[str, Any]:
    engine = manifest["engine"]
    settings = runtime.Settings(dla_core=engine["dla_core"], tf32=engine["tf32"])
    found = runtime.summarize({"Layers": result.layers}, manifest["layers"], settings)
    return {key: value for key, value in found.items() if key not in ("nodes", "ends")}
