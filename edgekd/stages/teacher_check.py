"""Finds out why a teacher scores near chance: a wrong preprocessing, or classes in another order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.data.conventions import conventions, with_values, written
from edgekd.measure.accuracy import NOT_FINITE, predictions
from edgekd.measure.sanity import class_order, near_chance
from edgekd.stages.context import StageContext
from edgekd.stages.model_files import accuracy, default_preprocess, evaluation_arrays, score

if TYPE_CHECKING:
    from edgekd.networks.model import Model

CLEARLY_BETTER = 2.0


def check_teacher(context: StageContext, model: Model) -> None:
    """Raise `ModelError` for a teacher near chance on val, naming what would match if something does.

    It is judged by the images of the classes that it knows.
    """
    context = context.of_classes(model.spec.labels)
    found = score(context, model)
    if not near_chance(found, len(model.spec.labels)):
        return
    raise ModelError(
        f"the teacher scores {found:.1%} on val, where guessing gives {1 / len(model.spec.labels):.1%}",
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
        return f"with {words} it scores {better:.1%}: {written(preprocess)}"
    order = _class_order(context, model)
    if order is not None:
        return order
    return "check its weights, `preprocess:` and the order of classes; `accept_poor: true` goes on regardless"


def _alternatives(given: Preprocess, own: Preprocess) -> Iterator[tuple[str, Preprocess]]:
    """Preprocessings that published weights commonly expect, and the data's own."""
    if own.num_channels == given.num_channels:
        yield "the training data's mean and sd", with_values(given, own.scale, own.mean, own.std)
    yield from conventions(given)


def _class_order(context: StageContext, model: Model) -> str | None:
    """Whether each of the model's outputs goes with one class, only not with its own."""
    from edgekd.stages.model_files import val_logits

    _, labels = evaluation_arrays(context, model.spec.preprocess, "val")
    logits = val_logits(context, model)
    found = predictions(logits)
    order = class_order(found, labels, len(model.spec.labels))
    if order is None:
        return None
    better = float((np.array(order)[found] == labels)[found != NOT_FINITE].sum() / len(labels))
    if better <= max(CLEARLY_BETTER * accuracy(context, model, logits), 0.5):
        return None
    names = ", ".join(model.spec.labels[index] for index in order)
    return f"with its outputs in another class order it scores {better:.1%}; its order is: {names}"
