"""Asks the graph on this machine what measuring did not: other inputs, again, in company, in plain floats.

A sample of n images. The graph ran on the target before: a file that kills a runtime never gets here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.preprocess import Preprocess
from edgekd.core.run_record import Finding
from edgekd.core.seed import derive
from edgekd.data.conventions import conventions, of_images, written
from edgekd.data.fitting import Fitting
from edgekd.data.split import Split
from edgekd.measure import sanity
from edgekd.measure.accuracy import NOT_FINITE, Logits, predictions

SECONDS = 8.0
"""About how long either round of questions may take; slow graphs are asked about fewer images."""
FIRST, FURTHER = (48, 200), (200, 2000)
"""Fewest and most images of the round that all alternatives are in, and of that of the best few."""
_BEST_FEW = 2
_GUESSED_ALTERNATIVES = 16
_AGAIN = 64
_COMPANY = 8
_TOLERANCE = 1e-4
"""Of the largest output: what the order of additions may change."""
_LEAST_AGREEMENT = 0.98
_EXPLAINS = 0.9
"""An alternative that gets so much of what any explanation gets right is taken at its word."""
_AS_GOOD = 0.98
_PLAIN = {"session.disable_quant_qdq": "1"}
"""ONNX Runtime then computes between DequantizeLinear and QuantizeLinear in float, as it is written."""

Images = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A graph that fits our runtime, and what it is judged by. `answers` are the target's, of all images."""

    graph: Path
    preprocess: Preprocess
    fitting: Fitting
    split: Split
    images: Images
    """uint8 `[N, H, W, C]` as the model takes them."""
    answers: Logits
    num_own: int
    precision: str
    random_operators: tuple[str, ...]
    raw_pixels: bool = False
    target: str = "local"


class Asker:
    """The graph in this process, one image at a time as the agent asks it."""

    def __init__(
        self, path: Path, batch: int = 1, config: dict[str, str] | None = None, threads: int = 1
    ) -> None:
        from edgekd.backends.onnx.runtime import load

        self._batch = batch
        self._graph: Any = load(str(path), threads=threads, batch=batch, options={"config": config or {}})

    def outputs(self, images: Images, preprocess: Preprocess) -> Logits:
        """float32 `[n, C]`; n must be a multiple of the batch."""
        rows = []
        for start in range(0, len(images), self._batch):
            x = preprocess.apply(images[start : start + self._batch]).astype(self._graph.dtype, copy=False)
            rows.append(np.asarray(self._graph.run(x), np.float32))
        return np.concatenate(rows)


def probe_findings(case: Case) -> Iterator[Finding]:
    """Raises the runtime's `ArtifactError` where this machine cannot run what the target could."""
    rows, each_s = _drawn(case)
    some = rows[:_AGAIN]
    images = np.ascontiguousarray(case.images[some])
    here = Asker(case.graph).outputs(images, case.preprocess)
    yield from _host_differs(case, here, case.answers[some])
    yield from _repeated(case, images, here)
    yield from _in_company(case, images, here)
    yield from _kernels(case, rows[: FIRST[1]])
    yield from _alternatives(case, rows, each_s)


def _drawn(case: Case) -> tuple[Rows, float]:
    """The rows of images whose class the model knows, in an order drawn by a fixed seed; seconds of each."""
    known = np.flatnonzero(case.split.labels < case.num_own)
    rows = np.random.default_rng(derive(0, "audit", "sample")).permutation(known).astype(np.int64)
    asker, few = Asker(case.graph), np.ascontiguousarray(case.images[rows[:5]])
    asker.outputs(few[:1], case.preprocess)
    started = time.perf_counter()
    asker.outputs(few, case.preprocess)
    return rows, (time.perf_counter() - started) / max(1, len(few))


def _affordable(bounds: tuple[int, int], each_s: float, questions: int) -> int:
    """How many images so many questions can be asked about."""
    return int(np.clip(SECONDS / (questions * max(each_s, 1e-6)), *bounds))


# --- the same inputs ----------------------------------------------------------------------------------------


def _host_differs(case: Case, here: Logits, there: Logits) -> Iterator[Finding]:
    agreement = float((predictions(here) == predictions(there)).mean())
    if agreement < _LEAST_AGREEMENT and not case.random_operators:
        yield Finding(
            name="host-differs",
            text=f"{case.target} and this machine agree on {agreement:.1%} of {len(here)} images",
            fix="expected of integer kernels on other processors; what counts was measured on the target",
            outcome="note",
            target=case.target,
        )


def _repeated(case: Case, images: Images, before: Logits) -> Iterator[Finding]:
    """The same images in another session and another order."""
    again = Asker(case.graph).outputs(np.ascontiguousarray(images[::-1]), case.preprocess)[::-1]
    if _same(before, again):
        return
    why = f": it holds {', '.join(case.random_operators)}" if case.random_operators else ""
    yield Finding(
        name="not-repeatable",
        text=f"asked again, {_changed(before, again)} of {len(images)} images get another answer and the "
        f"outputs move by up to {_distance(before, again):.2g}{why}",
        fix="export the graph for inference, without random operators or state",
        outcome="fail",
        target=case.target,
    )


def _in_company(case: Case, images: Images, alone: Logits) -> Iterator[Finding]:
    """The same images in batches, where the graph takes batches; rounding may tip a close call."""
    from edgekd.backends.onnx.runtime import ArtifactError

    count = len(images) // _COMPANY * _COMPANY
    if count == 0:
        return
    try:
        asker = Asker(case.graph, batch=_COMPANY)
    except (ArtifactError, ValueError):
        return  # its batch is fixed to one image: it is never in company
    try:
        together = asker.outputs(images[:count], case.preprocess)
    except ArtifactError as error:
        yield _no_batches(case, error)
        return
    changed = _changed(alone[:count], together) if together.shape == alone[:count].shape else count
    if changed > max(1, (1 - _LEAST_AGREEMENT) * count):
        yield Finding(
            name="batch-dependent",
            text=f"in batches of {_COMPANY}, {changed} of {count} images get another answer than alone",
            fix="export it in evaluation mode (batch norm), or with a batch of 1; accept it if it never "
            "sees batches",
            target=case.target,
        )


def _no_batches(case: Case, error: Exception) -> Finding:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return Finding(
        name="batch-dependent",
        text=f"its batch is dynamic, and a batch of {_COMPANY} fails: {first[:200]}",
        fix="export it with a batch of 1 if it is meant for single images",
        outcome="note",
        target=case.target,
    )


def _kernels(case: Case, rows: Rows) -> Iterator[Finding]:
    """Integer kernels against the graph's own arithmetic, where Q and DQ nodes let the runtime choose."""
    if case.precision != "int8":
        return
    plain = Asker(case.graph, config=_PLAIN).outputs(case.images[rows], case.preprocess)
    agreement = float((predictions(plain) == predictions(case.answers[rows])).mean())
    if agreement < _LEAST_AGREEMENT:
        yield Finding(
            name="kernels",
            text=f"the integer kernels of {case.target} agree with the graph's own arithmetic on "
            f"{agreement:.1%} of {len(rows)} images: sums saturate where a processor lacks VNNI",
            fix="quantize weights to 7 bits (reduce_range) for such processors",
            outcome="note",
            target=case.target,
        )


def _same(one: Logits, other: Logits) -> bool:
    return bool(np.allclose(one, other, rtol=0, atol=_TOLERANCE * _size(one), equal_nan=True))


def _size(outputs: Logits) -> float:
    finite = np.abs(outputs[np.isfinite(outputs)])
    return max(float(finite.max()) if finite.size else 0.0, 1e-6)


def _distance(one: Logits, other: Logits) -> float:
    return float(np.nanmax(np.abs(one - other)))


def _changed(one: Logits, other: Logits) -> int:
    return int((predictions(one) != predictions(other)).sum())


# --- other inputs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alternative:
    """Another way to feed the images of given rows: `name` of the finding if it is clearly better."""

    name: str
    words: str
    feed: Callable[[Rows], Images]
    preprocess: Preprocess
    fix: str


@dataclass(frozen=True, eq=False)
class _Seen:
    """Which images are right with an alternative (None: as given), in the order of classes and in another."""

    by: Alternative | None
    plain: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]
    """In that other order, if one is clearly better; else the same."""


def _alternatives(case: Case, rows: Rows, each_s: float) -> Iterator[Finding]:
    """The best of the alternatives, if it is clearly better than what was given.

    All are tried on few images, the best few on more. An order of classes that is wrong as well hides
    nothing: where an alternative explains little in the given order, each is compared in the order that
    suits it.
    """
    asker, tried = Asker(case.graph, threads=min(4, os.cpu_count() or 1)), list(alternatives(case))
    first = rows[: _affordable(FIRST, each_s, _GUESSED_ALTERNATIVES)]
    seen = [_seen(case, one, asker, first) for one in tried]
    further = rows[: _affordable(FURTHER, each_s, 2 * _BEST_FEW)]
    before = _as_given(case, further)
    seen = [_seen(case, one, asker, further) for one in _most_promising(seen)]
    best, most = _simplest(seen, lambda one: one.plain), _simplest(seen, lambda one: one.moved)
    if best.plain.sum() < _EXPLAINS * max(most.moved.sum(), before.moved.sum()):
        yield from _told(case, most, before, most.moved, before.moved)
    else:
        yield from _told(case, best, before, best.plain, before.plain)


def _most_promising(seen: Sequence[_Seen]) -> list[Alternative]:
    """The best few in either order of classes, as they came: single mistakes stand before double ones."""
    plain = sorted(seen, key=lambda one: -one.plain.sum())[:_BEST_FEW]
    moved = sorted(seen, key=lambda one: -one.moved.sum())[:_BEST_FEW]
    return [one.by for one in seen if one.by is not None and (one in plain or one in moved)]


def _seen(case: Case, by: Alternative, asker: Asker, rows: Rows) -> _Seen:
    outputs = asker.outputs(np.ascontiguousarray(by.feed(rows)), by.preprocess)
    return _judged(case, by, outputs, rows)


