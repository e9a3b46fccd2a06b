"""Changes of what is counted on images: paired image by image where the answers were kept.

Two sessions on the same images have each image twice. With `rose` images that count only now and `fell` that
counted only then, the change is (rose - fell) / n with Tango's score interval, as the gate's accuracy drop.
Recalls and agreement do not come from one yes or no an image; they, and sessions whose answers are not
kept, are two samples, combined from the two intervals (Newcombe's interval for accuracies), which is too wide
for the same images and so errs on the careful side.
"""

from __future__ import annotations

from edgekd.measure import statistics
from edgekd.measure.across_sessions import independent_difference
from edgekd.pipeline.history.change import (
    Change,
    Point,
    difference,
    intervals,
    judged,
    not_comparable,
    refused,
)
from edgekd.pipeline.history.record import Answers, Right

SMALL = 0.01
"""An interval of change wholly within one point is no change."""
_PAIRED = ("accuracy", "accuracy_drop", "new_errors")


def change_on_images(before: Point, after: Point) -> Change:
    """Of a share or a recall, from one session to a later one."""
    problem = refused(before, after) or _other_images(before, after) or other_against(before, after)
    if problem:
        return problem
    if _same_answers(before, after):
        return Change("no change", "every image is answered as before", value=0.0)
    found = _paired(before, after) or _two_samples(before, after)
    if found.outcome == "not comparable":
        return found
    return judged(after.kept.quantity, found, least=0.0, small=SMALL)


def other_against(before: Point, after: Point) -> Change | None:
    """Why two paired quantities are about different things, or None."""
    old, new = before.against, after.against
    if (old and old.digest) != (new and new.digest):
        return not_comparable(f"compared with another `{after.kept.against}`: the digests differ")
    return None


def _other_images(before: Point, after: Point) -> Change | None:
    """The same images are known by their digest, or in another size by that of the test split."""
    old, new = before.answers, after.answers
    same_data = before.entry.data is not None and before.entry.data == after.entry.data
    if old is None or new is None:
        return None if same_data else not_comparable("it is not known whether the images are the same")
    if old.labels == new.labels and (old.images == new.images or same_data):
        return None
    return not_comparable("measured on other images")


def _same_answers(before: Point, after: Point) -> bool:
    """Of the artifact, and of whatever it is compared with; how the host answered is not kept."""
    on_host = after.kept.quantity == "host_agreement"
    return not on_host and _alike(before.answers, after.answers) and _same_against(before, after)


def _same_against(before: Point, after: Point) -> bool:
    """Whether what they are compared with, if anything, gave the same answers."""
    old, new = before.kept.against, after.kept.against
    if old is None or new is None:
        return old is new
    return _alike(before.entry.answers.get(old), after.entry.answers.get(new))


def _alike(one: Answers | None, other: Answers | None) -> bool:
    return one is not None and other is not None and one.predictions == other.predictions


def _paired(before: Point, after: Point) -> Change | None:
    """None where it is not known which images turned.

    An accuracy drop changes by just its own subject's images only if the other's answers are the same.
    """
    quantity = after.kept.quantity
    if quantity not in _PAIRED or (quantity == "accuracy_drop" and not _same_against(before, after)):
        return None
    old, new = _counting(before), _counting(after)
    if old is None or new is None or len(old) != len(new):
        return None
    rose, fell, n = int((~old & new).sum()), int((old & ~new).sum()), len(new)
    why = f"{rose + fell} of {n} images turned, {rose} up and {fell} down"
    return difference((rose - fell) / n, statistics.paired_difference(rose, fell, n), why)


def _counting(point: Point) -> Right | None:
    """`[N]`: whether an image counts: right for accuracy, wrong for a drop, newly wrong for new errors."""
    right = point.answers.unpacked() if point.answers else None
    if right is None or point.kept.quantity == "accuracy":
        return right
    if point.kept.quantity == "accuracy_drop":
        return ~right
    answers = point.entry.answers.get(point.kept.against or "")
    before = answers.unpacked() if answers else None
    return before & ~right if before is not None and len(before) == len(right) else None


def _two_samples(before: Point, after: Point) -> Change:
    ends = intervals(before, after)
    if ends is None:
        return not_comparable("a single number without an interval")
    old, new = before.kept.value or 0.0, after.kept.value or 0.0
    why = "as two samples, as it is not kept which images turned"
    return difference(new - old, independent_difference(old, ends[0], new, ends[1]), why)
