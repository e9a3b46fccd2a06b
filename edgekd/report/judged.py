"""The verdict's limits, named for people."""

from __future__ import annotations

from edgekd.core.verdict import Limit, LimitResult, Outcome
from edgekd.report.facts import LimitFact
from edgekd.report.formatting import NAMES, counted, show
from edgekd.report.reading import Source
from edgekd.report.waterfall import number

_ANY = "any"


def limits_of(source: Source) -> tuple[LimitFact, ...]:
    return tuple(_limit(one) for one in source.verdict.results) if source.verdict else ()


def _limit(result: LimitResult) -> LimitFact:
    limit = result.limit
    return LimitFact(
        title=f"Finding: {result.finding}{_place(limit)}" if result.finding else title_of(limit),
        target=limit.target,
        quantity=limit.quantity,
        minimum=limit.min,
        maximum=limit.max,
        source=limit.source,
        outcome=result.outcome,
        reason=result.reason,
        decide=result.decide,
        number=number(result.measurement) if result.measurement and not result.finding else None,
        finding=result.finding,
    )


def title_of(limit: Limit) -> str:
    """`Accuracy drop against teacher on pi5`."""
    against = f" against {limit.against}" if limit.against else ""
    return NAMES[limit.quantity] + against + _place(limit)


def _place(limit: Limit) -> str:
    return "" if limit.target == _ANY else f" on {limit.target}"


def bound_text(limit: LimitFact) -> str:
    """`at most 12.0 MB`."""
    parts = []
    if limit.minimum is not None:
        parts.append(f"at least {show(limit.quantity, limit.minimum)}")
    if limit.maximum is not None:
        parts.append(f"at most {show(limit.quantity, limit.maximum)}")
    return ", ".join(parts) or ("none expected" if limit.finding else "no bound")


def verdict_sentence(outcome: Outcome | None, limits: tuple[LimitFact, ...]) -> str:
    """The verdict in one sentence."""
    if outcome is None:
        return "Nothing has been judged yet."
    bounded = tuple(one for one in limits if not one.finding)
    findings = len(limits) - len(bounded)
    told = f" {counted(findings, 'finding')} {'speaks' if findings == 1 else 'speak'} against a pass."
    return _limits_sentence(bounded) + (told if findings else "")


def _limits_sentence(limits: tuple[LimitFact, ...]) -> str:
    if not limits:
        return "The gate has no limits, so there is nothing to pass."
    failed = sum(one.outcome == "fail" for one in limits)
    undecided = sum(one.outcome == "inconclusive" for one in limits)
    held = len(limits) - failed - undecided
    if held == len(limits):
        return "The limit holds." if held == 1 else f"All {held} limits hold."
    parts = []
    if failed:
        parts.append(f"{failed} of {counted(len(limits), 'limit')} {'fails' if failed == 1 else 'fail'}")
    if undecided:
        parts.append(f"{undecided} of {counted(len(limits), 'limit')} cannot be decided")
    if held:
        parts.append(f"{held} {'holds' if held == 1 else 'hold'}")
    return "; ".join(parts) + "."
