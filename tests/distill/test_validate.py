"""Programs that cannot run are refused before training, naming the need and how to meet it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.compose import build_program, with_ema
from edgekd.distill.participant import Participant
from edgekd.distill.program import Given, Needs, Phase, Program, Term, Train, Turn, student_turn
from edgekd.distill.settings import DistillSettings
from edgekd.distill.sources import LOOP, Beside, Named
from edgekd.distill.validate import validate
from edgekd.testing.tiny_networks import IMAGE_SHAPE, LABELS, TinyNet, tiny_participant
from tests.distill.building import differ, mimic, task

TAPS = tuple(TinyNet().taps)


def program(method: str) -> Program:
    settings = DistillSettings(method=method)  # type: ignore[arg-type]
    return build_program(settings, num_teachers=1, student_taps=TAPS, teacher_taps=[TAPS])


def given(**changes: Participant) -> dict[str, Participant]:
    return {"student": tiny_participant(), "teacher": tiny_participant(8, name="teacher"), **changes}


def refused(message: str, *args: Any, **options: Any) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        validate(*args, IMAGE_SHAPE, **options)


@pytest.mark.parametrize("method", ["none", "kd", "at", "fitnets"])
def test_methods_pass_on_networks_that_fit(method: str) -> None:
    validate(with_ema(program(method), 0.9), given(), IMAGE_SHAPE)


@pytest.mark.parametrize("method", ["kd", "fitnets"])
def test_networks_without_storage_are_enough(method: str) -> None:
    networks = given()
    for participant in networks.values():
        participant.module.to("meta")
    validate(program(method), networks, IMAGE_SHAPE)


def test_validating_changes_no_network() -> None:
    networks = given()
    before = {key: value.clone() for key, value in networks["student"].module.state_dict().items()}
    validate(program("fitnets"), networks, IMAGE_SHAPE)
    assert differ(before, networks["student"].module.state_dict()) == set()
    assert networks["student"].module.training


def test_a_missing_teacher_is_named() -> None:
    refused("network for its role `teacher`", program("kd"), {"student": tiny_participant()})


def test_a_missing_tap_is_named_with_the_ones_there_are() -> None:
    teacher = tiny_participant(8)
    teacher = replace(teacher, taps={"stage1": teacher.taps["stage1"]})
    refused(
        "term `at` needs tap `stage2` of `teacher`, which has: logits, stage1",
        program("at"),
        given(teacher=teacher),
    )


def test_a_tap_lost_by_folding_is_named() -> None:
    refused(
        "student's tap `stage2`, which is lost when batch norm is folded",
        program("fitnets"),
        given(),
        lost_taps={"stage2"},
    )


def test_a_lost_tap_that_nobody_reads_does_no_harm() -> None:
    validate(program("kd"), given(), IMAGE_SHAPE, lost_taps={"stage2"})


def test_teachers_with_other_classes_are_refused() -> None:
    swapped = replace(tiny_participant(8), labels=(LABELS[1], LABELS[0], *LABELS[2:]))
    refused("class 0 is `class0` and `class1`", program("kd"), given(teacher=swapped))
    fewer = replace(tiny_participant(8), labels=LABELS[:3])
    refused("4 and 3 classes", program("kd"), given(teacher=fewer))


def test_feature_methods_do_not_ask_for_equal_classes() -> None:
    other = replace(tiny_participant(8), labels=tuple("abcd"))
    validate(program("at"), given(teacher=other), IMAGE_SHAPE)


def test_all_problems_come_at_once() -> None:
    teacher = replace(tiny_participant(8), taps={}, labels=tuple("abcd"))
    refused("stage2.*classes differ", program("fitnets"), given(teacher=teacher))


def test_a_term_that_cannot_be_computed_on_these_networks_is_named() -> None:
    def product(context: Any) -> torch.Tensor:
        return (context.tap("student", "embedding") * context.tap("teacher", "embedding")).mean()

    needs = Needs(outputs={"student": ("embedding",), "teacher": ("embedding",)})
    phase = Phase("main", (student_turn((task(), Term("product", product, needs))),))
    roles = {"student": Given(), "teacher": Given()}
    refused("term `product`: .*must match", Program(roles, (phase,)), given())


def test_a_term_that_is_no_scalar_is_named() -> None:
    needs = Needs(outputs={"student": ("logits",)})
    rows = Term("rows", lambda context: context.logits("student").mean(1), needs)
    refused(
        "`rows` gives shape",
        Program({"student": Given()}, (Phase("main", (student_turn((rows,)),)),)),
        given(),
    )


def test_an_undeclared_use_is_found() -> None:
    sly = Term(
        "sly", lambda context: context.logits("teacher").mean(), Needs(outputs={"student": ("logits",)})
    )
    roles = {"student": Given(), "teacher": Given()}
    refused("`sly` used outputs", Program(roles, (Phase("main", (student_turn((sly,)),)),)), given())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Program({"student": Given()}, ()), "needs phases"),
        (Program({"student": Given()}, (Phase("a", ()),)), "needs phases"),
        (Program({"student": Given()}, (Phase("a", (Turn((), ()),)),)), "needs terms and a role"),
        (Program({"student": Given()}, (Phase("a", (student_turn((task(), task())),)),)), "two terms"),
        (
            Program({"student": Given()}, (Phase("a", (student_turn((mimic("student", "ghost"),)),)),)),
            "role `ghost` is used and not declared",
        ),
    ],
)
def test_a_program_that_contradicts_itself_is_refused(broken: Program, message: str) -> None:
    refused(message, broken, given())


def test_a_missing_data_stream_is_named() -> None:
    turn = Turn((Train("student"),), (mimic("student", "teacher"),), Named("unlabeled"))
    roles = {"student": Given(), "teacher": Given()}
    one = Program(roles, (Phase("main", (turn,)),))
    refused("data stream `unlabeled`", one, given())
    validate(one, given(), IMAGE_SHAPE, streams={"unlabeled"})


def compared(least: int, source: Any = None, view: str = "x") -> Program:
    """A term that needs `least` samples at once."""
    needs = Needs(outputs={"student": ("logits",)}, views=(view,), whole_batch=True, least_batch=least)
    term = Term("compared", lambda context: context.logits("student", view).mean(), needs)
    turn = Turn((Train("student"),), (term,), source) if source else student_turn((term,))
    return Program({"student": Given()}, (Phase("main", (turn,)),))


def test_a_batch_of_one_for_a_term_that_compares_samples_is_refused() -> None:
    words = "`compared` compares the samples .*needs 2 and gets 1; give `batch_size: 2` or more"
    refused(words, compared(2), given(), batch_sizes={LOOP: 1})
    validate(compared(2), given(), IMAGE_SHAPE, batch_sizes={LOOP: 2})
    validate(compared(2), given(), IMAGE_SHAPE)  # the size is not known


def test_the_batch_of_a_stream_counts_where_a_term_reads_it() -> None:
    sizes = {LOOP: 8, "unlabeled": 2}
    refused("needs 3 and gets 2", compared(3, Named("unlabeled")), given(), streams=sizes, batch_sizes=sizes)
    beside = Beside("unlabeled")
    refused(
        "needs 3 and gets 2",
        compared(3, beside, "unlabeled:x"),
        given(),
        streams=sizes,
        batch_sizes=sizes,
    )
    validate(compared(3, beside), given(), IMAGE_SHAPE, streams=sizes, batch_sizes=sizes)
    validate(compared(3), given(), IMAGE_SHAPE, batch_sizes=sizes)


@pytest.mark.parametrize(
    ("method", "least"), [("sp", 2), ("rkd-a", 3), ("pkt", 3), ("irg", 2), ("dist", 2), ("kd", 1)]
)
def test_methods_that_compare_samples_say_how_many_they_need(method: str, least: int) -> None:
    assert max(term.needs.least_batch for term in program(method).terms) == least


def test_without_a_trial_no_module_is_touched() -> None:
    untouchable = replace(tiny_participant(8), module=torch.nn.Identity())
    validate(program("at"), given(teacher=untouchable), IMAGE_SHAPE, trial=False)
    refused("cannot be built or run", program("at"), given(teacher=untouchable))
