"""Which images meet in a batch, and the views a program may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

Sampler = Literal["shuffled", "class_uniform"]
"""`shuffled`: every image once an epoch. `class_uniform`: as many images of every class in each batch."""

SAME_CLASS = "same_class"
"""The view that shows another image of the same class, augmented by itself.

Every other view name (`x`, `x2`, ...) is an augmentation of its own of the batch's images.
"""


def same_class(labels: Rows, seed: int) -> Rows:
    """For each of N images another one of its class, int64 `[N]`; itself where a class has but one image.

    Each of the others is as likely. labels: int64 `[N]`.
    """
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    start, count = np.repeat(starts, counts), np.repeat(counts, counts)
    step = np.random.default_rng(seed).integers(1, np.maximum(count, 2))
    other = start + (np.arange(len(labels)) - start + step) % count
    partners = np.empty(len(labels), np.int64)
    partners[by_class] = by_class[other]
    return partners


def class_uniform(labels: Rows, sizes: Sequence[int], seed: int) -> Rows:
    """Rows for batches of the given sizes, one after another, with the classes in equal parts.

    In a batch the numbers of images of two classes differ by one at most. With fewer places than classes it
    holds a part of the classes, two images of each (three of one where the size is odd). Which classes get
    more, or are there, goes round; so do the images of a class: none is seen a second time before all were
    seen once, and none twice in a batch unless its class has too few. labels: int64 `[N]`.
    """
    random = np.random.default_rng(seed)
    by_class = np.argsort(labels, kind="stable")
    members = np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)
    quotas = _quotas(len(members), sizes, random)
    rows = [_in_rounds(items, quotas[:, number], random) for number, items in enumerate(members)]
    batches = np.repeat(np.tile(np.arange(len(sizes)), len(members)), quotas.T.ravel())
    # Within a batch the order is chance, so that a row's place says nothing of its class.
    places = np.lexsort((random.random(len(batches)), batches))
    return np.concatenate(rows)[places]


def _quotas(num_classes: int, sizes: Sequence[int], random: np.random.Generator) -> Rows:
    """How many images of each class a batch takes, int64 `[len(sizes), num_classes]`."""
    favored = [size % num_classes if size >= num_classes else max(1, size // 2) for size in sizes]
    chosen = np.split(_in_rounds(np.arange(num_classes), np.array(favored), random), np.cumsum(favored)[:-1])
    quotas = np.zeros((len(sizes), num_classes), np.int64)
    for quota, size, some in zip(quotas, sizes, chosen, strict=True):
        if size >= num_classes:
            quota += size // num_classes
            quota[some] += 1
        else:
            quota[some] = size // len(some)
            quota[some[: size % len(some)]] += 1
    return quotas


def _in_rounds(items: Rows, requests: Rows, random: np.random.Generator) -> Rows:
    """As many items as the requests add up to: shuffles of all of them, one after another.

    Where a shuffle ends within a request, the next begins with items that the request does not have yet.
    """
    size, ends = len(items), np.cumsum(requests)
    total = int(ends[-1])
    rounds = random.permuted(np.tile(items, (-(-total // size), 1)), axis=1)
    begins = size * np.arange(1, len(rounds))
    within = np.searchsorted(ends, begins, side="right")
    already = begins - (ends - requests)[within]
    for number in 1 + np.flatnonzero((already > 0) & (requests[within] <= size)):
        held = already[number - 1]
        missing = requests[within[number - 1]] - held
        fresh = np.flatnonzero(~np.isin(rounds[number], rounds[number - 1][size - held :]))[:missing]
        rounds[number] = np.concatenate([rounds[number][fresh], np.delete(rounds[number], fresh)])
    return rounds.ravel()[:total]
