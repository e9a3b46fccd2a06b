"""From settings to programs: terms, task weight, phases, and needs that names alone can refuse."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.core.errors import UsageError
from edgekd.core.registry import Entry, Registry
from edgekd.distill import compose
from edgekd.distill.catalogue import METHODS
from edgekd.distill.compose import build_program, teacher_roles, with_ema
from edgekd.distill.method import AnyMethod, Method
from edgekd.distill.methods.response.none import CARD, Settings
from edgekd.distill.program import CopyOf, Given, Phase, Program, student_turn
from edgekd.distill.settings import DistillSettings
from tests.distill.building import engine_for, task, train

TAPS = ("stage1", "stage2", "stage3", "stage1:pre", "embedding", "logits")


def build(method: Any, *, num_teachers: int = 1, **settings: Any) -> Program:
    return build_program(
        DistillSettings(method=method, **settings),
        num_teachers=num_teachers,
        student_taps=TAPS,
        teacher_taps=[TAPS] * num_teachers,
    )


def main_terms(program: Program) -> dict[str, float]:
    return {term.name: term.weight for term in program.phases[-1].turns[-1].terms}  # type: ignore[misc]


def test_none_is_cross_entropy_alone_and_needs_no_teacher() -> None:
    program = build("none", num_teachers=0)
    assert main_terms(program) == {"task": 1.0}
    assert dict(program.roles) == {"student": Given()}


def test_kd_adds_its_term_to_the_task_with_the_methods_weights() -> None:
    assert main_terms(build("kd")) == {"task": 0.1, "kd": 0.9}


def test_the_recipes_task_weight_and_weight_replace_the_papers() -> None:
    program = build({"name": "kd", "weight": 2.0}, task_weight=0.5)
    assert main_terms(program) == {"task": 0.5, "kd": 2.0}


def test_methods_compose_and_the_task_is_added_once() -> None:
    assert main_terms(build(["kd", {"name": "at", "weight": 5.0}])) == {"task": 0.1, "kd": 0.9, "at": 5.0}


def test_a_method_with_a_phase_before_composes_with_others() -> None:
    program = build(["fitnets", "at"])
    assert [phase.name for phase in program.phases] == ["hint", "main"]
    assert main_terms(program).keys() == {"task", "fitnets-kd", "at"}


def test_fitnets_hint_phase_has_its_share_of_the_training() -> None:
    hint, main = build({"name": "fitnets", "hint_share": 0.4}).phases
    assert hint.share / (hint.share + main.share) == pytest.approx(0.4)


def test_fitnets_hint_is_the_middle_stage() -> None:
    (train_role,) = build("fitnets").phases[0].turns[0].train
    assert train_role.up_to == "stage2"


def test_label_smoothing_changes_the_task() -> None:
    engines = [engine_for(build("none", num_teachers=0, label_smoothing=s)) for s in (0.0, 0.2)]
    assert train(engines[0], 1) != train(engines[1], 1)


def test_several_teachers_are_averaged_by_kd() -> None:
    program = build("kd", num_teachers=2)
    assert set(program.roles) == {"student", "teacher1", "teacher2"}
    assert teacher_roles(1) == ("teacher",) and teacher_roles(0) == ()


@pytest.mark.parametrize(
    ("method", "num_teachers", "message"),
    [
        ("kd", 0, "`kd`.*needs a teacher"),
        ("at", 2, "`at`.*takes one teacher"),
        ("fitnets", 2, "`fitnets`.*takes one teacher"),
        ({"name": "at", "taps": {"stage9": "stage1"}}, 1, "student has no tap `stage9`"),
        ({"name": "at", "taps": {"stage1": "stage9"}}, 1, "teacher has no tap `stage9`"),
    ],
)
def test_a_need_that_is_not_met_names_the_method(method: Any, num_teachers: int, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        build(method, num_teachers=num_teachers)


def test_a_teacher_without_feature_taps_is_refused_by_feature_methods() -> None:
    settings = DistillSettings(method="at")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs feature taps"):
        build_program(settings, num_teachers=1, student_taps=TAPS, teacher_taps=[("logits",)])


def test_stages_are_matched_from_the_deepest_up() -> None:
    settings = DistillSettings(method="at")  # type: ignore[arg-type]
    four = ("stage1", "stage2", "stage3", "stage4")
    program = build_program(settings, num_teachers=1, student_taps=TAPS, teacher_taps=[four])
    (term,) = [term for term in program.terms if term.name == "at"]
    assert term.needs.outputs["teacher"] == ("stage2", "stage3", "stage4")


def test_a_whole_scheme_runs_alone_and_is_refused_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[AnyMethod] = Registry("method", [*METHODS])
    registry.add(Entry("whole", f"{__name__}:WHOLE", "a whole program"))
    monkeypatch.setattr(compose, "METHODS", registry)
    monkeypatch.setattr("edgekd.distill.settings.METHODS", registry)
    assert build("whole").phases[0].name == "alone"
    with pytest.raises(UsageError, match="`whole` is a whole training scheme"):
        build(["kd", "whole"])


WHOLE = Method(
    CARD,
    Settings,
    lambda settings, roster: Program({"student": Given()}, (Phase("alone", (student_turn((task(),)),)),)),
)


def test_ema_adds_a_copy_of_the_deployed_role_and_deploys_it() -> None:
    program = with_ema(build("fitnets"), 0.9)
    assert program.roles["student@ema"] == CopyOf("student")
    assert program.deploy.role == "student@ema"
    assert all(len(phase.hooks) == 1 for phase in program.phases)
