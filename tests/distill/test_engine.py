"""The engine: what learns, what stays, phases, divergence, resuming, evaluating, deploying."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgekd.core.errors import DivergedError, UsageError
from edgekd.distill.compose import build_program
from edgekd.distill.context import TermContext
from edgekd.distill.program import (
    LOGITS,
    Given,
    Needs,
    Phase,
    Program,
    Start,
    Term,
    Train,
    Turn,
    student_turn,
)
from edgekd.distill.settings import DistillSettings
from edgekd.distill.update import Rules
from edgekd.distill.weights import Linear
from edgekd.networks.initialize import init_weights
from edgekd.testing.tiny_networks import TinyNet, tiny_batch, tiny_participant
from edgekd.train.schedule import ScheduleConfig
from edgekd.train.trainable import Position
from tests.distill.building import ADAM, RULES, SGD, differ, engine_for, mimic, task, train, weights

TAPS = tuple(TinyNet().taps)
ROLES = {"student": Given(), "teacher": Given()}


def program(method: str, **settings: object) -> Program:
    chosen = DistillSettings(method=(method,), **settings)  # type: ignore[arg-type]
    return build_program(chosen, num_teachers=1, student_taps=TAPS, teacher_taps=[TAPS])


def kd_program() -> Program:
    return Program(ROLES, (Phase("main", (student_turn((task(), mimic("student", "teacher"))),)),))


def test_a_frozen_teacher_gets_no_gradient_and_its_batch_statistics_stay() -> None:
    engine = engine_for(kd_program())
    before = weights(engine, "teacher")
    train(engine, 3)
    assert differ(before, weights(engine, "teacher")) == set()
    assert all(p.grad is None for p in engine.roles["teacher"].module.parameters())


def test_a_turn_may_run_a_frozen_role_in_train_mode() -> None:
    turn = replace(student_turn((task(), mimic("student", "teacher"))), modes={"teacher": "train"})
    engine = engine_for(Program(ROLES, (Phase("main", (turn,)),)))
    before = weights(engine, "teacher")
    train(engine, 1)
    changed = differ(before, weights(engine, "teacher"))
    assert changed and all("running" in key or "num_batches" in key for key in changed)
    assert "teacher" in engine.program.changing


def test_the_control_starts_from_the_same_weights_as_the_distilled_run() -> None:
    runs = [engine_for(program(method), seed=5) for method in ("none", "kd", "fitnets")]
    starts = [weights(run, "student") for run in runs]
    assert differ(starts[0], starts[1]) == differ(starts[0], starts[2]) == set()


def test_a_distillation_weight_of_zero_is_the_control_bit_for_bit() -> None:
    """Same start, same batches, same dropout: only the terms may make a difference."""
    silent = DistillSettings(method=({"name": "kd", "weight": 0.0},), task_weight=1.0)  # type: ignore[arg-type]
    runs = [
        engine_for(build_program(silent, num_teachers=1), student=dropout_student()),
        engine_for(program("none"), student=dropout_student(), teachers=[]),
    ]
    for run in runs:
        train(run, 5)
    assert differ(weights(runs[0], "student"), weights(runs[1], "student")) == set()


def dropout_student() -> object:
    participant = tiny_participant()
    participant.module.pool = nn.Sequential(participant.module.pool, nn.Dropout(0.5))  # type: ignore[union-attr]
    return participant


def test_the_global_random_state_is_left_alone_and_not_used() -> None:
    runs = []
    for seed in (1, 2):
        student, teacher = dropout_student(), tiny_participant(8, name="teacher")
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        engine = engine_for(program("fitnets"), student=student, teachers=[teacher])
        train(engine, 4)
        assert torch.equal(before, torch.random.get_rng_state())
        runs.append(weights(engine, "student"))
    assert differ(*runs) == set()


def test_start_weights_depend_on_the_seed() -> None:
    one, other = tiny_participant(seed=0), tiny_participant(seed=1)
    assert differ(one.module.state_dict(), other.module.state_dict())


def test_adapters_are_trained_and_absent_from_the_deployed_model() -> None:
    engine = engine_for(program("fitnets"))
    adapter = engine.adapters["hint"]["regressor"]
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    train(engine, 40, steps=range(3))
    assert differ(before, dict(adapter.state_dict()))
    assert engine.deployed().state_dict().keys() == TinyNet().state_dict().keys()


def test_adapters_start_from_their_own_stream() -> None:
    def first(seed: int) -> Tensor:
        return engine_for(program("fitnets"), seed=seed).adapters["hint"]["regressor"].convolution.weight

    assert first(0).equal(first(0)) and not first(0).equal(first(1))


def test_the_hint_phase_trains_the_student_up_to_the_tap_and_nothing_behind_it() -> None:
    engine = engine_for(program("fitnets"), rules=Rules(SGD))
    before = weights(engine, "student")
    train(engine, 40, steps=range(3))
    changed = differ(before, weights(engine, "student"))
    assert changed and all(key.startswith(("stages.0", "stages.1")) for key in changed)


def test_phases_follow_their_shares_of_the_training() -> None:
    engine = engine_for(program("fitnets"))
    names = ["hint" if "hint" in values else "main" for values in train(engine, 12)]
    assert names == ["hint"] * 3 + ["main"] * 9


def test_a_reestimated_length_does_not_lead_back_into_a_phase() -> None:
    engine = engine_for(program("fitnets"))
    engine.step(tiny_batch(0), Position(5, 10, 0, 1))
    engine.step(tiny_batch(1), Position(6, 100, 0, 1))
    assert engine.phase.name == "main"


def test_learning_rate_is_base_times_schedule_of_the_phases_fraction() -> None:
    phases = (Phase("a", (student_turn((task(),)),)), Phase("b", (student_turn((task(name="other"),)),)))
    schedule = ScheduleConfig(name="step", milestones=(0.5,), gamma=0.1)
    engine = engine_for(Program({"student": Given()}, phases), rules=Rules(SGD, schedule))
    rates = []
    for step in range(8):
        engine.step(tiny_batch(step), Position(step, 8, 0, 1))
        rates.append(engine.state()["optimizers"][0]["param_groups"][0]["lr"])
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005] * 2)


def test_a_turn_may_override_the_optimizer() -> None:
    turn = replace(student_turn((task(),)), optimizer={"learning_rate": 0.5})
    engine = engine_for(Program({"student": Given()}, (Phase("main", (turn,)),)))
    train(engine, 1)
    assert engine.state()["optimizers"][0]["param_groups"][0]["lr"] == 0.5


def test_parameters_handed_over_frozen_stay_frozen() -> None:
    student = tiny_participant()
    student.module.linear.weight.requires_grad_(False)  # type: ignore[union-attr]
    engine = engine_for(kd_program(), student=student)
    before = weights(engine, "student")
    train(engine, 2)
    changed = differ(before, weights(engine, "student"))
    assert "linear.bias" in changed and "linear.weight" not in changed


def test_training_a_role_without_parameters_that_learn_is_refused() -> None:
    student = tiny_participant()
    student.module.requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter to train"):
        train(engine_for(kd_program(), student=student), 1)


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    engine = engine_for(program("kd", task_weight=0.25))
    values = train(engine, 1)[0]
    assert values["total"] == pytest.approx(0.25 * values["task"] + 0.9 * values["kd"], rel=1e-6)


def first_values(alpha: float, temperature: float = 4.0) -> dict[str, float]:
    use = {"name": "kd", "weight": alpha, "temperature": temperature}
    settings = DistillSettings(method=(use,), task_weight=1 - alpha)  # type: ignore[arg-type]
    return train(engine_for(build_program(settings, num_teachers=1)), 1)[0]


def test_joint_objective_is_linear_between_labels_and_teacher() -> None:
    """Survey 1, equation 8: alpha L_D + (1 - alpha) L_S."""
    none, half, whole = (first_values(alpha) for alpha in (0.0, 0.5, 1.0))
    assert none["total"] == pytest.approx(none["task"], rel=1e-6)
    assert whole["total"] == pytest.approx(whole["kd"], rel=1e-6)
    assert half["total"] == pytest.approx((none["total"] + whole["total"]) / 2, rel=1e-6)


def test_temperature_does_not_enter_the_task() -> None:
    """Survey 1, equation 7 prints one; its text says that it is 1."""
    assert first_values(0.5, 1.0)["task"] == first_values(0.5, 20.0)["task"]


def test_a_weight_schedule_follows_the_fraction_of_the_phase() -> None:
    term = replace(task(), weight=Linear(4.0, 1.0))
    engine = engine_for(Program({"student": Given()}, (Phase("main", (student_turn((term,)),)),)))
    ratios = [values["total"] / values["task"] for values in train(engine, 3)]
    assert ratios == pytest.approx([4.0, 3.0, 2.0], rel=1e-6)


def test_divergence_names_step_and_term_and_changes_no_weight() -> None:
    def explode(context: TermContext) -> Tensor:
        return context.logits("student").mean() * (float("nan") if context.progress.step == 2 else 1.0)

    bad = Term("bad", explode, Needs(outputs={"student": (LOGITS,)}))
    engine = engine_for(Program({"student": Given()}, (Phase("main", (student_turn((task(), bad)),)),)))
    train(engine, 9, steps=range(2))
    before = dict(engine.roles["student"].module.named_parameters())
    before = {key: value.detach().clone() for key, value in before.items()}
    with pytest.raises(DivergedError, match="`bad` became nan at step 2"):
        train(engine, 9, steps=[2])
    assert differ(before, dict(engine.roles["student"].module.named_parameters())) == set()


def test_gradient_clip_bounds_the_update() -> None:
    rules = Rules(SGD.model_copy(update={"momentum": 0.0, "weight_decay": 0.0}), gradient_clip=1e-3)
    engine = engine_for(kd_program(), rules=rules)
    before = {k: v.detach().clone() for k, v in engine.roles["student"].module.named_parameters()}
    train(engine, 1)
    after = dict(engine.roles["student"].module.named_parameters())
    norm = sum(float((after[key].detach() - before[key]).pow(2).sum()) for key in before) ** 0.5
    assert norm == pytest.approx(0.05 * 1e-3, rel=1e-3)


def test_training_resumes_bit_for_bit_from_the_middle_of_a_later_phase() -> None:
    whole, first, second = (
        engine_for(program("fitnets"), ema=0.9, student=dropout_student()) for _ in range(3)
    )
    values = train(whole, 12)
    train(first, 12, steps=range(7))
    first.keep()
    kept = first.deployed().state_dict()
    second.load_state(first.state())
    assert train(second, 12, steps=range(7, 12)) == values[7:]
    assert differ(weights(whole, "student"), weights(second, "student")) == set()
    assert differ(weights(whole, "student@ema"), weights(second, "student@ema")) == set()
    assert differ(kept, second.deployed().state_dict()) == set()


def test_a_state_is_a_copy_of_the_live_tensors() -> None:
    engine = engine_for(kd_program())
    state = engine.state()["roles"]["student"]
    before = {key: value.clone() for key, value in state.items()}
    train(engine, 1)
    assert differ(before, state) == set()


def test_the_state_of_another_method_is_refused() -> None:
    with pytest.raises(UsageError, match="checkpoint does not fit"):
        engine_for(program("fitnets")).load_state(engine_for(program("kd")).state())


def test_evaluation_scores_the_averaged_weights_when_they_are_on() -> None:
    engine = engine_for(program("none"), ema=0.99)
    train(engine, 60)
    live, average = weights(engine, "student"), weights(engine, "student@ema")
    assert differ(live, average)
    assert differ(average, engine.deployed().state_dict()) == set()
    assert 0.5 < engine.evaluate() <= 1.0


def test_keep_remembers_the_best_weights() -> None:
    engine = engine_for(program("none"))
    train(engine, 9, steps=range(3))
    engine.keep()
    best = weights(engine, "student")
    train(engine, 9, steps=range(3, 6))
    assert differ(best, engine.deployed().state_dict()) == set()
    assert differ(best, weights(engine, "student"))
    assert differ(weights(engine, "student"), engine.deployed(best=False).state_dict()) == set()


def test_evaluating_changes_nothing_in_training() -> None:
    runs = [engine_for(program("kd")) for _ in range(2)]
    for step in range(4):
        for run in runs:
            train(run, 4, steps=[step])
        runs[0].evaluate()
    assert differ(weights(runs[0], "student"), weights(runs[1], "student")) == set()


def test_a_phase_may_start_from_another_roles_weights() -> None:
    phases = (
        Phase("a", (Turn((Train("teacher"),), (task("teacher", "task:teacher"),)),)),
        Phase("b", (student_turn((task(),)),), start=(Start("student", "teacher"),)),
    )
    teacher = tiny_participant(4, seed=9, name="teacher")
    engine = engine_for(Program(ROLES, phases), teachers=[teacher], rules=Rules(SGD))
    train(engine, 4, steps=range(2))
    trained = weights(engine, "teacher")
    engine._enter(1)
    assert differ(trained, weights(engine, "student")) == set()


def test_teacher_and_student_may_expect_different_inputs() -> None:
    """Every role normalizes the same [0, 1] images itself."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((float(x.min()) >= 0, float(x.max()) <= 1))
            return x * 7

    teacher = replace(tiny_participant(8, name="teacher"), normalize=Spy())
    train(engine_for(kd_program(), teachers=[teacher]), 1)
    assert (True, True) in seen


def test_initial_weights_of_the_student_are_those_of_its_own_stream() -> None:
    network = TinyNet()
    init_weights(network, 0, "student")
    assert differ(dict(network.state_dict()), weights(engine_for(kd_program()), "student")) == set()


def test_rules_reject_unknown_overrides() -> None:
    with pytest.raises(ValueError, match="speed"):
        RULES.for_turn(replace(student_turn((task(),)), optimizer={"speed": 1}))
    assert RULES.for_turn(student_turn((task(),))) == ADAM


def test_a_phase_begins_with_the_step_that_its_share_says() -> None:
    """Shares 0.4 and three times 0.2: sums of shares are not exact in binary."""
    turns = {name: student_turn((task(name=name),)) for name in "abcd"}
    phases = tuple(Phase(name, (turns[name],), 0.4 if name == "a" else 0.2) for name in "abcd")
    history = train(engine_for(Program({"student": Given()}, phases)), 10)
    assert ["".join(set(step) & set("abcd")) for step in history] == list("aaaabbccdd")
