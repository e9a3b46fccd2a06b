"""Chooses the student: what fits the budget is scored, the best re-measured, every decision written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from edgekd.core.config import Config
from edgekd.core.errors import DivergedError, UsageError
from edgekd.search.budget import Bound, Budget
from edgekd.search.infeasible import infeasible
from edgekd.search.journal import Journal, unrecorded
from edgekd.search.latency_table import Latency, LatencyTable, Row
from edgekd.search.predictor import PredictorFacts
from edgekd.search.scorer import Score, Scorer
from edgekd.search.space import Candidate
from edgekd.search.strategy import Strategy
from edgekd.search.timing import Timed

Remeasure = Callable[[Candidate], Timed]
"""Export and time one candidate anew, apart from the table."""

Status = Literal["selected", "over_budget", "over_budget_remeasured", "not_tried", "diverged", "outscored"]


class Considered(Config):
    """One candidate and what became of it: a point of the Pareto plot."""

    id: str
    network: str
    args: dict[str, Any]
    resolution: tuple[int, int]
    num_parameters: int
    macs: int
    size_bytes: int
    size_measured: bool
    latency: dict[str, Latency]
    """Target -> the table's entry; measured and predicted p50 in separate fields."""
    remeasured: Timed | None = None
    score: float | None = None
    """Validation accuracy after a short training (at `effort` of it), not of a finished student."""
    effort: float | None = None
    status: Status
    reason: str


class Selection(Config):
    """The chosen candidate, and the record of the choice as plain data."""

    winner: Candidate
    remeasured: Timed
    budget: Budget
    strategy: dict[str, Any]
    noise: float
    """Scores this close to the best counted as equal; the cheaper was taken."""
    table: str
    """Digest of the latency table."""
    predictors: dict[str, PredictorFacts]
    considered: tuple[Considered, ...]
    notes: tuple[str, ...] = ()


class _Record:
    """What has been decided so far, by candidate id."""

    def __init__(self) -> None:
        self.remeasured: dict[str, Timed] = {}
        self.status: dict[str, tuple[Status, str]] = {}


def choose(
    candidates: Sequence[Candidate],
    table: LatencyTable,
    budget: Budget,
    scorer: Scorer,
    strategy: Strategy,
    remeasure: Remeasure,
    *,
    journal: Journal = unrecorded,
) -> Selection:
    """The best-scoring candidate whose re-measured latency and size fit `budget`; ties go to the cheaper.

    The table (measured where timed, else predicted) decides what is tried; the re-measurement decides what
    is taken; a candidate that then does not fit gives way to the next best. Deterministic given table, scores
    and re-measurements. Raises `InfeasibleError` when nothing fits, `UsageError` when the table lacks a
    candidate or a target of the budget, `DivergedError` when every training diverged.
    """
    _check_targets(table, budget)
    rows = table.rows_for(candidates)
    record = _Record()
    pool = [row for row in rows if _fits(row, budget, record)]
    if not pool:
        raise infeasible(rows, budget)
    chosen = _search(pool, budget, scorer, strategy, remeasure, record, journal)
    if chosen is None:
        raise _nothing_left(rows, budget, record)
    return _selection(chosen, rows, table, budget, scorer, strategy, record)


def _check_targets(table: LatencyTable, budget: Budget) -> None:
    absent = [target for target in budget.latency_ms if target not in table.targets]
    if absent:
        raise UsageError(
            f"the latency table has no column for {', '.join(absent)}",
            where="latency",
            choices=table.targets,
            fix="time a new table on every target that the gate limits",
        )


def _fits(row: Row, budget: Budget, record: _Record) -> bool:
    """Whether the table says so; the reason if not goes into the record."""
    latency = {target: entry.p50_ms for target, entry in row.latency.items()}
    return _within(row, latency, row.size_bytes, budget, record, "over_budget")


def _within(
    row: Row, latency: dict[str, float], size_bytes: int, budget: Budget, record: _Record, status: Status
) -> bool:
    broken = [(bound, cost) for bound, cost, excess in budget.excesses(latency, size_bytes) if excess > 1]
    if broken:
        record.status[row.candidate.id] = status, "; ".join(_over(*pair) for pair in broken)
    return not broken


def _over(bound: Bound, cost: float) -> str:
    if bound.on == "size_bytes":
        return f"{cost:.0f} bytes is over the budget of {bound.value:.0f} bytes ({bound.source})"
    return f"{cost:.3g} ms on {bound.target} is over the budget of {bound.value:.3g} ms ({bound.source})"


