"""From what a source read to a checked data set: holds out val and test, picks calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.core import seed as seeds
from edgekd.core.errors import DataError
from edgekd.data.checks import check, check_labels
from edgekd.data.split import Dataset, Images, Split
from edgekd.data.splitting import Rows, hold_out, pick


@dataclass(frozen=True)
class Part:
    """Images that belong together before splitting; `groups` int64 `[N]` are what must not be divided."""

    images: Images
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...] | None = None
    groups: Rows | None = None

    def take(self, rows: Rows) -> Part:
        return Part(
            self.images.take(rows),
            self.labels[rows],
            tuple(self.ids[row] for row in rows) if self.ids is not None else None,
            self.groups[rows] if self.groups is not None else None,
        )

    def split(self, name: str) -> Split:
        return Split(name, self.images, self.labels, self.ids)


@dataclass(frozen=True)
class Plan:
    """How to complete what is not given: shares of the images in `train`, and what calibration takes."""

    seed: int
    calibration: int
    val_share: float = 0.1
    test_share: float = 0.2
    limit: int | None = None
    """At most this many images stay in train and val together."""


def assemble(
    where: str,
    plan: Plan,
    classes: tuple[str, ...],
    image_shape: tuple[int, int, int],
    *,
    train: Part,
    val: Part | None = None,
    test: Part | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """A checked data set of images of `image_shape` (height, width, channels).

    A `val` or `test` that is None is held out of `train`, stratified and seeded. Raises `DataError` as
    `edgekd.data.checks.check` does, and where train is too small to hold anything out.
    """
    _check_shares(plan, val, test, where)
    check_labels(train.labels, len(classes), where)
    remaining = 1.0
    if test is None:
        train, test = _hold_out(train, plan.test_share, plan.seed, "test")
        remaining -= plan.test_share
    if plan.limit is not None:
        train = train.take(pick(train.labels, plan.limit, seeds.derive(plan.seed, "data", "limit")))
    if val is None:
        train, val = _hold_out(train, plan.val_share / remaining, plan.seed, "val")
    rows = pick(train.labels, plan.calibration, seeds.derive(plan.seed, "data", "calibration"))
    height, width, channels = image_shape
    dataset = Dataset(
        train=train.split("train"),
        val=val.split("val"),
        calibration=train.take(rows).split("calibration"),
        test=test.split("test"),
        classes=classes,
        channels=channels,
        image_size=(height, width),
        notes=tuple(notes),
    )
    return check(dataset, where)


def _check_shares(plan: Plan, val: Part | None, test: Part | None, where: str) -> None:
    shares = (plan.val_share if val is None else 0.0) + (plan.test_share if test is None else 0.0)
    if shares >= 1:
        raise DataError(f"val and test together take {shares:.0%} of the images", where=where)


def _hold_out(part: Part, share: float, seed: int, name: str) -> tuple[Part, Part]:
    rest, held = hold_out(part.labels, share, seeds.derive(seed, "data", name), part.groups)
    return part.take(rest), part.take(held)
