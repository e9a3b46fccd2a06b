"""What a run's folder keeps of a kit that came back: `kits/<digest>.json`, one file a device and artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from edgekd.core.config import Config
from edgekd.core.digest import of_data
from edgekd.core.durable import write_json

KITS = "kits"


class Numerics(Config):
    """The engine's logits against ONNX Runtime's without any optimization."""

    images: int
    largest_logit: float
    max_abs_difference: float
    same_top1: int
    tolerance: float
    """Of the largest logit."""
    agrees: bool


class Times(Config):
    """Milliseconds of the network alone, by trtexec."""

    runs: int
    mean: float
    p10: float
    p50: float
    p90: float


class Placed(Config):
    """What computes in what, as `summarize` counts it."""

    ops: dict[str, int]
    placement: dict[str, int]
    precisions: dict[str, int]
    unexpected: tuple[str, ...]
    untold: tuple[str, ...]


class KitRecord(Config):
    """One kit that was run on one device."""

    schema_version: Literal[1] = 1
    artifact: str
    """Name of the run's row or step."""
    model_sha256: str
    read_at: str
    """UTC, ISO 8601."""
    precision: str
    tensorrt: str
    gpu: dict[str, str]
    machine: dict[str, str]
    engine: dict[str, Any]
    numerics: Numerics
    compute_ms: Times
    profile: Placed
    layers: tuple[dict[str, Any], ...]

    @property
    def device(self) -> str:
        """As a person calls it."""
        model = self.machine.get("model")
        name, capability = (self.gpu.get(key, "?") for key in ("name", "compute_capability"))
        gpu = f"{name}, compute capability {capability}"
        return f"{model} ({gpu})" if model else gpu


def write_record(run_folder: Path, record: KitRecord) -> Path:
    """Keep it in the run's folder, in place of what this device told before; raises `StoreError`."""
    name = of_data([record.model_sha256, record.gpu, record.machine, record.tensorrt])[:16]
    path = run_folder / KITS / f"{name}.json"
    write_json(path, record.model_dump(mode="json"))
    return path


def read_records(run_folder: Path) -> tuple[list[KitRecord], list[str]]:
    """All that are kept, the oldest first, and what of it cannot be read."""
    found, problems = [], []
    for path in sorted((run_folder / KITS).glob("*.json")):
        try:
            found.append(KitRecord.model_validate(json.loads(path.read_bytes())))
        except (OSError, ValueError, RecursionError):
            problems.append(f"{KITS}/{path.name} is not what `edgekd kit read` writes")
    return sorted(found, key=lambda one: one.read_at), problems
