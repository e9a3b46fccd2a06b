"""Signs, in an artifact's answers alone, that something other than its quality is being measured.

Legend: N images, C classes. `predicted` and `labels` are class numbers int64 `[N]`, with -1 for an answer
that was not finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.measure import statistics
from edgekd.measure.accuracy import NOT_FINITE, Labels, Logits
from edgekd.measure.distributions import binomial_cdf

NEAR_CHANCE = 2.0
"""Below this many times the accuracy of guessing a mistake is likelier than a poor model."""
CLEAR_GAIN = 0.02
"""A difference in accuracy that is told of only if it is at least so large, and beyond chance."""
_CLEAR_LEVEL = 0.999
_FEW = 5
"""An output with fewer answers than this says nothing about its place."""
_CLOSE = 0.15
"""Answers whose lead over the second class is below this share of the median lead are close calls."""
_CLOSE_ERRORS = 0.25
"""Among close calls at least this share is wrong, if the labels are the world's."""
_UNLIKELY = 1e-3


def near_chance(accuracy: float, num_classes: int) -> bool:
    """Whether an accuracy is about that of guessing among `num_classes`."""
    chance = 1 / num_classes
    return accuracy < min(NEAR_CHANCE * chance, (1 + chance) / 2)


def clearly_better(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> bool:
    """Whether what was right `after` beats what was right `before` on the same images, beyond chance."""
    lost, won, n = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    if n == 0 or (won - lost) / n < CLEAR_GAIN:
        return False
    return statistics.paired_difference(lost, won, n, level=_CLEAR_LEVEL).high < 0


def confusion(predicted: Labels, labels: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """How often output `o` was the answer for class `c`: `[C, C]`, row `o`, column `c`."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    finite = predicted != NOT_FINITE
    np.add.at(counts, (predicted[finite], labels[finite]), 1)
    return counts


def class_order(predicted: Labels, labels: Labels, num_classes: int) -> list[int] | None:
    """The class that each output really stands for, if that is another order of the classes; else None.

    An output moves only if most of its answers are for one other class, and no two may come to stand for
    the same one.
    """
    counts = confusion(predicted, labels, num_classes)
    best, total = counts.argmax(axis=1), counts.sum(axis=1)
    moves = (total >= _FEW) & (2 * counts.max(axis=1) > total)
    order = np.where(moves, best, np.arange(num_classes))
    used = np.flatnonzero(total >= _FEW)
    if len(set(order[used].tolist())) < len(used) or not (order != np.arange(num_classes)).any():
        return None
    return [int(place) for place in _completed(order, used)]


def _completed(order: npt.NDArray[np.int64], used: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Outputs that were hardly ever the answer take the classes that are left, their own where they can."""
    free = sorted(set(range(len(order))) - set(order[used].tolist()))
    rest = [output for output in range(len(order)) if output not in set(used.tolist())]
    completed = order.copy()
    for output in [o for o in rest if o in free] + [o for o in rest if o not in free]:
        completed[output] = free.pop(free.index(output) if output in free else 0)
    return completed


def dead_classes(predicted: Labels, labels: Labels, num_classes: int, *, fewest: int = 10) -> list[int]:
    """Classes with at least `fewest` images of which none, nor any other image, gets that answer."""
    images = np.bincount(labels, minlength=num_classes)
    answers = np.bincount(predicted[predicted != NOT_FINITE], minlength=num_classes)
    return np.flatnonzero((images >= fewest) & (answers == 0)).tolist()


@dataclass(frozen=True)
class CloseCalls:
    """Images whose two best classes are nearly level, and how many of them are wrong."""

    num: int
    wrong: int

    @property
    def too_good(self) -> bool:
        """Whether chance alone hardly ever leaves so few of them wrong: the labels follow the answers."""
        return binomial_cdf(self.wrong, self.num, _CLOSE_ERRORS) < _UNLIKELY if self.num else False


def close_calls(scores: Logits, right: npt.NDArray[np.bool_]) -> CloseCalls:
    """Of scores `[N, C]` (logits, or the logarithms of probabilities); `right` `[N]` is which are correct.

    A lead is measured in units of the median lead, so that a temperature or smoothed labels do not matter.
    """
    if scores.shape[1] < 2:
        return CloseCalls(0, 0)
    top = np.partition(scores, -2, axis=1)[:, -2:]
    lead = top[:, 1] - top[:, 0]
    finite = np.isfinite(lead)
    middle = float(np.median(lead[finite])) if finite.any() else 0.0
    close = finite & (lead < _CLOSE * middle)
    return CloseCalls(int(close.sum()), int((close & ~right).sum()))


def look_like_probabilities(outputs: Logits) -> bool:
    """Whether every row is in [0, 1] and adds up to 1 (within 1e-3)."""
    inside = bool((outputs >= -1e-6).all() and (outputs <= 1 + 1e-6).all())
    return inside and bool((np.abs(outputs.sum(axis=1) - 1) < 1e-3).all())
