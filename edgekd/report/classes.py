"""Per-class recall of teacher and final artifact, and the images that newly fail."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from edgekd.measure.accuracy import NOT_FINITE
from edgekd.report.facts import ClassFacts, ClassRow, NewError
from edgekd.report.predictions import Labels, Predictions
from edgekd.report.reading import Source
from edgekd.report.waterfall import targets_of, teacher_row

MOST_IMAGES = 24
_THUMBNAIL_PIXELS = 96


def classes_of(source: Source, predictions: Predictions) -> ClassFacts | None:
    """On the first target whose session left the final row's answers; None when none did."""
    teacher = teacher_row(source)
    final = source.record.final
    labels = predictions.labels(final)
    for target in targets_of(source):
        answers = predictions.answers(target, final)
        if answers is None or labels is None or labels.size == 0 or labels.min() < 0:
            continue
        before = predictions.answers(target, teacher.name) if teacher else None
        if before is not None and len(before) != len(labels):
            before = None
        return _facts(source, target, labels, before, answers, predictions)
    return None


def _facts(
    source: Source,
    target: str,
    labels: Labels,
    before: Labels | None,
    after: Labels,
    predictions: Predictions,
) -> ClassFacts:
    failed = (
        np.flatnonzero((before == labels) & (after != labels)) if before is not None else np.array([], int)
    )
    names = _names(source, int(max(labels.max(), after.max())) + 1)
    return ClassFacts(
        target=target,
        rows=_rows(names, labels, before, after),
        errors=_errors(names, failed, labels, after, predictions.images(source.record.final)),
        num_errors=len(failed),
        n=len(labels),
    )


def _names(source: Source, count: int) -> tuple[str, ...]:
    given = source.record.labels
    return tuple(given[i] if i < len(given) else f"class {i}" for i in range(max(count, len(given))))


def _rows(
    names: tuple[str, ...], labels: Labels, before: Labels | None, after: Labels
) -> tuple[ClassRow, ...]:
    rows = []
    for index, name in enumerate(names):
        mine = labels == index
        n = int(mine.sum())
        now = after[mine] == index
        then = before[mine] == index if before is not None else None
        rows.append(
            ClassRow(
                name=name,
                n=n,
                teacher=float(then.mean()) if then is not None and n else None,
                final=float(now.mean()) if n else None,
                lost=int((then & ~now).sum()) if then is not None else 0,
                won=int((now & ~then).sum()) if then is not None else 0,
            )
        )
    return tuple(rows)


def _errors(
    names: tuple[str, ...],
    failed: npt.NDArray[np.int64],
    labels: Labels,
    after: Labels,
    images: npt.NDArray[np.uint8] | None,
) -> tuple[NewError, ...]:
    """The first `MOST_IMAGES`, taking the classes in turn so that no one class fills them."""
    seen: dict[int, int] = {}
    order = []
    for index in failed:
        turn = seen[int(labels[index])] = seen.get(int(labels[index]), -1) + 1
        order.append((turn, int(index)))
    chosen = sorted(index for _, index in sorted(order)[:MOST_IMAGES])
    if images is None or len(images) != len(labels):
        images = None
    return tuple(
        NewError(
            index=index,
            label=names[labels[index]],
            said=names[after[index]] if after[index] != NOT_FINITE else "no finite answer",
            png=thumbnail(np.asarray(images[index])) if images is not None else b"",
        )
        for index in chosen
    )


def thumbnail(image: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of an image `[H, W, C]` of 1 or 3 channels, at most 96 pixels on its longer side; else empty."""
    from PIL import Image

    if image.shape[-1] not in (1, 3) or 0 in image.shape:
        return b""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if max(picture.size) > _THUMBNAIL_PIXELS:
        picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
