"""A measurement: a number with its protocol, its device, its artifact and its validity."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from edgekd.core.config import Config
from edgekd.core.digest import of_bytes, of_file
from edgekd.core.durable import write_text
from edgekd.core.errors import UsageError

SCHEMA_VERSION = 1

Quantity = Literal[
    "accuracy",
    "accuracy_drop",
    "agreement",
    "host_agreement",
    "macro_recall",
    "worst_class_recall",
    "new_errors",
    "latency_p50_ms",
    "latency_p90_ms",
    "speedup",
    "throughput_ips",
    "cold_start_ms",
    "sustained_ratio",
    "size_bytes",
    "memory_bytes",
    "energy_mj",
]


class Interval(Config):
    """A two-sided confidence interval in the measurement's own unit."""

    low: float
    high: float
    level: float = 0.95
    method: str


class Validity(Config):
    """Whether a quantity may be judged; `reasons` says why not (or what to keep in mind)."""

    valid: bool = True
    reasons: tuple[str, ...] = ()


class Subject(Config):
    """What was measured: a row of the waterfall (`name`), its artifact and the form it ran in."""

    name: str
    digest: str
    backend: str = "onnx"
    precision: str = "fp32"


class Measurement(Config):
    """One number. `value` is None when it was not measured; `not_measured` then says why.

    Fractions (accuracy, recall, agreement) are in [0, 1]; `accuracy_drop` is `against - subject` as a
    fraction; `new_errors` is the share of images that `against` gets right and the subject wrong;
    `speedup` is time of `against` / time of the subject; `host_agreement` is the share of images that the
    target answers as this machine does with the same artifact; `sustained_ratio` is the last minute's median
    time / the first one's.
    """

    schema_version: int = SCHEMA_VERSION
    quantity: Quantity
    unit: str
    value: float | None
    interval: Interval | None = None
    n: int = 0
    subject: Subject
    against: Subject | None = None
    target: str
    device: dict[str, Any] = {}
    protocol: dict[str, Any] = {}
    validity: Validity = Validity()
    not_measured: str | None = None
    detail: dict[str, Any] = {}
    """Statistics beside the headline (sd, min, p10, per-process medians, per-class recall ...)."""
    samples: str | None = None
    """File of the raw samples, relative to the measurements file."""
    taken_at: str
    """UTC, ISO 8601."""
    reused_from: str | None = None
    """Name of the subject with the same graph that was timed in this one's place."""


SEAL = "measurements.sha256"
"""Beside the measurements: their digest, so that a number changed by hand is not judged."""


def write_measurements(path: Path, measurements: Iterable[Measurement]) -> None:
    """One JSON object per line; the file's digest is left beside it as `SEAL`."""
    text = "".join(m.model_dump_json() + "\n" for m in measurements)
    write_text(path, text)
    write_text(path.with_name(SEAL), f"{of_bytes(text.encode())}  {path.name}\n")


def is_sealed(path: Path) -> bool:
    """Whether a measurements file is as it was written after measuring."""
    try:
        stated = path.with_name(SEAL).read_text(encoding="utf-8").split()[:1]
        return stated == [of_file(path)]
    except (OSError, UnicodeDecodeError):
        return False


def read_sealed(path: Path) -> list[Measurement]:
    """For whoever writes them anew: what was changed by hand must not get a new seal. Raises `UsageError`."""
    if not is_sealed(path):
        raise UsageError(
            f"{path.name} is not what was written after measuring: it does not match {SEAL}",
            where=str(path),
            fix="measure again: `edgekd measure`",
        )
    return read_measurements(path)


def read_measurements(path: Path) -> list[Measurement]:
    """Raises `UsageError` naming the line that is not a measurement of a known schema."""
    measurements = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read measurements: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        try:
            measurement = Measurement.model_validate_json(line)
        except ValueError as error:
            raise UsageError(f"not a measurement: {error}", where=f"{path}:{number}") from error
        if measurement.schema_version > SCHEMA_VERSION:
            raise UsageError(
                f"measured by a newer edgekd (schema {measurement.schema_version})",
                where=f"{path}:{number}",
                fix="upgrade edgekd",
            )
        measurements.append(measurement)
    return measurements
