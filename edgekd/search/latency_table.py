"""The latency table: what each candidate takes on each target, measured or predicted, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from edgekd.core.config import Config
from edgekd.core.digest import of_data
from edgekd.core.durable import write_json
from edgekd.core.errors import UsageError
from edgekd.search.features import Features, Precision
from edgekd.search.predictor import PredictorFacts
from edgekd.search.space import Candidate

SCHEMA_VERSION = 1
TABLE = "latency-table.json"
LARGEST_FILE_BYTES = 64 << 20
_SHOWN_PROBLEMS = 5

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Latency(Config):
    """One candidate on one target. A prediction never stands in the measured field."""

    measured_p50_ms: Milliseconds | None = None
    measured_spread: Share | None = None
    """Relative spread of the p50 between processes."""
    predicted_p50_ms: Milliseconds | None = None
    """For a timed candidate: the prediction of a predictor that had not seen it."""
    predicted_error: Share | None = None
    """The predictor's median relative error on candidates it had not seen."""

    @model_validator(mode="after")
    def _says_something(self) -> Latency:
        if self.measured_p50_ms is None and self.predicted_p50_ms is None:
            raise ValueError("neither measured nor predicted")
        if self.predicted_p50_ms is not None and self.predicted_error is None:
            raise ValueError("a predicted latency needs the predictor's error")
        return self

    @property
    def measured(self) -> bool:
        return self.measured_p50_ms is not None

    @property
    def p50_ms(self) -> float:
        """To decide by: measured where it was, else predicted."""
        value = self.measured_p50_ms if self.measured_p50_ms is not None else self.predicted_p50_ms
        assert value is not None  # the validator refuses a row with neither
        return value


class Row(Config):
    """One candidate: its features, its latency by target, its exported size where it was exported."""

    candidate: Candidate
    features: Features
    latency: dict[str, Latency]
    measured_size_bytes: Annotated[int, Field(gt=0)] | None = None
    estimated_size_bytes: Annotated[int, Field(gt=0)]

    @property
    def size_bytes(self) -> int:
        """To decide by: of the exported file where there was one, else estimated."""
        return self.measured_size_bytes or self.estimated_size_bytes


class LatencyTable(Config):
    """All candidates of a space on all targets, in one precision, under one protocol."""

    schema_version: int = SCHEMA_VERSION
    precision: Precision
    targets: tuple[str, ...]
    protocol: dict[str, Any] = {}
    devices: dict[str, dict[str, Any]] = {}
    """Target -> facts of the device that was timed."""
    teacher_p50_ms: dict[str, Milliseconds] = {}
    """Target -> the teacher's p50, interleaved with the candidates; what a speed-up limit is read against."""
    predictors: dict[str, PredictorFacts] = {}
    """Target -> what predicted there and how well; empty when every candidate was timed."""
    seed: int = 0
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> LatencyTable:
        ids = [row.candidate.id for row in self.rows]
        if len(set(ids)) != len(ids):
            raise ValueError("a candidate stands in the table twice")
        for row in self.rows:
            if set(row.latency) != set(self.targets):
                raise ValueError(f"`{row.candidate.id}` is not given for exactly the targets {self.targets}")
        return self

    @property
    def digest(self) -> str:
        return of_data(self.model_dump(mode="json"))

    @property
    def num_timed(self) -> int:
        return sum(all(latency.measured for latency in row.latency.values()) for row in self.rows)

    def rows_for(self, candidates: Sequence[Candidate]) -> list[Row]:
        """The rows of `candidates`, in their order.

        Raises `UsageError` when the table was made for others: a network is never taken from a file.
        """
        known = {row.candidate.id: row for row in self.rows}
        absent = [c.id for c in candidates if c.id not in known or known[c.id].candidate != c]
        if absent:
            raise UsageError(
                f"the latency table lacks {len(absent)} of {len(candidates)} candidates: "
                + ", ".join(absent[:_SHOWN_PROBLEMS]),
                where="latency",
                fix="give the space and the data this table was made for, or time a new table",
            )
        return [known[candidate.id] for candidate in candidates]


def write_table(path: Path, table: LatencyTable) -> None:
    """Write `table` as JSON, all or nothing. Raises `StoreError`."""
    write_json(path, table.model_dump(mode="json"))


def read_table(path: Path) -> LatencyTable:
    """A table from a file that anyone may have written.

    Raises `UsageError` when it cannot be read, is cut short, is not a latency table, contradicts itself or is
    of a newer schema.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise UsageError(f"larger than {LARGEST_FILE_BYTES >> 20} MiB", where=str(path))
        table = LatencyTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the latency table: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        raise UsageError(
            "\n  - ".join(["not a latency table:", *_problems(error)]),
            where=str(path),
            fix="give the file that a `latency` step wrote, or leave `latency:` out to time a new one",
        ) from error
    if table.schema_version > SCHEMA_VERSION:
        raise UsageError(
            f"written by a newer edgekd (schema {table.schema_version})",
            where=str(path),
            fix="upgrade edgekd",
        )
    return table


def _problems(error: ValidationError) -> list[str]:
    found = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
    more = len(found) - _SHOWN_PROBLEMS
    return found[:_SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
