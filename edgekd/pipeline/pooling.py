"""The raw times of one session on one target, and its measurements anew with those of further processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.durable import write_text
from edgekd.core.errors import UsageError
from edgekd.core.measurement import Measurement
from edgekd.measure import latency, statistics
from edgekd.measure.estimate import Estimate
from edgekd.measure.protocol import Protocol

_FIRST = "the session"
_GENERAL = ("wrong device", "emulated device", "fall-back")
"""How those problems begin that are not of the times themselves."""


class Samples:
    """What `session/<target>/latency.json` holds, as far as the measurements rest on it.

    `processes` are those of the session; an attempt that was killed may have left more in the file.
    """

    def __init__(self, path: Path, taken: Measurement) -> None:
        """`taken` is any measurement of the session's times. Raises `UsageError` for an unreadable file."""
        known = {key: value for key, value in taken.protocol.items() if key in Protocol.model_fields}
        try:
            self.protocol = Protocol.model_validate(known)
            self._document: dict[str, Any] = json.loads(path.read_bytes())
            found: list[latency.Process] = [
                {**one, "graphs": one["rows"]} for one in self._document["processes"]
            ]
            self.reused: Mapping[str, str] = self._document["reused"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"the session's raw samples cannot be read: {error}",
                where=str(path),
                fix="measure again: `edgekd measure`",
            ) from error
        self._path = path
        self.processes = found[: int(taken.protocol.get("processes", len(found)))]
        self.attempts: list[Mapping[str, Any]] = list(taken.protocol.get("attempts", []))

    @property
    def graphs(self) -> list[str]:
        """The subjects whose graphs were timed."""
        return list(self.processes[0]["graphs"])

    def write(self, pool: Sequence[latency.Process]) -> None:
        """Replace the file's processes by `pool`."""
        rows = [{"rows": one["graphs"], **_beside(one)} for one in pool]
        content = {**self._document, "processes": rows}
        write_text(self._path, json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n")

    def estimate(
        self, one: Measurement, pool: Sequence[latency.Process], level: float = statistics.LEVEL
    ) -> Estimate | None:
        """What `pool` says of the measurement's quantity; None for two rows with one graph."""
        name = self._graph(one.subject.name)
        if one.quantity == "latency_p50_ms":
            return latency.p50(pool, name, self.protocol, level=level)
        if one.quantity == "latency_p90_ms":
            return latency.p90(pool, name, self.protocol, level=level)
        against = self._graph(one.against.name if one.against else name)
        return None if against == name else latency.speedup(pool, name, against, self.protocol, level=level)

    def parts(self, one: Measurement) -> list[float]:
        """The process-level values that the measurement's interval is made of."""
        if one.quantity == "speedup":
            found = self.estimate(one, self.processes)
            return list(found.detail["process_ratios"]) if found else []
        fraction = 0.5 if one.quantity == "latency_p50_ms" else 0.9
        return latency.process_percentiles(self.processes, self._graph(one.subject.name), fraction)

    def others(self, one: Measurement) -> tuple[list[str], list[str]]:
        """Problems and notes of the measurement that its times by themselves do not have."""
        own = self.estimate(one, self.processes)
        known = {*own.problems, *own.notes} if own else set()
        rest = [reason for reason in one.validity.reasons if reason not in known]
        general = [reason for reason in rest if reason.startswith(_GENERAL)]
        unexplained = not one.validity.valid and not (own and own.problems)
        problems = rest if unexplained else general
        return problems, [reason for reason in rest if reason not in problems]

    def pooled(
        self, one: Measurement, pool: Sequence[latency.Process], added: Mapping[str, Any], level: float
    ) -> Measurement:
        """The measurement from all processes; its protocol records the attempts, `added` as the last one."""
        new = self.estimate(one, pool, level)
        if new is None:
            return one
        first = {"processes": len(self.processes), "at": one.taken_at, "reason": _FIRST}
        problems, notes = self.others(one)
        reasons = dict.fromkeys((*problems, *new.problems, *notes, *new.notes))
        states = {"state": [process["state"] for process in pool]} if "state" in one.detail else {}
        valid = not problems and not new.problems
        update = {
            "value": new.value,
            "interval": new.interval,
            "n": new.n,
            "detail": {**one.detail, **new.detail, **states},
            "validity": one.validity.model_copy(update={"valid": valid, "reasons": tuple(reasons)}),
            "protocol": {**one.protocol, "processes": len(pool), "attempts": [first, dict(added)]},
        }
        return one.model_copy(update=update)

    def _graph(self, name: str) -> str:
        return self.reused.get(name, name)


def _beside(process: latency.Process) -> dict[str, Any]:
    return {key: value for key, value in process.items() if key not in ("graphs", "rows")}
