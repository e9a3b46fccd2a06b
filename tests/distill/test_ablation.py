"""Training without some of a program's terms, on hand-built programs and on every registered method."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekd.core.errors import UsageError
from edgekd.distill.ablation import LABELS, ingredients, learned_from, without
from edgekd.distill.catalogue import METHODS, card
from edgekd.distill.compose import build_program
from edgekd.distill.hooks import Ema, StaleCopy
from edgekd.distill.program import (
    CopyOf,
    Deploy,
    Fresh,
    Given,
    Phase,
    Program,
    Role,
    Start,
    Term,
    Train,
    Turn,
    student_turn,
)
from edgekd.distill.settings import DistillSettings
from edgekd.distill.weights import WarmUp
from edgekd.testing.tiny_runs import Setting, is_task, steps
from tests.distill.building import engine_for, mimic, task, train

ROLES: dict[str, Role] = {"student": Given(), "teacher": Given()}
TAPS = ("stage1", "stage2", "stage3", "stage3:pre", "embedding", "logits")
THREE = (task(), replace(mimic("student", "teacher", name="soft"), weight=0.7), mimic("student", "teacher"))
OFFLINE = Program(ROLES, (Phase("main", (student_turn(THREE),)),))


def names(program: Program) -> list[str]:
    return [term.name for term in program.terms]


def composed(*methods: str) -> Program:
    settings = DistillSettings.model_validate({"method": list(methods)})
    return build_program(settings, num_teachers=1, student_taps=TAPS, teacher_taps=[TAPS])


def chain(*phases: Phase) -> Program:
    return Program({**ROLES, "assistant": Fresh("student")}, phases)


# ---- What is left --------------------------------------------------------------------------------


def test_without_names_the_program_is_untouched() -> None:
    assert without(OFFLINE, ()) is OFFLINE


@pytest.mark.parametrize("name", ["task", "soft", "mimic"])
def test_the_total_is_the_whole_minus_the_weighted_term(name: str) -> None:
    weight = {"task": 1.0, "soft": 0.7, "mimic": 1.0}[name]
    (whole,), (rest,) = (train(engine_for(each), 1) for each in (OFFLINE, without(OFFLINE, (name,))))
    assert whole[name] > 0.01
    assert rest["total"] == pytest.approx(whole["total"] - weight * whole[name], rel=1e-5)
    assert {key: rest[key] for key in rest if key in names(OFFLINE)} == pytest.approx(
        {key: whole[key] for key in names(OFFLINE) if key != name}, rel=1e-5
    )


def test_the_terms_that_stay_are_the_very_same() -> None:
    assert without(OFFLINE, ("soft",)).terms == (THREE[0], THREE[2])


def test_a_teacher_that_nobody_reads_is_not_run() -> None:
    left = without(OFFLINE, ("soft", "mimic"))
    assert list(left.roles) == ["student"]
    assert list(engine_for(left).roles) == ["student"]


def test_the_weight_of_the_task_stays_that_of_the_whole() -> None:
    """Unlike `method: at`, whose own task weight is 1: leaving out changes one thing."""
    left = without(composed("kd", "at"), ("kd",))
    assert [(term.name, term.weight) for term in left.terms] == [("task", 0.1), ("at", 1000.0)]


def test_the_batches_stay_those_of_the_whole() -> None:
    left = without(composed("cckd", "kd"), ("cckd",))
    assert left.sampler == "class_uniform"


def test_an_adapter_goes_with_its_term() -> None:
    left = without(composed("fitnets", "at"), ("hint",))
    assert not any(term.adapters for term in left.terms)


def test_a_phase_without_terms_goes_and_its_share_falls_to_the_others() -> None:
    left = without(composed("fitnets"), ("hint",))
    assert [phase.name for phase in left.phases] == ["main"]
    engine = engine_for(left)
    train(engine, 4, steps=(0,))
    assert engine.phase.name == "main"


def test_the_adversary_of_a_term_goes_with_it() -> None:
    left = without(composed("psn"), ("psn",))
    assert names(left) == ["task", "psn-response"]
    assert list(left.roles) == ["student", "teacher"]
    assert [train.role for turn in left.turns for train in turn.train] == ["student"]


def test_a_phase_that_prepared_what_only_the_term_used_goes_with_it() -> None:
    left = without(composed("ft", "kd"), ("ft",))
    assert [phase.name for phase in left.phases] == ["main"]
    assert list(left.roles) == ["student", "teacher"]


def test_an_assistant_whom_nobody_follows_is_not_trained() -> None:
    left = without(composed("takd"), ("takd:student",))
    assert names(left) == ["task:student"]
    assert list(left.roles) == ["student"]


def test_a_role_whose_weights_are_handed_on_is_still_trained() -> None:
    taught = Turn((Train("assistant"),), (task("assistant", "task:assistant"),))
    start = (Start("student", "assistant"),)
    program = chain(Phase("one", (taught,)), Phase("two", (student_turn(THREE),), start=start))
    assert [phase.name for phase in without(program, ("soft", "mimic")).phases] == ["one", "two"]


def test_weights_that_a_dropped_phase_would_hand_on_are_handed_on_by_the_next() -> None:
    start = (Start("student", "assistant"),)
    program = chain(
        Phase("first", (Turn((Train("assistant"),), (task("assistant", "task:assistant"),)),)),
        Phase("hint", (student_turn((mimic("student", "teacher", name="hint"),)),), start=start),
        Phase("main", (student_turn((task(),)),)),
    )
    left = without(program, ("hint",))
    assert [(phase.name, phase.start) for phase in left.phases] == [("first", ()), ("main", start)]


def test_a_hook_on_a_role_that_nobody_needs_goes_with_it() -> None:
    roles: dict[str, Role] = {**ROLES, "average": CopyOf("teacher")}
    terms = (task(), mimic("student", "average"))
    program = Program(roles, (Phase("main", (student_turn(terms),), hooks=(Ema("average", "student"),)),))
    left = without(program, ("mimic",))
    assert left.phases[0].hooks == ()
    assert list(left.roles) == ["student"]


def test_every_role_stays_where_a_hook_writes_a_needed_one() -> None:
    """What a hook reads is not declared."""
    roles: dict[str, Role] = {**ROLES, "stale": CopyOf("student"), "other": CopyOf("teacher")}
    terms = (task(), mimic("student", "stale"), mimic("student", "other", name="more"))
    hooks = (StaleCopy("stale", "other", every=2),)
    program = Program(roles, (Phase("main", (student_turn(terms),), hooks=hooks),))
    assert set(without(program, ("more",)).roles) == set(roles)


def test_modes_of_roles_that_are_gone_are_gone() -> None:
    turn = replace(student_turn((task(), mimic("student", "teacher"))), modes={"teacher": "train"})
    left = without(Program(ROLES, (Phase("main", (turn,)),)), ("mimic",))
    assert left.changing == {"student"}


# ---- What can be left out ------------------------------------------------------------------------


def test_an_average_of_the_student_is_learned_by_the_student_s_terms() -> None:
    roles: dict[str, Role] = {"student": Given(), "average": CopyOf("student")}
    phase = Phase("main", (student_turn((task(),)),), hooks=(Ema("average", "student"),))
    assert [term.name for term in learned_from(Program(roles, (phase,), Deploy("average")))] == ["task"]


def test_terms_that_train_others_and_terms_without_weight_are_not_learned_from() -> None:
    assert [term.name for term in learned_from(composed("psn"))] == ["task", "psn-response", "psn"]
    assert [term.name for term in learned_from(composed("conditional-ts"))] == ["conditional-ts"]


def test_a_weight_that_starts_at_zero_is_a_weight() -> None:
    growing = replace(mimic("student", "teacher"), weight=WarmUp(1.0, 0.5))
    program = Program(ROLES, (Phase("main", (student_turn((task(), growing)),)),))
    assert [term.name for term in learned_from(program)] == ["task", "mimic"]


def test_an_unknown_name_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(UsageError, match="close names: mimic") as found:
        without(OFFLINE, ("mimik",))
    assert found.value.choices == ("task", "soft", "mimic")


def test_a_term_that_trains_another_role_is_refused_and_says_whom() -> None:
    with pytest.raises(UsageError, match="it trains `psn-discriminator`, not the student") as found:
        without(composed("psn"), ("psn-discriminator",))
    assert found.value.choices == ("task", "psn-response", "psn")


def test_leaving_out_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="without `task`, `soft`, `mimic` there is nothing left"):
        without(OFFLINE, ("task", "soft", "mimic"))


def test_leaving_out_all_that_has_a_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing left that the student learns from"):
        without(composed("conditional-ts"), ("conditional-ts",))


def test_settings_build_the_program_without_the_terms() -> None:
    settings = DistillSettings.model_validate({"method": ["kd", "sp"], "leave_out": ["sp"]})
    program = build_program(settings, num_teachers=1, student_taps=TAPS, teacher_taps=[TAPS])
    assert names(program) == ["task", "kd"]


# ---- What each term stands for -------------------------------------------------------------------


def told(*methods: str) -> dict[str, tuple[str | None, str]]:
    settings = DistillSettings.model_validate({"method": list(methods), "leave_out": ["task"]})

    def build(settings: DistillSettings) -> Program:
        return build_program(settings, num_teachers=1, student_taps=TAPS, teacher_taps=[TAPS])

    return {name: (one.method, one.knowledge) for name, one in ingredients(settings, build).items()}


def test_a_term_is_of_its_method_and_of_the_kind_on_the_card() -> None:
    assert told("kd", "sp") == {"task": (None, LABELS), "kd": ("kd", "response"), "sp": ("sp", "relation")}


def test_the_terms_of_one_method_may_be_of_several_kinds() -> None:
    assert told("fitnets", "mlkd") == {
        "task": (None, LABELS),
        "hint": ("fitnets", "feature"),
        "fitnets-kd": ("fitnets", "response"),
        "mlkd-absolute": ("mlkd", "feature"),
        "mlkd-relative": ("mlkd", "relation"),
    }


def test_a_weight_is_told_at_both_ends() -> None:
    settings = DistillSettings.model_validate({"method": "fitnets"})
    found = ingredients(settings, lambda _: composed("fitnets"))
    assert found["fitnets-kd"].weight == pytest.approx((4 / 9, 1 / 9))
    assert found["hint"].weight == (1.0, 1.0)


# ---- Every registered method ---------------------------------------------------------------------


def learned(name: str) -> list[Term]:
    return list(learned_from(Setting.of(name).program))


@pytest.mark.parametrize("name", METHODS.names())
def test_every_term_of_a_method_can_be_left_out_but_the_last(name: str) -> None:
    terms = learned(name)
    for term in terms if len(terms) > 1 else ():
        setting = Setting.of(name)
        program = without(setting.program, (term.name,))
        assert term.name not in names(program)
        assert all(turn.terms and turn.train for turn in program.turns)
        engine = replace(setting, program=program).engine()
        phases = range(len(program.phases))
        assert [step.phase for step in steps(engine, len(phases))] == [*phases]


@pytest.mark.parametrize("name", [name for name in METHODS.names() if card(name).knowledge == "mixed"])
def test_a_method_of_mixed_knowledge_says_of_which_kind_each_term_is(name: str) -> None:
    terms = [term.name for term in learned(name) if not is_task(term)]
    assert set(terms) == set(card(name).kinds)