def _search(
    pool: list[Row],
    budget: Budget,
    scorer: Scorer,
    strategy: Strategy,
    remeasure: Remeasure,
    record: _Record,
    journal: Journal,
) -> Row | None:
    """The first row, in order of preference, that still fits when re-measured."""
    while pool:
        scored = strategy.search(pool, scorer)
        for row in preferred([(row, scorer.scores[row.candidate.id]) for row in scored], scorer):
            if _still_fits(row, budget, remeasure, record, journal):
                return row
        tried = {row.candidate.id for row in scored}
        pool = [row for row in pool if row.candidate.id not in tried]
    return None


def preferred(scored: Sequence[tuple[Row, Score]], scorer: Scorer) -> list[Row]:
    """The rows with a score: those that tie with the best, cheapest first, then the others, best first."""
    valued = [(row, score) for row, score in scored if score.value is not None]
    best = max((score.rank for _, score in valued), default=0.0)
    least = best - scorer.noise(best)
    ties = sorted((row for row, score in valued if score.rank >= least), key=cost)
    rest = sorted((pair for pair in valued if pair[1].rank < least), key=lambda p: (-p[1].rank, cost(p[0])))
    return [*ties, *(row for row, _ in rest)]


def cost(row: Row) -> tuple[float, int, str]:
    """To order by: mean log latency over the targets, then size, then the name."""
    latencies = [math.log(latency.p50_ms) for latency in row.latency.values()]
    return sum(latencies) / max(len(latencies), 1), row.size_bytes, row.candidate.id


def _still_fits(row: Row, budget: Budget, remeasure: Remeasure, record: _Record, journal: Journal) -> bool:
    name = row.candidate.id
    plain = journal(f"remeasure/{name}", lambda: remeasure(row.candidate).model_dump(mode="json"))
    timed = record.remeasured[name] = Timed.model_validate(plain)
    absent = [target for target in budget.latency_ms if target not in timed.p50_ms]
    if absent:
        raise UsageError(f"`{name}` was not re-measured on {', '.join(absent)}", where="select")
    latency = {target: p50.value for target, p50 in timed.p50_ms.items()}
    size_bytes = timed.size_bytes or row.size_bytes
    return _within(row, latency, size_bytes, budget, record, "over_budget_remeasured")


def _nothing_left(rows: Sequence[Row], budget: Budget, record: _Record) -> Exception:
    if not record.remeasured:
        return DivergedError(
            "the short training of every candidate within the budget diverged",
            where="select",
            fix="lower the learning rate",
        )
    return infeasible(rows, budget, record.remeasured)


def _selection(
    chosen: Row,
    rows: Sequence[Row],
    table: LatencyTable,
    budget: Budget,
    scorer: Scorer,
    strategy: Strategy,
    record: _Record,
) -> Selection:
    best = max(score.rank for score in scorer.scores.values() if score.effort >= 1)
    noise = scorer.noise(best)
    record.status[chosen.candidate.id] = "selected", _why(chosen, scorer, best, noise)
    return Selection(
        winner=chosen.candidate,
        remeasured=record.remeasured[chosen.candidate.id],
        budget=budget,
        strategy={"name": type(strategy).__name__.lower(), **strategy.model_dump(mode="json")},
        noise=noise,
        table=table.digest,
        predictors=table.predictors,
        considered=tuple(_considered(row, scorer.scores.get(row.candidate.id), record) for row in rows),
        notes=budget.notes if budget.bounds else (*budget.notes, "no limit of the gate bounds the student"),
    )


def _why(chosen: Row, scorer: Scorer, best: float, noise: float) -> str:
    score = scorer.scores[chosen.candidate.id].rank
    if score >= best:
        return f"the best score, {score:.4f}"
    if score >= best - noise:
        return f"{score:.4f} ties with the best ({best:.4f}, noise {noise:.4f}) and is cheaper"
    return f"{score:.4f} is the best score of those that fit when re-measured"


def _considered(row: Row, score: Score | None, record: _Record) -> Considered:
    name = row.candidate.id
    status, reason = record.status.get(name) or _passed_over(score)
    return Considered(
        id=name,
        network=row.candidate.spec.name,
        args=row.candidate.spec.args,
        resolution=row.candidate.resolution,
        num_parameters=row.features.num_parameters,
        macs=row.features.macs,
        size_bytes=row.size_bytes,
        size_measured=row.measured_size_bytes is not None,
        latency=row.latency,
        remeasured=record.remeasured.get(name),
        score=score.value if score else None,
        effort=score.effort if score else None,
        status=status,
        reason=reason,
    )


def _passed_over(score: Score | None) -> tuple[Status, str]:
    """Status and reason of a candidate that fits the table's budget and was not taken."""
    if score is None:
        return "not_tried", "fits, but others of its shape or with more capacity were tried first"
    if score.value is None:
        return "diverged", score.note
    return "outscored", f"scored {score.value:.4f} at {score.effort:.0%} of the short training"
