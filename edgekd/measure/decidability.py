"""How much more measuring would settle a limit, and whether a test set can settle it at all."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgekd.measure.distributions import student_t_quantile
from edgekd.measure.statistics import LEVEL, paired_difference, wilson

STRICTER = 5
"""A second look errs so many times less often than the first."""
CEILING = 10**8
"""Beyond so many images or processes a limit counts as not decidable."""


def second_look(level: float) -> float:
    """How sure the only further look at a session must be, so that two looks err hardly more often than one.

    Where the truth is the limit itself, one look at 95 % passes it in 2.5 %, this one with it in 2.9 %, and
    the same look twice in 5.4 % (docs/decisions/0020).
    """
    return 1 - (1 - level) / STRICTER


def images_to_decide_share(successes: int, n: int, limit: float, *, level: float = LEVEL) -> int | None:
    """Images in all at which a share that stays `successes / n` would exclude `limit`; None if never.

    For accuracy, recall of one class, agreement and new errors (Wilson interval).
    """

    def decided(images: int) -> bool:
        interval = wilson(_scaled(successes, n, images), images, level=level)
        return not interval.low <= limit <= interval.high

    return _smallest(decided, n)


def images_to_decide_drop(lost: int, won: int, n: int, limit: float, *, level: float = LEVEL) -> int | None:
    """Images in all at which a drop with these rates of `lost` and `won` would exclude `limit`."""

    def decided(images: int) -> bool:
        b, c = _scaled(lost, n, images), _scaled(won, n, images)
        interval = paired_difference(b, min(c, images - b), images, level=level)
        return not interval.low <= limit <= interval.high

    return _smallest(decided, n)


def processes_to_decide(
    value: float, spread: float, processes: int, limit: float, *, level: float = LEVEL
) -> int | None:
    """Processes in all at which a time or ratio `value` would exclude `limit`.

    `spread` is the standard deviation between processes of the natural logarithm.
    """
    distance = abs(math.log(value) - math.log(limit))

    def decided(count: int) -> bool:
        return student_t_quantile((1 + level) / 2, count - 1) * spread / math.sqrt(count) < distance

    return _smallest(decided, max(processes, 2))


def drop_is_decidable(
    n: int, limit: float, discordance: float, *, drop: float = 0.0, level: float = LEVEL
) -> bool:
    """Whether n images can pass the limit `accuracy_drop <= limit`, if the true drop is `drop` and a share
    `discordance` of the images is judged differently (one way or the other) by the two artifacts."""
    lost = round(n * (max(discordance, abs(drop)) + drop) / 2)
    won = max(0, lost - round(n * drop))
    return paired_difference(lost, won, n, level=level).high <= limit


def share_is_decidable(n: int, limit: float, expected: float, *, level: float = LEVEL) -> bool:
    """Whether n images can tell an `expected` share (an accuracy, a recall) from `limit`."""
    interval = wilson(round(expected * n), n, level=level)
    return not interval.low <= limit <= interval.high


def _scaled(count: int, n: int, images: int) -> int:
    return min(images, round(count * images / n))


def _smallest(decided: Callable[[int], bool], start: int) -> int | None:
    """The least count >= start that is decided, if `CEILING` is; decisions are taken as monotone."""
    low = max(start, 1)
    high = low
    while not decided(high):
        low, high = high, 2 * high
        if high > CEILING:
            return None
    while low < high:
        middle = (low + high) // 2
        if decided(middle):
            high = middle
        else:
            low = middle + 1
    return low