def _as_given(case: Case, rows: Rows) -> _Seen:
    return _judged(case, None, case.answers[rows], rows)


def _judged(case: Case, by: Alternative | None, outputs: Logits, rows: Rows) -> _Seen:
    predicted, labels = predictions(outputs), case.split.labels[rows]
    plain = np.asarray(predicted == labels)
    order = sanity.class_order(predicted, labels, case.num_own)
    if order is None:
        return _Seen(by, plain, plain)
    moved = np.asarray(np.array([*order, NOT_FINITE])[predicted] == labels)
    return _Seen(by, plain, moved if sanity.clearly_better(plain, moved) else plain)


def _simplest(seen: Sequence[_Seen], right: Callable[[_Seen], npt.NDArray[np.bool_]]) -> _Seen:
    """The first one that is about as good as the best."""
    most = max(int(right(one).sum()) for one in seen)
    return next(one for one in seen if right(one).sum() >= _AS_GOOD * most)


def _told(
    case: Case, best: _Seen, before: _Seen, right: npt.NDArray[np.bool_], then: npt.NDArray[np.bool_]
) -> Iterator[Finding]:
    """An explanation must explain: one in another order of classes at least half of the images."""
    share, in_order = float(right.mean()), right is best.plain
    explains = not sanity.near_chance(share, case.num_own) and (in_order or share >= 0.5)
    if best.by is None or not explains or not sanity.clearly_better(then, right):
        return
    also = "" if in_order else " and its outputs in another order of classes"
    yield Finding(
        name=best.by.name,
        text=f"with {best.by.words}{also} it scores {share:.1%} instead of "
        f"{before.plain.mean():.1%} on {len(right):,} images",
        fix=best.by.fix,
        target=case.target,
    )


def alternatives(case: Case) -> Iterator[Alternative]:
    """Everything that people get wrong between an image file and a graph, each alone, and values with BGR."""
    given, height_width = case.preprocess, case.images.shape[1:3]
    yield from _values(case, given)
    if given.num_channels == 3:
        to = "rgb" if case.fitting.bgr else "bgr"
        fix = f"preprocess: {{channels: {to}}}"
        words = "red and blue exchanged"
        yield Alternative("channel-order", words, lambda rows: case.images[rows][..., ::-1], given, fix)
        yield from _values(case, given, to)
    if given.num_channels == 3:
        fix = "the arrays were reshaped where they should have been transposed: make them again"
        yield Alternative("layout", "channels-first bytes", partial(_channels_first, case), given, fix)
    if height_width[0] == height_width[1]:
        fix = "look at how the arrays were made, or how the graph was exported"
        words = "height and width exchanged"
        yield Alternative(
            "transposed", words, lambda rows: case.images[rows].transpose(0, 2, 1, 3), given, fix
        )
    fix = "invert the images, or `scale`, `mean` and `std`"
    yield Alternative(
        "inverted", "dark and bright exchanged", lambda rows: 255 - case.images[rows], given, fix
    )
    yield from _fittings(case)


def _values(case: Case, given: Preprocess, channels: str | None = None) -> Iterator[Alternative]:
    """The common numbers; `channels` says in which order the images are, if not as given."""
    if case.raw_pixels:
        return
    own = of_images(given, case.images[:: max(1, len(case.images) // FURTHER[1])])
    also, tail = (f" and channels {channels}", f", channels: {channels}}}") if channels else ("", "}")
    turn = -1 if channels else 1
    for words, other in (("the images' own mean and sd", own), *conventions(given)):
        if other != given:
            fix = written(other).removesuffix("}") + tail
            yield Alternative(
                "preprocessing", words + also, lambda rows: case.images[rows][..., ::turn], other, fix
            )


def _fittings(case: Case) -> Iterator[Alternative]:
    """Other ways to the input size, for images that do not have it already."""
    few = case.split.images.get(range(min(len(case.split), FIRST[0])))
    if all(image.shape[:2] == case.fitting.size for image in few):
        return
    for change in (
        {"fit": "stretch"},
        {"fit": "crop"},
        {"fit": "crop", "crop_share": 1.0},
        {"fit": "pad"},
        {"resize": "bilinear"},
        {"resize": "bicubic"},
        {"resize": "nearest"},
    ):
        other = case.fitting.model_copy(update=change)
        if other != case.fitting:
            words = f"{{{', '.join(f'{key}: {value}' for key, value in change.items())}}}"
            yield Alternative(
                "resize", words, partial(_refitted, case, other), case.preprocess, f"preprocess: {words}"
            )


def _channels_first(case: Case, rows: Rows) -> Images:
    """The same bytes, taken for `[C, H, W]`."""
    images = case.images[rows]
    count, height, width, channels = images.shape
    return images.reshape(count, channels, height, width).transpose(0, 2, 3, 1)


def _refitted(case: Case, fitting: Fitting, rows: Rows) -> Images:
    return np.stack([fitting.apply(image) for image in case.split.images.get(rows.tolist())])
