"""The context: lazy outputs, caching until stale, and needs that cannot lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from edgekd.distill.cast import assemble
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext, UndeclaredError
from edgekd.distill.program import LOGITS, Given, Needs, Phase, Program, Term, Train, Turn
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch, tiny_participant
from edgekd.train.precision import Precision
from tests.distill.building import engine_for, mimic, task, train

ROLES = {"student": Given(), "teacher": Given()}


def nothing(context: TermContext) -> Tensor:
    raise NotImplementedError


def context_of(needs: Needs, *, train_roles: tuple[str, ...] = ("student",)) -> tuple[Context, OutputCache]:
    turn = Turn(tuple(map(Train, train_roles)), (Term("probe", nothing, needs),))
    program = Program(ROLES, (Phase("main", (turn,)),))
    given = {"student": tiny_participant(), "teacher": tiny_participant(8, name="teacher")}
    live = Live(assemble(program, given, IMAGE_SHAPE, 0), Precision("fp32", "cpu"), 0, {}, {})
    cache = OutputCache()
    return Context(live, turn, Progress(0, 0, 0.0), tiny_batch(0), cache), cache


def term_context(needs: Needs) -> TermContext:
    context, _ = context_of(needs)
    return TermContext(context, Term("probe", nothing, needs))


def test_a_role_runs_once_per_view() -> None:
    context, cache = context_of(Needs(outputs={"teacher": (LOGITS, "stage1")}))
    for _ in range(3):
        context.outputs("teacher")
    assert cache.num_runs == {"teacher": 1}


def test_a_role_that_nobody_asks_for_does_not_run() -> None:
    _, cache = context_of(Needs(outputs={"teacher": (LOGITS,)}))
    assert cache.num_runs == {}


def test_an_optimizer_step_makes_outputs_of_the_trained_role_stale_and_keeps_the_others() -> None:
    context, cache = context_of(Needs(outputs={"teacher": (LOGITS,), "student": (LOGITS,)}))
    context.outputs("teacher")
    context.outputs("student")
    cache.expire(frozenset({"student"}))
    context.outputs("teacher")
    context.outputs("student")
    assert cache.num_runs == {"teacher": 1, "student": 2}


def test_another_mode_is_another_output() -> None:
    context, cache = context_of(Needs(outputs={"teacher": (LOGITS,)}))
    context.outputs("teacher")
    context.module("teacher").eval()
    context.outputs("teacher")
    assert cache.num_runs == {"teacher": 2}


def test_only_what_learns_carries_a_gradient() -> None:
    context, _ = context_of(Needs(outputs={"teacher": (LOGITS,), "student": (LOGITS,)}))
    assert context.outputs("student")[LOGITS].requires_grad
    assert not context.outputs("teacher")[LOGITS].requires_grad


def test_taps_arrive_with_their_shapes() -> None:
    taps = ("stage1", "stage3:pre", "embedding", LOGITS)
    context, _ = context_of(Needs(outputs={"teacher": taps}))
    shapes = [tuple(context.outputs("teacher")[tap].shape) for tap in taps]
    assert shapes == [(16, 8, 8, 8), (16, 16, 2, 2), (16, 16), (16, 4)]


def test_input_gradients_reach_the_images_of_a_frozen_role() -> None:
    context = term_context(Needs(outputs={"teacher": (LOGITS,)}))
    images = context.images(input_grad=True)
    score = context.logits("teacher", input_grad=True).logsumexp(1).sum()
    (gradient,) = torch.autograd.grad(score, images)
    assert gradient.shape == images.shape and bool(gradient.abs().sum() > 0)


def test_gradient_flows_through_a_frozen_role_called_on_a_tensor_that_learns() -> None:
    context = term_context(Needs(calls=("teacher",)))
    images = torch.rand(2, *IMAGE_SHAPE, requires_grad=True)
    context.call("teacher", images).sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        (lambda c: c.logits("student"), "student"),
        (lambda c: c.tap("teacher", "stage1"), "stage1"),
        (lambda c: c.logits("teacher", "x2"), "x2"),
        (lambda c: c.images("x2"), "x2"),
        (lambda c: c.labels, "labels"),
        (lambda c: c.indices, "indices"),
        (lambda c: c.call("teacher", torch.zeros(1)), "calls"),
        (lambda c: c.module("teacher"), "modules"),
        (lambda c: c.adapter("regressor"), "adapters"),
    ],
)
def test_touching_what_was_not_declared_raises(use: object, kind: str) -> None:
    assert callable(use)
    with pytest.raises(UndeclaredError, match=kind):
        use(term_context(Needs(outputs={"teacher": (LOGITS,)})))


def test_randomness_depends_on_the_step_and_the_term_only() -> None:
    context, _ = context_of(Needs())
    later = Context(context._live, context._turn, Progress(1, 0, 0.0), context.batch, OutputCache())
    draws = [torch.randn(3, generator=c.generator("term", "a")).tolist() for c in (context, context, later)]
    assert draws[0] == draws[1] != draws[2]


def test_a_teacher_runs_once_for_two_turns_of_a_step() -> None:
    roles = {**ROLES, "other": Given()}
    turns = tuple(
        Turn((Train(role),), (task(role, f"task:{role}"), mimic(role, "teacher", name=f"mimic:{role}")))
        for role in ("student", "other")
    )
    engine = engine_for(
        Program(roles, (Phase("main", turns),)), others={"other": tiny_participant(6, name="other")}
    )
    train(engine, 1)
    assert engine.cache.num_runs == {"student": 1, "other": 1, "teacher": 1}


def test_a_turn_that_reads_more_taps_runs_the_role_again() -> None:
    needs = Needs(outputs={"teacher": (LOGITS,)})
    context, cache = context_of(needs)
    context.outputs("teacher")
    wider = replace(
        context._turn, terms=(Term("probe", nothing, Needs(outputs={"teacher": (LOGITS, "stage2")})),)
    )
    other = Context(context._live, wider, Progress(0, 0, 0.0), context.batch, cache)
    assert "stage2" in other.outputs("teacher")
