"""Finding images that are nearly the same, so that they never end up on two sides of a split.

Candidates agree in a 64-bit difference hash (dHash: is each of 8x8 gray cells brighter than its right
neighbor, cyclically?) up to `MAX_DISTANCE` bits; a candidate pair counts when its thumbnails also correlate.
The second test is what keeps flat images (sea, sky), whose hashes are chance, from being tied together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from edgekd.data.split import Image

THUMBNAIL_SIDE = 16
MAX_DISTANCE = 7
MIN_CORRELATION = 0.99
"""Unrelated EuroSAT patches reach 0.94, unrelated trousers of Fashion-MNIST 0.99."""
MAX_BRIGHTNESS_DIFFERENCE = 24.0
"""Mean gray levels further apart than this are two pictures of one place, not one picture."""
_BANDS = 8
_ROWS_AT_ONCE = 512
_MAX_BUCKET = 20_000

Pairs = npt.NDArray[np.int64]


def thumbnail(image: Image) -> npt.NDArray[np.uint8]:
    """Gray thumbnail of a uint8 `[H, W, C]` image, uint8 `[256]`."""
    gray = Pillow.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("L")
    small = gray.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Pillow.Resampling.BOX)
    return np.asarray(small, np.uint8).ravel()


def difference_hashes(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The 64-bit hashes `[N]` of thumbnails uint8 `[N, 256]`."""
    half = THUMBNAIL_SIDE // 2
    cells = thumbnails.reshape(-1, half, 2, half, 2).sum(axis=(2, 4), dtype=np.int32)
    bits = (cells > np.roll(cells, -1, axis=2)).reshape(len(cells), -1)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_pairs(thumbnails: npt.NDArray[np.uint8]) -> Pairs:
    """Pairs of rows `[P, 2]` (first < second) that are near-duplicates, from thumbnails uint8 `[N, 256]`.

    Two hashes within `MAX_DISTANCE` < `_BANDS` bits agree
    wholly in at least one of the bands (pigeonhole), so only rows that share a band are compared.
    """
    hashes = difference_hashes(thumbnails)
    means = thumbnails.mean(axis=1, dtype=np.float32)
    unit = _normalized(thumbnails)
    found = [_compare(rows, band, hashes, unit, means) for rows, band in _buckets(hashes)]
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return np.unique(pairs, axis=0)


def components(count: int, pairs: Pairs) -> npt.NDArray[np.int64]:
    """For each of `count` rows the smallest row it is connected to (union-find), int64 `[count]`."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for first, second in pairs.tolist():
        a, b = root(first), root(second)
        parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(count)], np.int64)


def chain(keys: npt.NDArray[np.int64]) -> Pairs:
    """Pairs `[P, 2]` that connect all rows with equal keys."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][:-1] == keys[order][1:]
    return np.sort(np.stack([order[:-1][same], order[1:][same]], axis=1), axis=1).astype(np.int64)


def _normalized(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    centered = thumbnails - thumbnails.mean(axis=1, keepdims=True, dtype=np.float32)
    length = np.linalg.norm(centered, axis=1, keepdims=True)
    # A constant image correlates with nothing; equal ones are found as exact duplicates.
    length[length == 0] = 1
    return np.asarray(centered / length, np.float32)


def _buckets(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Rows that share a band; beyond `_MAX_BUCKET` rows (all-alike data) only the first are compared."""
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(8 * band)) & np.uint64(0xFF)
        order = np.argsort(keys, kind="stable")
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        yield from ((rows[:_MAX_BUCKET], band) for rows in np.split(order, cuts) if len(rows) > 1)


def _compare(
    rows: npt.NDArray[np.int64],
    band: int,
    hashes: npt.NDArray[np.uint64],
    unit: npt.NDArray[np.float32],
    means: npt.NDArray[np.float32],
) -> Pairs:
    found = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some, others = rows[start : start + _ROWS_AT_ONCE], rows[start:]
        a, b = np.nonzero(np.bitwise_count(hashes[some, None] ^ hashes[others]) <= MAX_DISTANCE)
        first, second = some[a], others[b]
        alike = (first < second) & ~_share_earlier_band(hashes[first] ^ hashes[second], band)
        alike &= np.abs(means[first] - means[second]) <= MAX_BRIGHTNESS_DIFFERENCE
        first, second = first[alike], second[alike]
        alike = np.einsum("pd,pd->p", unit[first], unit[second]) >= MIN_CORRELATION
        found.append(np.stack([first[alike], second[alike]], axis=1))
    return np.concatenate(found)


def _share_earlier_band(difference: npt.NDArray[np.uint64], band: int) -> npt.NDArray[np.bool_]:
    """Whether a pair was compared already: some band before `band` does not differ."""
    earlier = difference[:, None] >> (8 * np.arange(band, dtype=np.uint64))
    return np.asarray(((earlier & np.uint64(0xFF)) == 0).any(axis=1))
