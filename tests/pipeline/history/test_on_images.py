from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekd.core.measurement import Validity
from edgekd.measure import statistics
from edgekd.measure.across_sessions import independent_difference
from edgekd.pipeline.history.change import Change
from edgekd.pipeline.history.on_images import change_on_images
from edgekd.pipeline.history.record import Answers, Entry
from tests.pipeline.history.cases import TEACHER, N, accuracy, answers, kept, point, session, subject


def day(number: int, wrong: range, *, given: Answers | None = None, **changes: Any) -> Entry:
    """A day on which another artifact answers the images `wrong` wrongly."""
    found = {"quantized": given or answers(wrong)}
    return session("abcdef"[number], accuracy(len(wrong)), day=number, answers=found, **changes)


def change(before: Entry, after: Entry) -> Change:
    return change_on_images(point(before, "accuracy"), point(after, "accuracy"))


def test_accuracies_on_the_same_images_are_paired_image_by_image() -> None:
    """10 images wrong before, of which 4 are right now, and 20 newly wrong: Tango's interval of the loss."""
    found = change(day(1, range(10)), day(2, range(4, 30)))
    lost = statistics.paired_difference(20, 4, N)
    assert found.outcome == "worse"
    assert found.value == pytest.approx(-0.016)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((-lost.high, -lost.low), abs=1e-9)
    assert found.interval.method == "tango"
    assert found.why == "24 of 1000 images turned, 4 up and 20 down"


def test_more_right_answers_are_better() -> None:
    assert change(day(1, range(4, 30)), day(2, range(10))).outcome == "better"


def test_the_same_answers_are_no_change_whatever_the_artifact() -> None:
    found = change(day(1, range(10)), day(2, range(10)))
    assert (found.outcome, found.value, found.interval) == ("no change", 0.0, None)


def test_a_few_images_either_way_are_no_change_of_a_point() -> None:
    assert change(day(1, range(0, 3)), day(2, range(3, 6))).outcome == "no change"


def test_a_few_images_of_a_few_cannot_tell() -> None:
    few = [answers(wrong, n=50) for wrong in (range(0, 2), range(3, 6))]
    found = change(day(1, range(2), given=few[0]), day(2, range(3), given=few[1]))
    assert found.outcome == "cannot tell"


def test_where_answers_were_not_kept_two_samples_of_the_same_data_are_compared() -> None:
    before, after = day(1, range(10), data="d"), session("b", accuracy(60), day=2, data="d")
    found = change(before, after)
    wanted = independent_difference(0.99, statistics.wilson(990, N), 0.94, statistics.wilson(940, N))
    assert (found.outcome, found.interval) == ("worse", wanted)
    assert "two samples" in found.why


def test_the_paired_interval_tells_what_two_samples_cannot() -> None:
    paired = change(day(1, range(40)), day(2, range(52)))
    blind = change(session("a", accuracy(40), data="d"), session("b", accuracy(52), day=2, data="d"))
    assert (paired.outcome, blind.outcome) == ("worse", "cannot tell")


def test_damaged_bits_are_as_good_as_none() -> None:
    damaged = answers(range(10)).model_copy(update={"right": "AAAA", "predictions": "other"})
    found = change(day(1, range(10)), day(2, range(10), given=damaged))
    assert "two samples" in found.why


@pytest.mark.parametrize("other", [answers(images="other"), answers(n=50)])
def test_other_images_are_not_compared(other: Answers) -> None:
    found = change(day(1, range(10)), day(2, range(10), given=other))
    assert (found.outcome, found.why) == ("not comparable", "measured on other images")


def test_the_same_test_split_in_another_size_is_the_same_images() -> None:
    resized = answers(range(4, 30), images="other size")
    found = change(day(1, range(10), data="d"), day(2, range(26), given=resized, data="d"))
    assert (found.outcome, found.interval and found.interval.method) == ("worse", "tango")


def test_images_of_which_nothing_is_known_are_not_compared() -> None:
    found = change(session("a", accuracy(1)), session("b", accuracy(100), day=2))
    assert found.why == "it is not known whether the images are the same"


def test_what_is_invalid_is_not_compared() -> None:
    fallen = Validity(valid=False, reasons=("fall-back: 3 kernels",))
    invalid = accuracy(20).model_copy(update={"validity": fallen})
    after = session("b", invalid, day=2, answers={"quantized": answers(range(20))})
    found = change(day(1, range(10)), after)
    assert found.why == "invalid now: fall-back: 3 kernels"


# --- paired with another artifact ---------------------------------------------------------------------------


def beside(letter: str, number: int, quantity: str, wrong: range, teacher: range, **changes: Any) -> Entry:
    """A day with one quantity against the teacher, whose share is counted from the answers."""
    mine, theirs = np.isin(np.arange(N), list(wrong)), np.isin(np.arange(N), list(teacher))
    count = int((mine & ~theirs).sum()) if quantity == "new_errors" else int(mine.sum() - theirs.sum())
    one = kept(quantity, count / N, against="teacher")  # type: ignore[arg-type]
    one = one.model_copy(update={"interval": statistics.wilson(abs(count), N)})
    found = {"quantized": answers(wrong), "teacher": answers(teacher)}
    return session(letter, one, day=number, answers=found, **changes)


def paired(before: Entry, after: Entry, quantity: str) -> Change:
    return change_on_images(point(before, quantity), point(after, quantity))  # type: ignore[arg-type]


def test_new_errors_are_paired_by_the_images_that_the_teacher_gets_right() -> None:
    """Of 10 then 35 wrong answers the teacher shares the first 5."""
    before = beside("a", 1, "new_errors", range(10), range(5))
    found = paired(before, beside("b", 2, "new_errors", range(35), range(5)), "new_errors")
    assert found.outcome == "worse"
    assert found.value == pytest.approx(0.025)
    assert found.why == "25 of 1000 images turned, 25 up and 0 down"


def test_an_accuracy_drop_beside_the_same_answers_of_the_teacher_changes_by_the_artifacts_own_images() -> (
    None
):
    before = beside("a", 1, "accuracy_drop", range(10), range(5))
    found = paired(before, beside("b", 2, "accuracy_drop", range(35), range(5)), "accuracy_drop")
    assert found.outcome == "worse"
    assert found.value == pytest.approx(0.025)
    assert found.interval == statistics.paired_difference(25, 0, N)


def test_an_accuracy_drop_beside_other_answers_of_the_teacher_is_of_two_samples() -> None:
    before = beside("a", 1, "accuracy_drop", range(10), range(5))
    found = paired(before, beside("b", 2, "accuracy_drop", range(35), range(6)), "accuracy_drop")
    assert "two samples" in found.why


def test_another_teacher_is_not_compared() -> None:
    before = beside("a", 1, "new_errors", range(10), range(5))
    after = beside("b", 2, "new_errors", range(35), range(5), others=[subject("8", TEACHER.name)])
    assert paired(before, after, "new_errors").why == "compared with another `teacher`: the digests differ"


def test_a_recall_is_of_two_samples() -> None:
    entries = [
        session(
            letter,
            kept("macro_recall", value, (value - 0.01, value + 0.01)),
            answers={"quantized": answers(wrong)},
        )
        for letter, value, wrong in (("a", 0.95, range(10)), ("b", 0.90, range(20)))
    ]
    found = change_on_images(*(point(entry, "macro_recall") for entry in entries))
    assert found.outcome == "worse"
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (-0.05 - 0.02**0.5 / 10, -0.05 + 0.02**0.5 / 10)
    )
