"""Finds out why a teacher scores near chance: a wrong preprocessing, or classes in another order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.stages.context import StageContext
from edgekd.stages.model_files import accuracy, default_preprocess, evaluation_arrays, score

if TYPE_CHECKING:
    from edgekd.networks.model import Model

NEAR_CHANCE = 2.0
"""A teacher below this many times the accuracy of guessing is taken for a mistake."""
CLEARLY_BETTER = 2.0

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def check_teacher(context: StageContext, model: Model) -> None:
    """Raise `ModelError` for a teacher near chance on val, naming what would match if something does."""
    found = score(context, model)
    chance = 1 / len(model.spec.labels)
    if found >= min(NEAR_CHANCE * chance, (1 + chance) / 2):
        return
    raise ModelError(
        f"the teacher scores {found:.1%} on val, where guessing gives {chance:.1%}",
        where="teacher",
        fix=_remedy(context, model, found),
    )


def _remedy(context: StageContext, model: Model, found: float) -> str:
    scored = []
    for words, preprocess in _alternatives(model.spec.preprocess, default_preprocess(context.data)):
        other = model.__class__(model.spec.model_copy(update={"preprocess": preprocess}), model.module)
        scored.append((score(context, other), words, preprocess))
    better, words, preprocess = max(scored, key=lambda one: one[0])
    if better > max(CLEARLY_BETTER * found, 0.5):
        return f"with {words} it scores {better:.1%}: {_written(preprocess)}"
    order = _class_order(context, model)
    if order is not None:
        return order
    return "check its weights, `preprocess:` and the order of classes; `accept_poor: true` goes on regardless"


def _alternatives(given: Preprocess, own: Preprocess) -> Iterator[tuple[str, Preprocess]]:
    """Preprocessings that published weights commonly expect, and the data's own."""
    channels = given.num_channels
    if own.num_channels == channels:
        yield "the training data's mean and sd", _changed(given, own.scale, own.mean, own.std)
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    halves = (0.5,) * channels
    yield "inputs in [0, 1]", _changed(given, 1 / 255, zeros, ones)
    yield "inputs in [-1, 1]", _changed(given, 1 / 255, halves, halves)
    yield "inputs in [0, 255]", _changed(given, 1.0, zeros, ones)
    yield "inputs in [-128, 127]", _changed(given, 1.0, (128.0,) * channels, ones)
    if channels == 3:
        yield "ImageNet's mean and sd", _changed(given, 1 / 255, *_IMAGENET)


def _changed(given: Preprocess, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocess:
    return given.model_copy(update={"scale": scale, "mean": mean, "std": std})


def _written(preprocess: Preprocess) -> str:
    return (
        f"preprocess: {{mean: {list(preprocess.mean)}, std: {list(preprocess.std)}, "
        f"scale: {preprocess.scale:.8g}}}"
    )


def _class_order(context: StageContext, model: Model) -> str | None:
    """Whether each of the model's outputs goes with one class, only not with its own."""
    from edgekd.stages.model_files import val_logits

    _, labels = evaluation_arrays(context, model.spec.preprocess, "val")
    logits = val_logits(context, model)
    best = _best_class_of_output(logits, labels, len(model.spec.labels))
    if len(set(best)) < len(best) or best == list(range(len(best))):
        return None
    reordered = np.array(best)[logits.argmax(1)]
    better = float((reordered == labels).mean())
    if better <= max(CLEARLY_BETTER * accuracy(logits, labels), 0.5):
        return None
    names = ", ".join(model.spec.labels[index] for index in best)
    return f"with its outputs in another class order it scores {better:.1%}; its order is: {names}"


def _best_class_of_output(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], num_classes: int
) -> list[int]:
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (logits.argmax(1), labels), 1)
    return [int(row.argmax()) for row in confusion]
