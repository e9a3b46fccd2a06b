"""What an ablation says: which term of a step's loss bought accuracy, beside the others and all together.

A term bought (or cost) something only where the whole interval of the difference is on one side of zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgekd.core.run_record import Row, StepRecord
from edgekd.report.facts import AblationFact, Contribution, Number, Worth
from edgekd.report.formatting import points
from edgekd.report.predictions import Predictions
from edgekd.report.reading import Source
from edgekd.report.waterfall import drop_between, targets_of

NOTES = (
    "What stays keeps its weight: without its largest term a loss is smaller, and so are the steps of SGD.",
    "Contributions do not add up: of two terms that teach the same, either can go without loss.",
    "The intervals cover the choice of test images, not that of the seed: ablate again with `--set seed=1` "
    "before building on a small difference.",
)


def ablations_of(source: Source, predictions: Predictions) -> tuple[AblationFact, ...]:
    """One for every measured step that was trained once more without some of its terms."""
    facts = (_ablation(source, row, predictions) for row in source.record.rows)
    return tuple(fact for fact in facts if fact is not None)


def is_ablation(source: Source, row: Row) -> bool:
    """Whether the row is a control of an ablation."""
    step = _step(source, row)
    return step is not None and step.control and bool(_left_out(step))


def _step(source: Source, row: Row) -> StepRecord | None:
    return next((step for step in source.record.steps if step.name == row.model_step), None)


def _left_out(step: StepRecord) -> Sequence[dict[str, Any]]:
    """The terms that a step's model was trained without; what it adds to those of its whole stands last."""
    found = step.facts.get("left_out")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _ablation(source: Source, whole: Row, predictions: Predictions) -> AblationFact | None:
    compared = list(_controls_of(source, whole))
    if not any(_left_out(step) for _, step in compared):
        return None
    target = _first_target(source, whole, [row for row, _ in compared], predictions)
    found = [
        (_contribution(step, _gain(source, whole, row, target, predictions)), bool(_left_out(step)))
        for row, step in compared
    ]
    rest = [contribution for contribution, one_term in found if not one_term]
    return AblationFact(
        step=str(whole.model_step),
        whole=whole.title,
        target=target,
        terms=tuple(contribution for contribution, one_term in found if one_term),
        all_of_them=rest[0] if rest else None,
    )


def _controls_of(source: Source, whole: Row) -> Iterator[tuple[Row, StepRecord]]:
    """The controls that trained as long as the row's step, and what is known of their training."""
    for row in source.record.rows:
        step = _step(source, row)
        if step is not None and step.control and step.inputs.get("pace") == whole.model_step:
            yield row, step


def _first_target(source: Source, whole: Row, rows: Sequence[Row], predictions: Predictions) -> str:
    """The first target on which the whole was compared with one of the rows."""
    targets = targets_of(source)
    for target in targets:
        if any(_gain(source, whole, row, target, predictions) for row in rows):
            return target
    return next(iter(targets), "")


def _gain(source: Source, whole: Row, row: Row, target: str, predictions: Predictions) -> Number | None:
    """Accuracy of the whole minus that of the row, on the same images: the row's drop from the whole."""
    return drop_between(source, row.name, whole.name, target, predictions)


def _contribution(step: StepRecord, gain: Number | None) -> Contribution:
    (*_, last) = _left_out(step) or ({},)
    return Contribution(
        term=last.get("term"),
        method=last.get("method"),
        knowledge=str(last.get("knowledge", "")),
        weight=_weight_text(last.get("weight")),
        gain=gain,
        worth=_worth(gain),
    )


def _weight_text(ends: Any) -> str:
    """`0.9`, or `0 to 1` where a schedule changes it."""
    if not isinstance(ends, list):
        return ""
    return " to ".join(dict.fromkeys(f"{end:g}" for end in ends))


def _worth(gain: Number | None) -> Worth:
    if gain is None or not gain.valid or gain.low is None or gain.high is None:
        return "can't tell"
    if gain.low > 0:
        return "bought"
    return "cost" if gain.high < 0 else "can't tell"


def left_out_text(one: Contribution) -> str:
    """What a line is about."""
    return f"`{one.term}`" if one.term else "all of them: labels alone"


def kind_text(one: Contribution) -> str:
    """`response`, or `response (fitnets)` where the method is not called as its term."""
    return f"{one.knowledge} ({one.method})" if one.method not in (None, one.term) else one.knowledge


def gain_text(one: Contribution) -> str:
    """`+1.25 pt (+0.10 pt to +2.41 pt)`, or why there is no difference."""
    gain = one.gain
    if gain is None or gain.value is None:
        return "not measured"
    text = points(gain.value, plus=True)
    if gain.low is not None and gain.high is not None:
        text += f" ({points(gain.low, plus=True)} to {points(gain.high, plus=True)})"
    return text if gain.valid else f"{text}, not valid"
