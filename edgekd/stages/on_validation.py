"""Exported artifacts on validation data and on the clock: what the choice of the one that ships rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgekd.core.artifact import Artifact
from edgekd.core.choice import HeldLimit
from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.core.seed import derive
from edgekd.core.verdict import ANY_TARGET, Limit, Outcome, outcome_of
from edgekd.measure import accuracy
from edgekd.measure.accuracy import Labels
from edgekd.measure.estimate import Estimate
from edgekd.measure.probes import Graph, Timing, ask, timing_of
from edgekd.measure.protocol import PROTOCOLS
from edgekd.search.fastest import Contender
from edgekd.stages.context import StageContext
from edgekd.stages.model_files import evaluation_arrays, load, val_logits

TEACHER, STUDENT = "teacher", "student"
SIZE = "size_bytes"
Answers = Mapping[str, Labels]
"""Target -> the class of every validation image."""


@dataclass(frozen=True)
class Tried:
    """A contender, with what became of each limit."""

    contender: Contender
    limits: Sequence[HeldLimit]


@dataclass(frozen=True)
class Trial:
    """Asks artifacts on every target in reach."""

    context: StageContext
    models: Sequence[Artifact]
    """The teacher first; the last one whose numbers are float is the student."""
    protocol: str
    certain: bool

    @property
    def num_images(self) -> int:
        return len(self._labels)

    def answers_of(self, graph: Artifact) -> Answers:
        """By its runtime on every target in reach.

        Raises `AbsentRuntimeError` where one lacks it, `ModelError` where it does not run, or runs otherwise
        than it declares.
        """
        preprocess = Preprocess.model_validate(graph.facts["preprocess"])
        images, _ = evaluation_arrays(self.context, preprocess, "val")
        path, backend = graph.path(graph.facts["file"]), graph.facts["backend"]
        found = {}
        for target in self.context.reached:
            answer = ask(path, images, preprocess, target, backend=backend)
            if answer.unexpected:
                raise ModelError(
                    f"it runs otherwise than it declares: {answer.unexpected[0]}", where=target.name
                )
            found[target.name] = self._classes(answer.logits, graph.facts.get("labels", ()))
        return found

    def held(self, name: str, graph: Artifact, answers: Answers) -> Tried:
        """Against every limit that validation data can speak of."""
        limits = [self._held(limit, graph, answers) for limit in self.limits]
        contender = Contender(
            name,
            tuple(one.outcome for one in limits),
            min(float((classes == self._labels).mean()) for classes in answers.values()),
            int(graph.facts["size_bytes"]),
        )
        return Tried(contender, limits)

    def times(self, graphs: Mapping[str, Artifact]) -> dict[str, Timing]:
        """All of them interleaved in one session a target; by target."""
        given = {
            name: Graph(graph.path(graph.facts["file"]), graph.facts["backend"])
            for name, graph in graphs.items()
        }
        found = {}
        for target in self.context.reached:
            text = f"timing {len(given)} candidates on {target.name}"
            self.context.emit({"event": "progress", "done": len(given), "total": len(given), "text": text})
            seed = derive(self.context.seed, "choose", *sorted(given))
            found[target.name] = timing_of(given, target, PROTOCOLS[self.protocol], seed=seed)
        return found

    # --- limits ---------------------------------------------------------------------------------------------

    @property
    def limits(self) -> list[Limit]:
        """Those of the gate that validation data can speak of here."""
        targets = {target.name for target in self.context.reached} | {ANY_TARGET}
        return [one for one in self.context.limits if _answerable(one) and one.target in targets]

    @property
    def not_asked(self) -> list[Limit]:
        """Those that only the final session can speak of."""
        return [one for one in self.context.limits if one not in self.limits]

    def _held(self, limit: Limit, graph: Artifact, answers: Answers) -> HeldLimit:
        """What becomes of one limit: on the target that it names."""
        if limit.quantity == SIZE:
            size = float(graph.facts["size_bytes"])
            return _told(limit, outcome_of(limit, size, size), Estimate(size, None, 1))
        found = BOUND_BY_ANSWERS[limit.quantity](self, limit, answers[limit.target])
        assert found.value is not None
        low = high = found.value
        if self.certain and found.interval is not None:
            low, high = min(low, found.interval.low), max(high, found.interval.high)
        return _told(limit, outcome_of(limit, low, high), found)

    def before(self, limit: Limit) -> Labels:
        """What the limit compares with: the model's own answers, in torch."""
        return self._references[str(limit.against)]

    @cached_property
    def _references(self) -> dict[str, Labels]:
        student = [model for model in self.models if not model.facts.get("quantized")][-1]
        wanted = {limit.against for limit in self.limits}
        found = {TEACHER: self.models[0], STUDENT: student}
        return {name: self._in_torch(artifact) for name, artifact in found.items() if name in wanted}

    def _in_torch(self, artifact: Artifact) -> Labels:
        model = load(artifact, trust_code=self.context.trust_code)
        return self._classes(val_logits(self.context, model), model.spec.labels)

    def _classes(self, logits: accuracy.Logits, own: Sequence[str]) -> Labels:
        return accuracy.predictions(logits, own, self.context.data.dataset.classes)

    @cached_property
    def _labels(self) -> Labels:
        preprocess = Preprocess.model_validate(self.models[0].facts["preprocess"])
        return evaluation_arrays(self.context, preprocess, "val")[1]

    # --- the quantities, as the gate knows them -------------------------------------------------------------

    def accuracy(self, limit: Limit, classes: Labels) -> Estimate:
        return accuracy.accuracy(classes, self._labels)

    def accuracy_drop(self, limit: Limit, classes: Labels) -> Estimate:
        return accuracy.accuracy_drop(self.before(limit), classes, self._labels)

    def new_errors(self, limit: Limit, classes: Labels) -> Estimate:
        return accuracy.new_errors(self.before(limit), classes, self._labels)

    def macro_recall(self, limit: Limit, classes: Labels) -> Estimate:
        return accuracy.macro_recall(classes, self._labels, self.context.data.dataset.classes)

    def worst_class_recall(self, limit: Limit, classes: Labels) -> Estimate:
        return accuracy.worst_class_recall(classes, self._labels, self.context.data.dataset.classes)


BOUND_BY_ANSWERS: Mapping[str, Callable[[Trial, Limit, Labels], Estimate]] = {
    "accuracy": Trial.accuracy,
    "accuracy_drop": Trial.accuracy_drop,
    "new_errors": Trial.new_errors,
    "macro_recall": Trial.macro_recall,
    "worst_class_recall": Trial.worst_class_recall,
}


def _answerable(limit: Limit) -> bool:
    known = limit.quantity in BOUND_BY_ANSWERS or limit.quantity == SIZE
    return known and limit.against in (None, TEACHER, STUDENT)


def _told(limit: Limit, outcome: Outcome, found: Estimate) -> HeldLimit:
    assert found.value is not None
    interval = found.interval
    return HeldLimit(
        limit=limit.source,
        quantity=limit.quantity,
        target=limit.target,
        outcome=outcome,
        value=found.value,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )
