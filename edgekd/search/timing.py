"""Makes a latency table: times a designed sample of the candidates and predicts the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.search.features import Features, Precision
from edgekd.search.journal import Journal, unrecorded
from edgekd.search.latency_table import Latency, LatencyTable, Milliseconds, Row, Share
from edgekd.search.predictor import FEWEST_TIMED, LatencyPredictor, PredictorFacts
from edgekd.search.sample import designed_sample
from edgekd.search.space import Candidate


class P50(Config):
    """A p50 in ms with its relative spread between processes."""

    value: Milliseconds
    spread: Share | None = None
    again: bool = True
    """False: taken from a table, as the target was out of reach when the winner was to be timed again."""


class Timed(Config):
    """What exporting and timing one candidate gave, by target."""

    p50_ms: dict[str, P50]
    size_bytes: Annotated[int, Field(gt=0)] | None = None
    """Of the exported file."""


TimeCandidates = Callable[[Sequence[Candidate]], Mapping[str, Timed]]
"""Export and time candidates through the runtime; candidate id -> what was found."""


class Conditions(Config):
    """What the table says of how it was made."""

    precision: Precision = "fp32"
    protocol: dict[str, Any] = {}
    devices: dict[str, dict[str, Any]] = {}
    seed: int = 0


def build_table(
    candidates: Sequence[Candidate],
    features: Mapping[str, Features],
    time_candidates: TimeCandidates,
    num_timed: int,
    conditions: Conditions,
    *,
    journal: Journal = unrecorded,
    group_size: int = 1,
) -> LatencyTable:
    """Time `num_timed` (>= 8) candidates, predict the others, and write both down in their own fields.

    `group_size` candidates are timed by one call (so that a session may interleave them) and journaled
    together under `time/<ids>`; 1 loses the least when killed. Raises `UsageError` when the callable leaves a
    candidate or a target out.
    """
    sample = designed_sample(candidates, features, num_timed, conditions.seed)
    timed: dict[str, Timed] = {}
    for start in range(0, len(sample), group_size):
        timed.update(_time_group(sample[start : start + group_size], time_candidates, journal))
    targets = tuple(next(iter(timed.values())).p50_ms)
    latencies = {target: _on_target(candidates, features, timed, target) for target in targets}
    rows = tuple(
        Row(
            candidate=candidate,
            features=features[candidate.id],
            latency={target: latencies[target][0][candidate.id] for target in targets},
            measured_size_bytes=timed[candidate.id].size_bytes if candidate.id in timed else None,
            estimated_size_bytes=features[candidate.id].size_bytes(conditions.precision),
        )
        for candidate in candidates
    )
    predictors = {target: facts for target in targets if (facts := latencies[target][1]) is not None}
    return LatencyTable(targets=targets, predictors=predictors, rows=rows, **dict(conditions))


def _time_group(
    group: Sequence[Candidate], time_candidates: TimeCandidates, journal: Journal
) -> dict[str, Timed]:
    """Candidate id -> timing, from the journal if it is there."""
    key = "time/" + "+".join(candidate.id for candidate in group)
    plain = journal(
        key, lambda: {name: timed.model_dump(mode="json") for name, timed in time_candidates(group).items()}
    )
    absent = [candidate.id for candidate in group if candidate.id not in plain]
    if absent:
        raise UsageError(f"no timing came back for {', '.join(absent)}", where="latency")
    return {candidate.id: Timed.model_validate(plain[candidate.id]) for candidate in group}


def _on_target(
    candidates: Sequence[Candidate], features: Mapping[str, Features], timed: Mapping[str, Timed], target: str
) -> tuple[dict[str, Latency], PredictorFacts | None]:
    """Every candidate's latency on one target, and what predicted it (nothing, if all few were timed)."""
    lacking = [name for name, one in timed.items() if target not in one.p50_ms]
    if lacking:
        raise UsageError(f"`{target}` was not timed for {', '.join(lacking)}", where="latency")
    rest = [candidate.id for candidate in candidates if candidate.id not in timed]
    if not rest and len(timed) < FEWEST_TIMED:
        return {name: _latency(timed[name].p50_ms[target]) for name in timed}, None
    predictor = LatencyPredictor(
        [features[name] for name in timed], [one.p50_ms[target].value for one in timed.values()]
    )
    predicted = dict(zip(rest, predictor.predict_ms([features[name] for name in rest]), strict=True))
    predicted.update(zip(timed, map(float, predictor.held_out_ms), strict=True))
    facts = predictor.facts
    measured = {name: one.p50_ms[target] for name, one in timed.items()}
    return {
        name: _latency(measured.get(name), value, facts.median_error) for name, value in predicted.items()
    }, facts


def _latency(measured: P50 | None, predicted_ms: float | None = None, error: float | None = None) -> Latency:
    return Latency(
        measured_p50_ms=measured.value if measured else None,
        measured_spread=measured.spread if measured else None,
        predicted_p50_ms=predicted_ms,
        predicted_error=error,
    )
