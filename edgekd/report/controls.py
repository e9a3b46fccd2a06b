"""What the controls say: did the teacher, quantization-aware training and INT8 buy anything?

An answer is `yes` or `no` only where the whole interval is on one side; `faster` also needs a difference of
at least 1 % (measuring protocol, rule 8). Everything else is `can't tell`.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekd.core.run_record import Row
from edgekd.report.ablation import is_ablation
from edgekd.report.facts import Answer, ControlFact, Number
from edgekd.report.formatting import points, ratio
from edgekd.report.predictions import Predictions
from edgekd.report.reading import Source
from edgekd.report.waterfall import drop_between, inverted, number, targets_of, teacher_row

_QUESTIONS = {
    "distill": "Did the teacher buy anything?",
    "quantize": "Did quantization-aware training buy anything over post-training quantization?",
}
_LEAST_GAIN = 0.01
_LOW_PRECISIONS = ("int8", "int4", "uint8")


def controls_of(source: Source, predictions: Predictions) -> tuple[ControlFact, ...]:
    """Each planned control on the first target that measured it; timing on every target."""
    facts = [_bought(source, row, compared, predictions) for row, compared in _pairs(source)]
    facts += [fact for target in targets_of(source) for fact in _faster(source, target)]
    facts += [
        fact for target in targets_of(source) for fact in _quantization_cost(source, target, predictions)
    ]
    return tuple(facts)


def _pairs(source: Source) -> Iterator[tuple[Row, Row]]:
    """(control, the stage it is compared with): a control stands before the stage it belongs to.

    What an ablation left out has a section of its own.
    """
    rows = [row for row in source.record.rows if not is_ablation(source, row)]
    for index, row in enumerate(rows):
        later = [one for one in rows[index + 1 :] if one.role == "stage"]
        if row.role == "control" and later:
            yield row, later[0]


def _stage_of(source: Source, row: Row) -> str:
    return next((step.stage for step in source.record.steps if step.name == row.model_step), "")


def _bought(source: Source, control: Row, stage: Row, predictions: Predictions) -> ControlFact:
    question = _QUESTIONS.get(
        _stage_of(source, stage) or _stage_of(source, control),
        f"Is “{stage.title}” more accurate than “{control.title}”?",
    )
    for target in targets_of(source):
        drop = drop_between(source, stage.name, control.name, target, predictions)
        if drop is not None:
            return _gain(question, inverted(drop), f"“{stage.title}” against “{control.title}”", target)
    return ControlFact(question, "can't tell", "The two were not compared on the same images.", "")


def _gain(question: str, gain: Number, between: str, target: str) -> ControlFact:
    if gain.value is None or gain.low is None or gain.high is None:
        return ControlFact(question, "can't tell", _no_interval(gain), target)
    if not gain.valid:
        return ControlFact(question, "can't tell", f"Invalid: {'; '.join(gain.reasons)}.", target)
    extent = (
        f"{points(gain.value, plus=True)} ({points(gain.low, plus=True)} to {points(gain.high, plus=True)})"
    )
    words = {
        "yes": f"{extent}, {between}",
        "no": f"It cost accuracy: {extent}, {between}",
        "can't tell": f"{extent}, {between}: the interval holds zero",
    }
    answer = _sign(gain.low, gain.high)
    return ControlFact(question, answer, f"{words[answer]}, over {gain.n:,} images.", target)


def _no_interval(number: Number) -> str:
    return f"Not measured: {number.missing}." if number.missing else "There is a number but no interval."


def _sign(low: float, high: float) -> Answer:
    if low > 0:
        return "yes"
    return "no" if high < 0 else "can't tell"


def _quantized_and_float(source: Source) -> tuple[Row, Row] | None:
    """The shipped row if it is quantized, and the nearest earlier stage in floating point but the teacher."""
    rows = source.record.rows
    final = next((index for index, row in enumerate(rows) if row.name == source.record.final), None)
    if final is None or rows[final].precision.lower() not in _LOW_PRECISIONS:
        return None
    teacher = teacher_row(source)
    for row in reversed(rows[:final]):
        if row.role == "stage" and row.precision.lower() not in _LOW_PRECISIONS and row != teacher:
            return rows[final], row
    return None


def _place(source: Source, target: str) -> str:
    """` on pi5` where there is more than one target to ask about."""
    return f" on {target}" if len(targets_of(source)) > 1 else ""


def _faster(source: Source, target: str) -> Iterator[ControlFact]:
    pair = _quantized_and_float(source)
    if pair is None:
        return
    quantized, plain = pair
    names = f"{quantized.precision.upper()} faster than {plain.precision.upper()}"
    question = f"Is {names} in this session{_place(source, target)}?"
    taken = source.of("speedup", quantized.name, target, plain.name)
    if taken is None:
        yield ControlFact(question, "can't tell", "The two were not timed against each other.", target)
    else:
        yield _speed(question, number(taken), f"“{quantized.title}” against “{plain.title}”", target)


def _speed(question: str, speedup: Number, between: str, target: str) -> ControlFact:
    if speedup.value is None or speedup.low is None or speedup.high is None:
        return ControlFact(question, "can't tell", _no_interval(speedup), target)
    extent = f"{ratio(speedup.value)} ({ratio(speedup.low)} to {ratio(speedup.high)}), {between}"
    if not speedup.valid:
        return ControlFact(
            question, "can't tell", f"{extent}; invalid: {'; '.join(speedup.reasons)}.", target
        )
    if speedup.low > 1 and speedup.value >= 1 + _LEAST_GAIN:
        return ControlFact(question, "yes", f"{extent}.", target)
    if speedup.high < 1:
        return ControlFact(question, "no", f"It is slower: {extent}.", target)
    if speedup.high < 1 + _LEAST_GAIN:
        return ControlFact(question, "no", f"No difference of 1 % or more: {extent}.", target)
    return ControlFact(question, "can't tell", f"{extent}: the difference is too small to tell.", target)


def _quantization_cost(source: Source, target: str, predictions: Predictions) -> Iterator[ControlFact]:
    pair = _quantized_and_float(source)
    if pair is None:
        return
    quantized, plain = pair
    names = f"{quantized.precision.upper()} cost accuracy against {plain.precision.upper()}"
    question = f"Did {names}{_place(source, target)}?"
    drop = drop_between(source, quantized.name, plain.name, target, predictions)
    if drop is None or drop.value is None or drop.low is None or drop.high is None or not drop.valid:
        yield ControlFact(question, "can't tell", "The two were not compared on the same images.", target)
        return
    value, low, high = (points(-end, plus=True) for end in (drop.value, drop.high, drop.low))
    gain = f"{value} ({low} to {high})"
    words = {"yes": "", "no": ": it gained", "can't tell": ": the interval holds zero"}
    answer = _sign(drop.low, drop.high)
    yield ControlFact(question, answer, f"{gain}, over {drop.n:,} images{words[answer]}.", target)
