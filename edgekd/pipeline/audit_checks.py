"""What an artifact's own answers say against judging it by them.

N images, C classes. Answers are what the target gave for the whole evaluation set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.backends.onnx.adapt import Door, timed_extras
from edgekd.backends.onnx.anatomy import Anatomy
from edgekd.core.run_record import Finding
from edgekd.measure import sanity
from edgekd.measure.accuracy import NOT_FINITE, Labels, Logits, predictions
from edgekd.pipeline.gate import limits
from edgekd.pipeline.gate_policy import GatePolicy

_SHOWN = 6


@dataclass(frozen=True)
class Answered:
    """Outputs `[N, C]` of one target, the labels `[N]`, and the names of the outputs, which labels number."""

    target: str
    outputs: Logits
    labels: Labels
    own: tuple[str, ...]

    @property
    def predicted(self) -> Labels:
        return predictions(self.outputs)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Which images are of classes that the model knows."""
        return np.asarray(self.labels < len(self.own))


def graph_findings(anatomy: Anatomy) -> Iterator[Finding]:
    """What can be seen in the file alone."""
    if anatomy.training:
        yield Finding(
            name="training-mode",
            text=f"it holds {', '.join(anatomy.training)} in training mode: a runtime may leave that out or "
            "not, and what is measured here says nothing of another",
            fix="export it in evaluation mode",
        )


def door_findings(gate: GatePolicy, targets: Sequence[str], doors: Sequence[Door]) -> Iterator[Finding]:
    """A speed-up is of the models only if both are timed behind the same."""
    extras = [timed_extras(door) for door in doors]
    asked = any(limit.quantity == "speedup" for limit in limits(gate, targets))
    if asked and len(set(extras)) > 1:
        first, second = (", ".join(sorted(one)) or "nothing" for one in extras)
        yield Finding(
            name="unequal-doors",
            text=f"the reference is timed behind {first} of edgekd's own, the model behind {second}: a part "
            "of their speed-up is neither's",
            fix="export both with the same input layout and type, or accept it",
        )


def answer_findings(answered: Answered) -> Iterator[Finding]:
    """What is wrong with the answers, the gravest first; images of unknown classes are left out."""
    known = answered.known
    if not known.any():
        return
    predicted, labels = answered.predicted[known], answered.labels[known]
    finite = predicted != NOT_FINITE
    yield from _not_finite(answered.target, finite)
    if finite.sum() < 2:
        return
    if len(set(predicted[finite].tolist())) == 1 and len(set(labels.tolist())) > 1:
        yield _constant(answered, int(predicted[finite][0]))
        return
    order = _label_order(answered, predicted, labels)
    yield from order
    if not order:
        yield from _near_chance(answered, predicted, labels)
    yield from _dead(answered, predicted, labels)
    yield from _follows(answered, predicted == labels, known)


def _not_finite(target: str, finite: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    broken = int((~finite).sum())
    if broken:
        yield Finding(
            name="not-finite",
            text=f"{broken:,} of {len(finite):,} images give NaN or infinite outputs",
            fix="a broken artifact, or inputs far from what it was trained on: check `preprocess`",
            outcome="fail",
            target=target,
        )


def _constant(answered: Answered, answer: int) -> Finding:
    return Finding(
        name="constant",
        text=f"the answer is `{answered.own[answer]}` for every image",
        fix="a broken artifact, or inputs that all look alike to it: check `preprocess`",
        target=answered.target,
    )


def _near_chance(answered: Answered, predicted: Labels, labels: Labels) -> Iterator[Finding]:
    accuracy = float((predicted == labels).mean())
    if sanity.near_chance(accuracy, len(answered.own)):
        yield Finding(
            name="near-chance",
            text=f"it scores {accuracy:.1%}, where guessing gives {1 / len(answered.own):.1%}",
            fix="check `preprocess`, the order of `labels` and the artifact itself",
            target=answered.target,
        )


def _label_order(answered: Answered, predicted: Labels, labels: Labels) -> list[Finding]:
    order = sanity.class_order(predicted, labels, len(answered.own))
    if order is None:
        return []
    places = np.array([*order, NOT_FINITE])  # the last one is where -1 leads to
    before, after = predicted == labels, places[predicted] == labels
    if not sanity.clearly_better(before, after):
        return []
    moved = [number for number, place in enumerate(order) if number != place]
    return [
        Finding(
            name="label-order",
            text=f"with {len(moved)} outputs under other names ({_moves(moved, order, answered.own)}) it "
            f"scores {after.mean():.1%} instead of {before.mean():.1%}",
            fix=f"labels: [{', '.join(answered.own[place] for place in order)}]"
            if len(order) <= 20
            else "put the names in `labels` into the order of the outputs",
            target=answered.target,
        )
    ]


def _moves(moved: Sequence[int], order: Sequence[int], names: Sequence[str]) -> str:
    shown = ", ".join(f"`{names[number]}` is `{names[order[number]]}`" for number in moved[:_SHOWN])
    return shown if len(moved) <= _SHOWN else f"{shown} and {len(moved) - _SHOWN} more"


def _dead(answered: Answered, predicted: Labels, labels: Labels) -> Iterator[Finding]:
    dead = sanity.dead_classes(predicted, labels, len(answered.own))
    if dead:
        names = ", ".join(f"`{answered.own[number]}`" for number in dead[:_SHOWN])
        images = int(np.isin(labels, dead).sum())
        yield Finding(
            name="dead-class",
            text=f"{len(dead)} of {len(answered.own)} classes are never the answer ({names}), though "
            f"{images:,} images are of them",
            fix="a broken artifact or a wrong order of `labels`; accept it if it is known",
            target=answered.target,
        )


def _follows(
    answered: Answered, right: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]
) -> Iterator[Finding]:
    outputs = answered.outputs[known]
    scores = outputs
    if sanity.look_like_probabilities(outputs):
        scores = np.log(np.maximum(outputs, np.float32(1e-12)))
    calls = sanity.close_calls(scores, right)
    if calls.too_good:
        yield Finding(
            name="labels-follow-answers",
            text=f"of {calls.num:,} images whose two best classes are nearly level, {calls.wrong} are wrong: "
            "real labels contradict a model there, so these may have been made by it",
            fix="evaluate on labels that people gave",
            target=answered.target,
        )


def kind_note(answered: Answered, kind: str | None) -> str | None:
    """What the outputs are, where that was not said or was said wrongly."""
    found = "probabilities" if sanity.look_like_probabilities(answered.outputs) else "logits"
    if kind is not None and kind != found:
        return f"the outputs look like {found}, not {kind}; the best class is the same"
    return None
