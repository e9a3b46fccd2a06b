"""What each row answered on each test image, from the logits the final session left."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.run_record import SESSION, Row
from edgekd.measure.accuracy import predictions
from edgekd.report.reading import Source, array

Labels = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


class Predictions:
    """Argmax by (target, row), read on first use. N images; absent or ill-shaped logits give None."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rows = {row.name: row for row in source.record.rows}
        self._kept: dict[tuple[str, str], Labels | None] = {}

    def answers(self, target: str, row: str) -> Labels | None:
        """Predicted class `[N]`."""
        if (target, row) not in self._kept:
            self._kept[target, row] = self._read(target, row)
        return self._kept[target, row]

    def right(self, target: str, row: str) -> Truths | None:
        """Whether each of the N images was answered correctly."""
        answers = self.answers(target, row)
        labels = self.labels(row)
        return None if answers is None or labels is None else np.asarray(answers == labels)

    def labels(self, row: str) -> Labels | None:
        """True classes `[N]` of the row's evaluation set."""
        known = self._rows.get(row)
        return None if known is None else self._labels.get(known.evalset)

    def images(self, row: str) -> npt.NDArray[np.uint8] | None:
        """Images `[N, H, W, C]` of the row's evaluation set."""
        known = self._rows.get(row)
        images = array(self._source.folder, known.evalset, "images.npy") if known and known.evalset else None
        return images if images is not None and images.ndim == 4 and images.dtype == np.uint8 else None

    @cached_property
    def _labels(self) -> dict[str, Labels]:
        found = {}
        for row in self._rows.values():
            labels = self._labels_of(row)
            if labels is not None:
                found[row.evalset] = labels
        return found

    def _labels_of(self, row: Row) -> Labels | None:
        labels = array(self._source.folder, row.evalset, "labels.npy") if row.evalset else None
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            return None
        return labels.astype(np.int64)

    def _read(self, target: str, row: str) -> Labels | None:
        logits: npt.NDArray[Any] | None = array(self._source.folder, SESSION, target, f"{row}.logits.npy")
        labels = self.labels(row)
        if logits is None or labels is None or logits.ndim != 2 or logits.dtype.kind != "f":
            return None
        if len(logits) != len(labels) or logits.shape[1] == 0:
            return None
        own, classes = self._classes(self._rows[row]), self._source.record.labels
        if own == classes:
            return predictions(logits)
        if len(own) != logits.shape[1] or not set(own) <= set(classes):
            return None
        return predictions(logits, own, classes)

    def _classes(self, row: Row) -> tuple[str, ...]:
        """What the row's graph knows, in the order of its outputs."""
        record = self._source.record
        facts = next((step.facts for step in record.steps if step.name == row.graph_step), {})
        own = facts.get("labels")
        return tuple(map(str, own)) if isinstance(own, list) else record.labels
