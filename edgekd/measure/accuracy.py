"""Turns logits and labels into what the artifact got right, alone and beside another on the same images.

Legend: N images, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.classes import places
from edgekd.core.errors import DataError, ModelError
from edgekd.measure import statistics
from edgekd.measure.estimate import Estimate

Logits = npt.NDArray[np.float32]
"""`[N, C]`."""
Labels = npt.NDArray[np.int64]
"""`[N]`."""

NOT_FINITE = -1
"""The prediction of an image whose logits hold NaN or infinity: wrong, whatever its label is."""


def read_array(path: Path) -> npt.NDArray[Any]:
    """A `.npy` file, never unpickled; raises `DataError`."""
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"not a readable .npy file: {error}", where=str(path)) from error
    if not isinstance(array, np.ndarray):
        raise DataError("not a single array", where=str(path))
    return array


def read_labels(folder: Path, num_classes: int) -> Labels:
    """`labels.npy` of an evaluation set; raises `DataError` for the wrong type or a label out of range."""
    path = folder / "labels.npy"
    labels = read_array(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise DataError(f"labels must be integers [N], are {labels.dtype} {labels.shape}", where=str(path))
    if labels.min() < 0 or labels.max() >= num_classes:
        span = f"{labels.min()}..{labels.max()}"
        raise DataError(f"labels are {span} for {num_classes} classes", where=str(path))
    return labels.astype(np.int64)


def check_logits(logits: Logits, labels: Labels, num_classes: int, where: str) -> None:
    """Raises `ModelError` when there is not one row per image and one column per class."""
    if logits.shape != (len(labels), num_classes):
        raise ModelError(
            f"logits are {list(logits.shape)}; {len(labels)} images and {num_classes} classes were expected",
            where=where,
        )


def predictions(logits: Logits, own: Sequence[str] = (), classes: Sequence[str] = ()) -> Labels:
    """Argmax per image, the first of equals; `NOT_FINITE` where any logit is not finite.

    own: names of the columns, if they are not `classes` in this order; the answers are numbers of `classes`
    all the same, so an image of a class that is not among `own` is answered wrongly. Raises `UsageError`
    where `own` has a class that is not among `classes`.
    """
    best: Labels = logits.argmax(axis=1).astype(np.int64)
    if own:
        best = np.asarray(places(own, classes), np.int64)[best]
    best[~np.isfinite(logits).all(axis=1)] = NOT_FINITE
    return best


def accuracy(predicted: Labels, labels: Labels) -> Estimate:
    correct = int((predicted == labels).sum())
    broken = int((predicted == NOT_FINITE).sum())
    detail = {"correct": correct, "not_finite": broken}
    interval = statistics.wilson(correct, len(labels))
    notes = (f"{broken} images gave logits that are not finite, counted as wrong",) if broken else ()
    return Estimate(correct / len(labels), interval, len(labels), detail, notes=notes)


def macro_recall(predicted: Labels, labels: Labels, names: tuple[str, ...]) -> Estimate:
    """Mean recall over the classes that have images."""
    correct, total = per_class(predicted, labels, len(names))
    seen = [c for c, n in enumerate(total) if n]
    k, n = [correct[c] for c in seen], [total[c] for c in seen]
    value = sum(a / b for a, b in zip(k, n, strict=True)) / len(seen)
    detail = {"per_class": _table(correct, total, names)}
    return Estimate(value, statistics.macro_recall(k, n), len(labels), detail, _unseen(total, names))


def worst_class_recall(predicted: Labels, labels: Labels, names: tuple[str, ...]) -> Estimate:
    """The smallest recall, its class under `worst` (the first of equals)."""
    correct, total = per_class(predicted, labels, len(names))
    seen = [c for c, n in enumerate(total) if n]
    worst = min(seen, key=lambda c: correct[c] / total[c])
    interval = statistics.worst_class_recall([correct[c] for c in seen], [total[c] for c in seen])
    detail = {"worst": names[worst], "per_class": _table(correct, total, names)}
    value = correct[worst] / total[worst]
    return Estimate(value, interval, total[worst], detail, _unseen(total, names))


def accuracy_drop(before: Labels, after: Labels, labels: Labels) -> Estimate:
    """Accuracy of `before` minus that of `after` on the same images, with the paired interval."""
    lost, won = _discordant(before, after, labels)
    n = len(labels)
    interval = statistics.paired_difference(lost, won, n)
    detail = {"lost": lost, "won": won, "mcnemar_p": statistics.mcnemar(lost, won)}
    return Estimate((lost - won) / n, interval, n, detail)


def new_errors(before: Labels, after: Labels, labels: Labels) -> Estimate:
    """Share of the images that `before` gets right and `after` wrong."""
    lost, won = _discordant(before, after, labels)
    n = len(labels)
    return Estimate(lost / n, statistics.wilson(lost, n), n, {"lost": lost, "won": won})


def agreement(before: Labels, after: Labels) -> Estimate:
    """Share of the images with the same answer, right or wrong; two broken answers do not agree."""
    same = int(((before == after) & (after != NOT_FINITE)).sum())
    n = len(after)
    return Estimate(same / n, statistics.wilson(same, n), n, {"same": same})


def digest(predicted: Labels) -> str:
    """sha256 of the answers as little-endian int32: equal answers of two machines have equal digests."""
    return hashlib.sha256(predicted.astype("<i4").tobytes()).hexdigest()


def per_class(predicted: Labels, labels: Labels, num_classes: int) -> tuple[list[int], list[int]]:
    """Right answers and images of each class."""
    total = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[predicted == labels], minlength=num_classes)
    return correct.tolist(), total.tolist()


def _discordant(before: Labels, after: Labels, labels: Labels) -> tuple[int, int]:
    was, now = before == labels, after == labels
    return int((was & ~now).sum()), int((~was & now).sum())


def _table(correct: list[int], total: list[int], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {
        name: {"correct": k, "n": n, "recall": k / n if n else None}
        for name, k, n in zip(names, correct, total, strict=True)
    }


def _unseen(total: list[int], names: tuple[str, ...]) -> tuple[str, ...]:
    missing = [name for name, n in zip(names, total, strict=True) if not n]
    return (f"no test image of class {', '.join(missing)}",) if missing else ()
