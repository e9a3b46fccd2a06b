"""Images that stand more than once: within an evaluation set, and in it and in training data alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.data.near_duplicates import THUMBNAIL_SIDE, near_pairs, thumbnail
from edgekd.data.split import Image, fingerprint

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prints:
    """Exact fingerprints and thumbnails uint8 `[N, 256]` of N images."""

    exact: tuple[bytes, ...]
    thumbnails: npt.NDArray[np.uint8]


def prints(images: Iterable[Image]) -> Prints:
    exact, thumbnails = [], []
    for image in images:
        exact.append(fingerprint(np.ascontiguousarray(image)))
        thumbnails.append(thumbnail(np.ascontiguousarray(image)))
    return Prints(tuple(exact), np.array(thumbnails, np.uint8).reshape(-1, THUMBNAIL_SIDE**2))


def copies(found: Prints) -> int:
    """Images that equal an earlier one, pixel by pixel."""
    return len(found.exact) - len(set(found.exact))


def contradictions(found: Prints, labels: Labels) -> list[int]:
    """Images that equal another one of another class."""
    classes: dict[bytes, set[int]] = {}
    for one, label in zip(found.exact, labels.tolist(), strict=True):
        classes.setdefault(one, set()).add(label)
    return [row for row, one in enumerate(found.exact) if len(classes[one]) > 1]


def shared(test: Prints, train: Prints) -> tuple[int, int]:
    """Test images that are in the training data: exactly, and as near-duplicates beside those."""
    known = set(train.exact)
    exact = np.array([one in known for one in test.exact], bool)
    pairs = near_pairs(np.concatenate([test.thumbnails, train.thumbnails]))
    num_test = len(test.exact)
    across = pairs[(pairs[:, 0] < num_test) & (pairs[:, 1] >= num_test), 0]
    near = np.zeros(num_test, bool)
    near[across] = True
    return int(exact.sum()), int((near & ~exact).sum())
