"""The answer when no student fits: the nearest candidates, and the limits that would admit them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgekd.core.errors import InfeasibleError
from edgekd.search.budget import Bound, Budget, Excess
from edgekd.search.latency_table import Row
from edgekd.search.timing import Timed

_SHOWN = 3


def infeasible(
    rows: Sequence[Row], budget: Budget, remeasured: Mapping[str, Timed] | None = None
) -> InfeasibleError:
    """An error that shows the candidates nearest to the budget by their worst excess, and the way out.

    `remeasured` latencies and sizes replace those of the table.
    """
    ranked = sorted(rows, key=lambda row: (_excesses(row, budget, remeasured)[0][2], row.candidate.id))
    shown = [_line(row, budget, remeasured) for row in ranked[:_SHOWN]]
    bounds = [f"budget: {_bound(bound, budget.margin)}" for bound in budget.bounds]
    head = f"none of {len(rows)} candidates fits the budget"
    return InfeasibleError(
        "\n  ".join([head, *bounds, "nearest:", *shown]),
        where="select",
        fix="loosen the limits that a candidate is over, lower the margin, or search smaller networks",
    )


def _costs(row: Row, remeasured: Mapping[str, Timed] | None) -> tuple[dict[str, float], int]:
    latency = {target: entry.p50_ms for target, entry in row.latency.items()}
    timed = (remeasured or {}).get(row.candidate.id)
    if timed is None:
        return latency, row.size_bytes
    latency.update({target: p50.value for target, p50 in timed.p50_ms.items()})
    return latency, timed.size_bytes or row.size_bytes


def _excesses(row: Row, budget: Budget, remeasured: Mapping[str, Timed] | None) -> list[Excess]:
    return budget.excesses(*_costs(row, remeasured))


def _line(row: Row, budget: Budget, remeasured: Mapping[str, Timed] | None) -> str:
    latency, size_bytes = _costs(row, remeasured)
    again = row.candidate.id in (remeasured or {})
    costs = [f"{value:.3g} ms on {target} ({_kind(row, target, again)})" for target, value in latency.items()]
    over = [(bound, cost) for bound, cost, excess in _excesses(row, budget, remeasured) if excess > 1]
    asked = " and ".join(f"{bound.source} -> {_admitting(bound, cost)}" for bound, cost in over)
    return f"  {row.candidate.id}: {', '.join(costs)}, {_bytes(size_bytes)}; admitted by {asked}"


def _kind(row: Row, target: str, again: bool) -> str:
    if again:
        return "re-measured"
    return "measured" if row.latency[target].measured else "predicted"


def _bound(bound: Bound, margin: float) -> str:
    limit = _bytes(bound.value) if bound.on == "size_bytes" else f"{bound.value:.3g} ms on {bound.target}"
    return f"{limit} (from {bound.source}, minus a margin of {margin:.0%})"


def _admitting(bound: Bound, cost: float) -> str:
    """The limit to write, rounded to the side that admits."""
    value = bound.admitting(cost)
    if bound.quantity == "speedup":
        return f"at least {value * 0.995:.4g}x"
    if bound.on == "size_bytes":
        return f"at most {math.ceil(value)} bytes"
    return f"at most {value * 1.005:.4g} ms"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"
