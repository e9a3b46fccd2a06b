"""Strategies: which of the candidates that fit the budget are trained for a short while, and how long."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from edgekd.core.config import Config
from edgekd.core.digest import canonical_json
from edgekd.core.registry import Entry, Registry
from edgekd.search.latency_table import Row
from edgekd.search.scorer import Scorer


class Strategy(Config, ABC):
    """A way to spend short training. The fields of a subclass are its keys in a recipe."""

    @abstractmethod
    def search(self, pool: Sequence[Row], scorer: Scorer) -> list[Row]:
        """Score some of `pool` and return those that were scored in full, effort 1 (at least one).

        Called again with the rest when none of them turns out to fit the budget. Deterministic given the
        pool and the scores.
        """


class Shortlist(Strategy):
    """Train the `size` most promising candidates by capacity, each of another shape."""

    size: Annotated[int, Field(ge=1)] = 4

    def search(self, pool: Sequence[Row], scorer: Scorer) -> list[Row]:
        chosen = shortlist(pool, self.size)
        for row in chosen:
            scorer(row.candidate)
        return chosen


class Halving(Strategy):
    """Successive halving: train `size` candidates for a small share, keep 1 in `keep_one_in`, train on.

    Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016.
    The last `finalists` (or fewer) are scored at full effort.
    """

    size: Annotated[int, Field(ge=1)] = 8
    keep_one_in: Annotated[int, Field(ge=2)] = 2
    finalists: Annotated[int, Field(ge=1)] = 2

    def search(self, pool: Sequence[Row], scorer: Scorer) -> list[Row]:
        rows = shortlist(pool, self.size)
        for effort in self.efforts(len(rows)):
            rows.sort(key=lambda row: -scorer(row.candidate, effort).rank)
            if effort < 1:
                rows = rows[: self._kept(len(rows))]
        return rows

    def efforts(self, count: int) -> list[float]:
        """The share of training in each round over `count` candidates; the last is 1."""
        rounds = 0
        while count > self.finalists:
            count, rounds = self._kept(count), rounds + 1
        return [float(self.keep_one_in) ** (index - rounds) for index in range(rounds + 1)]

    def _kept(self, count: int) -> int:
        return max(self.finalists, math.ceil(count / self.keep_one_in))


STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy",
    [
        Entry("shortlist", "edgekd.search.strategy:Shortlist", "short training of the most capable few"),
        Entry("halving", "edgekd.search.strategy:Halving", "successive halving over a longer list"),
    ],
    group="edgekd.strategies",
)


def shortlist(pool: Sequence[Row], size: int) -> list[Row]:
    """Of each shape (all but the width) the most capable candidate; of those the `size` most capable.

    One per shape, because under one budget a deep narrow network and a shallow wide one are the real
    choice, and two neighboring widths are not. A shape gives its second only when all have given their first.
    """
    ranked = sorted(pool, key=lambda row: (-capacity(row), row.candidate.id))
    seen: dict[str, int] = {}
    turns: dict[str, int] = {}
    for row in ranked:
        shape = _shape(row)
        turns[row.candidate.id] = seen[shape] = seen.get(shape, -1) + 1
    return sorted(ranked, key=lambda row: turns[row.candidate.id])[:size]


def capacity(row: Row) -> float:
    """log of the geometric mean of parameters and MACs: the proxy of accuracy before any training."""
    return 0.5 * (math.log1p(row.features.num_parameters) + math.log1p(row.features.macs))


def _shape(row: Row) -> str:
    spec = row.candidate.spec
    args: dict[str, Any] = {name: value for name, value in spec.args.items() if name != "width"}
    return canonical_json([spec.name, args, row.candidate.resolution])
