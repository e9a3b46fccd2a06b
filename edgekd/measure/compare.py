"""Says of two graphs that were timed side by side which one is faster, or that it cannot tell.

Legend: P processes. The ratio of a pair is time of `against` / time of `name`, so above 1 `name` is the
faster one; its interval is Student-t over the P process-level logarithms (`edgekd.measure.latency`).

A claim must survive how often it was tried. With K looks at growing P and M pairs in one session, each
interval has the level 1 - 0.05 / (K M), so that by the union bound all of them together hold in 95 % of all
sessions, whatever the looks have in common and whatever made the session stop (docs/decisions/0020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgekd.core.measurement import Interval
from edgekd.core.verdict import Outcome
from edgekd.measure import latency, statistics
from edgekd.measure.decidability import processes_to_decide
from edgekd.measure.estimate import Estimate
from edgekd.measure.protocol import MIN_PROCESSES, Protocol

Answer = Literal["faster", "slower", "cannot tell"]
Expectation = Literal["faster", "not-slower"]

LEAST = latency.LEAST_SPEEDUP
MOST_PRACTICAL = 1000
"""More processes than this nobody starts."""


@dataclass(frozen=True)
class Design:
    """How a session is looked at: after `step` processes, then after every `step` more up to `most`.

    `pairs` answers are taken from it. With `most == step` there is one look.
    """

    step: int
    most: int
    pairs: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or self.most < self.step or self.pairs < 1:
            raise ValueError(f"no design: looks every {self.step} up to {self.most}, {self.pairs} pairs")

    @property
    def looks(self) -> tuple[int, ...]:
        return tuple(range(self.step, self.most + 1, self.step))

    @property
    def level(self) -> float:
        """Of each interval, so that all of them hold together in 95 %."""
        return 1 - (1 - statistics.LEVEL) / (len(self.looks) * self.pairs)


@dataclass(frozen=True)
class Comparison:
    """What the times of one pair say. `why` tells what speaks against a claim where there is none."""

    name: str
    against: str
    answer: Answer
    settled: bool
    """Whether further processes could tell nothing that may be claimed."""
    ratio: float
    interval: Interval | None
    processes: int
    alike: bool
    """Whether the interval leaves out every difference of 1 % and more."""
    needed: int | None
    """Processes in all that would settle the pair if the ratio stays; None: settled, or not practical."""
    why: tuple[str, ...]
    estimate: Estimate

    @property
    def p50_ratio(self) -> Mapping[str, float | None]:
        return self.estimate.detail["p50_ratio"]  # type: ignore[no-any-return]

    @property
    def p90_ratio(self) -> Mapping[str, float | None]:
        return self.estimate.detail["p90_ratio"]  # type: ignore[no-any-return]

    def facts(self) -> dict[str, Any]:
        """As plain data, for machines."""
        interval = self.interval
        return {
            "name": self.name,
            "against": self.against,
            "answer": self.answer,
            "ratio": self.ratio,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "level": interval.level if interval else None,
            "below_one_percent": self.alike,
            "p50_ratio": dict(self.p50_ratio),
            "p90_ratio": dict(self.p90_ratio),
            "processes": self.processes,
            "processes_to_decide": self.needed,
            "why": list(self.why),
        }


def compare(
    processes: Sequence[latency.Process],
    name: str,
    against: str,
    protocol: Protocol,
    design: Design,
    problems: Sequence[str] = (),
) -> Comparison:
    """The answer that `processes`, one look at a session of this design, give on `name` against `against`.

    With `problems` that are not of the times nothing is claimed, however clear the times are.
    """
    found = latency.speedup(processes, name, against, protocol, level=design.level)
    found = replace(found, problems=(*problems, *found.problems))
    assert found.value is not None
    ratio, interval = found.value, found.interval
    claimed = latency.claim(ratio, interval) if interval and not found.problems else None
    alike = interval is not None and not found.problems and _alike(interval)
    answer: Answer = claimed or "cannot tell"
    settled = claimed is not None or alike or bool(problems)
    return Comparison(
        name=name,
        against=against,
        answer=answer,
        settled=settled,
        ratio=ratio,
        interval=interval,
        processes=len(processes),
        alike=alike,
        needed=None if settled else _needed(found.detail["process_ratios"], ratio, protocol, design),
        why=() if claimed else (_why(ratio, interval, alike, found.problems),),
        estimate=found,
    )


def meets(comparison: Comparison, expected: Expectation) -> Outcome:
    """Whether `name` is faster, or not slower, than `against`, as was expected.

    `faster` fails once a gain of 1 % is excluded, `not-slower` passes once a loss of 1 % is.
    """
    interval, answer = comparison.interval, comparison.answer
    if interval is None or comparison.estimate.problems:
        return "inconclusive"
    if expected == "faster":
        if answer == "faster":
            return "pass"
        return "fail" if answer == "slower" or interval.high < 1 + LEAST else "inconclusive"
    if answer == "slower":
        return "fail"
    return "pass" if interval.low > 1 - LEAST else "inconclusive"


def _alike(interval: Interval) -> bool:
    return interval.low > 1 - LEAST and interval.high < 1 + LEAST


def _why(ratio: float, interval: Interval | None, alike: bool, problems: Sequence[str]) -> str:
    if problems:
        return "; ".join(problems)
    assert interval is not None
    if alike:
        return "any difference is below 1 %"
    if interval.low <= 1 <= interval.high:
        return "the interval holds 1"
    return f"the difference seen is below {LEAST:.0%}, which is never claimed"


def _needed(ratios: Sequence[float], ratio: float, protocol: Protocol, design: Design) -> int | None:
    """Processes in all at which the pair would be settled, if ratio and spread stay as they are.

    A ratio of 1 % and more must get its interval off 1; a smaller one must get it off both ends of that
    per cent; and either must be as narrow as validity asks.
    """
    if len(ratios) < 2 or protocol.weakness is not None:
        return None
    spread, now = statistics.sd([math.log(one) for one in ratios]), len(ratios)
    claimable = ratio >= 1 + LEAST or ratio <= 1 - LEAST
    ends = (1.0,) if claimable else (1 - LEAST, 1 + LEAST)
    counts = [processes_to_decide(ratio, spread, now, end, level=design.level) for end in ends]
    counts.append(processes_to_decide(1 + latency.widest_half_width(ratio), spread, now, 1.0))
    counts.append(max(now + 1, MIN_PROCESSES))
    known = [one for one in counts if one is not None]
    return max(known) if len(known) == len(counts) and max(known) <= MOST_PRACTICAL else None
